//! Playing: a game ready to run, its states, and what a command does to them.
//!
//! A state is a row of bits and counters. Every operator counts its unmet conditions; when an atom changes, only the
//! operators that mention it are touched, so the admissible commands are always at hand. The planner's truth and the
//! facts the texts speak of are kept apart, because TextWorld writes every conditional effect into its facts, whether
//! it fired or not.

use super::distance::{self, Relaxed};
use super::fingerprint::{self, Fingerprint, Readers};
use super::grammar::{Piece, Program};
use super::ground::{ALWAYS, Effect, Grounded, Lists, Setting, setting};
use super::names;
use super::pddl::{Action, Domain, Problem, TypeId};
use super::text::{FOREIGN, Narrator, ObjectText, Told, bit};
use crate::error::Fault;
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

/// What the world answers to anything that is not an admissible command.
pub const NOTHING_HAPPENS: &str = "Nothing happens.";

/// One situation of a [`NativeGame`]; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    game: u32,
    /// Truth of fluents and derived atoms; then what is told to hold; what is told to have been made false;
    /// admissible commands.
    words: Box<[u64]>,
    /// By operator and conjunction: conditions that do not hold.
    unmet: Box<[u16]>,
    /// By command: applicable operators; by derived atom: true conjunctions.
    counts: Box<[u32]>,
}

/// The operator that a command stood for when it was performed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operator(u32);

/// A loaded game: immutable, shared by all its environments.
#[derive(Debug)]
pub struct NativeGame {
    number: u32,
    domain: Arc<Domain>,
    program: Arc<Program>,
    narrator: Narrator,
    grounded: Grounded,
    /// By atom: operators and conjunctions that ask for it, `number << 1 | wanted value`.
    watchers: Lists<u32>,
    /// By operator: its command; by conjunction: the number of commands plus its derived atom.
    targets: Vec<u32>,
    /// Sorted by bytes.
    commands: Texts,
    /// By action and parameter: the declared type; `None` where there is no such type.
    parameter_types: Vec<Vec<Option<TypeId>>>,
    operators_of: Lists<u32>,
    layout: Layout,
    initial: State,
    walkthrough: Option<Vec<String>>,
    readers: Vec<Readers>,
    /// Made when the first hash is asked for.
    fingerprint: OnceLock<Fingerprint>,
    /// Made when the first distance is asked for.
    relaxed: OnceLock<Relaxed>,
}

/// Texts, end to end.
#[derive(Debug, Default)]
struct Texts {
    text: String,
    ends: Vec<u32>,
}

impl Texts {
    fn get(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start as usize..self.ends[index] as usize]
    }
}

/// Where the parts of [`State::words`] begin.
#[derive(Debug, Clone, Copy, Default)]
struct Layout {
    holds: usize,
    made_false: usize,
    commands: usize,
    end: usize,
}

/// Gives every loaded game a number, so that a state of one is never taken for a state of another.
static GAMES: AtomicU32 = AtomicU32::new(0);

impl NativeGame {
    /// Puts the parts together. The fault's place is in the grammar.
    pub(crate) fn assemble(
        domain: Arc<Domain>,
        program: Arc<Program>,
        problem: &Problem,
        grounded: Grounded,
        walkthrough: Option<Vec<String>>,
    ) -> Result<Self, Fault> {
        let displayed = names::display_names(problem);
        let objects = displayed
            .into_iter()
            .zip(&problem.objects)
            .map(|(name, (id, type_id))| ObjectText {
                name,
                id: id.clone(),
                type_id: *type_id,
            })
            .collect();
        let types_of = |action: &Action| action.slot_types[..action.parameters.len()].to_vec();
        let parameter_types = domain.actions.iter().map(types_of).collect();
        let narrator = Narrator::new(domain.clone(), program.clone(), &grounded, objects);
        let readers = fingerprint::readers(&domain, problem, &program);
        let mut game = Self {
            number: GAMES.fetch_add(1, Ordering::Relaxed),
            domain,
            program,
            narrator,
            grounded,
            watchers: Lists::default(),
            targets: Vec::new(),
            commands: Texts::default(),
            parameter_types,
            operators_of: Lists::default(),
            layout: Layout::default(),
            initial: State {
                game: 0,
                words: Box::new([]),
                unmet: Box::new([]),
                counts: Box::new([]),
            },
            walkthrough,
            readers,
            fingerprint: OnceLock::new(),
            relaxed: OnceLock::new(),
        };
        game.name_commands()?;
        game.watch();
        game.begin();
        Ok(game)
    }

