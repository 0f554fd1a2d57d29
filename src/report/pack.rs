//! Episodes as JSON for the page: each text once, numbers with four decimals, no token ids.
//!
//! ```text
//! texts     ["You are in …", "go to desk 1", …]
//! stores    of a file: policy, how it was played, number of episodes
//! games     [hash, id, split, task type or null, task sentence]
//! episodes  [store, game, outcome, seconds, last observation, failure or null, [completions, tokens, commands], turns]
//! turn      [observation, completion, action, ln π, V, U, candidates, log-ratio, process score]
//! candidate [completion, score, count, ln π, log-ratio, U]
//! ```
//!
//! A text, a store or a game is given by its index. An action is −1 if it equals the completion,
//! and null if the completion contains none. Nulls at the end of a list are left out.

use scenarios::{Candidate, Outcome, Split, TaskType, Trajectory, Turn};
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};

/// All data that the page's script reads.
#[derive(Default, Serialize)]
pub(crate) struct Packed {
    texts: Vec<String>,
    stores: Vec<PackedStore>,
    games: Vec<PageGame>,
    episodes: Vec<Vec<PackedValue>>,
    #[serde(skip)]
    text_index: HashMap<String, usize>,
    #[serde(skip)]
    game_index: HashMap<(Split, String), usize>,
}

/// What all episodes of one store have in common.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct StoreLabels {
    /// The policy's name with how it was played.
    pub(crate) title: String,
    pub(crate) policy: String,
    pub(crate) k: usize,
    /// Symbol of the score that ranks candidates.
    pub(crate) score: &'static str,
    pub(crate) file: String,
    pub(crate) protocol: String,
}

/// A store with its counts.
#[derive(Serialize)]
pub(crate) struct PackedStore {
    #[serde(flatten)]
    pub(crate) played: StoreLabels,
    pub(crate) episodes: usize,
    /// Those that the page shows.
    pub(crate) kept: usize,
}

#[derive(Serialize)]
struct PageGame(String, String, Split, Option<TaskType>, String);

/// An element of a packed list.
#[derive(Serialize)]
#[serde(untagged)]
enum PackedValue {
    Nothing,
    Integer(i64),
    Real(f64),
    Word(&'static str),
    List(Vec<PackedValue>),
}

impl Packed {
    pub(crate) fn stores(&self) -> &[PackedStore] {
        &self.stores
    }

    /// Adds a store. If `games` is given, only the episodes of that many games are kept, those with
    /// the smallest hashes.
    pub(crate) fn add(
        &mut self,
        played: StoreLabels,
        trajectories: &[Trajectory],
        games: Option<usize>,
    ) {
        let hashes: BTreeSet<&str> = trajectories.iter().map(|t| t.game_hash.as_str()).collect();
        let last = games
            .and_then(|games| hashes.into_iter().nth(games - 1))
            .map(str::to_string);
        let store = self.stores.len();
        let before = self.episodes.len();
        for trajectory in trajectories.iter().filter(|trajectory| {
            last.as_ref()
                .is_none_or(|last| trajectory.game_hash <= *last)
        }) {
            let episode = self.episode(store, trajectory);
            self.episodes.push(episode);
        }
        let kept = self.episodes.len() - before;
        self.stores.push(PackedStore {
            played,
            episodes: trajectories.len(),
            kept,
        });
    }

    /// Returns JSON for a `script` element. It contains no `<`, so that no text of a world or a
    /// server can be markup.
    pub(crate) fn json(&self) -> serde_json::Result<String> {
        let text = serde_json::to_string(self)?;
        Ok(text
            .replace('<', "\\u003c")
            .replace('\u{2028}', "\\u2028")
            .replace('\u{2029}', "\\u2029"))
    }

    fn episode(&mut self, store: usize, trajectory: &Trajectory) -> Vec<PackedValue> {
        let spent = trajectory.spent;
        let game = self.game(trajectory);
        let turns = trajectory
            .turns
            .iter()
            .map(|turn| PackedValue::List(self.turn(turn)))
            .collect();
        vec![
            index(store),
            index(game),
            PackedValue::Word(trajectory.outcome.name()),
            real(trajectory.seconds),
            self.text(&trajectory.last_observation),
            trajectory
                .failure
                .as_ref()
                .filter(|_| trajectory.outcome == Outcome::EnvFailed)
                .map_or(PackedValue::Nothing, |f| self.text(f)),
            PackedValue::List(vec![
                index(spent.completions),
                index(spent.tokens),
                index(spent.commands),
            ]),
            PackedValue::List(turns),
        ]
    }

