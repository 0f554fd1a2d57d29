//! Tokenizer and chat on arbitrary texts: any text round-trips, and a turn never changes earlier ids.

use agent::text::action;
use agent::text::chat::{self, PromptPosition};
use agent::text::tokenizer::{AGENT, BEGIN, END, Tokenizer};
use proptest::prelude::*;
use std::sync::LazyLock;
use support::corridor::tokenizer;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(tokenizer);

/// Any characters, words of corridors, and frames that an environment might try to forge.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        "[a-z]{1,8} [0-9]{1,3}",
        Just("You are in room 1.\n\n".to_string()),
        Just("east".to_string()),
        Just("<|end|>".to_string()),
        Just("<|agent|><|begin|>".to_string()),
        Just("<".to_string()),
        Just("|".to_string()),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// What a text is after a round trip.
fn unforged(text: &str) -> String {
    text.replace("<|", "< |")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

    /// If a text contains `<|`, a blank is inserted, so that frames cannot be forged. All other texts
    /// are unchanged.
    #[test]
    fn any_text_round_trips(text in texts()) {
        let ids = TOKENIZER.encode(&text);
        prop_assert_eq!(TOKENIZER.decode(&ids), unforged(&text));
        for frame in [BEGIN, AGENT, END].map(|text| TOKENIZER.id(text).unwrap()) {
            prop_assert!(!ids.contains(&frame), "a text forged the frame {frame}");
        }
    }

    /// If the ids of an episode are split at its frames, the parts are exactly its texts.
    #[test]
    fn an_episode_splits_at_its_frames_and_nowhere_else(
        turns in prop::collection::vec((texts(), texts(), any::<bool>()), 1..5)
    ) {
        let tokenizer = &*TOKENIZER;
        let mut ids = Vec::new();
        let mut position = PromptPosition::Opening;
        for (observation, completion, ended) in &turns {
            let before = ids.clone();
            ids.extend(chat::observation_tokens(tokenizer, observation, position));
            ids.extend(tokenizer.encode(completion));
            prop_assert!(ids.starts_with(&before), "a turn only appends");
            if *ended {
                ids.push(tokenizer.end);
            }
            position = if *ended {
                PromptPosition::AfterEnd
            } else {
                PromptPosition::AfterCut
            };
        }
        prop_assert_eq!(Some(ids[0]), tokenizer.id(BEGIN));
        if position == PromptPosition::AfterCut {
            ids.push(tokenizer.end);
        }
        prop_assert_eq!(ids.pop(), Some(tokenizer.end));
        let found: Vec<Vec<String>> = ids[1..]
            .split(|id| *id == tokenizer.end)
            .map(|turn| {
                turn.split(|id| Some(*id) == tokenizer.id(AGENT))
                    .map(|text| tokenizer.decode(text))
                    .collect()
            })
            .collect();
        let expected: Vec<Vec<String>> = turns
            .iter()
            .map(|(observation, completion, _)| vec![unforged(observation), unforged(completion)])
            .collect();
        prop_assert_eq!(found, expected);
    }

    /// A command is a whole line of its completion, and never contains a frame.
    #[test]
    fn a_command_is_one_stripped_line(text in texts()) {
        match action::parse_command(&text) {
            Some(command) => {
                prop_assert_eq!(command, text.trim());
                prop_assert!(!command.is_empty() && command.lines().count() == 1);
                prop_assert!(![BEGIN, AGENT, END].iter().any(|frame| command.contains(frame)));
            }
            None => {
                let text = text.trim();
                prop_assert!(text.is_empty() || text.contains('\n') || text.contains("<|"));
            }
        }
    }
}