    /// Gives every operator its command, and numbers the commands by bytes.
    fn name_commands(&mut self) -> Result<(), Fault> {
        let operators = self.grounded.actions.len();
        let used = self.template_places()?;
        let mut known: FxHashMap<(u16, u128), u32> = FxHashMap::default();
        let mut texts = Texts::default();
        let mut work = 0;
        let mut text_of = Vec::with_capacity(operators);
        for operator in 0..operators {
            let action = self.grounded.actions[operator];
            let parameters = self.grounded.parameters.get(operator);
            // Objects beyond the eighth place used do not fit the key; such a template is told afresh.
            let places = &used[usize::from(action)];
            let fits = places.len() <= 8;
            let key = places.iter().fold(0u128, |key, place| {
                key << 16 | u128::from(parameters[usize::from(*place)])
            });
            let text = match known.get(&(action, key)) {
                Some(text) if fits => *text,
                _ => {
                    let text = texts.ends.len() as u32;
                    self.tell_command(operator, &mut texts.text, &mut work)?;
                    texts.ends.push(texts.text.len() as u32);
                    known.insert((action, key), text);
                    text
                }
            };
            text_of.push(text);
        }
        let mut order: Vec<u32> = (0..texts.ends.len() as u32).collect();
        order.sort_unstable_by(|a, b| texts.get(*a as usize).cmp(texts.get(*b as usize)));
        let mut command_of = vec![0u32; order.len()];
        let mut last: Option<&str> = None;
        for text in order {
            let own = texts.get(text as usize);
            if last != Some(own) {
                self.commands.text.push_str(own);
                self.commands.ends.push(self.commands.text.len() as u32);
                last = Some(own);
            }
            command_of[text as usize] = self.commands.ends.len() as u32 - 1;
        }
        self.targets = text_of
            .into_iter()
            .map(|text| command_of[text as usize])
            .collect();
        let mut by_command: Vec<u32> = (0..operators as u32).collect();
        by_command.sort_by_key(|operator| self.targets[*operator as usize]);
        let mut groups =
            by_command.chunk_by(|a, b| self.targets[*a as usize] == self.targets[*b as usize]);
        for _ in 0..self.commands.ends.len() {
            self.operators_of
                .push(groups.next().unwrap_or_default().iter().copied());
        }
        let commands = self.commands.ends.len() as u32;
        let fluents = self.grounded.fluents as u32;
        self.targets.extend(
            self.grounded
                .supports
                .iter()
                .map(|atom| commands + atom - fluents),
        );
        Ok(())
    }

    /// By action: the parameters its command template looks at.
    fn template_places(&self) -> Result<Vec<Vec<u16>>, Fault> {
        let mut present = vec![false; self.domain.actions.len()];
        self.grounded
            .actions
            .iter()
            .for_each(|action| present[usize::from(*action)] = true);
        let mut used = Vec::with_capacity(present.len());
        for (index, action) in self.domain.actions.iter().enumerate() {
            let Some(texts) = &self.program.actions[index] else {
                if present[index] {
                    return Err(Fault::new(
                        0,
                        format!("the grammar has no action {:?}", action.name),
                    ));
                }
                used.push(Vec::new());
                continue;
            };
            if present[index] && !self.narrator.is_fixed(&texts.template) {
                return Err(Fault::new(
                    0,
                    format!(
                        "the template of action {:?} looks at facts that change",
                        action.name
                    ),
                ));
            }
            used.push(
                self.program
                    .places_used(&texts.template, action.parameters.len()),
            );
        }
        Ok(used)
    }

    fn tell_command(
        &self,
        operator: usize,
        text: &mut String,
        work: &mut u32,
    ) -> Result<(), Fault> {
        let action = usize::from(self.grounded.actions[operator]);
        let template = self.program.actions[action]
            .as_ref()
            .map_or(&[][..], |texts| &texts.template);
        let told = Told {
            holds: &[],
            made_false: &[],
        };
        let fault = |reason| {
            Fault::new(
                0,
                format!(
                    "the template of action {:?}: {reason}",
                    self.domain.actions[action].name
                ),
            )
        };
        self.narrator
            .tell(told, template, self.frame(operator), text, work)
            .map_err(fault)
    }

