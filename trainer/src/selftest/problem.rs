//! Decision problems small enough to be solved exactly, and tables in the place of networks, learned through
//! [`crate::learn::objective`] as networks are. A state is all that was said so far: the prefix of a walk's tokens.

use crate::learn::batch::{Batch, BatchTensors, Example};
use crate::learn::objective::{self, Losses, Moment};
use crate::loss::oreo::{OreoInputs, value_loss};
use crate::loss::target_logprobs;
use crate::pipeline::recipe::{Algorithm, Level};
use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation::log_softmax};
use scenarios::{Outcome, Protocol, Spent, Split, Trajectory, Turn};
use std::collections::BTreeMap;

/// Token ids: the policy writes those below [`OBSERVATIONS`], the world the others.
pub(super) const VOCAB: usize = 8;
/// The first token of the world's.
pub(super) const OBSERVATIONS: u32 = 4;
/// A logit that is never sampled.
const NEVER: f64 = -1e9;

/// What was said in a turn: the world's tokens, the policy's tokens.
pub(super) type Exchange = (&'static [u32], &'static [u32]);

/// A way through the problem, as often as the data hold it.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    pub(super) rows: usize,
    pub(super) turns: Vec<Exchange>,
    pub(super) reward: f64,
}

impl Walk {
    /// Every token, and whether the policy wrote it.
    fn tokens(&self) -> Vec<(u32, bool)> {
        let of_turn = |(observation, completion): &Exchange| {
            let seen = observation.iter().map(|token| (*token, false));
            seen.chain(completion.iter().map(|token| (*token, true)))
                .collect::<Vec<_>>()
        };
        self.turns.iter().flat_map(of_turn).collect()
    }

    fn trajectory(&self) -> Trajectory {
        let turn = |(observation, completion): &Exchange| Turn {
            observation_tokens: observation.to_vec(),
            completion_tokens: completion.to_vec(),
            ..Turn::default()
        };
        Trajectory {
            format: Trajectory::FORMAT,
            game: String::new(),
            game_hash: String::new(),
            split: Split::Train,
            task_type: None,
            repetition: 0,
            seed: 0,
            policy: String::new(),
            value_policy: None,
            protocol: Protocol::default(),
            turns: self.turns.iter().map(turn).collect(),
            last_observation: String::new(),
            outcome: if self.reward > 0.5 {
                Outcome::Success
            } else {
                Outcome::TurnLimit
            },
            reward: self.reward,
            failure: None,
            seconds: 0.0,
            spent: Spent::default(),
        }
    }
}

/// All that was said so far.
pub(super) type State = Vec<u32>;
/// Tokens and how likely they are.
pub(super) type Chances = Vec<(u32, f64)>;

/// A walk as backward induction reads it.
struct Told {
    /// Every token, and whether the policy wrote it.
    tokens: Vec<(u32, bool)>,
    rows: usize,
    reward: f64,
}

/// A problem with all its walks; how often the world answers so or so is how often the data say so.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) beta: f64,
    pub(super) walks: Vec<Walk>,
    /// By state: π_ref of every token that may be written there.
    pub(super) reference: Vec<(State, Chances)>,
}

/// What backward induction finds, by state.
#[derive(Debug, Clone, Default)]
pub(super) struct Optimum {
    /// V* before a token, and U* = Q* after one.
    pub(super) values: BTreeMap<State, f64>,
    /// π*.
    pub(super) policy: BTreeMap<State, Chances>,
}

impl Problem {
    fn reference_at(&self, state: &[u32]) -> &[(u32, f64)] {
        let found = self.reference.iter().find(|(at, _)| at == state);
        &found
            .unwrap_or_else(|| panic!("no reference at {state:?}"))
            .1
    }

