//! The reading test on policies that are written by hand, and on a decoder.

use super::*;
use agent::inference::device::Backend;
use agent::model::config::{DecoderConfig, Family};
use agent::model::decoder::Decoder;
use agent::model::reading::config::{
    ConvolutionConfig, ConvolutionPlace, GoalMatch, ReadingConfig,
};
use agent::model::weights::Weights;
use agent::text::tokenizer::NumberTokens;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use predictor::TokenPredictor;
use scenarios::expert::{goal_object, listed_objects};
use scenarios::{Outcome, Protocol, Spent, Split, Turn, WeightFormat};
use support::corridor::babbler;

const OPENING: &str = "You are in the middle of a room. Looking quickly around you, you see a desk 1, and a shelf 1.\n\n\
                       Your task is to: put a mug in desk.";

/// An episode in which the expert sees these lists and takes the mug from the last one.
fn episode(lists: &[&str], command: &str) -> Trajectory {
    let turn = |observation: String, completion: &str| Turn {
        observation,
        completion: completion.into(),
        action: Some(completion.into()),
        ..Turn::default()
    };
    let mut turns = vec![turn(OPENING.into(), "go to shelf 1")];
    for list in lists {
        let observation = format!("You arrive at shelf 1. On the shelf 1, you see {list}.");
        turns.push(turn(observation, "go to shelf 1"));
    }
    turns.last_mut().unwrap().completion = command.into();
    Trajectory {
        format: Trajectory::FORMAT,
        game: "valid_train/a".into(),
        game_hash: "00".into(),
        split: Split::ValidTrain,
        task_type: None,
        repetition: 0,
        seed: 1,
        policy: "expert".into(),
        value_policy: None,
        protocol: Protocol::default(),
        turns,
        last_observation: String::new(),
        outcome: Outcome::Success,
        reward: 1.0,
        failure: None,
        seconds: 0.0,
        spent: Spent::default(),
        branch: None,
    }
}

fn episodes() -> Vec<Trajectory> {
    vec![
        episode(
            &["a bowl 1, and a pen 1", "a mug 2, a mug 1, and a vase 3"],
            "take mug 2 from shelf 1",
        ),
        episode(&["a cup 1, and a mug 1"], "take mug 1 from shelf 1"),
    ]
}

/// What a policy that is written by hand does.
#[derive(Clone, Copy, PartialEq)]
enum HandWritten {
    /// Takes the object if it is listed.
    Reads,
    /// The same, but writes a wrong name.
    ReadsTheType,
    /// Takes the object after every list.
    Guesses,
}

struct HandWrittenPolicy {
    tokenizer: Tokenizer,
    kind: HandWritten,
}

impl HandWrittenPolicy {
    /// Returns the probability of the first predicted token of a query.
    fn first_probability(&self, query: &TokenQuery) -> f64 {
        let text = self.tokenizer.decode(&query.tokens[..query.from]);
        let (opening, _) = text.split_once("<|agent|>").unwrap_or((&text, ""));
        let Some(object) = goal_object(opening) else {
            return 0.25; // a repeated list
        };
        let list = &text[text.rfind("On the ").unwrap()..];
        let is_listed = listed_objects(list)
            .unwrap()
            .iter()
            .any(|name| name.starts_with(&format!("{object} ")));
        if is_listed || self.kind == HandWritten::Guesses {
            0.9
        } else {
            0.1
        }
    }
}

impl TokenPredictor for HandWrittenPolicy {
    fn predict(&self, queries: &[&TokenQuery]) -> Vec<Vec<TokenPrediction>> {
        queries
            .iter()
            .map(|query| {
                let first = self.first_probability(query);
                let last = query.tokens.len() - 1;
                (query.from..=last)
                    .map(|index| TokenPrediction {
                        logprob: if index == query.from { first.ln() } else { 0.0 },
                        is_top: match self.kind {
                            _ if index == query.from => first > 0.5,
                            HandWritten::ReadsTheType => index < last,
                            _ => true,
                        },
                    })
                    .collect()
            })
            .collect()
    }
}

/// The vocabulary of the texts, in which `take ` is one token.
fn tokenizer() -> Tokenizer {
    let episodes = episodes();
    let texts: Vec<&str> = episodes
        .iter()
        .flat_map(|episode| &episode.turns)
        .flat_map(|turn| [turn.observation.as_str(), turn.completion.as_str()])
        .collect();
    Tokenizer::train(texts.repeat(3).into_iter(), 600).unwrap()
}

