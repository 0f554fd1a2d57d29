//! Loads native games and caches parsed domains and grammars.

use super::environment::NativeEnvironment;
use super::grammar::{self, Program};
use super::ground;
use super::limits::FILE_LIMIT;
use super::names::ObjectNames;
use super::pddl::{Domain, PddlProblem};
use super::simulator::NativeGame;
use crate::error::GameError;
use rustc_hash::FxHashMap;
use scenarios::{Environment, EnvironmentError, Task, World};
use serde::Deserialize;
use std::borrow::Cow;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The largest number of parsed domains in the cache, and of grammar texts.
const CACHE_LIMIT: usize = 64;

/// Opens games with the native simulator. A domain text or a grammar text that several games share
/// is parsed once.
#[derive(Debug, Default)]
pub struct NativeWorld {
    domains: Mutex<FxHashMap<Box<str>, Arc<Domain>>>,
    programs: Mutex<FxHashMap<Box<str>, Vec<CachedProgram>>>,
}

/// A compiled grammar and the domain it was compiled for.
type CachedProgram = (Arc<Domain>, Arc<Program>);

/// The keys of the file that are read. All others are ignored, as the Python stack ignores them.
#[derive(Deserialize)]
struct PddlGameFile<'a> {
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
    /// Returns a world with empty caches.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Loads a game.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is not a game. The error names the file, the
    /// place in it and the reason.
    pub fn game(&self, path: &Path) -> Result<Arc<NativeGame>, GameError> {
        let bytes = std::fs::read(path).map_err(|source| GameError::Read {
            path: path.to_owned(),
            source,
        })?;
        self.game_from_bytes(path, &bytes)
    }

    /// Loads a game from the bytes of its file. `path` appears in error messages only.
    ///
    /// # Errors
    /// Returns an error if the bytes are not a game.
    pub fn game_from_bytes(&self, path: &Path, bytes: &[u8]) -> Result<Arc<NativeGame>, GameError> {
        self.game_with_names(path, bytes, ObjectNames::Display)
    }

    /// Loads a game from the bytes of its file, with other names of its objects. `path` appears in error
    /// messages only.
    ///
    /// # Errors
    /// Returns an error if the bytes are not a game.
    pub fn game_with_names(
        &self,
        path: &Path,
        bytes: &[u8],
        names: ObjectNames<'_>,
    ) -> Result<Arc<NativeGame>, GameError> {
        if bytes.len() > FILE_LIMIT {
            return Err(GameError::TooLarge {
                path: path.to_owned(),
                bytes: bytes.len(),
                limit: FILE_LIMIT,
            });
        }
        let file: PddlGameFile<'_> =
            serde_json::from_slice(bytes).map_err(|source| GameError::Json {
                path: path.to_owned(),
                source,
            })?;
        let domain = self.domain(path, &file.pddl_domain)?;
        let program = self.program(path, &file.grammar, &domain)?;
        let problem = PddlProblem::parse(&file.pddl_problem.to_ascii_lowercase(), &domain)
            .map_err(|fault| fault.in_text(path, "pddl_problem", &file.pddl_problem))?;
        let grounded = ground::ground(&domain, &problem).map_err(|error| {
            let (key, text) = if error.in_problem {
                ("pddl_problem", &file.pddl_problem)
            } else {
                ("pddl_domain", &file.pddl_domain)
            };
            error.fault.in_text(path, key, text)
        })?;
        NativeGame::assemble(domain, program, &problem, names, grounded, file.walkthrough)
            .map(Arc::new)
            .map_err(|fault| fault.in_text(path, "grammar", &file.grammar))
    }

    fn domain(&self, path: &Path, text: &str) -> Result<Arc<Domain>, GameError> {
        if let Some(domain) = lock(&self.domains).get(text) {
            return Ok(domain.clone());
        }
        let parsed = Domain::parse(&text.to_ascii_lowercase());
        let domain = Arc::new(parsed.map_err(|fault| fault.in_text(path, "pddl_domain", text))?);
        // If another thread stored the same domain in the meantime, its copy is used.
        Ok(clear_if_full(&mut lock(&self.domains))
            .entry(text.into())
            .or_insert(domain)
            .clone())
    }

    fn program(
        &self,
        path: &Path,
        text: &str,
        domain: &Arc<Domain>,
    ) -> Result<Arc<Program>, GameError> {
        if let Some(known) = lock(&self.programs).get(text)
            && let Some((_, program)) = known.iter().find(|(of, _)| Arc::ptr_eq(of, domain))
        {
            return Ok(program.clone());
        }
        let program =
            grammar::compile(text, domain).map_err(|fault| fault.in_text(path, "grammar", text))?;
        let program = Arc::new(program);
        clear_if_full(&mut lock(&self.programs))
            .entry(text.into())
            .or_default()
            .push((domain.clone(), program.clone()));
        Ok(program)
    }
}

impl World for NativeWorld {
    fn open(&self, task: &Task) -> Result<Box<dyn Environment>, EnvironmentError> {
        match self.game(&task.path) {
            Ok(game) => Ok(Box::new(NativeEnvironment::new(game))),
            Err(error) => Err(error.into_environment_error(&task.path)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Empties a cache if it is full.
fn clear_if_full<T>(cache: &mut FxHashMap<Box<str>, T>) -> &mut FxHashMap<Box<str>, T> {
    if cache.len() >= CACHE_LIMIT {
        cache.clear();
    }
    cache
}