    /// V*(s) = β log Σ π_ref e^{Q*/β}, π* = π_ref e^{(Q* − V*)/β}, from the ends of the walks back to their beginning.
    pub(super) fn solve(&self) -> Optimum {
        let told = |walk: &Walk| Told {
            tokens: walk.tokens(),
            rows: walk.rows,
            reward: walk.reward,
        };
        let walks: Vec<Told> = self.walks.iter().map(told).collect();
        let mut optimum = Optimum::default();
        self.value(&[], &walks.iter().collect::<Vec<_>>(), &mut optimum);
        optimum
    }

    fn value(&self, state: &[u32], walks: &[&Told], optimum: &mut Optimum) -> f64 {
        let value = match walks[0].tokens.get(state.len()) {
            None => walks[0].reward,
            Some((_, is_written)) => {
                let mut next: BTreeMap<u32, Vec<&Told>> = BTreeMap::new();
                walks.iter().for_each(|walk| {
                    next.entry(walk.tokens[state.len()].0)
                        .or_default()
                        .push(walk)
                });
                let mut after = BTreeMap::new();
                for (token, walks) in &next {
                    after.insert(
                        *token,
                        self.value(&[state, &[*token]].concat(), walks, optimum),
                    );
                }
                if *is_written {
                    let reference = self.reference_at(state);
                    let highest = after.values().copied().fold(f64::MIN, f64::max);
                    let scaled =
                        |(token, p): &(u32, f64)| p * ((after[token] - highest) / self.beta).exp();
                    let value =
                        highest + self.beta * reference.iter().map(scaled).sum::<f64>().ln();
                    let best = |(token, p): &(u32, f64)| {
                        (*token, p * ((after[token] - value) / self.beta).exp())
                    };
                    optimum
                        .policy
                        .insert(state.to_vec(), reference.iter().map(best).collect());
                    value
                } else {
                    let rows =
                        |walks: &[&Told]| walks.iter().map(|walk| walk.rows).sum::<usize>() as f64;
                    next.iter()
                        .map(|(token, some)| rows(some) / rows(walks) * after[token])
                        .sum()
                }
            }
        };
        optimum.values.insert(state.to_vec(), value);
        value
    }

    /// Every state, in order: what the rows of tables stand for.
    fn states(&self) -> Vec<Vec<u32>> {
        let prefixes = |walk: &Walk| {
            let tokens: Vec<u32> = walk.tokens().into_iter().map(|(token, _)| token).collect();
            (1..=tokens.len())
                .map(|end| tokens[..end].to_vec())
                .collect::<Vec<_>>()
        };
        let mut states: Vec<Vec<u32>> = self.walks.iter().flat_map(prefixes).collect();
        states.sort();
        states.dedup();
        states
    }

    /// Tables of a policy and of values; what `values` lacks is 0.
    pub(super) fn tables(
        &self,
        policy: &BTreeMap<State, Chances>,
        values: &BTreeMap<State, f64>,
    ) -> Tables {
        let states = self.states();
        let mut logits = vec![NEVER; states.len() * VOCAB];
        for (index, state) in states.iter().enumerate() {
            for (token, p) in policy.get(state).into_iter().flatten() {
                logits[index * VOCAB + *token as usize] = p.ln();
            }
        }
        let values: Vec<f64> = states
            .iter()
            .map(|state| values.get(state).copied().unwrap_or_default())
            .collect();
        Tables {
            logits: tensor(&logits, [states.len(), VOCAB]).require_grad(),
            values: tensor(&values, [states.len()]).require_grad(),
        }
    }

    /// (π_ref, V = 0).
    pub(super) fn start(&self) -> Tables {
        self.tables(&self.reference.iter().cloned().collect(), &BTreeMap::new())
    }

    /// (π*, V*, U*).
    pub(super) fn at_optimum(&self) -> Tables {
        let Optimum { values, policy } = self.solve();
        self.tables(&policy, &values)
    }
}

/// What learns: logits of every token `[states, VOCAB]`, and the value of every state `[states]`.
#[derive(Clone)]
pub(super) struct Tables {
    pub(super) logits: Tensor<2>,
    pub(super) values: Tensor<1>,
}

