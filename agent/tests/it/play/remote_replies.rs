//! What servers really reply: thoughts, refused fields, errors in other words. Each kind is from a public report.

use super::ALONE;
use agent::policy::remote::{RemoteOptions, RemotePolicy, ServerAddress};
use agent::text::template::Role;
use scenarios::{ActionFormat, Outcome, Protocol, Trajectory};
use serde_json::{Value, json};
use std::time::Duration;
use support::corridor::{jobs, play, task};
use support::server::{HttpReply, HttpRequest, Server, friendly};

fn connect(server: &Server, stop: &[&str]) -> RemotePolicy {
    let options = RemoteOptions {
        concurrency: 1,
        timeout: Duration::from_secs(10),
        retries: 1,
        first_wait: Duration::from_millis(1),
        key: None,
        instructions: None,
        stop: stop.iter().map(ToString::to_string).collect(),
    };
    RemotePolicy::connect(ServerAddress::parse(&server.policy()).unwrap(), options).unwrap()
}

fn protocol(action_format: ActionFormat) -> Protocol {
    Protocol {
        turn_limit: 3,
        action_format,
        ..Protocol::default()
    }
}

/// Plays a corridor of one door, which `east` passes.
fn played(policy: &RemotePolicy, protocol: Protocol) -> Trajectory {
    let protocol = policy.protocol(protocol);
    play(policy, &jobs(&[task("plain/1")], 1), &protocol, ALONE).remove(0)
}

/// Plays against a server that always makes this choice. Returns the episode and the closing notes.
fn played_choice(choice: Value, format: ActionFormat) -> (Trajectory, Vec<String>) {
    let server = friendly(move |_, _| HttpReply::choice(choice.clone()));
    let policy = connect(&server, &[]);
    let episode = played(&policy, protocol(format));
    (episode, policy.closing_notes())
}

#[test]
fn a_thought_is_logged_and_never_the_command() {
    use ActionFormat::Plain;
    for (message, finish, completion, outcome) in [
        (json!({"content": "east"}), "stop", "east", Outcome::Success),
        (
            json!({"content": "<think>\nA door.\n</think>\n\neast"}),
            "stop",
            "<think>\nA door.\n</think>\n\neast",
            Outcome::Success,
        ),
        (
            json!({"content": "east", "reasoning_content": "A door."}),
            "stop",
            "<think>\nA door.\n</think>\n\neast",
            Outcome::Success,
        ),
        (
            json!({"content": null, "reasoning": "A door, so I"}),
            "length",
            "<think>\nA door, so I",
            Outcome::TurnLimit,
        ),
        (
            json!({"content": "<think>"}),
            "stop",
            "<think>",
            Outcome::TurnLimit,
        ),
        (
            json!({"content": [{"type": "text", "text": "east"}]}),
            "stop",
            "east",
            Outcome::Success,
        ),
    ] {
        let choice = json!({"message": message, "finish_reason": finish});
        let (episode, notes) = played_choice(choice, Plain);
        assert_eq!(episode.outcome, outcome, "{completion}");
        assert_eq!(episode.turns[0].completion, completion);
        assert_eq!(notes, Vec::<String>::new());
    }
}

/// A stop text counts only after the thought, which the server may separate and follow with empty lines.
#[test]
fn a_stop_text_ends_no_thought() {
    let server = friendly(|_, _| {
        HttpReply::choice(json!({
            "message": {"content": "\n\neast\nwest", "reasoning_content": "A\ndoor."}, "finish_reason": "stop",
        }))
    });
    let episode = played(&connect(&server, &["\n"]), protocol(ActionFormat::Plain));
    assert_eq!(episode.outcome, Outcome::Success);
    assert_eq!(
        episode.turns[0].completion,
        "<think>\nA\ndoor.\n</think>\n\neast"
    );
    let server = friendly(|_, _| {
        HttpReply::choice(json!({
            "message": {"content": null, "reasoning_content": "A"}, "finish_reason": "stop", "stop_reason": "\n",
        }))
    });
    let episode = played(&connect(&server, &["\n"]), protocol(ActionFormat::Plain));
    assert_eq!(episode.turns[0].completion, "<think>\nA", "nobody ended it");
}

/// The thought is not sent back: the server's template would drop it, or refuse it.
#[test]
fn a_thought_is_not_part_of_the_next_request() {
    let server = friendly(|_, _| {
        HttpReply::choice(json!({
            "message": {"content": "wait", "reasoning_content": "A door."}, "finish_reason": "stop",
        }))
    });
    let policy = connect(&server, &[]);
    played(&policy, protocol(ActionFormat::Plain));
    let answers: Vec<Value> = server.turns()[1].body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|message| message["role"] == json!(Role::Assistant))
        .map(|message| message["content"].clone())
        .collect();
    assert_eq!(answers, ["wait"]);
}