    /// The objects of an operator as a text sees them.
    fn frame(&self, operator: usize) -> Vec<u16> {
        let types = &self.parameter_types[usize::from(self.grounded.actions[operator])];
        let see = |(object, declared): (&u16, &Option<TypeId>)| {
            let own = self.narrator.objects[usize::from(*object)].type_id;
            if *declared == Some(own) {
                *object
            } else {
                *object | FOREIGN
            }
        };
        self.grounded
            .parameters
            .get(operator)
            .iter()
            .zip(types)
            .map(see)
            .collect()
    }

    fn watch(&mut self) {
        let atoms = self.grounded.fluents + self.grounded.derived;
        let mut count = vec![0u32; atoms];
        let conditions = &self.grounded.conditions;
        for owner in 0..conditions.len() {
            conditions
                .get(owner)
                .iter()
                .for_each(|wanted| count[(wanted >> 1) as usize] += 1);
        }
        let mut starts = Vec::with_capacity(atoms + 1);
        let mut total = 0;
        starts.push(0);
        for count in &count {
            total += count;
            starts.push(total);
        }
        let mut next = starts.clone();
        let mut items = vec![0u32; total as usize];
        for owner in 0..conditions.len() {
            for wanted in conditions.get(owner) {
                let place = &mut next[(wanted >> 1) as usize];
                items[*place as usize] = (owner as u32) << 1 | wanted & 1;
                *place += 1;
            }
        }
        self.watchers = Lists::from_parts(starts, items);
    }

    /// Makes the first state: nothing holds, then every initial fact comes true.
    fn begin(&mut self) {
        let words = |bits: usize| bits.div_ceil(64);
        let atoms = self.grounded.fluents + self.grounded.derived;
        let holds = words(atoms);
        let made_false = holds + words(self.grounded.fluents);
        let commands = made_false + words(self.grounded.fluents);
        let end = commands + words(self.commands.ends.len());
        self.layout = Layout {
            holds,
            made_false,
            commands,
            end,
        };
        let conditions = &self.grounded.conditions;
        let unmet: Box<[u16]> = (0..conditions.len())
            .map(|owner| {
                conditions
                    .get(owner)
                    .iter()
                    .filter(|wanted| *wanted & 1 == 1)
                    .count() as u16
            })
            .collect();
        let mut state = State {
            game: self.number,
            words: vec![0; end].into(),
            unmet,
            counts: vec![0; self.commands.ends.len() + self.grounded.derived].into(),
        };
        // Count first, then tell: what a derived atom sets off must find every counter right.
        let idle: Vec<usize> = (0..conditions.len())
            .filter(|owner| state.unmet[*owner] == 0)
            .collect();
        idle.iter()
            .for_each(|owner| state.counts[self.targets[*owner] as usize] += 1);
        for target in 0..state.counts.len() {
            if state.counts[target] > 0 {
                self.switch(&mut state, target, true);
            }
        }
        for atom in 0..self.grounded.fluents as u32 {
            if self.grounded.initial[atom as usize] {
                self.change(&mut state, setting(atom, true));
                set_bit(&mut state.words[holds..], atom, true);
            }
        }
        self.initial = state;
    }

    /// The state a reset brings.
    #[must_use]
    pub fn initial_state(&self) -> State {
        self.initial.clone()
    }

    /// How many commands the game knows; they are numbered in byte order.
    #[must_use]
    pub fn command_count(&self) -> usize {
        self.commands.ends.len()
    }

    /// The text of a command.
    ///
    /// # Panics
    /// When `command` is not below [`Self::command_count`].
    #[must_use]
    pub fn command(&self, command: usize) -> &str {
        self.commands.get(command)
    }

    /// The number of a command; `None` for what the game never understands.
    #[must_use]
    pub fn command_index(&self, text: &str) -> Option<usize> {
        let (mut low, mut high) = (0, self.command_count());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.command(middle).cmp(text) {
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The numbers of the admissible commands, ascending, which is byte order.
    pub fn admissible<'a>(&self, state: &'a State) -> impl Iterator<Item = usize> + use<'a> {
        let words = &state.words[self.layout.commands..self.layout.end];
        words
            .iter()
            .enumerate()
            .flat_map(|(index, word)| Bits(*word).map(move |bit| index * 64 + bit))
    }

    /// The admissible commands in byte order, without doubles.
    pub fn admissible_commands<'a>(&'a self, state: &'a State) -> impl Iterator<Item = &'a str> {
        self.admissible(state).map(|command| self.command(command))
    }

    /// Whether a command would do something now.
    #[must_use]
    pub fn is_admissible(&self, state: &State, command: usize) -> bool {
        command < self.command_count() && bit(&state.words[self.layout.commands..], command as u32)
    }

