//! GiGPO: Group-in-Group Policy Optimization for LLM Agent Training, arXiv 2505.10978, section 4.
//!
//! ```text
//! A^E(τ_i) = ( R(τ_i) − mean(R) ) / F_norm(R)      over the episodes of one task
//! R_k = Σ_{j≥k} γ^{j−k} r_j                        return-to-go of turn k
//! A^S(a_k) = ( R_k − mean(R_s̃) ) / F_norm(R_s̃)    over their turns that began in the state s̃ of k
//! A(a_k) = A^E(τ_i) + ω A^S(a_k)
//! ```
//!
//! Episodes of one task begin alike and visit the same states. If they act differently in a state,
//! these actions can be compared without a value network. The loss is that of [`super::grpo`] with
//! these advantages; A^E is [`group_advantages`] of the returns.
//!
//! Differs from the paper:
//! - F_norm is the standard deviation, for both; the paper also tries F_norm = 1. As in
//!   [`super::grpo`] it divides by the size of the group. If all returns are equal, for example in
//!   a group of one, the advantages are 0.
//! - The only reward is at the end of the episode: R_k = γ^{K−1−k} R.
//! - Two states are the same if their numbers are equal. The caller hashes states, and so decides
//!   what belongs to a state.

use super::grpo::group_advantages;
use std::collections::BTreeMap;

/// One turn as a member of the group of its state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnchorStep {
    /// The state in which the turn began; equal numbers are equal states.
    pub state: u64,
    /// R_k, reward units.
    pub return_to_go: f64,
}

/// Returns R_k of each turn of an episode that has `reward` after the last of its `turns`.
///
/// If two episodes have the same reward, turns at the same distance from the end have equal
/// numbers.
#[must_use]
pub fn discounted_returns(reward: f64, turns: usize, discount: f64) -> Vec<f64> {
    let mut returns: Vec<f64> = std::iter::successors(Some(reward), |later| Some(later * discount))
        .take(turns)
        .collect();
    returns.reverse();
    returns
}

/// Returns A^S of every turn of every episode of one task, in the shape of `episodes`.
///
/// If an episode visits a state twice, both visits are in the group.
#[must_use]
pub fn anchor_advantages(episodes: &[Vec<AnchorStep>]) -> Vec<Vec<f64>> {
    // [episode, turn] of each visit of a state.
    let mut groups: BTreeMap<u64, Vec<[usize; 2]>> = BTreeMap::new();
    for (episode, steps) in episodes.iter().enumerate() {
        for (turn, step) in steps.iter().enumerate() {
            groups.entry(step.state).or_default().push([episode, turn]);
        }
    }
    let mut advantages: Vec<Vec<f64>> = episodes
        .iter()
        .map(|steps| vec![0.0; steps.len()])
        .collect();
    for visits in groups.values() {
        let returns: Vec<f64> = visits
            .iter()
            .map(|&[episode, turn]| episodes[episode][turn].return_to_go)
            .collect();
        for (&[episode, turn], advantage) in visits.iter().zip(group_advantages(&returns)) {
            advantages[episode][turn] = advantage;
        }
    }
    advantages
}

