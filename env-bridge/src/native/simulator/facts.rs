//! The facts of a state by name, and the reason why a command is not admissible.

use super::game::NativeGame;
use super::state::GameState;
use crate::native::bits::bit;
use crate::native::ground::Setting;
use crate::native::text::ObjectText;
use std::collections::BTreeSet;
use std::fmt;

/// An object of a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FactObject<'a> {
    /// Its display name, such as `mug 1`.
    pub name: &'a str,
    /// Its type in the PDDL, such as `object`.
    pub type_name: &'a str,
}

/// A fact with the names that texts use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateFact<'a> {
    /// The predicate, in lower case.
    pub predicate: &'a str,
    /// Its objects.
    pub objects: Vec<FactObject<'a>>,
    /// Whether a command made the fact false.
    pub made_false: bool,
}

impl StateFact<'_> {
    /// Returns the predicate as `TextWorld` lists it: with the prefix `not_` if a command made the fact
    /// false.
    #[must_use]
    pub fn listed_predicate(&self) -> String {
        let prefix = if self.made_false { "not_" } else { "" };
        format!("{prefix}{}", self.predicate)
    }
}

impl fmt::Display for StateFact<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name without a number ends with a blank.
        let names: Vec<&str> = self
            .objects
            .iter()
            .map(|object| object.name.trim_end())
            .collect();
        write!(f, "{}({})", self.listed_predicate(), names.join(", "))
    }
}

/// A condition of a command that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnmetCondition<'a> {
    /// The fact.
    pub fact: StateFact<'a>,
    /// Whether the command needs the fact to be true.
    pub needed: bool,
}

impl fmt::Display for UnmetCondition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (must, is) = if self.needed {
            ("true", "false")
        } else {
            ("false", "true")
        };
        write!(f, "{} must be {must} and is {is}", self.fact)
    }
}