    /// Performs a command; `None`, and no change, when it is not admissible.
    ///
    /// # Panics
    /// When `state` is of another game.
    pub fn apply(&self, state: &mut State, command: usize) -> Option<Operator> {
        self.assert_own(state);
        if !self.is_admissible(state, command) {
            return None;
        }
        let operators = self.operators_of.get(command);
        let operator = *operators
            .iter()
            .find(|operator| state.unmet[**operator as usize] == 0)?;
        self.run(state, self.grounded.effects.get(operator as usize));
        Some(Operator(operator))
    }

    pub(crate) fn assert_own(&self, state: &State) {
        assert_eq!(state.game, self.number, "the state is of another game");
    }

    fn run(&self, state: &mut State, effects: &[Effect]) {
        for effect in effects {
            let (atom, value) = (effect.setting >> 1, effect.setting & 1 == 1);
            set_bit(&mut state.words[self.layout.holds..], atom, value);
            set_bit(&mut state.words[self.layout.made_false..], atom, !value);
        }
        if effects.iter().all(|effect| effect.condition == ALWAYS) {
            effects
                .iter()
                .for_each(|effect| self.change(state, effect.setting));
            return;
        }
        // Conditions look at the state before; what is both deleted and added is there afterwards.
        let fires = |effect: &&Effect| {
            effect.condition == ALWAYS
                || self
                    .grounded
                    .effect_conditions
                    .get(effect.condition as usize)
                    .iter()
                    .all(|s| holds(&state.words, *s))
        };
        let mut fired: Vec<Setting> = effects
            .iter()
            .filter(fires)
            .map(|effect| effect.setting)
            .collect();
        fired.sort_unstable_by_key(|setting| setting & 1);
        for setting in &fired {
            if setting & 1 == 1 || !fired.contains(&(setting | 1)) {
                self.change(state, *setting);
            }
        }
    }

    /// Gives an atom a value and carries the consequences to operators and derived atoms.
    fn change(&self, state: &mut State, wanted: Setting) {
        if holds(&state.words, wanted) {
            return;
        }
        let value = wanted & 1;
        set_bit(&mut state.words, wanted >> 1, value == 1);
        for watcher in self.watchers.get((wanted >> 1) as usize) {
            let owner = (watcher >> 1) as usize;
            if watcher & 1 == value {
                state.unmet[owner] -= 1;
                if state.unmet[owner] == 0 {
                    self.enable(state, owner);
                }
            } else {
                state.unmet[owner] += 1;
                if state.unmet[owner] == 1 {
                    self.disable(state, owner);
                }
            }
        }
    }

    fn enable(&self, state: &mut State, owner: usize) {
        let target = self.targets[owner] as usize;
        state.counts[target] += 1;
        if state.counts[target] == 1 {
            self.switch(state, target, true);
        }
    }

    fn disable(&self, state: &mut State, owner: usize) {
        let target = self.targets[owner] as usize;
        state.counts[target] -= 1;
        if state.counts[target] == 0 {
            self.switch(state, target, false);
        }
    }

    fn switch(&self, state: &mut State, target: usize, value: bool) {
        match target.checked_sub(self.commands.ends.len()) {
            None => set_bit(
                &mut state.words[self.layout.commands..],
                target as u32,
                value,
            ),
            // Depth is that of nested quantifiers.
            Some(derived) => self.change(
                state,
                setting((self.grounded.fluents + derived) as u32, value),
            ),
        }
    }

    /// Whether the goal holds.
    #[must_use]
    pub fn won(&self, state: &State) -> bool {
        bit(&state.words, self.grounded.goal)
    }

    /// The text of a reset.
    ///
    /// # Errors
    /// When the grammar has no words for this state.
    pub fn opening(&self, state: &State) -> Result<String, String> {
        self.tell(state, &self.program.intro, Vec::new())
    }

    /// The text that follows a command; `state` is the one after it.
    ///
    /// # Errors
    /// When the grammar has no words for this state.
    pub fn feedback(&self, state: &State, operator: Operator) -> Result<String, String> {
        let operator = operator.0 as usize;
        let texts = self.program.actions[usize::from(self.grounded.actions[operator])].as_ref();
        self.tell(
            state,
            texts.map_or(&[], |texts| &texts.feedback),
            self.frame(operator),
        )
    }

    fn tell(&self, state: &State, pieces: &[Piece], frame: Vec<u16>) -> Result<String, String> {
        let Layout {
            holds,
            made_false,
            commands,
            ..
        } = self.layout;
        let told = Told {
            holds: &state.words[holds..made_false],
            made_false: &state.words[made_false..commands],
        };
        let mut text = String::with_capacity(128);
        self.narrator.tell(told, pieces, frame, &mut text, &mut 0)?;
        Ok(text)
    }

