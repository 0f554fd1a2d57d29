//! The native world: plays a `game.tw-pddl` by interpreting the PDDL and the text grammar inside it.
//!
//! ```text
//! game.tw-pddl ─ pddl_domain ──► sexpr ─► pddl ─┐
//!              ─ pddl_problem ─► sexpr ─► pddl ─┼─► ground ─► engine (states) ─┬─► NativeEnvironment
//!              ─ grammar ──────► grammar ───────┴────────────► text (words) ───┘
//! ```
//!
//! It says, byte for byte, what TextWorld 1.7.0 with ALFWorld's demangler says: the observation, the admissible
//! commands, and whether the goal holds. Nothing here knows of kitchens; only the rule that names objects (`names`)
//! is ALFWorld's.
//!
//! Differs from the Python stack: a game that would crash it while playing is refused at load where that can be seen;
//! a command template may not look at facts that change; and when two applicable operators share one command, the
//! first in the order of grounding is taken, where the planner's order is its own.

mod distance;
mod engine;
mod fingerprint;
mod grammar;
mod ground;
mod names;
mod pddl;
mod text;

use crate::error::{Fault, GameError};
use rustc_hash::FxHashMap;
use scenarios::{Environment, EnvironmentError, Observation, Status, Task, World};
use serde::Deserialize;
use std::borrow::Cow;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use engine::{NOTHING_HAPPENS, NativeGame, Operator, State};

/// A game may have this many objects.
pub const OBJECT_LIMIT: usize = 30_000;

/// The number of objects times that of predicates may be this large.
pub const OBJECT_PREDICATE_LIMIT: usize = 1_000_000;

/// A game file may have this many bytes; the largest official one has 140 000.
pub const FILE_LIMIT: usize = 16 << 20;

/// As many parsed domains are kept, and as many grammars.
const CACHE_LIMIT: usize = 64;

/// Opens games with the native engine. Domains and grammars are parsed once per text.
#[derive(Debug, Default)]
pub struct NativeWorld {
    domains: Mutex<FxHashMap<Box<str>, Arc<pddl::Domain>>>,
    programs: Mutex<FxHashMap<Box<str>, Vec<CachedProgram>>>,
}

/// A compiled grammar and the domain it was compiled for.
type CachedProgram = (Arc<pddl::Domain>, Arc<grammar::Program>);

/// The file's keys that matter here; others are ignored, as the Python stack ignores them.
#[derive(Deserialize)]
struct GameFile<'a> {
    #[serde(borrow)]
    pddl_domain: Cow<'a, str>,
    #[serde(borrow)]
    grammar: Cow<'a, str>,
    #[serde(borrow)]
    pddl_problem: Cow<'a, str>,
    #[serde(default)]
    walkthrough: Option<Vec<String>>,
}

impl NativeWorld {
    /// A world with empty caches.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Loads a game.
    ///
    /// # Errors
    /// When the file cannot be read or is not a game; the error names the file, the place in it and the reason.
    pub fn game(&self, path: &Path) -> Result<Arc<NativeGame>, GameError> {
        let bytes = std::fs::read(path).map_err(|source| GameError::Read {
            path: path.to_owned(),
            source,
        })?;
        self.game_from_bytes(path, &bytes)
    }

    /// Loads a game from the bytes of its file; `path` is only for error messages.
    ///
    /// # Errors
    /// When the bytes are not a game.
    pub fn game_from_bytes(&self, path: &Path, bytes: &[u8]) -> Result<Arc<NativeGame>, GameError> {
        if bytes.len() > FILE_LIMIT {
            return Err(GameError::TooLarge {
                path: path.to_owned(),
                bytes: bytes.len(),
                limit: FILE_LIMIT,
            });
        }
        let json = |source| GameError::Json {
            path: path.to_owned(),
            source,
        };
        let file: GameFile<'_> = serde_json::from_slice(bytes).map_err(json)?;
        let domain = self.domain(path, &file.pddl_domain)?;
        let program = self.program(path, &file.grammar, &domain)?;
        let text = file.pddl_problem.to_ascii_lowercase();
        let in_problem = |fault: Fault| fault.in_text(path, "pddl_problem", &file.pddl_problem);
        let problem = pddl::Problem::parse(&text, &domain).map_err(in_problem)?;
        let grounded = ground::ground(&domain, &problem).map_err(|error| {
            if error.in_problem {
                error
                    .fault
                    .in_text(path, "pddl_problem", &file.pddl_problem)
            } else {
                error.fault.in_text(path, "pddl_domain", &file.pddl_domain)
            }
        })?;
        NativeGame::assemble(domain, program, &problem, grounded, file.walkthrough)
            .map(Arc::new)
            .map_err(|fault| fault.in_text(path, "grammar", &file.grammar))
    }

