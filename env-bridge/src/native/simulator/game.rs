//! A loaded game.

use super::atoms::{self, AtomNames};
use super::commands::GameCommands;
use super::game_text::GameTexts;
use super::state::{GameState, Operator};
use super::transitions::Transitions;
use crate::error::Fault;
use crate::native::bits::{Bits, bit};
use crate::native::fingerprint::{self, Fingerprint, Readers};
use crate::native::grammar::Program;
use crate::native::ground::{FactTable, Grounded};
use crate::native::names::ObjectNames;
use crate::native::pddl::{Domain, PddlProblem};
use crate::native::relaxed::Relaxed;
use crate::native::text::TextFacts;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

/// The number of the next loaded game, so that a state of one game is never used with another.
static GAMES: AtomicU32 = AtomicU32::new(0);

/// A loaded game. It is immutable and shared by all its environments.
#[derive(Debug)]
pub struct NativeGame {
    pub(super) number: u32,
    pub(super) domain: Arc<Domain>,
    pub(super) texts: GameTexts,
    pub(super) commands: GameCommands,
    pub(super) transitions: Transitions,
    pub(super) initial: GameState,
    walkthrough: Option<Vec<String>>,
    /// By object: whether an initial fact contains it.
    pub(super) mentioned: Vec<bool>,
    readers: Vec<Readers>,
    /// Built when the first hash is requested.
    fingerprint: OnceLock<Fingerprint>,
    /// Built when the first distance is requested.
    relaxed: OnceLock<Relaxed>,
    /// Built when a fact is named for the first time.
    atom_names: OnceLock<AtomNames>,
}

impl NativeGame {
    /// Builds a game from its parts. The fault's place is in the grammar.
    pub(crate) fn assemble(
        domain: Arc<Domain>,
        program: Arc<Program>,
        problem: &PddlProblem,
        names: ObjectNames<'_>,
        grounded: Grounded,
        walkthrough: Option<Vec<String>>,
    ) -> Result<Self, Fault> {
        let number = GAMES.fetch_add(1, Ordering::Relaxed);
        let readers = fingerprint::readers(&domain, problem, &program);
        let texts = GameTexts::new(&domain, program, problem, names, &grounded);
        let commands = GameCommands::new(&texts, &grounded)?;
        let transitions = Transitions::new(grounded, &commands);
        Ok(Self {
            number,
            domain,
            texts,
            initial: transitions.initial_state(number),
            commands,
            transitions,
            walkthrough,
            mentioned: problem.mentioned.clone(),
            readers,
            fingerprint: OnceLock::new(),
            relaxed: OnceLock::new(),
            atom_names: OnceLock::new(),
        })
    }

    /// Returns the initial state.
    #[must_use]
    pub fn initial_state(&self) -> GameState {
        self.initial.clone()
    }

    /// Returns the number of commands of the game. GameCommands are numbered in byte order.
    #[must_use]
    pub fn command_count(&self) -> usize {
        self.commands.len()
    }

    /// Returns the text of a command.
    ///
    /// # Panics
    /// Panics if `command` is not below [`Self::command_count`].
    #[must_use]
    pub fn command(&self, command: usize) -> &str {
        self.commands.text(command)
    }

    /// Returns the number of a command, or `None` if the game has no such command.
    #[must_use]
    pub fn command_index(&self, text: &str) -> Option<usize> {
        self.commands.find(text)
    }