    /// What `#task#` says in the opening, where the grammar has that symbol.
    #[must_use]
    pub fn task_sentence(&self) -> Option<String> {
        self.tell(
            &self.initial,
            &[Piece::Call(self.program.task?)],
            Vec::new(),
        )
        .ok()
    }

    /// The plan that came with the game.
    #[must_use]
    pub fn walkthrough(&self) -> Option<&[String]> {
        self.walkthrough.as_deref()
    }

    /// A hash of the facts that can still matter: those that some condition, the goal or some text asks for. Equal facts
    /// give equal hashes whatever led to them, in every process and on every machine; states with equal hashes go on
    /// equally, but for one in 2⁶⁴.
    ///
    /// What only some command wrote and nothing reads, such as that one has looked around, is no part of it. What an
    /// effect has made false is where a text asks for it: ALFWorld's grammar lists what was put beside the place that it
    /// was taken from.
    ///
    /// # Panics
    /// When `state` is of another game.
    #[must_use]
    pub fn state_hash(&self, state: &State) -> u64 {
        self.assert_own(state);
        let objects = &self.narrator.objects;
        let new = || Fingerprint::new(&self.domain, &self.grounded, objects, &self.readers);
        self.fingerprint
            .get_or_init(new)
            .hash(self.facts(state), self.facts(&self.initial))
    }

    /// An estimate of the fewest commands from a state to the goal: the length of a plan that leads there, so that there
    /// is no shorter way to overlook but a lucky one. 0 exactly when the goal holds; `usize::MAX` when it is out of reach
    /// even where nothing that was true ever becomes false. See `distance` for how the plan is found.
    ///
    /// # Panics
    /// When `state` is of another game.
    #[must_use]
    pub fn remaining(&self, state: &State) -> usize {
        self.assert_own(state);
        if self.won(state) {
            return 0;
        }
        distance::to_goal(
            self,
            self.relaxed.get_or_init(|| Relaxed::new(&self.grounded)),
            state,
        )
    }

    /// The truth of fluents and derived atoms.
    pub(crate) fn truth<'a>(&self, state: &'a State) -> &'a [u64] {
        &state.words[..self.layout.holds]
    }

    /// The command that an operator is performed by, where it is applicable.
    pub(crate) fn command_of(&self, state: &State, operator: u32) -> Option<usize> {
        (state.unmet[operator as usize] == 0).then(|| self.targets[operator as usize] as usize)
    }

    /// By fluent: whether it is true, told to hold, told to have been made false. Behind the first stand derived atoms.
    fn facts<'a>(&self, state: &'a State) -> [&'a [u64]; 3] {
        let Layout {
            holds,
            made_false,
            commands,
            ..
        } = self.layout;
        [
            &state.words[..holds],
            &state.words[holds..made_false],
            &state.words[made_false..commands],
        ]
    }

    /// The facts of a predicate, by its lower-case name, that hold at the start: the display names of their objects.
    /// There are none of a predicate that the domain does not have.
    pub fn initial_facts(&self, predicate: &str) -> impl Iterator<Item = Vec<&str>> {
        let table = self
            .domain
            .predicate_ids
            .get(predicate)
            .map(|id| &self.grounded.tables[usize::from(*id)]);
        table.into_iter().flat_map(move |table| {
            let holds =
                |row: &usize| !table.fluent || self.grounded.initial[table.atoms[*row] as usize];
            let name = |object: &u16| self.narrator.objects[usize::from(*object)].name.as_str();
            (0..table.count())
                .filter(holds)
                .map(move |row| table.row(row).iter().map(name).collect())
        })
    }

    /// How many operators and atoms the game came to.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (
            self.grounded.actions.len(),
            self.grounded.fluents + self.grounded.derived,
        )
    }
}

#[inline]
fn set_bit(words: &mut [u64], index: u32, value: bool) {
    let word = &mut words[(index >> 6) as usize];
    let mask = 1 << (index & 63);
    if value { *word |= mask } else { *word &= !mask }
}

#[inline]
fn holds(words: &[u64], wanted: Setting) -> bool {
    bit(words, wanted >> 1) == (wanted & 1 == 1)
}

/// The set bits of a word, lowest first.
pub(crate) struct Bits(pub(crate) u64);

impl Iterator for Bits {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(bit)
    }
}