    fn turn(&mut self, turn: &Turn) -> Vec<PackedValue> {
        let action = match &turn.action {
            None => PackedValue::Nothing,
            Some(action) if *action == turn.completion => PackedValue::Integer(-1),
            Some(action) => self.text(action),
        };
        let logprob = (!turn.logprobs.is_empty()).then(|| turn.logprobs.iter().sum());
        let candidates = match &turn.candidates[..] {
            [] => PackedValue::Nothing,
            candidates => PackedValue::List(
                candidates
                    .iter()
                    .map(|candidate| PackedValue::List(self.candidate(candidate)))
                    .collect(),
            ),
        };
        trimmed(vec![
            self.text(&turn.observation),
            self.text(&turn.completion),
            action,
            number(logprob),
            number(turn.value),
            number(turn.after_value),
            candidates,
            number(turn.log_ratio),
            turn.process_score.map_or(PackedValue::Nothing, real),
        ])
    }

    fn candidate(&mut self, candidate: &Candidate) -> Vec<PackedValue> {
        trimmed(vec![
            self.text(&candidate.completion),
            number(Some(candidate.score)),
            index(candidate.count),
            number(candidate.logprob),
            number(candidate.log_ratio),
            number(candidate.after_value),
        ])
    }

    fn game(&mut self, trajectory: &Trajectory) -> usize {
        let key = (trajectory.split, trajectory.game_hash.clone());
        if let Some(index) = self.game_index.get(&key) {
            return *index;
        }
        let opening = trajectory
            .turns
            .first()
            .map_or("", |turn| &turn.observation);
        let sentence = task_sentence(opening)
            .unwrap_or(&trajectory.game)
            .to_string();
        let Trajectory {
            game_hash,
            game,
            split,
            task_type,
            ..
        } = trajectory.clone();
        self.games
            .push(PageGame(game_hash, game, split, task_type, sentence));
        self.game_index.insert(key, self.games.len() - 1);
        self.games.len() - 1
    }

