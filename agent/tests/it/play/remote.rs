//! A policy behind a server: the requests, the replies, and what happens to an episode if the
//! server fails.

use super::ALONE;
use agent::policy::remote::{ApiKey, RemoteOptions, RemotePolicy, ServerAddress};
use agent::policy::{Policy, TurnRequest, TurnResponse};
use agent::rollout::Concurrency;
use agent::text::chat::MALFORMED_ANSWER;
use scenarios::{Outcome, Protocol, Trajectory};
use serde_json::{Value, json};
use std::time::Duration;
use support::corridor::{jobs, play, task};
use support::server::{HttpReply, HttpRequest, Server, friendly};

const SECRET: &str = "sk-do-not-show";

fn options() -> RemoteOptions {
    RemoteOptions {
        concurrency: 4,
        timeout: Duration::from_secs(10),
        retries: 2,
        first_wait: Duration::from_millis(1),
        key: None,
        instructions: None,
        stop: Vec::new(),
    }
}

fn try_connect(server: &Server, options: RemoteOptions) -> Result<RemotePolicy, String> {
    RemotePolicy::connect(ServerAddress::parse(&server.policy()).unwrap(), options)
        .map_err(|error| error.to_string())
}

fn connect(server: &Server, options: RemoteOptions) -> RemotePolicy {
    try_connect(server, options).unwrap()
}

/// Plays one corridor.
fn played(policy: &RemotePolicy, id: &str, protocol: &Protocol) -> Trajectory {
    play(
        policy,
        &jobs(&[task(id)], 1),
        &policy.protocol(protocol.clone()),
        ALONE,
    )
    .remove(0)
}

fn greedy() -> Protocol {
    Protocol {
        turn_limit: 6,
        ..Protocol::default()
    }
}

/// The response to a single observation.
fn respond(policy: &RemotePolicy) -> TurnResponse {
    let mut episode = policy.begin(1);
    policy
        .respond(
            &mut [TurnRequest {
                episode: &mut episode,
                observation: "You see a door.",
            }],
            &greedy(),
        )
        .remove(0)
}