fn numbers(kind: HandWritten) -> (ReadingNumbers, f64) {
    let tokenizer = tokenizer();
    let test = ReadingTest::new(&tokenizer, 400, &episodes(), 1).unwrap();
    let scores = test.measure(&HandWrittenPolicy { tokenizer, kind });
    assert_eq!((scores.pairs.len(), test.left_out), (2, 0));
    let exact = scores.rows().into_iter().find(|row| row.measure == "exact");
    (scores.numbers(), exact.unwrap().value)
}

#[test]
fn a_policy_that_reads_is_told_from_one_that_guesses() {
    for (kind, absent, pairs, exact) in [
        (HandWritten::Reads, 0.1, 1.0, 1.0),
        (HandWritten::ReadsTheType, 0.1, 1.0, 0.0),
        (HandWritten::Guesses, 0.9, 0.0, 1.0),
    ] {
        let (numbers, exact_rate) = numbers(kind);
        assert!((numbers.there.unwrap() - 0.9).abs() < 1e-12);
        assert!((numbers.absent.unwrap() - absent).abs() < 1e-12);
        assert_eq!((numbers.pairs, exact_rate), (Some(pairs), exact));
    }
}

/// Both queries of a pair are the tokens of the episode, up to the edited list.
#[test]
fn the_queries_are_the_tokens_of_the_episode() {
    let tokenizer = tokenizer();
    let mut episode = episodes().remove(0);
    let test = ReadingTest::new(&tokenizer, 400, &[episode.clone()], 1).unwrap();
    agent::text::chat::tokenize(&tokenizer, &mut episode);
    let whole: Vec<u32> = episode
        .turns
        .iter()
        .flat_map(|turn| {
            turn.observation_tokens
                .iter()
                .chain(&turn.completion_tokens)
        })
        .copied()
        .collect();
    let pair = &test.pairs[0];
    assert_eq!(pair.there.tokens, whole);
    assert_eq!(
        tokenizer.decode(&pair.there.tokens[pair.there.from..]),
        "take mug 2 from shelf 1<|end|>"
    );
    let absent = tokenizer.decode(&pair.absent.tokens);
    let list = "you see a bowl 1, and a pen 1.<|agent|>go to shelf 1<|end|>\
                You arrive at shelf 1. On the shelf 1, you see a vase 3.<|agent|>take ";
    assert!(absent.ends_with(list), "{absent}");
    assert_eq!(pair.absent.from, pair.absent.tokens.len() - 1);
}

#[test]
fn an_episode_without_a_pair_is_left_out() {
    let mut perturbed = episode(&["a cup 1, and a mug 1"], "take mug 1 from shelf 1");
    perturbed.turns[1].perturbed = true;
    let without = [
        episode(&["a mug 1"], "take mug 1 from shelf 1"),
        episode(&["a mug 1, and a pen 1"], "go to desk 1"),
        episode(&["a cup 1, and a pen 1"], "take mug 1 from shelf 1"),
        perturbed,
    ];
    let tokenizer = tokenizer();
    let all = [&without[..], &episodes()].concat();
    let test = ReadingTest::new(&tokenizer, 400, &all, 1).unwrap();
    assert_eq!((test.pairs.len(), test.left_out), (2, 4));
    for (context, episodes) in [(400, &without[..]), (20, &episodes())] {
        let refused = ReadingTest::new(&tokenizer, context, episodes, 1).unwrap_err();
        assert!(refused.to_string().contains("gives a pair"), "{refused}");
    }
}

/// The predictions at play are those of the decoder that is trained. Queries that are read together
/// have the same bits as alone. The second decoder has every addition of hearth's own family.
#[test]
fn a_decoder_is_queried_as_it_is_trained() {
    let model = babbler(3);
    assert_queried_as_trained(&model.config, model.policy);
    let config = DecoderConfig {
        family: Family::Hearth,
        reading: ReadingConfig {
            goal_match: Some(GoalMatch {
                marker: vec![4],
                end: vec![16],
                ignored: vec![],
            }),
            ngram_embedding: vec![1, 2],
            convolution: Some(ConvolutionConfig {
                width: 3,
                places: ConvolutionPlace::ALL.to_vec(),
            }),
        },
        ..model.config
    };
    let mut weights = Weights::random(&config, 3);
    for tensor in weights.0.values_mut() {
        if tensor.data.iter().all(|w| *w == 0.0) {
            let values = (0..tensor.data.len()).map(|index| 0.1 * (index as f32).sin());
            tensor.data = values.collect();
        }
    }
    assert_queried_as_trained(&config, weights);
}