#[test]
fn labelled_commands_are_read_in_their_format() {
    use ActionFormat::{Auto, Plain, React, Tags};
    for (content, format, outcome) in [
        (
            "<think>a</think><action>east</action>",
            Tags,
            Outcome::Success,
        ),
        ("<action>east</action>", Auto, Outcome::Success),
        ("<action>east</action>", Plain, Outcome::TurnLimit),
        ("Action: east", React, Outcome::Success),
        ("Thought: a door.\nAction: east", React, Outcome::Success),
        ("> east", Auto, Outcome::Success),
        ("`east`", Auto, Outcome::Success),
        ("east", Tags, Outcome::TurnLimit),
    ] {
        let choice = json!({"message": {"content": content}, "finish_reason": "stop"});
        let (episode, _) = played_choice(choice, format);
        assert_eq!(episode.outcome, outcome, "{content} as {format}");
    }
}

#[test]
fn a_log_probability_that_is_no_number_leaves_the_completion() {
    for logprob in [json!(null), json!("-Infinity")] {
        let logprobs = json!({"content": [{"token": "east", "logprob": logprob}]});
        let choice =
            json!({"message": {"content": "east"}, "finish_reason": "stop", "logprobs": logprobs});
        let (episode, notes) = played_choice(choice, ActionFormat::Plain);
        assert_eq!(episode.outcome, Outcome::Success);
        assert!(episode.turns[0].logprobs.is_empty());
        assert!(
            notes[0].starts_with("1 of 1 completions came with"),
            "{notes:?}"
        );
    }
    let calls = json!([{"id": "1", "type": "function", "function": {"name": "east"}}]);
    let choice =
        json!({"message": {"content": null, "tool_calls": calls}, "finish_reason": "tool_calls"});
    let (_, notes) = played_choice(choice, ActionFormat::Plain);
    assert!(
        notes[0].starts_with("3 of 3 completions were calls of a tool"),
        "{notes:?}"
    );
}

/// Every server says in its own words that the context is full, some of them with status 200.
#[test]
fn a_full_context_ends_the_episode_and_counts() {
    for (status, body) in [
        (
            400,
            json!({"error": "the model is loaded with context length of only 4096 tokens"}),
        ),
        (
            200,
            json!({"error": {"message": "The number of tokens to keep from the initial prompt is greater than the context length", "code": 400}}),
        ),
        (
            422,
            json!({"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096."}),
        ),
        (
            400,
            json!({"error": {"message": "The decoder prompt (length 4200) is longer than the maximum model length of 4096."}}),
        ),
        (413, json!({"message": "too large"})),
    ] {
        let shown = body.to_string();
        let server = friendly(move |_, _| HttpReply::new(status, body.clone()));
        let episode = played(&connect(&server, &[]), protocol(ActionFormat::Plain));
        assert_eq!(episode.outcome, Outcome::ContextLimit, "{shown}");
    }
}

#[test]
fn an_error_inside_a_reply_loses_the_episode_and_counts_nowhere() {
    let failed = json!({
        "message": {"content": ""}, "finish_reason": "error", "error": {"code": 502, "message": "provider down"},
    });
    for reply in [
        json!({"choices": [failed]}),
        json!({"error": {"message": "provider down", "code": 502}}),
    ] {
        let server = friendly(move |_, _| HttpReply::new(200, reply.clone()));
        let episode = played(&connect(&server, &[]), protocol(ActionFormat::Plain));
        assert_eq!(episode.outcome, Outcome::EnvFailed);
        let reason = episode.failure.unwrap();
        assert!(reason.contains("HTTP 502: provider down"), "{reason}");
        assert_eq!(server.turns().len(), 2, "it is retried");
    }
}

/// A server that refuses requests for which `refused` returns a message.
fn refusing(refused: impl Fn(&Value) -> Option<String> + Send + Sync + 'static) -> Server {
    Server::start(
        move |_, request: &HttpRequest| match request.line.as_str() {
            "GET /v1/models" => HttpReply::new(200, json!({"data": [{"id": "m"}]})),
            _ => match refused(&request.body) {
                Some(text) => HttpReply::new(400, json!({"error": {"message": text}})),
                None => HttpReply::completion("east\nwest"),
            },
        },
    )
}

#[test]
fn a_server_gets_the_fields_that_it_takes() {
    let server = refusing(|body| {
        let has = |field: &str| body.get(field).is_some();
        if has("max_tokens") {
            return Some("'max_tokens' is not supported. Use 'max_completion_tokens'.".into());
        }
        if has("stop") {
            return Some("Unsupported parameter: 'stop'".into());
        }
        (has("temperature") && body["temperature"] != json!(1.0))
            .then(|| "'temperature' does not support 0. Only the default (1) is supported.".into())
    });
    let policy = connect(&server, &["\n"]);
    let notes = policy.take_notes();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(
        notes[0].starts_with("completions are cut at the stop texts here"),
        "{notes:?}"
    );
    let episode = played(&policy, protocol(ActionFormat::Plain));
    assert_eq!(episode.outcome, Outcome::Success);
    assert_eq!(episode.turns[0].completion, "east", "cut at the stop text");
    assert_eq!(episode.protocol.temperature, 1.0, "as it was played");
    let notes = policy.take_notes();
    assert!(
        notes[0].starts_with("played at temperature 1, the only one"),
        "{notes:?}"
    );
    let sent = server.turns().pop().unwrap().body;
    assert_eq!(sent["max_completion_tokens"], json!(24));
    assert_eq!(
        (&sent["temperature"], sent.get("stop")),
        (&json!(1.0), None)
    );
}
