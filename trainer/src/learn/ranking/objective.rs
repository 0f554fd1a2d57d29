//! The losses of branch states: from the outputs of the networks to [`crate::loss::ranking`].

use super::batch::RankingTensors;
use crate::learn::config::{Algorithm, Level, Ranking, TrainConfig};
use crate::learn::critic::{CriticPart, CriticPass};
use crate::learn::objective::{
    BatchStatistics, NetworkOutputs, TrainingLosses, after_positions, before_positions,
    log_ratio_sums, number,
};
use crate::loss::ranking::{advantage_loss, bradley_terry_loss, listwise_loss, policy_pair_loss};

/// Returns the losses of a micro-batch of branch states, times their coefficients. U is read at the
/// last token of each candidate. V has no loss here: with an advantage head U = sg\[V\] + A, so only A
/// and the trunk learn.
pub(crate) fn ranking_losses(
    recipe: &TrainConfig,
    networks: &impl NetworkOutputs,
    batch: &RankingTensors,
    policy_learns: bool,
    part: CriticPart,
) -> TrainingLosses {
    let critic = &recipe.critic;
    let mut statistics = BatchStatistics::default();
    let value = critic.ranking.map(|ranking| {
        let pass = CriticPass {
            part,
            ..CriticPass::default()
        };
        let outputs = networks.critic(&batch.rows, pass);
        let positions = before_positions(Level::Turn, &batch.rows);
        let before = outputs.heads.values.clone().gather(1, positions);
        let after = outputs.after_values(before, after_positions(Level::Turn, &batch.rows));
        let inputs = batch.inputs(after.squeeze_dim(1));
        let loss = match ranking {
            Ranking::Advantage => advantage_loss(&inputs),
            Ranking::Listwise => listwise_loss(&inputs, critic.ranking_temperature),
            Ranking::BradleyTerry => bradley_terry_loss(&inputs, critic.ranking_temperature),
        };
        statistics.loss_ranking = Some(number(&loss));
        loss * critic.ranking_coef
    });
    let policy = match recipe.algorithm {
        Algorithm::Oreo { beta, .. } if critic.policy_branch_coef > 0.0 && policy_learns => {
            let inputs = batch.inputs(log_ratio_sums(networks, &batch.rows));
            let loss = policy_pair_loss(&inputs, beta);
            statistics.loss_policy_branch = Some(number(&loss));
            Some(loss * critic.policy_branch_coef)
        }
        _ => None,
    };
    TrainingLosses {
        policy,
        value,
        statistics,
    }
}
