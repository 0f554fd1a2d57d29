//! Models and a world that are small enough to play with in a test.

use agent::model::config::DecoderConfig;
use agent::model::folder::{Companions, Model};
use agent::model::weights::Weights;
use agent::text::tokenizer::Tokenizer;
use scenarios::TextVersion;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;

/// A small random model without a value network. It does not record what it was trained on.
pub(super) fn save_model(folder: &Path) {
    save_model_of(folder, &[]);
}

/// The smallest decoder there is.
pub(super) fn smallest(tokenizer: &Tokenizer) -> DecoderConfig {
    DecoderConfig {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 8,
        intermediate_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        max_position_embeddings: 600,
        ..DecoderConfig::default()
    }
}

/// A random model, with the text versions it learned from.
pub(super) fn save_model_of(folder: &Path, text_versions: &[TextVersion]) {
    let tokenizer =
        Tokenizer::train(["go to desk 1\nYou arrive at desk 1."; 4].into_iter(), 300).unwrap();
    let config = smallest(&tokenizer);
    save(
        folder,
        tokenizer,
        config,
        text_versions.iter().copied().collect(),
    );
}

pub(super) fn save(
    folder: &Path,
    tokenizer: Tokenizer,
    config: DecoderConfig,
    text_versions: BTreeSet<TextVersion>,
) {
    let policy = Weights::random(&config, 1);
    let model = Model {
        config,
        tokenizer,
        policy,
        value: None,
        text_versions,
        companions: Companions::default(),
    };
    model.save(folder).unwrap();
}

/// A random model that often writes `east` or `look`, or ends its turn.
pub(super) fn walker() -> Model {
    let words = "You are in room 1 of 3.\nYour task is to walk east.\nNothing happens.\neast\nlook";
    let tokenizer = Tokenizer::train([words; 8].into_iter(), 300).unwrap();
    let config = smallest(&tokenizer);
    let mut policy = Weights::random(&config, 1);
    let embedding = policy.0.get_mut("model.embed_tokens.weight").unwrap();
    embedding
        .data
        .chunks_exact_mut(config.hidden_size)
        .for_each(|row| row[0] = 1.0);
    for (ids, fondness) in [
        (tokenizer.encode("east"), 4.4),
        (tokenizer.encode("look"), 4.2),
        (vec![tokenizer.end], 4.5),
    ] {
        assert_eq!(ids.len(), 1, "a command is one token");
        embedding.data[ids[0] as usize * config.hidden_size] = fondness;
    }
    Model {
        config,
        tokenizer,
        policy,
        value: None,
        text_versions: [].into(),
        companions: Companions::default(),
    }
}

/// A game with this many doors in a row. It is won in the last room.
pub(super) fn corridor(rooms: usize) -> String {
    let names: Vec<String> = (0..=rooms).map(|room| format!("room_{room}")).collect();
    let doors: Vec<String> = names
        .windows(2)
        .map(|pair| format!("(door {} {})", pair[0], pair[1]))
        .collect();
    let domain = "(define (domain corridor) (:requirements :strips :typing) (:types room agent)
        (:predicates (in ?a - agent ?r - room) (door ?r - room ?s - room) (seen ?r - room))
        (:action east :parameters (?a - agent ?r - room ?s - room) :precondition (and (in ?a ?r) (door ?r ?s))
            :effect (and (not (in ?a ?r)) (in ?a ?s)))
        (:action look :parameters (?a - agent ?r - room) :precondition (in ?a ?r) :effect (seen ?r)))";
    let problem = format!(
        "(define (problem p) (:domain corridor) (:objects {} - room walker - agent)
        (:init (in walker room_0) {}) (:goal (in walker room_{rooms})))",
        names.join(" "),
        doors.join(" ")
    );
    let grammar = "grammar :: \"\"\"{
        \"intro\": [{\"rhs\": \"#here#\\n\\n#task#\"}], \"task\": [{\"rhs\": \"Your task is to walk east.\"}],
        \"here\": [{\"rhs\": \"You are in [{r.id | in(a:agent, r:room)}].\"}],
        \"list_empty\": [{\"rhs\": \"\"}], \"list_separator\": [{\"rhs\": \"\"}], \"list_last_separator\": [{\"rhs\": \"\"}]
        }\"\"\";
        action east { template :: \"east\"; feedback :: \"You go on.\"; }
        action look { template :: \"look\"; feedback :: \"#here#\"; }";
    json!({"pddl_domain": domain, "grammar": grammar, "pddl_problem": problem, "solvable": true})
        .to_string()
}