impl NativeGame {
    /// Returns the facts that `TextWorld` lists for a state: those that hold, and those that a
    /// command made false. They are sorted by predicate, then by an internal number; the order is the
    /// same in every run.
    ///
    /// # Panics
    /// Panics if `state` belongs to another game.
    #[must_use]
    pub fn facts(&self, state: &GameState) -> Vec<StateFact<'_>> {
        self.assert_own(state);
        let grounded = &self.transitions.grounded;
        let [_, holds, made_false] = self.transitions.layout.facts(state);
        let mut facts = Vec::new();
        for (predicate, table) in grounded.tables.iter().enumerate() {
            for row in 0..table.count() {
                let listed = match table.atoms.get(row) {
                    None => Some(false),
                    Some(atom) if bit(holds, *atom) => Some(false),
                    Some(atom) if bit(made_false, *atom) => Some(true),
                    Some(_) => None,
                };
                if let Some(made_false) = listed {
                    facts.push(self.named(predicate as u16, row as u32, made_false));
                }
            }
        }
        facts
    }

    /// Returns the conditions that keep a command of the game from being admissible; they are sorted
    /// and without duplicates. If several operators have this command, those of the operator with the
    /// fewest such conditions are returned. The list is empty if the command is admissible.
    ///
    /// # Panics
    /// Panics if `state` belongs to another game, or if `command` is not below
    /// [`Self::command_count`].
    #[must_use]
    pub fn unmet_conditions(&self, state: &GameState, command: usize) -> Vec<UnmetCondition<'_>> {
        self.assert_own(state);
        if self.is_admissible(state, command) {
            return Vec::new();
        }
        let operators = self.commands.operators(command);
        let nearest = operators
            .iter()
            .min_by_key(|operator| state.unmet[**operator as usize]);
        nearest.map_or_else(Vec::new, |operator| {
            self.unmet_of_operator(state, *operator as usize)
        })
    }

    /// Returns the conditions of an operator that do not hold, sorted and without duplicates.
    pub(super) fn unmet_of_operator(
        &self,
        state: &GameState,
        operator: usize,
    ) -> Vec<UnmetCondition<'_>> {
        let mut found = BTreeSet::new();
        self.add_unmet(state, operator, &mut found);
        found.into_iter().collect()
    }

    /// Adds the conditions of an operator or a conjunction that do not hold.
    fn add_unmet<'a>(
        &'a self,
        state: &GameState,
        owner: usize,
        found: &mut BTreeSet<UnmetCondition<'a>>,
    ) {
        for wanted in self.transitions.grounded.conditions.get(owner) {
            let needed = wanted & 1 == 1;
            if bit(&state.words, wanted >> 1) != needed {
                self.add_cause(state, *wanted, found);
            }
        }
    }

    /// Adds the reason why an atom does not have the required value. A derived atom stands for a
    /// `forall`: it is true if one of its conjunctions is.
    fn add_cause<'a>(
        &'a self,
        state: &GameState,
        wanted: Setting,
        found: &mut BTreeSet<UnmetCondition<'a>>,
    ) {
        let grounded = &self.transitions.grounded;
        let (atom, needed) = (wanted >> 1, wanted & 1 == 1);
        if (atom as usize) < grounded.fluents {
            let (predicate, row) = self.atom_names()[atom as usize];
            let fact = self.named(predicate, row, false);
            found.insert(UnmetCondition { fact, needed });
            return;
        }
        let operators = grounded.actions.len();
        let conjunctions = (0..grounded.supports.len())
            .filter(|conjunction| grounded.supports[*conjunction] == atom)
            .map(|conjunction| operators + conjunction);
        if needed {
            // The conjunction with the fewest conditions that do not hold.
            if let Some(owner) = conjunctions.min_by_key(|owner| state.unmet[*owner]) {
                self.add_unmet(state, owner, found);
            }
            return;
        }
        // Each conjunction that holds is a counterexample. To end it, one of its conditions must change.
        for owner in conjunctions.filter(|owner| state.unmet[*owner] == 0) {
            for condition in grounded.conditions.get(owner) {
                self.add_cause(state, condition ^ 1, found);
            }
        }
    }

    fn named(&self, predicate: u16, row: u32, made_false: bool) -> StateFact<'_> {
        let table = &self.transitions.grounded.tables[usize::from(predicate)];
        let objects = self.texts.objects();
        StateFact {
            predicate: &self.domain.predicates[usize::from(predicate)].name,
            objects: table
                .row(row as usize)
                .iter()
                .map(|object| {
                    let object = &objects[usize::from(*object)];
                    FactObject {
                        name: &object.name,
                        type_name: &self.domain.types.names[usize::from(object.type_id)],
                    }
                })
                .collect(),
            made_false,
        }
    }

    /// Returns the command templates of the grammar as it writes them, such as `take {o} from {r}`, sorted
    /// and without duplicates.
    pub fn command_templates(&self) -> impl Iterator<Item = &str> {
        self.texts.templates()
    }

    /// Returns the names of all objects of the game.
    pub fn object_names(&self) -> impl Iterator<Item = &str> {
        self.texts
            .objects()
            .iter()
            .map(|object| object.name.as_str())
    }

    /// Returns the id and the type of every object that an initial fact contains. These are the objects
    /// that ALFWorld's demangler names.
    pub fn mentioned_objects(&self) -> impl Iterator<Item = (&str, &str)> {
        self.mentioned().map(|object| {
            let type_name = &self.domain.types.names[usize::from(object.type_id)];
            (object.id.as_str(), type_name.as_str())
        })
    }

    /// Returns the names of [`Self::mentioned_objects`], in the same order.
    pub fn mentioned_names(&self) -> impl Iterator<Item = &str> {
        self.mentioned().map(|object| object.name.as_str())
    }

    fn mentioned(&self) -> impl Iterator<Item = &ObjectText> {
        let objects = self.texts.objects().iter().zip(&self.mentioned);
        objects
            .filter(|(_, mentioned)| **mentioned)
            .map(|(object, _)| object)
    }
}