/// Gradients of one loss, in the shapes of [`Tables`]; 0 where none came.
pub(super) struct Slopes {
    pub(super) logits: Vec<f64>,
    pub(super) values: Vec<f64>,
}

/// A problem laid out as the batch of a lesson.
pub(super) struct Desk {
    pub(super) batch: BatchTensors,
    states: Vec<Vec<u32>>,
    /// Of every written position `[batch · written]`, and of every position `[batch · time]`.
    written: Tensor<1, Int>,
    all: Tensor<1, Int>,
    reference: Tensor<2>,
}

impl Desk {
    /// All walks of a problem, each as often as it says.
    pub(super) fn new(problem: &Problem) -> Self {
        let order: Vec<usize> = (0..problem.walks.len()).collect();
        let rows = order
            .iter()
            .flat_map(|walk| std::iter::repeat_n(*walk, problem.walks[*walk].rows))
            .collect::<Vec<_>>();
        Self::of_rows(problem, &rows, 1, &[])
    }

    /// The walks of these indices, with positions rounded up to a multiple, and advantages of their turns where there
    /// are any.
    pub(super) fn of_rows(
        problem: &Problem,
        rows: &[usize],
        multiple: usize,
        advantages: &[Vec<f64>],
    ) -> Self {
        let trajectories: Vec<Trajectory> = rows
            .iter()
            .map(|walk| problem.walks[*walk].trajectory())
            .collect();
        let example = |(row, trajectory)| Example {
            advantages: advantages.get(row).map(Vec::as_slice),
            ..Example::from(trajectory)
        };
        let examples: Vec<Example<'_>> = trajectories.iter().enumerate().map(example).collect();
        let mut batch = Batch::new(&examples, multiple).expect("walks can be learned from");
        for (row, walk) in rows.iter().enumerate() {
            // StageOutputs are won or lost; problems know rewards between them.
            let reward = problem.walks[*walk].reward as f32;
            batch.returns[row] = reward;
            batch.rewards[row * batch.turns + trajectories[row].turns.len() - 1] = reward;
        }
        let states = problem.states();
        let place = |row: usize, t: usize| {
            let prefix: Vec<u32> = (0..=t)
                .map(|t| batch.tokens[row * batch.time + t] as u32)
                .collect();
            states.binary_search(&prefix).unwrap_or_default() as i64 // padding looks anywhere
        };
        let all: Vec<i64> = (0..batch.batch * batch.time)
            .map(|at| place(at / batch.time, at % batch.time))
            .collect();
        let tensors = batch.to_device(&device(), multiple);
        let places = tensors.written.rows.clone().into_data();
        let written: Vec<i64> = places.iter::<i64>().map(|at| all[at as usize]).collect();
        let ints = |values: Vec<i64>| {
            let length = values.len();
            Tensor::from_data(TensorData::new(values, [length]), &device())
        };
        let reference = problem.start().logits.detach();
        Self {
            batch: tensors,
            states,
            written: ints(written),
            all: ints(all),
            reference,
        }
    }

    /// The production losses of an algorithm at some tables.
    pub(super) fn losses(&self, tables: &Tables, algorithm: &Algorithm) -> Losses {
        self.losses_at(tables, algorithm, 0.0)
    }

    /// The same, under a reference point of KTO's.
    pub(super) fn losses_at(
        &self,
        tables: &Tables,
        algorithm: &Algorithm,
        reference_point: f64,
    ) -> Losses {
        let at = AtDesk { desk: self, tables };
        objective::losses(
            algorithm,
            &at,
            &self.batch,
            Moment {
                policy_learns: true,
                reference_point,
            },
        )
    }

