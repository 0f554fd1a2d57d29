//! Supervised fine-tuning: the mean negative log-likelihood of the tokens of demonstrations.
//!
//! ```text
//! L_SFT = − 1/N Σ_n log π_θ(y_n | before)        n runs over all N counted tokens of the batch
//! ```
//!
//! A baseline of OREO (arXiv 2412.16145, section 4.1).
//!
//! Differs from the paper: nothing known. The paper states no normalisation. Here every token has
//! the same weight: if singles are weighted by their numbers of tokens, their mean equals the loss
//! of the batch.

use super::{mean_per_token, mean_per_trajectory};
use burn::tensor::{Bool, Tensor};

/// Returns the mean negative log-likelihood of the tokens of completions, nats. Use it if the
/// network is already a language model.
///
/// Observations are context only: the policy is not trained to predict them.
///
/// # Shapes
/// `logprobs` `[batch, time]` of the target tokens, nats; `action_mask` `[batch, time]`; the result
/// `[1]`.
#[must_use]
pub fn sft_loss(logprobs: Tensor<2>, action_mask: &Tensor<2, Bool>) -> Tensor<1> {
    mean_per_token(-logprobs, action_mask)
}

/// Returns the mean negative log-likelihood of all tokens, observations and completions alike,
/// nats. Use it if the decoder is trained from scratch: it must learn the words of the environment,
/// and to copy names from the context, from these texts alone.
///
/// # Shapes
/// `logprobs` `[batch, time]` of the target tokens, nats; `imitated_mask` `[batch, time]`; the
/// result `[1]`.
#[must_use]
pub fn transcript_loss(logprobs: Tensor<2>, imitated_mask: &Tensor<2, Bool>) -> Tensor<1> {
    mean_per_token(-logprobs, imitated_mask)
}

/// Returns the auxiliary loss of a value network whose trunk predicts observations, nats: the mean
/// over a trajectory's observation tokens, then over the batch. It is not in the OREO paper; Digi-Q
/// (arXiv 2502.15760) trains its representation to predict what an action does.
///
/// # Shapes
/// `logprobs` `[batch, time]` of the target tokens, nats; `observation_mask` `[batch, time]`; the
/// result `[1]`.
#[must_use]
pub fn observation_loss(logprobs: Tensor<2>, observation_mask: &Tensor<2, Bool>) -> Tensor<1> {
    mean_per_trajectory(-logprobs, observation_mask)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::cases::{assert_close, gradient, mask, number, tensor};
    use super::super::target_logprobs;
    use super::*;
    use burn::tensor::{DType, Device, TensorData};

    fn case(device: &Device) -> (Tensor<2>, Tensor<2, Bool>) {
        let logprobs = TensorData::new(vec![-0.5, -1.0, -9.0, -3.0, -9.0, -9.0], [2, 3]);
        let mask = [[true, true, false], [true, false, false]];
        (
            Tensor::from_data(logprobs, (device, DType::F64)),
            Tensor::from_data(mask, device),
        )
    }

    /// Recorded from tests/oracle/losses.py, "sft": logits of two trajectories of two tokens and of
    /// one, vocabulary 3; the fourth position is masked and gets exactly no gradient.
    #[test]
    fn sft_against_the_oracle() {
        let logits = [
            0.5, -0.2, 0.1, 0.0, 1.0, -1.0, 0.3, 0.3, -0.6, 9.0, -9.0, 0.0,
        ];
        let logits = tensor(&logits, [2, 2, 3]).require_grad();
        let targets = Tensor::from_data([[0, 2], [1, 0]], &logits.device());
        let loss = sft_loss(
            target_logprobs(logits.clone(), targets),
            &mask(&[true, true, true, false], [2, 2]),
        );
        assert_close(&[number(loss.clone())], &[1.353_036_121_302_138_7]);
        let expected = [
            -0.179_504_125_537_091_4,
            0.076_389_323_885_488_65,
            0.103_114_801_651_602_8,
            0.081_576_157_018_265_87,
            0.221_746_985_258_273_97,
            -0.303_323_142_276_539_84,
            0.138_509_738_117_974_48,
            -0.194_823_595_215_358_83,
            0.056_313_857_097_383_54,
        ];
        let got = gradient(&loss, &logits);
        assert_close(&got[..9], &expected);
        assert_eq!(got[9..], [0.0; 3]);
    }

    /// (0.5 + 1 + 3)/3 = 1.5.
    #[test]
    fn mean_over_counted_tokens_by_hand() {
        let (logprobs, mask) = case(&Device::flex());
        assert!((sft_loss(logprobs, &mask).into_scalar::<f64>() - 1.5).abs() < 1e-15);
    }

    /// All six: (0.5 + 1 + 9 + 3 + 9 + 9)/6 = 5.25.
    #[test]
    fn the_transcript_counts_every_target() {
        let (logprobs, mask) = case(&Device::flex());
        let all = mask.clone().bool_or(mask.bool_not());
        assert!((transcript_loss(logprobs, &all).into_scalar::<f64>() - 5.25).abs() < 1e-15);
    }

    /// ((0.5 + 1)/2 + 3/1)/2 = 1.875: every trajectory counts the same, whatever its length.
    #[test]
    fn observations_count_by_trajectory() {
        let (logprobs, mask) = case(&Device::flex());
        assert!((observation_loss(logprobs, &mask).into_scalar::<f64>() - 1.875).abs() < 1e-15);
    }

    /// −1/3 if the token counts, else exactly 0.
    #[test]
    fn no_gradient_where_masked() {
        let (logprobs, mask) = case(&Device::flex().autodiff());
        let logprobs = logprobs.require_grad();
        let gradients = sft_loss(logprobs.clone(), &mask).backward();
        let gradient: Vec<f64> = logprobs
            .grad(&gradients)
            .unwrap()
            .into_data()
            .try_to_vec()
            .unwrap();
        let third = -1.0 / 3.0;
        assert_eq!(gradient, [third, third, 0.0, third, 0.0, 0.0]);
    }

    /// Singles: 0.75 over 2 tokens and 3 over 1; (2·0.75 + 1·3)/3 = 1.5.
    #[test]
    fn a_batch_equals_its_singles_by_token_count() {
        let (logprobs, mask) = case(&Device::flex());
        let single = |row: usize| {
            let logprobs = logprobs.clone().narrow(0, row, 1);
            let mask = mask.clone().narrow(0, row, 1);
            sft_loss(logprobs, &mask).into_scalar::<f64>()
        };
        let singles = (2.0 * single(0) + single(1)) / 3.0;
        assert!((sft_loss(logprobs.clone(), &mask).into_scalar::<f64>() - singles).abs() < 1e-15);
    }
}