#[track_caller]
fn assert_queried_as_trained(config: &DecoderConfig, mut weights: Weights) {
    let decoder = Decoder::from_weights(config, &weights, &Device::flex()).unwrap();
    let vocab = config.vocab_size;
    let queries: Vec<TokenQuery> = (0..5)
        .map(|index| TokenQuery {
            tokens: (0..20 + 7 * index)
                .map(|place| ((place * place + 31 * (index / 2)) % vocab) as u32)
                .collect(),
            from: 1 + 9 * index,
        })
        .collect();
    let format = WeightFormat::Exact;
    let policy =
        PolicyInference::from_weights(config, &mut weights, format, &Backend::Cpu).unwrap();
    let together = policy.predict(&queries.iter().collect::<Vec<_>>());
    for (query, predictions) in queries.iter().zip(&together) {
        assert_eq!(policy.predict(&[query])[0], *predictions);
        let ids: Vec<i32> = query.tokens.iter().map(|token| *token as i32).collect();
        let tokens: Tensor<2, Int> = Tensor::from_data(
            TensorData::new(ids, [1, query.tokens.len()]),
            &Device::flex(),
        );
        let states = decoder
            .hidden(tokens)
            .reshape([query.tokens.len(), config.hidden_size]);
        let logprobs = activation::log_softmax(decoder.logits(states), 1)
            .into_data()
            .try_to_vec::<f32>()
            .unwrap();
        for (place, prediction) in (query.from..).zip(predictions) {
            let row = &logprobs[(place - 1) * vocab..place * vocab];
            let expected = TokenPrediction::of(query.tokens[place], row);
            assert!((prediction.logprob - expected.logprob).abs() < 2e-5);
        }
        assert_eq!(predictions.len(), query.tokens.len() - query.from);
    }
}

#[test]
fn a_token_is_the_top_one_if_none_is_more_probable() {
    let logprobs = [-2.0, -0.5, -1.0];
    let tops: Vec<bool> = (0..3)
        .map(|token| TokenPrediction::of(token, &logprobs).is_top)
        .collect();
    assert_eq!(tops, [false, true, false]);
}

/// A policy that writes what followed the last occurrence of the present token.
struct InductionHead;

impl TokenPredictor for InductionHead {
    fn predict(&self, queries: &[&TokenQuery]) -> Vec<Vec<TokenPrediction>> {
        queries
            .iter()
            .map(|query| {
                (query.from..query.tokens.len())
                    .map(|index| {
                        let before = &query.tokens[..index - 1];
                        let last = before
                            .iter()
                            .rposition(|token| *token == query.tokens[index - 1]);
                        let is_top =
                            last.is_some_and(|last| query.tokens[last + 1] == query.tokens[index]);
                        let probability: f64 = if is_top { 0.9 } else { 0.01 };
                        TokenPrediction {
                            logprob: probability.ln(),
                            is_top,
                        }
                    })
                    .collect()
            })
            .collect()
    }
}

/// This holds for both tokenizations of numbers, although numbers then repeat within a list.
#[test]
fn an_induction_head_predicts_every_token_that_counts() {
    let episodes = episodes();
    let texts: Vec<&str> = episodes
        .iter()
        .flat_map(|episode| &episode.turns)
        .flat_map(|turn| [turn.observation.as_str(), turn.completion.as_str()])
        .collect();
    for numbers in [NumberTokens::Whole, NumberTokens::Digits] {
        let tokenizer = Tokenizer::train_with(texts.repeat(3).into_iter(), 600, numbers).unwrap();
        let test = ReadingTest::new(&tokenizer, 400, &episodes, 1).unwrap();
        let scores = test.measure(&InductionHead);
        assert_eq!(scores.lists.len(), 32);
        for list in &scores.lists {
            assert!((list.second - 0.9).abs() < 1e-12 && (list.accuracy - 1.0).abs() < 1e-12);
            assert!((list.first - 0.01).abs() < 1e-12, "{list:?}");
        }
        assert_eq!(
            ReadingTest::new(&tokenizer, 400, &episodes, 1)
                .unwrap()
                .measure(&InductionHead),
            scores,
            "the lists depend on the seed only"
        );
    }
}