    /// Both losses' gradients: the policy's of the logits, the value network's of the values.
    pub(super) fn slopes(&self, tables: &Tables, algorithm: &Algorithm) -> Slopes {
        let Losses { policy, value, .. } = self.losses(tables, algorithm);
        let none = |size: usize| vec![0.0; size];
        let [states, vocab] = tables.logits.dims();
        let of_policy = policy.map(|loss| loss.backward());
        let of_value = value.map(|loss| loss.backward());
        let logits = of_policy.and_then(|gradients| tables.logits.grad(&gradients));
        let values = of_value.and_then(|gradients| tables.values.grad(&gradients));
        Slopes {
            logits: logits.map_or_else(|| none(states * vocab), numbers),
            values: values.map_or_else(|| none(states), numbers),
        }
    }

    /// Actions of a level as OREO's losses see them.
    pub(super) fn actions(&self, tables: &Tables, level: Level) -> OreoInputs {
        objective::oreo_inputs(level, &AtDesk { desk: self, tables }, &self.batch)
    }

    /// ∂L_V/∂V of OREO at a level, without U's share.
    pub(super) fn slopes_of_value(
        &self,
        tables: &Tables,
        level: Level,
        problem: &Problem,
    ) -> Vec<f64> {
        let gradients = value_loss(&self.actions(tables, level), problem.beta).backward();
        numbers(tables.values.grad(&gradients).expect("L_V reaches V"))
    }

    /// The same, its walks sampled by the reference.
    pub(super) fn told_by_the_reference(mut self) -> Self {
        let [batch, written] = self.batch.written.targets.dims();
        let logits = self
            .reference
            .clone()
            .select(0, self.written.clone())
            .reshape([batch, written, VOCAB]);
        self.batch.written.behaviour_logprobs =
            target_logprobs(logits, self.batch.written.targets.clone());
        self
    }

    /// Gradient descent, each state's steps longer the rarer it is; both gradients are taken before either table moves.
    pub(super) fn descend(
        &self,
        start: Tables,
        algorithm: &Algorithm,
        rate: f64,
        updates: usize,
    ) -> Tables {
        let (policy_steps, value_steps) = self.steps(&start, algorithm, rate);
        let moved = |old: &[f64], slope: &[f64], steps: &[f64]| -> Vec<f64> {
            let each = old.iter().zip(slope).zip(steps);
            each.map(|((old, slope), step)| old - step * slope)
                .collect()
        };
        let mut tables = start;
        for _ in 0..updates {
            let Slopes { logits, values } = self.slopes(&tables, algorithm);
            let (shape, states) = (tables.logits.dims(), tables.values.dims());
            let logits = moved(&numbers(tables.logits), &logits, &policy_steps);
            let values = moved(&numbers(tables.values), &values, &value_steps);
            tables = Tables {
                logits: tensor(&logits, shape).require_grad(),
                values: tensor(&values, states).require_grad(),
            };
        }
        tables
    }

    /// How long a step is for each entry. Values: half the way to a parabola's bottom, for V and U stand in no
    /// residual together. Logits: `rate` over the share of the rows that pass through the state.
    fn steps(&self, start: &Tables, algorithm: &Algorithm, rate: f64) -> (Vec<f64>, Vec<f64>) {
        // DQO's targets move with the values, OREO's do not, and both have the same parabolas.
        let still = match *algorithm {
            Algorithm::Dqo {
                level,
                beta,
                value_learning_rate,
                critic_only_share,
                ..
            } => Algorithm::Oreo {
                level,
                beta,
                alpha: 0.0,
                value_learning_rate,
                critic_only_share,
            },
            ref other => other.clone(),
        };
        let slopes = |shift: f64| {
            let values: Vec<f64> = numbers(start.values.clone())
                .into_iter()
                .map(|value| value + shift)
                .collect();
            let values = tensor(&values, start.values.dims()).require_grad();
            self.slopes(
                &Tables {
                    logits: start.logits.clone(),
                    values,
                },
                &still,
            )
            .values
        };
        let curvature = slopes(1.0)
            .into_iter()
            .zip(slopes(0.0))
            .map(|(up, here)| up - here);
        let values = curvature
            .map(|curvature| {
                if curvature > 0.0 {
                    0.5 / curvature
                } else {
                    0.0
                }
            })
            .collect();
        let mask = self.batch.written.mask.clone().into_data();
        let places = self.written.clone().into_data();
        let [batch, written] = self.batch.written.targets.dims();
        let mask: Vec<bool> = mask.iter::<bool>().collect();
        let mut shares = vec![0.0; self.states.len()];
        for (at, place) in places.iter::<i64>().enumerate().filter(|(at, _)| mask[*at]) {
            let actions = mask[at / written * written..][..written]
                .iter()
                .filter(|mask| **mask)
                .count();
            shares[place as usize] += 1.0 / (batch * actions) as f64;
        }
        let step = |share: f64| if share > 0.0 { rate / share } else { 0.0 };
        (
            shares
                .into_iter()
                .flat_map(|share| [step(share); VOCAB])
                .collect(),
            values,
        )
    }

