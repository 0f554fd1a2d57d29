//! Tables of logits and values instead of networks. They learn through [`crate::learn::objective`],
//! as networks do.

use super::problem::{DecisionProblem, Optimum, TokenPrefix, TokenProbabilities, VOCAB};
use crate::learn::config::{Algorithm, Level, Normalisation};
use crate::learn::critic::CriticPass;
use crate::learn::data::batch::{Batch, Example, MeanLengths};
use crate::learn::data::tensors::BatchTensors;
use crate::learn::objective::{self, NetworkOutputs, TrainingLosses, UpdateContext};
use crate::loss::oreo::{OreoInputs, OreoSettings, value_loss};
use crate::loss::target_logprobs;
use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation::log_softmax};
use scenarios::Trajectory;
use std::collections::BTreeMap;

/// The logit of a token that is never sampled.
const NEVER: f64 = -1e9;

/// The parameters: logits of every token `[states, VOCAB]`, and the value of every state
/// `[states]`.
#[derive(Clone)]
pub(super) struct PolicyValueTables {
    pub(super) logits: Tensor<2>,
    pub(super) values: Tensor<1>,
}

/// Gradients in the shapes of [`PolicyValueTables`]; 0 if the loss does not depend on an entry.
pub(super) struct TableGradients {
    pub(super) logits: Vec<f64>,
    pub(super) values: Vec<f64>,
}

impl DecisionProblem {
    /// Returns the tables of a policy and of values. If `values` lacks a state, its value is 0.
    pub(super) fn tables(
        &self,
        policy: &BTreeMap<TokenPrefix, TokenProbabilities>,
        values: &BTreeMap<TokenPrefix, f64>,
    ) -> PolicyValueTables {
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
        PolicyValueTables {
            logits: tensor(&logits, [states.len(), VOCAB]).require_grad(),
            values: tensor(&values, [states.len()]).require_grad(),
        }
    }

    /// Returns (π_ref, V = 0).
    pub(super) fn start(&self) -> PolicyValueTables {
        self.tables(&self.reference.iter().cloned().collect(), &BTreeMap::new())
    }

    /// Returns (π*, V*, U*).
    pub(super) fn at_optimum(&self) -> PolicyValueTables {
        let Optimum { values, policy } = self.solve();
        self.tables(&policy, &values)
    }
}

/// The paths of a problem as the batch of a training job.
pub(super) struct ProblemBatch {
    pub(super) tensors: BatchTensors,
    states: Vec<TokenPrefix>,
    /// The state at every written position, `[batch · written]`.
    written: Tensor<1, Int>,
    /// The state at every position, `[batch · time]`.
    all: Tensor<1, Int>,
    reference: Tensor<2>,
    mean_lengths: MeanLengths,
}

impl ProblemBatch {
    /// Packs all paths of a problem, each as often as the data contain it.
    pub(super) fn new(problem: &DecisionProblem) -> Self {
        let mut rows = Vec::new();
        for (index, path) in problem.paths.iter().enumerate() {
            rows.extend(std::iter::repeat_n(index, path.rows));
        }
        Self::of_rows(problem, &rows, 1, &[])
    }

    /// Packs the paths of these indices. Positions are rounded up to `multiple`; `advantages` are
    /// those of the turns of each row, or empty.
    pub(super) fn of_rows(
        problem: &DecisionProblem,
        rows: &[usize],
        multiple: usize,
        advantages: &[Vec<f64>],
    ) -> Self {
        let trajectories: Vec<Trajectory> = rows
            .iter()
            .map(|path| problem.paths[*path].trajectory())
            .collect();
        let examples: Vec<Example<'_>> = trajectories
            .iter()
            .enumerate()
            .map(|(row, trajectory)| Example {
                advantages: advantages.get(row).map(Vec::as_slice),
                ..Example::from(trajectory)
            })
            .collect();
        let mut batch = Batch::new(&examples, multiple).expect("every path has tokens");
        for (row, path) in rows.iter().enumerate() {
            // Outcomes are won or lost; problems have rewards between them.
            let reward = problem.paths[*path].reward as f32;
            batch.returns[row] = reward;
            batch.rewards[row * batch.turns + trajectories[row].turns.len() - 1] = reward;
        }
        let states = problem.states();
        let mut all: Vec<i64> = Vec::new();
        for row in batch.tokens.chunks(batch.time) {
            let tokens: Vec<u32> = row.iter().map(|token| *token as u32).collect();
            for end in 1..=tokens.len() {
                let state = states.binary_search_by(|state| state.as_slice().cmp(&tokens[..end]));
                all.push(state.unwrap_or_default() as i64); // any state in the padding
            }
        }
        let tensors = batch.to_device(&device(), multiple);
        let positions = tensors.written.rows.clone().into_data();
        let written: Vec<i64> = positions.iter::<i64>().map(|at| all[at as usize]).collect();
        Self {
            tensors,
            states,
            written: indices(written),
            all: indices(all),
            reference: problem.start().logits.detach(),
            mean_lengths: MeanLengths::of(&[batch]),
        }
    }

