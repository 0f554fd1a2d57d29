//! OREO (arXiv 2412.16145) in one file, without a neural network: every number of the policy and of the value is a table
//! entry, so that the losses and their gradients can be read beside the equations.
//!
//! The world is a corridor of five rooms. An episode has at most eight turns. It is won, with reward 1, if the agent
//! takes the key in the last room. If it takes anything elsewhere, it has lost. The reference policy acts at random.
//! The agent learns from the reference policy's episodes only, and the result is compared with the exact optimum.
//!
//! ```sh
//! cargo run --example oreo_from_scratch
//! ```

use scenarios::seed::SplitMix64;

const ROOMS: usize = 5;
const TURNS: usize = 8;
const ACTIONS: [&str; 3] = ["east", "west", "take"];
/// β, reward per nat: how much a change of the policy costs.
const BETA: f64 = 0.1;
const EPISODES: usize = 4000;
const EPOCHS: usize = 60;
const POLICY_RATE: f64 = 4.0;
const VALUE_RATE: f64 = 0.1;

/// A state is the turn and the room. `None` means that the episode is over.
type TurnAndRoom = (usize, usize);

/// One step of the world: the next state and the reward.
fn step((turn, room): TurnAndRoom, action: usize) -> (Option<TurnAndRoom>, f64) {
    let next_turn = turn + 1;
    let next_room = match ACTIONS[action] {
        "east" => (room + 1).min(ROOMS - 1),
        "west" => room.saturating_sub(1),
        _ => return (None, if room == ROOMS - 1 { 1.0 } else { 0.0 }),
    };
    if next_turn == TURNS {
        return (None, 0.0);
    }
    (Some((next_turn, next_room)), 0.0)
}

/// One turn of a logged episode.
struct LoggedTurn {
    state: TurnAndRoom,
    action: usize,
}

/// A logged episode with its one terminal reward.
struct LoggedEpisode {
    turns: Vec<LoggedTurn>,
    reward: f64,
}

/// What is learned: logits of the policy and the value of every state.
struct TabularAgent {
    logits: Vec<[f64; ACTIONS.len()]>,
    values: Vec<f64>,
}

fn index((turn, room): TurnAndRoom) -> usize {
    turn * ROOMS + room
}

impl TabularAgent {
    fn new() -> Self {
        Self {
            logits: vec![[0.0; ACTIONS.len()]; TURNS * ROOMS],
            values: vec![0.0; TURNS * ROOMS],
        }
    }

    /// π(·|s), the softmax of the logits.
    fn policy(&self, state: TurnAndRoom) -> [f64; ACTIONS.len()] {
        let exponentials = self.logits[index(state)].map(f64::exp);
        let sum: f64 = exponentials.iter().sum();
        exponentials.map(|number| number / sum)
    }
}

/// π_ref: the policy that collected the episodes. It is uniform and stays as it is.
const REFERENCE: f64 = 1.0 / ACTIONS.len() as f64;

fn play(agent: &TabularAgent, random: &mut SplitMix64) -> LoggedEpisode {
    let mut turns = Vec::new();
    let mut state = Some((0, 0));
    let mut reward = 0.0;
    while let Some(here) = state {
        let mut draw = random.next() as f64 / u64::MAX as f64;
        let policy = agent.policy(here);
        let mut action = ACTIONS.len() - 1;
        for (candidate, probability) in policy.iter().enumerate() {
            draw -= probability;
            if draw < 0.0 {
                action = candidate;
                break;
            }
        }
        turns.push(LoggedTurn {
            state: here,
            action,
        });
        (state, reward) = step(here, action);
    }
    LoggedEpisode { turns, reward }
}

/// The losses of one episode and one update of both tables, with T the number of turns:
///
/// ```text
/// l_t = log π(a_t|s_t) − log π_ref(a_t|s_t)
/// L_V = 1/T Σ_t ( V(s_t) − R_t + β Σ_{i≥t} l_i )²                     (Eq. 8) π is detached
/// L_π = 1/T Σ_t ( V(s_t) − R_t + β l_t + sg[β Σ_{i>t} l_i] )²         (Eq. 9) V is detached
/// ```
///
/// R_t is the sum of the rewards from turn t on, here the terminal reward. Both sums in brackets have the same value δ_t;
/// they differ in what is differentiated:
///
/// ```text
/// ∂L_V / ∂V(s_t)   = 2/T δ_t
/// ∂L_π / ∂logit_a  = 2/T δ_t β ( 1[a = a_t] − π(a|s_t) )              the sum over i > t is stopped (sg)
/// ```
///
/// The policy's update uses the value before the value's own update. Returns L_V; L_π has the same value.
fn learn(agent: &mut TabularAgent, episode: &LoggedEpisode) -> f64 {
    let turns = episode.turns.len() as f64;
    let log_ratios: Vec<f64> = episode
        .turns
        .iter()
        .map(|turn| agent.policy(turn.state)[turn.action].ln() - REFERENCE.ln())
        .collect();
    let mut loss = 0.0;
    let mut later = 0.0; // Σ_{i≥t} l_i, summed from the last turn
    for (turn, log_ratio) in episode.turns.iter().zip(&log_ratios).rev() {
        later += log_ratio;
        let state = index(turn.state);
        let delta = agent.values[state] - episode.reward + BETA * later;
        loss += delta * delta / turns;
        let policy = agent.policy(turn.state);
        for (action, probability) in policy.iter().enumerate() {
            let chosen = f64::from(u8::from(action == turn.action));
            let gradient = 2.0 / turns * delta * BETA * (chosen - probability);
            agent.logits[state][action] -= POLICY_RATE * gradient;
        }
        agent.values[state] -= VALUE_RATE * 2.0 / turns * delta;
    }
    loss
}

/// The optimum by backward induction: V*(s) = β log Σ_a π_ref(a|s) exp(Q*(s,a)/β), Q*(s,a) = r + V*(s').
fn optimal_values() -> Vec<f64> {
    let mut values = vec![0.0; TURNS * ROOMS];
    for turn in (0..TURNS).rev() {
        for room in 0..ROOMS {
            let sum: f64 = (0..ACTIONS.len())
                .map(|action| {
                    let (next, reward) = step((turn, room), action);
                    let value = next.map_or(0.0, |next| values[index(next)]);
                    REFERENCE * ((reward + value) / BETA).exp()
                })
                .sum();
            values[index((turn, room))] = BETA * sum.ln();
        }
    }
    values
}

fn success_rate(agent: &TabularAgent, random: &mut SplitMix64) -> f64 {
    let won: f64 = (0..2000).map(|_| play(agent, random).reward).sum();
    won / 2000.0
}

fn main() {
    let mut random = SplitMix64::new(&[1]);
    let mut agent = TabularAgent::new();
    let before = success_rate(&agent, &mut random);
    let episodes: Vec<LoggedEpisode> = (0..EPISODES).map(|_| play(&agent, &mut random)).collect();
    let won = episodes
        .iter()
        .filter(|episode| episode.reward > 0.0)
        .count();
    println!("{EPISODES} episodes of the reference policy, {won} of them won");
    for epoch in 1..=EPOCHS {
        let loss: f64 = episodes
            .iter()
            .map(|episode| learn(&mut agent, episode))
            .sum();
        if epoch % 10 == 0 {
            println!("epoch {epoch:2}: loss {:.5}", loss / EPISODES as f64);
        }
    }
    let after = success_rate(&agent, &mut random);
    let optimum = optimal_values();
    println!("success rate: {before:.3} before, {after:.3} after");
    println!(
        "value of the start: {:.3}, optimum {:.3}",
        agent.values[0], optimum[0]
    );
}