    /// Returns the numbers of the admissible commands, ascending, which is byte order.
    pub fn admissible<'a>(&self, state: &'a GameState) -> impl Iterator<Item = usize> + use<'a> {
        let layout = self.transitions.layout;
        state.words[layout.commands..layout.end]
            .iter()
            .enumerate()
            .flat_map(|(index, word)| Bits(*word).map(move |bit| index * 64 + bit))
    }

    /// Returns the admissible commands in byte order, without duplicates.
    pub fn admissible_commands<'a>(
        &'a self,
        state: &'a GameState,
    ) -> impl Iterator<Item = &'a str> {
        self.admissible(state).map(|command| self.command(command))
    }

    /// Returns whether a command is admissible.
    #[must_use]
    pub fn is_admissible(&self, state: &GameState, command: usize) -> bool {
        let admissible = &state.words[self.transitions.layout.commands..];
        command < self.command_count() && bit(admissible, command as u32)
    }

    /// Applies a command. Returns `None` and changes nothing if the command is not admissible.
    ///
    /// # Panics
    /// Panics if `state` belongs to another game.
    pub fn apply(&self, state: &mut GameState, command: usize) -> Option<Operator> {
        self.assert_own(state);
        if !self.is_admissible(state, command) {
            return None;
        }
        let operators = self.commands.operators(command);
        let operator = *operators
            .iter()
            .find(|operator| state.unmet[**operator as usize] == 0)?;
        self.transitions.apply(state, operator as usize);
        Some(Operator(operator))
    }

    /// Panics if `state` belongs to another game.
    pub(crate) fn assert_own(&self, state: &GameState) {
        assert_eq!(state.game, self.number, "the state is of another game");
    }

    /// Returns whether the goal holds.
    #[must_use]
    pub fn won(&self, state: &GameState) -> bool {
        bit(&state.words, self.transitions.grounded.goal)
    }

    /// Returns the text of a reset.
    ///
    /// # Errors
    /// Returns an error if the grammar has no text for this state.
    pub fn opening(&self, state: &GameState) -> Result<String, String> {
        self.texts.opening(self.text_facts(state))
    }

    /// Returns the text after a command. `state` is the state after it.
    ///
    /// # Errors
    /// Returns an error if the grammar has no text for this state.
    pub fn feedback(&self, state: &GameState, operator: Operator) -> Result<String, String> {
        self.texts.feedback(
            self.text_facts(state),
            &self.transitions.grounded,
            operator.0 as usize,
        )
    }

    fn text_facts<'a>(&self, state: &'a GameState) -> TextFacts<'a> {
        let [_, holds, made_false] = self.transitions.layout.facts(state);
        TextFacts { holds, made_false }
    }

    /// Returns the text of `#task#` in the initial state, or `None` if the grammar has no such
    /// symbol.
    #[must_use]
    pub fn task_sentence(&self) -> Option<String> {
        self.texts.task_sentence(self.text_facts(&self.initial))
    }

    /// Returns the plan in the game file.
    #[must_use]
    pub fn walkthrough(&self) -> Option<&[String]> {
        self.walkthrough.as_deref()
    }

    /// Returns a hash of the facts that can still matter: those that a condition, the goal or a
    /// text reads.
    ///
    /// Equal facts give equal hashes in every process and on every machine, whatever commands led
    /// to them. If two states have equal hashes, they have the same future, with an exception in
    /// one of 2⁶⁴ cases.
    ///
    /// If a fact is written by some command but never read, it is not part of the hash; for
    /// example, that the player has looked around. A fact that an effect made false is part of it
    /// if a text reads it: ALFWorld's grammar lists an object that was put down beside the place
    /// from which it was taken.
    ///
    /// # Panics
    /// Panics if `state` belongs to another game.
    #[must_use]
    pub fn state_hash(&self, state: &GameState) -> u64 {
        self.assert_own(state);
        let layout = &self.transitions.layout;
        self.fingerprint()
            .hash(layout.facts(state), layout.facts(&self.initial))
    }

    /// Returns the hashes of the facts.
    pub(super) fn fingerprint(&self) -> &Fingerprint {
        self.fingerprint.get_or_init(|| {
            Fingerprint::new(
                &self.domain,
                &self.transitions.grounded,
                self.texts.objects(),
                &self.readers,
            )
        })
    }

    /// Returns the names of the fluents.
    pub(super) fn atom_names(&self) -> &AtomNames {
        self.atom_names
            .get_or_init(|| atoms::atom_names(&self.transitions.grounded))
    }

    /// Returns the delete relaxation of the game.
    pub(crate) fn relaxed(&self) -> &Relaxed {
        self.relaxed
            .get_or_init(|| Relaxed::new(&self.transitions.grounded))
    }

    /// Returns the truth of fluents and derived atoms, one bit each.
    pub(crate) fn truth<'a>(&self, state: &'a GameState) -> &'a [u64] {
        self.transitions.layout.facts(state)[0]
    }

    /// Returns the command of an operator, or `None` if the operator is not applicable.
    pub(crate) fn command_of(&self, state: &GameState, operator: u32) -> Option<usize> {
        let operator = operator as usize;
        (state.unmet[operator] == 0).then(|| self.commands.of_operator[operator] as usize)
    }

    /// Returns the initial facts of a predicate, each as the display names of its objects. The
    /// predicate's name is lower-case. If the domain has no such predicate, there are no facts.
    pub fn initial_facts(&self, predicate: &str) -> impl Iterator<Item = Vec<&str>> {
        let grounded = &self.transitions.grounded;
        let objects = self.texts.objects();
        let table = self
            .domain
            .predicate_ids
            .get(predicate)
            .map(|id| &grounded.tables[usize::from(*id)]);
        table.into_iter().flat_map(move |table| {
            (0..table.count())
                .filter(|row| holds_at_start(grounded, table, *row))
                .map(move |row| {
                    let objects = table
                        .row(row)
                        .iter()
                        .map(|object| &objects[usize::from(*object)]);
                    objects.map(|object| object.name.as_str()).collect()
                })
        })
    }

    /// Returns the number of operators and the number of atoms.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let grounded = &self.transitions.grounded;
        (grounded.actions.len(), grounded.fluents + grounded.derived)
    }
}

fn holds_at_start(grounded: &Grounded, table: &FactTable, row: usize) -> bool {
    !table.fluent || grounded.initial[table.atoms[row] as usize]
}