    /// π of some state's tokens.
    pub(super) fn policy(&self, tables: &Tables, state: &[u32], tokens: &[u32]) -> Vec<f64> {
        let all = numbers(log_softmax(tables.logits.clone(), 1).exp());
        tokens
            .iter()
            .map(|token| all[self.place(state) * VOCAB + *token as usize])
            .collect()
    }

    /// The entry of a state.
    pub(super) fn place(&self, state: &[u32]) -> usize {
        self.states
            .iter()
            .position(|other| other == state)
            .expect("a state of the problem")
    }

    /// How far tables are from the optimum: the largest difference of any probability or any value that an algorithm
    /// reads.
    pub(super) fn distance(
        &self,
        tables: &Tables,
        optimum: &Optimum,
        values_at: &[Vec<u32>],
    ) -> f64 {
        let of_policy = optimum.policy.iter().flat_map(|(state, best)| {
            let tokens: Vec<u32> = best.iter().map(|(token, _)| *token).collect();
            let learned = self.policy(tables, state, &tokens);
            best.iter()
                .zip(learned)
                .map(|((_, best), learned)| (best - learned).abs())
                .collect::<Vec<_>>()
        });
        let values = numbers(tables.values.clone());
        let of_values = values_at
            .iter()
            .map(|state| (values[self.place(state)] - optimum.values[state]).abs());
        of_policy.chain(of_values).fold(0.0, f64::max)
    }
}

/// Tables as the networks of a lesson.
struct AtDesk<'a> {
    desk: &'a Desk,
    tables: &'a Tables,
}

impl AtDesk<'_> {
    fn logits(&self, table: &Tensor<2>) -> Tensor<3> {
        let [batch, written] = self.desk.batch.written.targets.dims();
        table
            .clone()
            .select(0, self.desk.written.clone())
            .reshape([batch, written, VOCAB])
    }
}

impl objective::Networks for AtDesk<'_> {
    fn policy_logits(&self, _: &BatchTensors) -> Tensor<3> {
        self.logits(&self.tables.logits)
    }

    fn reference_logits(&self, _: &BatchTensors) -> Tensor<3> {
        self.logits(&self.desk.reference)
    }

    fn transcript_logits(&self, batch: &BatchTensors) -> Tensor<3> {
        let [rows, time] = batch.tokens.dims();
        self.tables
            .logits
            .clone()
            .select(0, self.desk.all.clone())
            .reshape([rows, time, VOCAB])
    }

    fn values(&self, batch: &BatchTensors) -> Tensor<2> {
        let [rows, time] = batch.tokens.dims();
        self.tables
            .values
            .clone()
            .select(0, self.desk.all.clone())
            .reshape([rows, time])
    }
}

fn device() -> Device {
    Device::flex().autodiff()
}

/// In double precision, on the device of the facts.
pub(super) fn tensor<const D: usize>(values: &[f64], shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(
        TensorData::new(values.to_vec(), shape),
        (&device(), DType::F64),
    )
}

/// All entries.
pub(super) fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}