    /// Returns the production losses of an algorithm.
    pub(super) fn losses(
        &self,
        tables: &PolicyValueTables,
        algorithm: &Algorithm,
    ) -> TrainingLosses {
        self.losses_at(tables, algorithm, 0.0)
    }

    /// Returns the production losses with a reference point of KTO.
    pub(super) fn losses_at(
        &self,
        tables: &PolicyValueTables,
        algorithm: &Algorithm,
        reference_point: f64,
    ) -> TrainingLosses {
        let context = UpdateContext {
            policy_learns: true,
            reference_point,
            mean_lengths: self.mean_lengths,
            critic: CriticPass::default(),
        };
        objective::losses(algorithm, &self.networks(tables), &self.tensors, context)
    }

    fn networks<'a>(&'a self, tables: &'a PolicyValueTables) -> TableNetworks<'a> {
        TableNetworks {
            batch: self,
            tables,
        }
    }

    /// Returns the gradients of both losses: of the policy loss by the logits, of the value loss by
    /// the values.
    pub(super) fn gradients(
        &self,
        tables: &PolicyValueTables,
        algorithm: &Algorithm,
    ) -> TableGradients {
        let TrainingLosses { policy, value, .. } = self.losses(tables, algorithm);
        let [states, vocab] = tables.logits.dims();
        let of_policy = policy.map(|loss| loss.backward());
        let of_value = value.map(|loss| loss.backward());
        let logits = of_policy.and_then(|gradients| tables.logits.grad(&gradients));
        let values = of_value.and_then(|gradients| tables.values.grad(&gradients));
        TableGradients {
            logits: logits.map_or_else(|| vec![0.0; states * vocab], numbers),
            values: values.map_or_else(|| vec![0.0; states], numbers),
        }
    }

    /// Returns the inputs of OREO's losses over the actions of a level.
    pub(super) fn actions(&self, tables: &PolicyValueTables, level: Level) -> OreoInputs {
        objective::oreo_inputs(level, &self.networks(tables), &self.tensors)
    }

    /// Returns ∂L_V/∂V of OREO at a level, without L_U.
    pub(super) fn value_gradient(
        &self,
        tables: &PolicyValueTables,
        level: Level,
        problem: &DecisionProblem,
    ) -> Vec<f64> {
        let gradients = value_loss(
            &self.actions(tables, level),
            OreoSettings::published(problem.beta),
        )
        .backward();
        numbers(tables.values.grad(&gradients).expect("L_V depends on V"))
    }

    /// Sets the behaviour log-probabilities to those of the reference.
    pub(super) fn sampled_by_reference(mut self) -> Self {
        let logits = self.written_logits(&self.reference);
        self.tensors.written.behaviour_logprobs =
            target_logprobs(logits, self.tensors.written.targets.clone());
        self
    }

    /// Looks up the logits at the written positions, `[batch, written, VOCAB]`.
    fn written_logits(&self, table: &Tensor<2>) -> Tensor<3> {
        let [batch, written] = self.tensors.written.targets.dims();
        table
            .clone()
            .select(0, self.written.clone())
            .reshape([batch, written, VOCAB])
    }

    /// Does gradient descent. The step of an entry is longer if its state is rarer. Both gradients
    /// are computed before either table moves.
    pub(super) fn descend(
        &self,
        start: PolicyValueTables,
        algorithm: &Algorithm,
        rate: f64,
        updates: usize,
    ) -> PolicyValueTables {
        let policy_steps = self.policy_steps(rate);
        let value_steps = self.value_steps(&start, algorithm);
        let mut tables = start;
        for _ in 0..updates {
            let TableGradients { logits, values } = self.gradients(&tables, algorithm);
            let shape = tables.logits.dims();
            let states = tables.values.dims();
            let logits = moved(&numbers(tables.logits), &logits, &policy_steps);
            let values = moved(&numbers(tables.values), &values, &value_steps);
            tables = PolicyValueTables {
                logits: tensor(&logits, shape).require_grad(),
                values: tensor(&values, states).require_grad(),
            };
        }
        tables
    }

    /// Returns the step of each logit: `rate` divided by the share of the rows that pass through
    /// the state.
    fn policy_steps(&self, rate: f64) -> Vec<f64> {
        let mask = self.tensors.written.mask.clone().into_data();
        let mask: Vec<bool> = mask.iter::<bool>().collect();
        let places = self.written.clone().into_data();
        let [batch, written] = self.tensors.written.targets.dims();
        let mut shares = vec![0.0; self.states.len()];
        for (at, place) in places.iter::<i64>().enumerate().filter(|(at, _)| mask[*at]) {
            let actions = mask[at / written * written..][..written]
                .iter()
                .filter(|mask| **mask)
                .count();
            shares[place as usize] += 1.0 / (batch * actions) as f64;
        }
        shares
            .into_iter()
            .flat_map(|share| [if share > 0.0 { rate / share } else { 0.0 }; VOCAB])
            .collect()
    }

