//! The native world on the official games: the recorded play of the Python stack, and every
//! walkthrough. The tests are skipped if the games are missing.

use crate::support;
use env_bridge::NativeWorld;
use env_bridge::replay::replay;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::io::BufReader;
use std::path::Path;

/// A game in the archive.
#[derive(Deserialize)]
struct PackedGame {
    id: String,
    task: String,
    walkthrough: Vec<String>,
    problem: String,
}

/// The content of a `game.tw-pddl`.
#[derive(Serialize)]
struct WrittenGame<'a> {
    pddl_domain: &'a str,
    grammar: &'a str,
    pddl_problem: &'a str,
    solvable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    walkthrough: Option<&'a [String]>,
}

/// Returns the lines of an xz archive.
fn unpack(folder: &Path, name: &str) -> Vec<String> {
    let file = std::fs::File::open(folder.join(name)).expect("the archive exists");
    let mut plain = Vec::new();
    lzma_rs::xz_decompress(&mut BufReader::new(file), &mut plain).expect("an xz file");
    String::from_utf8(plain)
        .expect("UTF-8")
        .lines()
        .map(str::to_owned)
        .collect()
}

/// The domain and the grammar of one text version.
struct TextFiles {
    domain: String,
    grammar: String,
}

impl TextFiles {
    fn read(folder: &Path, version: &str) -> Self {
        Self {
            domain: read_text(&folder.join(format!("domain-{version}.pddl"))),
            grammar: read_text(&folder.join(format!("grammar-{version}.twl2"))),
        }
    }

    fn game(&self, packed: &PackedGame) -> Vec<u8> {
        let file = WrittenGame {
            pddl_domain: &self.domain,
            grammar: &self.grammar.replace("UNKNOWN GOAL.", &packed.task),
            pddl_problem: &packed.problem,
            solvable: true,
            walkthrough: Some(&packed.walkthrough),
        };
        serde_json::to_vec(&file).expect("serializes")
    }
}

/// The game of a recorded walk.
#[derive(Deserialize)]
struct RecordedWalk {
    game: String,
    version: String,
}

fn read_text(path: &Path) -> String {
    std::fs::read_to_string(path).expect("the text of the version exists")
}

#[test]
fn recorded_play_is_repeated_byte_for_byte() {
    let Some(folder) = support::alfworld() else {
        return;
    };
    let walks: Vec<RecordedWalk> = unpack(&folder, "traces.jsonl.xz")
        .iter()
        .map(|line| serde_json::from_str(line).expect("a recorded walk"))
        .collect();
    let wanted: HashSet<(String, String)> = walks
        .into_iter()
        .map(|walk| (walk.game, walk.version))
        .collect();
    let games = tempfile::tempdir().expect("a temporary folder");
    let versions = ["2.1.1", "2.1.3"].map(|version| (version, TextFiles::read(&folder, version)));
    for line in unpack(&folder, "games.jsonl.xz") {
        let packed: PackedGame = serde_json::from_str(&line).expect("a packed game");
        let name = format!("{}/game.tw-pddl", packed.id);
        for (version, texts) in &versions {
            if wanted.contains(&(name.clone(), (*version).to_owned())) {
                let path = games.path().join(version).join(&name);
                std::fs::create_dir_all(path.parent().expect("a folder")).expect("can be made");
                std::fs::write(path, texts.game(&packed)).expect("can be written");
            }
        }
    }
    let report = replay(&folder.join("traces.jsonl.xz"), games.path()).expect("replays");
    println!(
        "{} walks, {} commands, {} differences",
        report.walks, report.commands, report.differences
    );
    assert_eq!(report.first, None);
    assert_eq!((report.walks, report.commands), (119, 2433));
}

/// Plays every twentieth game in a debug build, and all games in a release build.
#[test]
fn every_walkthrough_wins() {
    let Some(folder) = support::alfworld() else {
        return;
    };
    let texts = TextFiles::read(&folder, "2.1.3");
    let world = NativeWorld::new();
    let stride = if cfg!(debug_assertions) { 20 } else { 1 };
    let mut played = 0;
    let mut commands = 0;
    for line in unpack(&folder, "games.jsonl.xz").iter().step_by(stride) {
        let packed: PackedGame = serde_json::from_str(line).expect("a packed game");
        let game = world
            .game_from_bytes(Path::new(&packed.id), &texts.game(&packed))
            .expect("loads");
        let mut state = game.initial_state();
        assert!(!game.won(&state), "{} is won before it begins", packed.id);
        for (turn, text) in game
            .walkthrough()
            .expect("a walkthrough")
            .iter()
            .enumerate()
        {
            let applied = game
                .command_index(text)
                .and_then(|command| game.apply(&mut state, command));
            assert!(
                applied.is_some(),
                "{}: {text:?} does nothing at turn {turn}",
                packed.id
            );
            commands += 1;
        }
        assert!(game.won(&state), "{} is not won", packed.id);
        played += 1;
    }
    println!("{played} walkthroughs won, {commands} commands (1 of {stride} games)");
}
