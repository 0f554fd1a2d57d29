//! The state transitions: applies effects and updates the counters of operators.

use super::commands::GameCommands;
use super::state::{GameState, StateLayout};
use crate::native::bits::{bit, set_bit};
use crate::native::ground::{ALWAYS, GroundEffect, Grounded, Setting, setting};
use crate::native::lists::Lists;

/// The transitions of a game.
#[derive(Debug)]
pub(super) struct Transitions {
    pub(super) grounded: Grounded,
    pub(super) layout: StateLayout,
    /// By atom: the operators and conjunctions that have it in a condition,
    /// `number << 1 | required value`.
    watchers: Lists<u32>,
    /// The counter in [`GameState::counts`]. By operator: its command. Then by conjunction: the
    /// number of commands plus its derived atom.
    targets: Vec<u32>,
    command_count: usize,
}

impl Transitions {
    pub(super) fn new(grounded: Grounded, commands: &GameCommands) -> Self {
        let command_count = commands.len();
        let mut targets = commands.of_operator.clone();
        let first_derived = grounded.fluents as u32;
        for atom in &grounded.supports {
            targets.push(command_count as u32 + atom - first_derived);
        }
        Self {
            layout: StateLayout::new(grounded.fluents, grounded.derived, command_count),
            watchers: watchers(&grounded),
            grounded,
            targets,
            command_count,
        }
    }

    /// Returns the initial state.
    pub(super) fn initial_state(&self, game: u32) -> GameState {
        let initial = |atom: u32| self.grounded.initial[atom as usize];
        let mut holds = vec![0; self.layout.made_false - self.layout.holds];
        for atom in (0..self.grounded.fluents as u32).filter(|atom| initial(*atom)) {
            set_bit(&mut holds, atom, true);
        }
        let made_false = vec![0; holds.len()];
        self.state_with(game, initial, &holds, &made_false)
    }

    /// Returns the state with these fluents, and with these bit sets of what the texts read. It starts
    /// with nothing true, and every fact is made true.
    pub(super) fn state_with(
        &self,
        game: u32,
        is_true: impl Fn(u32) -> bool,
        holds: &[u64],
        made_false: &[u64],
    ) -> GameState {
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
        let mut state = GameState {
            game,
            words: vec![0; self.layout.end].into(),
            unmet,
            counts: vec![0; self.command_count + self.grounded.derived].into(),
        };
        // All counters must be right before a derived atom changes and updates other counters.
        for owner in 0..conditions.len() {
            if state.unmet[owner] == 0 {
                state.counts[self.targets[owner] as usize] += 1;
            }
        }
        for target in 0..state.counts.len() {
            if state.counts[target] > 0 {
                self.switch(&mut state, target, true);
            }
        }
        for atom in (0..self.grounded.fluents as u32).filter(|atom| is_true(*atom)) {
            self.change(&mut state, setting(atom, true));
        }
        let StateLayout {
            holds: start,
            made_false: middle,
            commands: end,
            ..
        } = self.layout;
        state.words[start..middle].copy_from_slice(holds);
        state.words[middle..end].copy_from_slice(made_false);
        state
    }

    /// Applies the effects of an operator.
    pub(super) fn apply(&self, state: &mut GameState, operator: usize) {
        let effects = self.grounded.effects.get(operator);
        for effect in effects {
            let atom = effect.setting >> 1;
            let value = effect.setting & 1 == 1;
            set_bit(&mut state.words[self.layout.holds..], atom, value);
            set_bit(&mut state.words[self.layout.made_false..], atom, !value);
        }
        if effects.iter().all(|effect| effect.condition == ALWAYS) {
            for effect in effects {
                self.change(state, effect.setting);
            }
            return;
        }
        // Conditions are tested in the state before the command. If an atom is both deleted and
        // added, it is true afterwards.
        let mut happening: Vec<Setting> = effects
            .iter()
            .filter(|effect| self.happens(state, effect))
            .map(|effect| effect.setting)
            .collect();
        happening.sort_unstable_by_key(|setting| setting & 1);
        for setting in &happening {
            if setting & 1 == 1 || !happening.contains(&(setting | 1)) {
                self.change(state, *setting);
            }
        }
    }

    /// Returns whether the condition of an effect holds.
    fn happens(&self, state: &GameState, effect: &GroundEffect) -> bool {
        effect.condition == ALWAYS
            || self
                .grounded
                .effect_conditions
                .get(effect.condition as usize)
                .iter()
                .all(|wanted| holds(&state.words, *wanted))
    }

    /// Sets an atom and updates the operators and derived atoms that depend on it.
    fn change(&self, state: &mut GameState, wanted: Setting) {
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

    fn enable(&self, state: &mut GameState, owner: usize) {
        let target = self.targets[owner] as usize;
        state.counts[target] += 1;
        if state.counts[target] == 1 {
            self.switch(state, target, true);
        }
    }

    fn disable(&self, state: &mut GameState, owner: usize) {
        let target = self.targets[owner] as usize;
        state.counts[target] -= 1;
        if state.counts[target] == 0 {
            self.switch(state, target, false);
        }
    }

    /// Changes whether a command is admissible or a derived atom is true.
    fn switch(&self, state: &mut GameState, target: usize, value: bool) {
        match target.checked_sub(self.command_count) {
            None => set_bit(
                &mut state.words[self.layout.commands..],
                target as u32,
                value,
            ),
            // The recursion is as deep as quantifiers are nested.
            Some(derived) => self.change(
                state,
                setting((self.grounded.fluents + derived) as u32, value),
            ),
        }
    }
}

/// Returns, by atom, the owners of the conditions that contain it.
fn watchers(grounded: &Grounded) -> Lists<u32> {
    let atoms = grounded.fluents + grounded.derived;
    let conditions = &grounded.conditions;
    let mut count = vec![0u32; atoms];
    for owner in 0..conditions.len() {
        for wanted in conditions.get(owner) {
            count[(wanted >> 1) as usize] += 1;
        }
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
    Lists::from_parts(starts, items)
}

/// Returns whether an atom has the required value.
#[inline]
fn holds(words: &[u64], wanted: Setting) -> bool {
    bit(words, wanted >> 1) == (wanted & 1 == 1)
}
