//! The state that a policy behind a server keeps for one episode: its messages, and its token ids
//! as far as the server returns them.

use super::reply::{ChatChoice, ChatReply};
use crate::policy::Completion;
use crate::text::action::stop_place;
use crate::text::template::{Message, Role};
use scenarios::Protocol;

/// The state that a [`crate::policy::remote::RemotePolicy`] keeps for an episode.
#[derive(Debug)]
pub struct RemoteEpisode {
    pub(super) messages: Vec<Message>,
    /// All token ids so far. `None` from the first turn whose prompt did not extend them.
    context: Option<Vec<u32>>,
    pub(super) seed: u64,
    pub(super) turn: u64,
}

impl RemoteEpisode {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            messages: Vec::new(),
            context: Some(Vec::new()),
            seed,
            turn: 0,
        }
    }

    /// Appends an observation, with the instructions of the protocol before the first.
    pub(super) fn push_observation(&mut self, observation: &str, protocol: &Protocol) {
        let content = match &protocol.instructions {
            Some(instructions) if self.messages.is_empty() => {
                format!("{instructions}\n\n{observation}")
            }
            _ => observation.into(),
        };
        self.messages.push(Message::new(Role::User, content));
    }

    /// Appends the completion in a reply and returns it. A thought that the server separated from the content is part of
    /// the completion, as the model wrote it, and is not sent back. A completion ends before the first text of `stop`,
    /// whether or not the server stopped there.
    pub(super) fn push_completion(&mut self, reply: ChatReply, stop: &[String]) -> Completion {
        let ChatChoice {
            message,
            finish_reason,
            stop_reason,
            matched_stop,
            logprobs,
            token_ids,
            ..
        } = reply.choice;
        let thought = message.thought().map(str::to_owned);
        let mut content = message.content.unwrap_or_default();
        if thought.is_some() {
            content = content.trim_start().to_owned(); // what follows a thought
        }
        let cut = stop_place(&content, stop);
        content.truncate(cut.unwrap_or(content.len()));
        let is_over = cut.is_some() || finish_reason.as_deref() == Some("stop");
        self.messages
            .push(Message::new(Role::Assistant, content.clone()));
        self.turn += 1;
        let text = match thought {
            None => content,
            // The limit or a stop text ended the thought.
            Some(thought) if content.is_empty() => format!("<think>\n{thought}"),
            Some(thought) => format!("<think>\n{thought}\n</think>\n\n{content}"),
        };
        // If an end-of-turn token ended the completion, these fields are null or a number.
        let stopped_at_text = stop_reason.is_some_and(|reason| reason.is_string())
            || matched_stop.is_some_and(|reason| reason.is_string())
            || cut.is_some();
        let (observation_tokens, tokens) = reply
            .prompt_token_ids
            .zip(token_ids)
            .filter(|_| !stopped_at_text)
            .and_then(|(prompt, tokens)| self.extend_context(prompt, tokens))
            .unwrap_or_default();
        // If one of them is null or not finite, none is kept. Rounding in half precision can give a value above 0.
        let logprobs: Vec<f32> = logprobs
            .and_then(|all| all.content)
            .and_then(|all| {
                all.iter()
                    .map(|token| Some(token.logprob?.min(0.0)))
                    .collect()
            })
            .unwrap_or_default();
        let written_tokens = tokens.len().max(logprobs.len());
        let fits = tokens.is_empty() || tokens.len() == logprobs.len();
        Completion {
            text,
            ended: is_over,
            observation_tokens,
            tokens,
            logprobs: if fits { logprobs } else { Vec::new() },
            written: 1,
            written_tokens,
            ..Completion::default()
        }
    }

    /// Returns the new ids of a prompt and the ids of the completion, if the prompt begins with all
    /// ids before it.
    fn extend_context(
        &mut self,
        prompt: Vec<u32>,
        tokens: Vec<u32>,
    ) -> Option<(Vec<u32>, Vec<u32>)> {
        let context = self.context.take()?;
        let new = prompt
            .strip_prefix(context.as_slice())
            .filter(|new| !new.is_empty() && !tokens.is_empty())?
            .to_vec();
        self.context = Some([prompt, tokens.clone()].concat());
        Some((new, tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn reply(prompt: &[u32], tokens: &[u32], more: &Value) -> ChatReply {
        let mut choice =
            json!({"message": {"content": "look"}, "finish_reason": "stop", "token_ids": tokens});
        choice
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        ChatReply {
            prompt_token_ids: Some(prompt.into()),
            choice: serde_json::from_value(choice).unwrap(),
        }
    }

    fn ids(completion: Completion) -> (Vec<u32>, Vec<u32>) {
        (completion.observation_tokens, completion.tokens)
    }

    /// The prompts are 1 2 and 1 2 3 4 5, around completion 3, so the second adds 4 5. If a third
    /// prompt begins differently, no ids are kept from then on.
    #[test]
    fn token_ids_are_kept_while_each_prompt_extends_the_last() {
        let mut episode = RemoteEpisode::new(1);
        let none = json!({});
        assert_eq!(
            ids(episode.push_completion(reply(&[1, 2], &[3], &none), &[])),
            (vec![1, 2], vec![3])
        );
        assert_eq!(
            ids(episode.push_completion(reply(&[1, 2, 3, 4, 5], &[6], &none), &[])),
            (vec![4, 5], vec![6])
        );
        assert_eq!(
            ids(episode.push_completion(reply(&[1, 2, 9, 4, 5, 6, 7], &[8], &none), &[])),
            (vec![], vec![])
        );
        assert_eq!(
            ids(episode.push_completion(reply(&[1, 2, 9, 4, 5, 6, 7, 8, 9], &[8], &none), &[])),
            (vec![], vec![]),
            "nor later"
        );
    }

    /// The stop text was sampled, but it is neither part of the completion nor of the next prompt.
    #[test]
    fn a_completion_that_stopped_at_a_text_has_no_ids() {
        for more in [json!({"stop_reason": "\n"}), json!({"matched_stop": "\n"})] {
            let mut episode = RemoteEpisode::new(1);
            assert_eq!(
                ids(episode.push_completion(reply(&[1], &[2], &more), &[])),
                (vec![], vec![])
            );
        }
        let mut episode = RemoteEpisode::new(1);
        assert_eq!(
            ids(episode.push_completion(reply(&[1], &[2], &json!({"matched_stop": 2})), &[])),
            (vec![1], vec![2]),
            "a token ended this one"
        );
    }
}