#[track_caller]
fn failure(response: TurnResponse) -> String {
    match response {
        TurnResponse::Failed(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_contains_all_messages_and_all_fields() {
    let server = friendly(|_, _| HttpReply::completion("east"));
    let options = RemoteOptions {
        instructions: Some("Walk.".into()),
        stop: vec!["\n".into()],
        ..options()
    };
    let policy = connect(&server, options);
    assert_eq!(
        (policy.name(), policy.take_notes()),
        (format!("openai:{}#m", server.address), Vec::new())
    );
    let trajectory = played(
        &policy,
        "plain/2",
        &Protocol {
            temperature: 1.0,
            completion_limit: 9,
            ..greedy()
        },
    );
    assert_eq!(
        (trajectory.outcome, trajectory.turns.len()),
        (Outcome::Success, 2)
    );
    assert_eq!(trajectory.policy, policy.name());
    assert_eq!(
        (
            trajectory.protocol.instructions.as_deref(),
            &trajectory.protocol.stop[..]
        ),
        (Some("Walk."), &["\n".to_string()][..])
    );
    assert_eq!(
        trajectory.turns[0].observation, "You are in room 0 of 2.\n\nYour task is to walk east.",
        "without the instructions"
    );

    let turns = server.turns();
    let mut request = turns[1].body.clone();
    let seed = request["seed"].take();
    assert_ne!(turns[0].body["seed"], seed, "each turn has its own seed");
    assert!(seed.as_u64().unwrap() < 1 << 31);
    let expected = json!({
        "model": "m",
        "messages": [
            {"role": "user", "content": "Walk.\n\nYou are in room 0 of 2.\n\nYour task is to walk east."},
            {"role": "assistant", "content": "east"},
            {"role": "user", "content": "You are in room 1."},
        ],
        "n": 1, "stream": false, "max_tokens": 9, "temperature": 1.0, "top_p": 1.0, "seed": null, "stop": ["\n"],
        "logprobs": true, "top_logprobs": 1, "top_k": 1 << 30, "min_p": 0.0,
        "repetition_penalty": 1.0, "repeat_penalty": 1.0, "return_token_ids": true,
    });
    assert_eq!(request, expected);
    assert_eq!(
        played(&policy, "plain/2", &trajectory.protocol),
        trajectory,
        "the seeds are the same again"
    );
}

#[test]
fn a_completion_that_was_cut_is_no_command() {
    let server = friendly(|number, _| match number {
        0 => HttpReply::choice(json!({"message": {"content": "east"}, "finish_reason": "length"})),
        1 => HttpReply::choice(json!({"message": {"content": null}, "finish_reason": "stop"})),
        _ => HttpReply::completion("east"),
    });
    let trajectory = played(&connect(&server, options()), "plain/1", &greedy());
    let actions: Vec<Option<&str>> = trajectory
        .turns
        .iter()
        .map(|turn| turn.action.as_deref())
        .collect();
    assert_eq!(
        (trajectory.outcome, actions),
        (Outcome::Success, vec![None, None, Some("east")])
    );
    assert_eq!(
        (
            trajectory.turns[0].completion.as_str(),
            trajectory.turns[1].completion.as_str()
        ),
        ("east", "")
    );
    assert_eq!(
        server.turns()[1].body["messages"][2]["content"],
        MALFORMED_ANSWER
    );
}

/// The first turn has observation 7 8 and completion 1 2. The second prompt contains them, and adds
/// 9; its completion is 3.
#[test]
fn token_ids_and_log_probabilities_are_kept_if_the_server_returns_them() {
    let logprobs = |all: &[f64]| json!({"content": all.iter().map(|p| json!({"token": "?", "logprob": p})).collect::<Vec<_>>()});
    let server = friendly(move |number, _| {
        let (prompt, tokens, given) = match number {
            0 => (vec![7, 8], vec![1, 2], vec![-0.5, 1e-6]),
            _ => (vec![7, 8, 1, 2, 9], vec![3], vec![-0.25]),
        };
        let choice = json!({"message": {"content": "east"}, "finish_reason": "stop", "stop_reason": null,
            "token_ids": tokens, "logprobs": logprobs(&given)});
        HttpReply::new(
            200,
            json!({"prompt_token_ids": prompt, "choices": [choice]}),
        )
    });
    let policy = connect(&server, options());
    let turns = played(&policy, "plain/2", &greedy()).turns;
    assert_eq!(
        (
            &turns[0].observation_tokens[..],
            &turns[0].completion_tokens[..]
        ),
        (&[7, 8][..], &[1, 2][..])
    );
    assert_eq!(
        (
            &turns[1].observation_tokens[..],
            &turns[1].completion_tokens[..]
        ),
        (&[9][..], &[3][..])
    );
    assert_eq!(
        (&turns[0].logprobs[..], &turns[1].logprobs[..]),
        (&[-0.5, 0.0][..], &[-0.25][..])
    );
}

/// At temperature 0.7 a server may return ln π^(1/0.7)/Z, which is not what a turn logs.
#[test]
fn log_probabilities_of_a_tempered_policy_are_not_requested() {
    let server = friendly(|_, _| HttpReply::completion("east"));
    let policy = connect(&server, options());
    played(
        &policy,
        "plain/1",
        &Protocol {
            temperature: 0.7,
            ..greedy()
        },
    );
    let request = &server.turns()[0].body;
    assert_eq!(
        (request.get("logprobs"), request["temperature"].as_f64()),
        (None, Some(0.7))
    );
}

#[test]
fn a_transient_failure_is_retried() {
    for (status, body) in [
        (503, "{\"error\": \"loading\"}"),
        (500, ""),
        (408, ""),
        (429, ""),
        (200, "<html>"),
        (200, "{}"),
    ] {
        let server = friendly(move |number, _| match number {
            0 | 1 => HttpReply::new(status, body),
            _ => HttpReply::completion("east"),
        });
        let trajectory = played(&connect(&server, options()), "plain/1", &greedy());
        assert_eq!(
            (trajectory.outcome, server.turns().len()),
            (Outcome::Success, 3),
            "HTTP {status} {body}"
        );
    }
}

#[test]
fn the_delay_that_a_server_asks_for_is_kept() {
    let server = friendly(|number, _| match number {
        0 => HttpReply {
            retry_after: Some("1"),
            ..HttpReply::new(429, "{}")
        },
        _ => HttpReply::completion("east"),
    });
    let trajectory = played(&connect(&server, options()), "plain/1", &greedy());
    let turns = server.turns();
    assert_eq!((trajectory.outcome, turns.len()), (Outcome::Success, 2));
    assert!(
        turns[1].at - turns[0].at >= Duration::from_millis(950),
        "{:?}",
        turns[1].at - turns[0].at
    );
}

/// If no retry succeeds, the episode is lost with a reason, and does not count against the policy.
#[test]
fn an_episode_is_lost_after_the_last_retry() {
    let server =
        friendly(|_, _| HttpReply::new(503, json!({"error": {"message": "the GPU\nis on fire"}})));
    let policy = connect(&server, options());
    let trajectory = played(&policy, "plain/1", &greedy());
    assert_eq!(
        (trajectory.outcome, server.turns().len()),
        (Outcome::EnvFailed, 3)
    );
    let expected = format!(
        "openai:{}#m: HTTP 503: the GPU is on fire\nhint: --request-timeout and --retries set how long hearth waits for a server",
        server.address
    );
    assert_eq!(trajectory.failure, Some(expected));
    assert_eq!(policy.gone(), None, "other episodes may succeed");
}

#[test]
fn a_refused_request_is_not_retried() {
    let server =
        friendly(|_, _| HttpReply::new(400, json!({"error": {"message": "no such field"}})));
    let policy = connect(&server, options());
    let reason = failure(respond(&policy));
    assert!(reason.ends_with("HTTP 400: no such field"), "{reason}");
    assert_eq!((server.turns().len(), policy.gone()), (1, None));
}

#[test]
fn a_request_that_times_out_is_retried() {
    let server = friendly(|_, _| HttpReply {
        delay: Duration::from_millis(600),
        ..HttpReply::completion("east")
    });
    let policy = connect(
        &server,
        RemoteOptions {
            timeout: Duration::from_millis(200),
            retries: 1,
            ..options()
        },
    );
    let reason = failure(respond(&policy));
    assert!(
        reason.contains("no whole answer within 0.2 s\nhint: --request-timeout"),
        "{reason}"
    );
    assert_eq!(server.turns().len(), 2);
}

/// If a server is gone, the run must not play thousands of episodes against it.
#[test]
fn a_server_that_stops_is_reported_as_gone() {
    let server = friendly(|_, _| HttpReply::completion("east"));
    let policy = connect(&server, options());
    assert!(matches!(respond(&policy), TurnResponse::Completion(_)));
    let address = server.address;
    drop(server);
    let reason = failure(respond(&policy));
    assert!(
        reason.contains("refused")
            && reason.contains("hint: is a server running at http://127.0.0.1:"),
        "{reason}"
    );
    let gone = policy.gone().unwrap();
    assert!(gone.starts_with(&format!("openai:{address}#m: ")), "{gone}");
    assert!(
        !failure(respond(&policy)).is_empty(),
        "at once, without retries"
    );

    let server = friendly(|_, _| HttpReply::new(500, ""));
    let policy = connect(
        &server,
        RemoteOptions {
            retries: 0,
            ..options()
        },
    );
    for count in 1..=8 {
        failure(respond(&policy));
        assert_eq!(
            policy.gone().is_some(),
            count == 8,
            "eight failures in a row"
        );
    }
    failure(respond(&policy));
    assert_eq!(server.turns().len(), 8);
}

#[test]
fn fields_that_a_server_refuses_are_left_out_and_reported() {
    let refuse = |field: &'static str, status: u16, text: &'static str| {
        Server::start(move |_, request| match request.line.as_str() {
            "GET /v1/models" => HttpReply::new(404, ""),
            _ if request.body.get(field).is_some() => {
                HttpReply::new(status, json!({"error": {"message": text}}))
            }
            _ => HttpReply::completion("east"),
        })
    };
    let has = |server: &Server, field: &str| server.turns()[0].body.get(field).is_some();

    let server = refuse(
        "logprobs",
        500,
        "logprobs is not supported for models created with logits_all=False",
    );
    let policy = connect(&server, options());
    let note = "asked without log-probabilities, which the server refuses (HTTP 500: logprobs is not supported for models \
                created with logits_all=False)";
    assert_eq!(policy.take_notes(), [note]);
    assert_eq!(
        played(&policy, "plain/1", &greedy()).outcome,
        Outcome::Success
    );
    assert_eq!(
        (has(&server, "logprobs"), has(&server, "top_k")),
        (false, true)
    );

    let server = refuse(
        "top_k",
        400,
        "Unrecognized request argument supplied: top_k",
    );
    let policy = connect(&server, options());
    let notes = policy.take_notes();
    assert!(
        notes[0].starts_with("asked without fields beyond OpenAI's"),
        "{notes:?}"
    );
    assert_eq!(
        played(&policy, "plain/1", &greedy()).outcome,
        Outcome::Success
    );
    assert_eq!(
        (has(&server, "logprobs"), has(&server, "top_k")),
        (true, false)
    );

    let server = refuse("model", 400, "no");
    assert!(
        try_connect(&server, options())
            .unwrap_err()
            .ends_with("#m: HTTP 400: no"),
        "no further field can be left out"
    );
    assert_eq!(
        server.heard().len(),
        4,
        "the list, everything, without extras, without log-probabilities"
    );
}

#[test]
fn the_number_of_simultaneous_requests_is_limited() {
    let server = friendly(|_, _| HttpReply {
        delay: Duration::from_millis(30),
        ..HttpReply::completion("east")
    });
    let policy = connect(
        &server,
        RemoteOptions {
            concurrency: 3,
            ..options()
        },
    );
    let tasks = ["plain/1", "plain/2", "plain/3", "plain/4"].map(task);
    let all = play(
        &policy,
        &jobs(&tasks, 3),
        &greedy(),
        Concurrency {
            workers: 2,
            episodes: 12,
        },
    );
    assert!(all.iter().all(|trajectory| trajectory.is_won()));
    assert_eq!(
        (all.len(), server.turns().len(), server.busiest()),
        (12, 30, 3)
    );
}

#[test]
fn a_full_context_ends_the_episode_with_that_outcome() {
    let full = json!({"error": {"message": "the request exceeds the available context size", "type": "exceed_context_size_error"}});
    let server = friendly(move |number, _| {
        if number < 2 {
            HttpReply::completion("look")
        } else {
            HttpReply::new(400, &full)
        }
    });
    let trajectory = played(&connect(&server, options()), "plain/1", &greedy());
    assert_eq!(
        (
            trajectory.outcome,
            trajectory.turns.len(),
            trajectory.failure
        ),
        (Outcome::ContextLimit, 2, None)
    );
}

/// The server repeats the key in its errors, as some gateways do.
#[test]
fn the_key_is_sent_and_never_shown() {
    let echo = |request: &HttpRequest| {
        let key = request.authorization.clone().unwrap_or_default();
        (
            key == format!("Bearer {SECRET}"),
            json!({"error": {"message": format!("bad key {key}"), "key": key}}),
        )
    };
    let server = friendly(move |number, request| match (number, echo(request)) {
        (0, (true, _)) => HttpReply::completion("look"),
        (1, (_, body)) => HttpReply::new(200, body),
        (_, (_, body)) => HttpReply::new(500, body),
    });
    let keyed = || RemoteOptions {
        key: ApiKey::new(SECRET),
        ..options()
    };
    let policy = connect(&server, keyed());
    let trajectory = played(&policy, "plain/1", &greedy());
    assert_eq!(
        (trajectory.outcome, trajectory.turns.len()),
        (Outcome::EnvFailed, 1),
        "the key was right"
    );
    assert!(
        trajectory
            .failure
            .as_ref()
            .unwrap()
            .contains("bad key Bearer [key]"),
        "{:?}",
        trajectory.failure
    );
    assert!(
        server
            .heard()
            .iter()
            .all(|request| request.authorization.is_some()),
        "the list is requested with the key"
    );
    assert!(!format!("{policy:?}{}", serde_json::to_string(&trajectory).unwrap()).contains(SECRET));

    let server = Server::start(move |_, request| HttpReply::new(401, echo(request).1));
    let refused = try_connect(&server, keyed()).unwrap_err();
    assert!(
        refused.contains("HTTP 401: bad key Bearer [key]\nhint: a key was sent and refused"),
        "{refused}"
    );
    assert_eq!(server.heard().len(), 1);
    let missing = try_connect(&server, options()).unwrap_err();
    assert!(
        missing.contains("hint: put its key into OPENAI_API_KEY"),
        "{missing}"
    );
}

#[test]
fn a_wrong_address_is_reported_at_once() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let nobody = RemotePolicy::connect(
        ServerAddress::parse(&format!("openai:http://{free}/v1#m")).unwrap(),
        RemoteOptions {
            retries: 50,
            first_wait: Duration::from_secs(5),
            ..options()
        },
    );
    let nobody = nobody.unwrap_err().to_string();
    let hint =
        format!("hint: is a server running at http://{free}/v1? The URL usually ends in /v1");
    assert!(
        nobody.starts_with(&format!("openai:{free}#m: ")) && nobody.ends_with(&hint),
        "{nobody}"
    );

    let server = Server::start(|_, _| HttpReply::new(404, json!({"detail": "Not Found"})));
    let nothing = try_connect(&server, options()).unwrap_err();
    assert!(
        nothing.contains("HTTP 404: Not Found\nhint: nothing answers at http://"),
        "{nothing}"
    );
}

#[test]
fn an_unlisted_model_is_reported_with_the_listed_ones() {
    let lists = |data: Value| {
        Server::start(move |_, request| match request.line.as_str() {
            "GET /v1/models" => HttpReply::new(200, json!({"data": data})),
            _ => HttpReply::completion("yes"),
        })
    };
    let server = lists(json!([{"id": "a/b"}, {"id": "c"}]));
    let error = try_connect(&server, options()).unwrap_err();
    let base = format!("http://{}/v1", server.address);
    let expected = format!(
        "the server has no such model; it lists a/b, c\nhint: --policy 'openai:{base}#a/b'"
    );
    assert!(error.ends_with(&expected), "{error}");
    let unnamed = ServerAddress::parse(&format!("openai:{base}")).unwrap();
    assert!(
        RemotePolicy::connect(unnamed, options())
            .unwrap_err()
            .to_string()
            .ends_with(&expected)
    );
    assert!(
        try_connect(&lists(json!([])), options())
            .unwrap_err()
            .ends_with("lists no model")
    );
}