    fn text(&mut self, text: &str) -> PackedValue {
        if let Some(found) = self.text_index.get(text) {
            return index(*found);
        }
        self.texts.push(text.into());
        self.text_index.insert(text.into(), self.texts.len() - 1);
        index(self.texts.len() - 1)
    }
}

/// Returns the task sentence in the first observation of a game; `None` if it has none.
fn task_sentence(opening: &str) -> Option<&str> {
    let (_, rest) = opening.split_once("Your task is to")?;
    let sentence = rest.trim_start_matches(':').lines().next()?.trim();
    (!sentence.is_empty()).then_some(sentence)
}

fn index(number: usize) -> PackedValue {
    PackedValue::Integer(i64::try_from(number).expect("an index is below 2^63"))
}

fn number(number: Option<f32>) -> PackedValue {
    number.map_or(PackedValue::Nothing, |number| real(number.into()))
}

/// Rounds to four decimals. If a number is not finite, it is left out, because JSON cannot
/// represent it.
fn real(number: f64) -> PackedValue {
    if number.is_finite() {
        PackedValue::Real((number * 1e4).round() / 1e4)
    } else {
        PackedValue::Nothing
    }
}

fn trimmed(mut cells: Vec<PackedValue>) -> Vec<PackedValue> {
    while let Some(PackedValue::Nothing) = cells.last() {
        cells.pop();
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use scenarios::{Protocol, Spent};
    use serde_json::{Value, json};

    fn turn(observation: &str, completion: &str) -> Turn {
        Turn {
            observation: observation.into(),
            completion: completion.into(),
            action: Some(completion.into()),
            ..Turn::default()
        }
    }

    fn trajectory(hash: &str, turns: Vec<Turn>) -> Trajectory {
        Trajectory {
            format: Trajectory::FORMAT,
            game: format!("valid_seen/{hash}"),
            game_hash: hash.into(),
            split: Split::ValidSeen,
            task_type: None,
            repetition: 0,
            seed: 1,
            policy: "p".into(),
            value_policy: None,
            protocol: Protocol::default(),
            turns,
            last_observation: "You won.".into(),
            outcome: Outcome::Success,
            reward: 1.0,
            failure: None,
            seconds: 0.5,
            spent: Spent::default(),
            branch: None,
        }
    }

    fn labels() -> StoreLabels {
        StoreLabels {
            title: "p".into(),
            policy: "p".into(),
            k: 1,
            score: "U",
            file: "f".into(),
            protocol: String::new(),
        }
    }

    fn packed(trajectories: &[Trajectory], games: Option<usize>) -> Packed {
        let mut packed = Packed::default();
        packed.add(labels(), trajectories, games);
        packed
    }

    /// If ln π of the tokens is −1 and −½, the turn has −1.5. V has four decimals. Unknown values
    /// at the end are left out.
    #[test]
    fn a_turn_is_packed_in_the_documented_layout() {
        let with_numbers = Turn {
            logprobs: vec![-1.0, -0.5],
            value: Some(0.123_456),
            ..turn("Your task is to: look.", "look")
        };
        let malformed = Turn {
            action: None,
            ..turn("What?", "l o o k")
        };
        let candidate = Candidate {
            completion: "look".into(),
            score: 0.5,
            count: 2,
            logprob: None,
            log_ratio: None,
            after_value: Some(0.5),
            tokens: Vec::new(),
            returns: Vec::new(),
        };
        let chosen = Turn {
            action: Some("look".into()),
            candidates: vec![candidate],
            ..turn("What?", " look")
        };
        let packed = packed(
            &[trajectory("aa", vec![with_numbers, malformed, chosen])],
            None,
        );
        let value: Value = serde_json::from_str(&packed.json().unwrap()).unwrap();
        assert_eq!(
            value["texts"],
            json!([
                "Your task is to: look.",
                "look",
                "What?",
                "l o o k",
                " look",
                "You won."
            ])
        );
        assert_eq!(
            value["games"],
            json!([["aa", "valid_seen/aa", "valid_seen", null, "look."]])
        );
        let turns = json!([
            [0, 1, -1, -1.5, 0.1235],
            [2, 3],
            [2, 4, 1, null, null, null, [[1, 0.5, 2, null, null, 0.5]]]
        ]);
        assert_eq!(
            value["episodes"],
            json!([[0, 0, "success", 0.5, 5, null, [0, 0, 0], turns]])
        );
    }

    #[test]
    fn the_kept_games_do_not_depend_on_the_order_of_the_store() {
        let game = |hash| trajectory(hash, vec![turn("o", "look")]);
        let [forth, back] = [["b", "c", "a", "a"], ["a", "a", "c", "b"]]
            .map(|order| packed(&order.map(game), Some(2)));
        for packed in [forth, back] {
            let store = &packed.stores()[0];
            assert_eq!((store.episodes, store.kept), (4, 3));
            let hashes: BTreeSet<&str> = packed.games.iter().map(|game| game.0.as_str()).collect();
            assert_eq!(hashes, ["a", "b"].into());
        }
    }

    #[test]
    fn the_data_contains_no_markup() {
        let hostile = "</script><img src=x onerror=alert(1)><!-- \u{2028} \u{2029}";
        let json = packed(&[trajectory("a", vec![turn(hostile, hostile)])], None)
            .json()
            .unwrap();
        assert!(
            !json.contains('<') && !json.contains(['\u{2028}', '\u{2029}']),
            "{json}"
        );
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["texts"][0], hostile);
    }

    #[test]
    fn a_number_that_is_not_finite_is_left_out() {
        let turn = Turn {
            value: Some(f32::NAN),
            after_value: Some(f32::INFINITY),
            ..turn("o", "look")
        };
        let value: Value =
            serde_json::from_str(&packed(&[trajectory("a", vec![turn])], None).json().unwrap())
                .unwrap();
        assert_eq!(value["episodes"][0][7], json!([[0, 1, -1]]));
    }
}