    fn domain(&self, path: &Path, text: &str) -> Result<Arc<pddl::Domain>, GameError> {
        if let Some(domain) = lock(&self.domains).get(text) {
            return Ok(domain.clone());
        }
        let parsed = pddl::Domain::parse(&text.to_ascii_lowercase());
        let domain = Arc::new(parsed.map_err(|fault| fault.in_text(path, "pddl_domain", text))?);
        // Another thread may have been as fast; its domain is then everyone's.
        Ok(make_room(&mut lock(&self.domains))
            .entry(text.into())
            .or_insert(domain)
            .clone())
    }

    fn program(
        &self,
        path: &Path,
        text: &str,
        domain: &Arc<pddl::Domain>,
    ) -> Result<Arc<grammar::Program>, GameError> {
        let find = |known: &Vec<CachedProgram>| {
            known
                .iter()
                .find(|(of, _)| Arc::ptr_eq(of, domain))
                .map(|(_, program)| program.clone())
        };
        if let Some(program) = lock(&self.programs).get(text).and_then(find) {
            return Ok(program);
        }
        let program =
            grammar::compile(text, domain).map_err(|fault| fault.in_text(path, "grammar", text))?;
        let program = Arc::new(program);
        make_room(&mut lock(&self.programs))
            .entry(text.into())
            .or_default()
            .push((domain.clone(), program.clone()));
        Ok(program)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Empties a full cache.
fn make_room<T>(cache: &mut FxHashMap<Box<str>, T>) -> &mut FxHashMap<Box<str>, T> {
    if cache.len() >= CACHE_LIMIT {
        cache.clear();
    }
    cache
}

impl World for NativeWorld {
    fn open(&self, task: &Task) -> Result<Box<dyn Environment>, EnvironmentError> {
        match self.game(&task.path) {
            Ok(game) => Ok(Box::new(NativeEnvironment::new(game))),
            Err(error) => Err(error.into_environment_error(&task.path)),
        }
    }
}

/// One running native game.
#[derive(Debug, Clone)]
pub struct NativeEnvironment {
    game: Arc<NativeGame>,
    state: State,
}

impl NativeEnvironment {
    /// An environment at the start of a game.
    #[must_use]
    pub fn new(game: Arc<NativeGame>) -> Self {
        let state = game.initial_state();
        Self { game, state }
    }

    /// The game being played.
    #[must_use]
    pub fn game(&self) -> &Arc<NativeGame> {
        &self.game
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// A copy of the state now, to come back to with [`Self::restore`].
    #[must_use]
    pub fn snapshot(&self) -> State {
        self.state.clone()
    }

    /// Goes to a state of the same game; what follows is what followed there.
    ///
    /// # Panics
    /// When `state` is of another game.
    pub fn restore(&mut self, state: &State) {
        self.game.assert_own(state);
        self.state.clone_from(state);
    }
}

impl Environment for NativeEnvironment {
    fn reset(&mut self) -> Result<Observation, EnvironmentError> {
        self.state = self.game.initial_state();
        let text = self.game.opening(&self.state);
        let text = text.map_err(|reason| EnvironmentError::Step {
            command: "reset".to_owned(),
            reason,
        })?;
        Ok(Observation {
            text,
            status: Status::of_goal(self.game.won(&self.state)),
        })
    }

    fn step(&mut self, command: &str) -> Result<Observation, EnvironmentError> {
        let index = self.game.command_index(command.trim_matches(is_blank));
        let text = match index.and_then(|index| self.game.apply(&mut self.state, index)) {
            None => NOTHING_HAPPENS.to_owned(),
            Some(operator) => self
                .game
                .feedback(&self.state, operator)
                .map_err(|reason| EnvironmentError::Step {
                    command: command.to_owned(),
                    reason,
                })?,
        };
        Ok(Observation {
            text,
            status: Status::of_goal(self.game.won(&self.state)),
        })
    }

    fn admissible_commands(&mut self) -> Result<Vec<String>, EnvironmentError> {
        Ok(self
            .game
            .admissible_commands(&self.state)
            .map(str::to_owned)
            .collect())
    }

    /// [`NativeGame::state_hash`].
    fn state_hash(&self) -> Option<u64> {
        Some(self.game.state_hash(&self.state))
    }

    /// [`NativeGame::remaining`].
    fn remaining(&self) -> Option<usize> {
        Some(self.game.remaining(&self.state))
    }

    fn fork(&self) -> Option<Box<dyn Environment>> {
        Some(Box::new(self.clone()))
    }
}

/// What Python's `strip` strips.
pub(crate) fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}
