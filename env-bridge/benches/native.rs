//! Speed of the native world: commands per second with the list of admissible commands, load and
//! reset, and cloning.
//!
//! Uses the ALFWorld games in `HEARTH_ALFWORLD`, or in `../shared/alfworld` beside the repository
//! if it is not set. If there are none, uses the small game in
//! `tests/recorded/textworld-1.7.0/lamp/game.tw-pddl`.

use divan::{Bencher, counter::ItemsCount};
use env_bridge::{NativeEnvironment, NativeGame, NativeWorld};
use scenarios::Environment;
use std::hint::black_box;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

/// The allocator of the released program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The largest number of games, spread evenly over the archive.
const GAME_LIMIT: usize = 60;
/// The number of random commands after each walkthrough.
const RANDOM_COMMANDS: usize = 60;

/// The games to measure.
struct BenchGames {
    files: Vec<Vec<u8>>,
    games: Vec<Arc<NativeGame>>,
    /// By game: its walkthrough, then random commands. Each is admissible in its turn.
    walks: Vec<Vec<String>>,
}

static GAMES: LazyLock<BenchGames> = LazyLock::new(|| {
    let folder = std::env::var_os("HEARTH_ALFWORLD").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/alfworld"),
        PathBuf::from,
    );
    let files = official_files(&folder).unwrap_or_else(|| {
        eprintln!(
            "no ALFWorld games at {}: measuring the small game",
            folder.display()
        );
        vec![include_bytes!("../tests/recorded/textworld-1.7.0/lamp/game.tw-pddl").to_vec()]
    });
    let world = NativeWorld::new();
    let games: Vec<Arc<NativeGame>> = files
        .iter()
        .map(|file| {
            world
                .game_from_bytes(Path::new("benchmark"), file)
                .expect("a game")
        })
        .collect();
    let walks = games
        .iter()
        .enumerate()
        .map(|(seed, game)| walk(game, seed as u64))
        .collect();
    BenchGames {
        files,
        games,
        walks,
    }
});

/// Returns the files of some official games, or `None` if the archive cannot be read.
fn official_files(folder: &Path) -> Option<Vec<Vec<u8>>> {
    let archive = std::fs::File::open(folder.join("games.jsonl.xz")).ok()?;
    let domain = std::fs::read_to_string(folder.join("domain-2.1.3.pddl")).ok()?;
    let grammar = std::fs::read_to_string(folder.join("grammar-2.1.3.twl2")).ok()?;
    let mut plain = Vec::new();
    lzma_rs::xz_decompress(&mut BufReader::new(archive), &mut plain).ok()?;
    let text = String::from_utf8(plain).ok()?;
    let lines: Vec<&str> = text.lines().collect();
    lines
        .iter()
        .step_by(lines.len().div_ceil(GAME_LIMIT))
        .map(|line| {
            let packed: serde_json::Value = serde_json::from_str(line).ok()?;
            let game = serde_json::json!({
                "pddl_domain": domain,
                "grammar": grammar.replace("UNKNOWN GOAL.", packed["task"].as_str()?),
                "pddl_problem": packed["problem"],
                "solvable": true,
                "walkthrough": packed["walkthrough"],
            });
            serde_json::to_vec(&game).ok()
        })
        .collect()
}

fn walk(game: &NativeGame, seed: u64) -> Vec<String> {
    let mut state = game.initial_state();
    let mut commands: Vec<String> = game.walkthrough().unwrap_or_default().to_vec();
    for command in &commands {
        game.command_index(command)
            .and_then(|command| game.apply(&mut state, command))
            .expect("a walkthrough plays");
    }
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for _ in 0..RANDOM_COMMANDS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let admissible: Vec<usize> = game.admissible(&state).collect();
        let command = admissible[random as usize % admissible.len()];
        game.apply(&mut state, command);
        commands.push(game.command(command).to_owned());
    }
    commands
}

fn main() {
    divan::main();
}

/// Commands through the trait `Environment`: the observation and the admissible commands of every
/// turn, as owned strings.
#[divan::bench]
fn play(bencher: Bencher<'_, '_>) {
    play_and(bencher, |_| {});
}

/// The same, with the hash of every state, as an episode computes it.
#[divan::bench]
fn play_and_hash(bencher: Bencher<'_, '_>) {
    play_and(bencher, |environment| {
        black_box(environment.state_hash());
    });
}

/// Plays the walks and calls `after_turn` with the environment after every turn.
fn play_and(bencher: Bencher<'_, '_>, after_turn: impl Fn(&NativeEnvironment)) {
    let sample = &*GAMES;
    let commands: usize = sample.walks.iter().map(Vec::len).sum();
    bencher.counter(ItemsCount::new(commands)).bench_local(|| {
        for (game, walk) in sample.games.iter().zip(&sample.walks) {
            let mut environment = NativeEnvironment::new(game.clone());
            for command in walk {
                black_box(environment.step(command).expect("steps"));
                black_box(environment.admissible_commands().expect("lists"));
                after_turn(&environment);
            }
        }
    });
}

/// The commands of `play` through `NativeGame`: the admissible commands as numbers, without texts.
#[divan::bench]
fn search(bencher: Bencher<'_, '_>) {
    let sample = &*GAMES;
    let commands: usize = sample.walks.iter().map(Vec::len).sum();
    let walks: Vec<Vec<usize>> = sample
        .games
        .iter()
        .zip(&sample.walks)
        .map(|(game, walk)| {
            walk.iter()
                .map(|command| game.command_index(command).expect("a known command"))
                .collect()
        })
        .collect();
    bencher.counter(ItemsCount::new(commands)).bench_local(|| {
        for (game, walk) in sample.games.iter().zip(&walks) {
            let mut state = game.initial_state();
            for command in walk {
                black_box(game.apply(&mut state, *command));
                black_box(game.admissible(&state).count());
            }
        }
    });
}

/// From the bytes of a file to the text of the reset, one game per sample. A domain or grammar text
/// that several games share is parsed once.
#[divan::bench(sample_count = 600, sample_size = 1)]
fn load_and_reset(bencher: Bencher<'_, '_>) {
    let world = NativeWorld::new();
    let mut files = GAMES.files.iter().cycle();
    bencher
        .with_inputs(|| files.next().expect("a cycle"))
        .bench_local_refs(|file| {
            let game = world
                .game_from_bytes(Path::new("benchmark"), file)
                .expect("a game");
            black_box(NativeEnvironment::new(game).reset().expect("resets"))
        });
}

/// A copy of a state.
#[divan::bench]
fn clone_state(bencher: Bencher<'_, '_>) {
    let states: Vec<_> = GAMES
        .games
        .iter()
        .map(|game| game.initial_state())
        .collect();
    bencher
        .counter(ItemsCount::new(states.len()))
        .bench_local(|| {
            for state in &states {
                black_box(state.clone());
            }
        });
}