/// Returns A^E + ω A^S of each turn of one episode.
#[must_use]
pub fn combined(episode_advantage: f64, anchor_advantages: &[f64], omega: f64) -> Vec<f64> {
    anchor_advantages
        .iter()
        .map(|anchor_advantage| episode_advantage + omega * anchor_advantage)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::cases::{assert_close, gradient, mask, number, tensor};
    use super::super::grpo::{SurrogateInputs, clipped_surrogate_loss};
    use super::*;

    fn episode(states: &[u64], reward: f64, discount: f64) -> Vec<AnchorStep> {
        let returns = discounted_returns(reward, states.len(), discount);
        states
            .iter()
            .zip(returns)
            .map(|(&state, return_to_go)| AnchorStep {
                state,
                return_to_go,
            })
            .collect()
    }

    /// The three episodes of the oracle, of one task: won in three turns, won in four with a wasted
    /// turn, lost in two.
    fn episodes() -> Vec<Vec<AnchorStep>> {
        vec![
            episode(&[1, 2, 3], 1.0, 0.9),
            episode(&[1, 1, 2, 3], 1.0, 0.9),
            episode(&[1, 4], 0.0, 0.9),
        ]
    }

    /// γ = ½, three turns: ¼, ½, 1. If γ = 0, only the last turn has a return.
    #[test]
    fn discounted_returns_by_hand() {
        assert_eq!(discounted_returns(1.0, 3, 0.5), [0.25, 0.5, 1.0]);
        assert_eq!(discounted_returns(1.0, 3, 0.0), [0.0, 0.0, 1.0]);
        assert!(discounted_returns(1.0, 0, 0.5).is_empty());
    }

    /// γ = ½. State 1 has ¼ and, from the lost episode, 0 twice: mean 1/12, deviations 1/6, −1/12
    /// and −1/12, std √2/12, so √2 and −1/√2 twice. States 2, 3 and 4 are visited once each: 0.
    #[test]
    fn anchor_advantages_by_hand() {
        let episodes = [episode(&[1, 2, 3], 1.0, 0.5), episode(&[1, 4, 1], 0.0, 0.5)];
        let advantages = anchor_advantages(&episodes);
        let less = -(0.5f64.sqrt());
        assert_close(
            &advantages.concat(),
            &[2f64.sqrt(), 0.0, 0.0, less, 0.0, less],
        );
        assert_eq!(advantages.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3]);
    }

    /// Both won episodes leave states 2 and 3 at the same distance from the end: no advantage
    /// there, not even by rounding.
    #[test]
    fn equally_good_visits_are_equal() {
        let advantages = anchor_advantages(&episodes());
        assert_eq!(advantages[0][1..], [0.0; 2]);
        assert_eq!(advantages[1][2..], [0.0; 2]);
    }

    #[test]
    fn combined_by_hand() {
        assert_eq!(combined(2.0, &[1.0, -4.0], 0.5), [2.5, 0.0]);
    }

    /// If an episode is alone, no state occurs twice and every A^S is 0. Groups belong to a task,
    /// so a batch does not equal its singles.
    #[test]
    fn a_single_episode_has_no_anchor_advantage() {
        for episode in [episode(&[1, 2, 3], 1.0, 0.9), episode(&[1, 4], 0.0, 0.9)] {
            assert!(
                anchor_advantages(&[episode])
                    .concat()
                    .iter()
                    .all(|&advantage| advantage == 0.0)
            );
        }
    }

    /// Recorded from tests/oracle/losses.py, "gigpo".
    #[test]
    fn gigpo_against_the_oracle() {
        let anchors = anchor_advantages(&episodes());
        let late = 0.416_106_808_794_434_9;
        let best = 0.653_882_128_105_540_4;
        let worst = -1.723_871_065_005_515_6;
        assert_close(
            &anchors.concat(),
            &[best, 0.0, 0.0, late, best, 0.0, 0.0, worst, 0.0],
        );

        let advantages: Vec<f64> = group_advantages(&[1.0, 1.0, 0.0])
            .into_iter()
            .zip(&anchors)
            .flat_map(|(of_episode, of_turns)| {
                let mut row = combined(of_episode, of_turns, 0.5);
                row.resize(4, f64::NAN);
                row
            })
            .collect();
        let nan = f64::NAN;
        let log_ratios = tensor(
            &[
                0.1, -0.3, 0.3, nan, 0.0, 0.2, -0.1, 0.4, 0.1, -0.4, nan, nan,
            ],
            [3, 4],
        );
        let inputs = SurrogateInputs {
            log_ratios: log_ratios.require_grad(),
            advantages: tensor(&advantages, [3, 4]),
            action_mask: mask(
                &[
                    true, true, true, false, true, true, true, true, true, true, false, false,
                ],
                [3, 4],
            ),
        };
        let loss = clipped_surrogate_loss(&inputs, 0.2);
        assert_close(&[number(loss.clone())], &[0.024_657_756_910_329_23]);
        let expected = [
            -0.126_977_734_050_809_12,
            -0.058_204_176_385_621_656,
            0.0,
            0.0,
            -0.076_263_348_798_647_07,
            0.0,
            -0.053_318_056_180_379_485,
            0.0,
            0.419_255_630_810_166_76,
            0.0,
            0.0,
            0.0,
        ];
        assert_close(&gradient(&loss, &inputs.log_ratios), &expected);
    }
}