    /// Returns the step of each value: half the way to the minimum of its parabola. V and U are in
    /// no residual together, so the parabolas are independent.
    fn value_steps(&self, start: &PolicyValueTables, algorithm: &Algorithm) -> Vec<f64> {
        // The targets of DQO depend on the values, those of OREO do not. Both have the same
        // parabolas.
        let algorithm = match *algorithm {
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
                discount: 1.0,
                normalise: Normalisation::Trajectory,
                log_ratio_clip: None,
                path_length: None,
                imitation_coef: 0.0,
            },
            ref other => other.clone(),
        };
        let gradients = [1.0, 0.0].map(|shift| {
            let values: Vec<f64> = numbers(start.values.clone())
                .into_iter()
                .map(|value| value + shift)
                .collect();
            let shifted = PolicyValueTables {
                logits: start.logits.clone(),
                values: tensor(&values, start.values.dims()).require_grad(),
            };
            self.gradients(&shifted, &algorithm).values
        });
        let [above, here] = gradients;
        above
            .into_iter()
            .zip(here)
            .map(|(above, here)| {
                let curvature = above - here;
                if curvature > 0.0 {
                    0.5 / curvature
                } else {
                    0.0
                }
            })
            .collect()
    }

    /// Returns π of some tokens in a state.
    pub(super) fn policy(
        &self,
        tables: &PolicyValueTables,
        state: &[u32],
        tokens: &[u32],
    ) -> Vec<f64> {
        let all = numbers(log_softmax(tables.logits.clone(), 1).exp());
        tokens
            .iter()
            .map(|token| all[self.place(state) * VOCAB + *token as usize])
            .collect()
    }

    /// Returns the learned value of a state.
    pub(super) fn value(&self, tables: &PolicyValueTables, state: &[u32]) -> f64 {
        numbers(tables.values.clone())[self.place(state)]
    }

    /// Returns the row of a state in the tables.
    pub(super) fn place(&self, state: &[u32]) -> usize {
        self.states
            .iter()
            .position(|other| other == state)
            .expect("a state of the problem")
    }

    /// Returns the largest difference from the optimum: of any probability, or of the value of any
    /// state in `values_at`.
    pub(super) fn distance(
        &self,
        tables: &PolicyValueTables,
        optimum: &Optimum,
        values_at: &[TokenPrefix],
    ) -> f64 {
        let mut distance = 0.0_f64;
        for (state, best) in &optimum.policy {
            let tokens: Vec<u32> = best.iter().map(|(token, _)| *token).collect();
            let learned = self.policy(tables, state, &tokens);
            for ((_, best), learned) in best.iter().zip(learned) {
                distance = distance.max((best - learned).abs());
            }
        }
        let values = numbers(tables.values.clone());
        for state in values_at {
            distance = distance.max((values[self.place(state)] - optimum.values[state]).abs());
        }
        distance
    }
}

fn moved(old: &[f64], gradient: &[f64], steps: &[f64]) -> Vec<f64> {
    old.iter()
        .zip(gradient)
        .zip(steps)
        .map(|((old, gradient), step)| old - step * gradient)
        .collect()
}

/// Tables as the networks of a training job.
struct TableNetworks<'a> {
    batch: &'a ProblemBatch,
    tables: &'a PolicyValueTables,
}

impl NetworkOutputs for TableNetworks<'_> {
    fn policy_logits(&self, _: &BatchTensors) -> Tensor<3> {
        self.batch.written_logits(&self.tables.logits)
    }

    fn reference_logits(&self, _: &BatchTensors) -> Tensor<3> {
        self.batch.written_logits(&self.batch.reference)
    }

    fn transcript_logits(&self, batch: &BatchTensors) -> Tensor<3> {
        let [rows, time] = batch.tokens.dims();
        self.tables
            .logits
            .clone()
            .select(0, self.batch.all.clone())
            .reshape([rows, time, VOCAB])
    }

    fn values(&self, batch: &BatchTensors) -> Tensor<2> {
        let [rows, time] = batch.tokens.dims();
        self.tables
            .values
            .clone()
            .select(0, self.batch.all.clone())
            .reshape([rows, time])
    }
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn indices(values: Vec<i64>) -> Tensor<1, Int> {
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), &device())
}

/// Returns a tensor in double precision on the device of the checks.
pub(super) fn tensor<const D: usize>(values: &[f64], shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(
        TensorData::new(values.to_vec(), shape),
        (&device(), DType::F64),
    )
}

/// Returns all entries of a tensor.
pub(super) fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}
