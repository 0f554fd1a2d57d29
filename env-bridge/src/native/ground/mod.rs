//! Grounding: from actions with variables to operators over numbered atoms.
//!
//! First a fixpoint finds every fact that could ever come to hold when negative conditions are ignored (semi-naive:
//! each new fact is joined with the facts before it, so every combination is met once). Then each operator found on
//! the way gets its conditions and effects as atom numbers. What can never change is decided here and vanishes.
//!
//! Follows Fast Downward's translator where a player can notice: an effect that repeats a condition is dropped, an
//! operator without effects is dropped, adding beats deleting. A `forall` and the goal become derived atoms, each
//! held by a counter of the conjunctions that are true. Knows nothing of text.

use super::pddl::{
    ARITY_LIMIT, Action, Axiom, Branch, Domain, Literal, PredicateId, Problem, Slot, Term, Test,
    TypeId,
};
use crate::error::Fault;
use rustc_hash::FxHashMap;
use std::cell::Cell;

/// A game may have this many operators and conjunctions together.
const OPERATOR_LIMIT: usize = 400_000;
/// A game may have this many atoms.
const ATOM_LIMIT: usize = 1_000_000;
/// Grounding may look this often at a fact or a condition.
const WORK_LIMIT: u64 = 30_000_000;
/// One join may find frames of this many places together.
const FOUND_LIMIT: usize = 8_000_000;

/// Stands for "always true" where an atom number is expected.
pub(crate) const STATIC: u32 = u32::MAX;
/// Stands for "no such fact" where an atom number is expected.
const UNKNOWN: u32 = u32::MAX - 1;
/// Stands for "no condition" in an [`Effect`].
pub(crate) const ALWAYS: u32 = u32::MAX;

/// An atom and the value it must have or gets: `atom << 1 | value`.
pub(crate) type Setting = u32;

pub(crate) fn setting(atom: u32, value: bool) -> Setting {
    atom << 1 | u32::from(value)
}

/// The facts of one predicate.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) arity: usize,
    pub(crate) fluent: bool,
    /// Arguments, `arity` to a row.
    pub(crate) rows: Vec<u16>,
    /// Atom of each row, ascending; empty for a static predicate.
    pub(crate) atoms: Vec<u32>,
    count: usize,
    /// For a predicate with one argument, the atom by object, or [`UNKNOWN`].
    unary: Vec<u32>,
    /// By argument position, where a join needs it: rows by object.
    by: [Option<Vec<Vec<u32>>>; ARITY_LIMIT],
}

impl Table {
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn row(&self, row: usize) -> &[u16] {
        &self.rows[row * self.arity..(row + 1) * self.arity]
    }

    fn push(&mut self, args: &[u16]) {
        for (position, arg) in args.iter().enumerate() {
            if let Some(by) = &mut self.by[position] {
                by[usize::from(*arg)].push(self.count as u32);
            }
        }
        self.rows.extend_from_slice(args);
        self.count += 1;
    }

    fn ensure_index(&mut self, position: usize, objects: usize) {
        if self.by[position].is_none() {
            let mut by = vec![Vec::new(); objects];
            for row in 0..self.count {
                by[usize::from(self.rows[row * self.arity + position])].push(row as u32);
            }
            self.by[position] = Some(by);
        }
    }
}

/// Changes an atom, under conditions that are looked at before anything changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effect {
    pub(crate) setting: Setting,
    /// Index into [`Grounded::effect_conditions`], or [`ALWAYS`].
    pub(crate) condition: u32,
}

/// Lists of lists, end to end.
#[derive(Debug)]
pub(crate) struct Lists<T> {
    starts: Vec<u32>,
    items: Vec<T>,
}

impl<T> Default for Lists<T> {
    fn default() -> Self {
        Self {
            starts: vec![0],
            items: Vec::new(),
        }
    }
}

impl<T> Lists<T> {
    pub(crate) fn from_parts(starts: Vec<u32>, items: Vec<T>) -> Self {
        Self { starts, items }
    }

    pub(crate) fn push(&mut self, items: impl IntoIterator<Item = T>) {
        self.items.extend(items);
        self.starts.push(self.items.len() as u32);
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> &[T] {
        &self.items[self.starts[index] as usize..self.starts[index + 1] as usize]
    }
}

/// A game over numbered atoms. Fluents come first, derived atoms after them; operators come first, the conjunctions
/// of derived atoms after them.
#[derive(Debug, Default)]
pub(crate) struct Grounded {
    pub(crate) tables: Vec<Table>,
    pub(crate) fluents: usize,
    pub(crate) derived: usize,
    /// By fluent: whether it holds at the start.
    pub(crate) initial: Vec<bool>,
    /// By operator: its action, and its parameters' objects.
    pub(crate) actions: Vec<u16>,
    pub(crate) parameters: Lists<u16>,
    pub(crate) effects: Lists<Effect>,
    pub(crate) effect_conditions: Lists<Setting>,
    /// By operator, then by conjunction.
    pub(crate) conditions: Lists<Setting>,
    /// By conjunction: the derived atom it makes true.
    pub(crate) supports: Vec<u32>,
    pub(crate) goal: u32,
}

// ---- joins --------------------------------------------------------------------------------------------------------

#[derive(Debug, Clone, Copy)]
enum Arg {
    Slot(Slot),
    Object(u16),
    /// A name that no object has.
    Missing,
}

/// A literal with its names looked up.
#[derive(Debug, Clone)]
struct GroundLiteral {
    negated: bool,
    test: Test,
    args: Vec<Arg>,
}

/// A conjunction to be joined.
struct Body<'a> {
    slot_types: &'a [Option<TypeId>],
    /// Slots that must be bound in the end.
    slots: Vec<Slot>,
    literals: Vec<GroundLiteral>,
    /// Those literals that a finished join leaves open: fluents, and whatever is negated.
    open: Vec<usize>,
}

/// How an argument of a literal meets an argument of a fact.
#[derive(Debug, Clone, Copy)]
enum Bind {
    /// The slot is bound already.
    Known(Slot),
    /// The slot is bound here, to an object of this type.
    Fresh(Slot, TypeId),
    Object(u16),
    Never,
}

impl Body<'_> {
    /// How a literal's arguments meet a fact, where `bound` says which slots are bound before.
    fn binds(&self, literal: usize, bound: &[bool]) -> Vec<Bind> {
        let mut bound = bound.to_vec();
        let bind = |arg: &Arg| match *arg {
            Arg::Object(object) => Bind::Object(object),
            Arg::Missing => Bind::Never,
            Arg::Slot(slot) if std::mem::replace(&mut bound[usize::from(slot)], true) => {
                Bind::Known(slot)
            }
            Arg::Slot(slot) => self.slot_types[usize::from(slot)]
                .map_or(Bind::Never, |type_id| Bind::Fresh(slot, type_id)),
        };
        self.literals[literal].args.iter().map(bind).collect()
    }

    /// One place more than there are slots, so that even a frame without any leaves a trace in a list of frames.
    fn frame_size(&self) -> usize {
        self.slot_types.len() + 1
    }
}

#[derive(Debug)]
enum Step {
    /// The literal's variables are all bound: look it up.
    Check(usize),
    /// Bind the literal's variables from the facts of its predicate.
    Match {
        literal: usize,
        bound: Vec<usize>,
        binds: Vec<Bind>,
    },
    /// Try every object of the slot's type.
    Enumerate(Slot),
}

/// Facts, and what is needed to look them up.
struct Facts<'a> {
    domain: &'a Domain,
    object_types: Vec<TypeId>,
    by_type: Vec<Vec<u16>>,
    tables: Vec<Table>,
    /// Atom by fact; [`STATIC`] for facts that never change. Facts of up to three arguments have a short key.
    known: FxHashMap<u64, u32>,
    known_long: FxHashMap<u128, u32>,
    /// Facts and literals looked at.
    work: Cell<u64>,
}

/// The newest fact of a semi-naive round and the literal it is matched with.
#[derive(Clone, Copy)]
struct Trigger {
    literal: usize,
    atom: u32,
}

/// Facts with at most this many arguments fit a short key, together with their predicate.
const SHORT: usize = 3;

fn short_key(predicate: PredicateId, args: &[u16]) -> u64 {
    args.iter()
        .fold(u64::from(predicate), |key, arg| key << 16 | u64::from(*arg))
}

fn long_key(predicate: PredicateId, args: &[u16]) -> u128 {
    args.iter().fold(u128::from(predicate), |key, arg| {
        key << 16 | u128::from(*arg)
    })
}

fn value(arg: Arg, frame: &[u16]) -> Option<u16> {
    match arg {
        Arg::Slot(slot) => Some(frame[usize::from(slot)]),
        Arg::Object(object) => Some(object),
        Arg::Missing => None,
    }
}

impl Facts<'_> {
    /// Counts work; `false` when it is more than a game may take.
    fn spend(&self, work: usize) -> bool {
        self.work.set(self.work.get().saturating_add(work as u64));
        self.work.get() <= WORK_LIMIT
    }

    fn has_type(&self, object: u16, wide: TypeId) -> bool {
        self.domain
            .types
            .is_under(self.object_types[usize::from(object)], wide)
    }

    fn find(&self, predicate: PredicateId, args: &[Arg], frame: &[u16]) -> Option<u32> {
        let mut values = [0; ARITY_LIMIT];
        for (slot, arg) in values.iter_mut().zip(args) {
            *slot = value(*arg, frame)?;
        }
        self.look_up(predicate, &values[..args.len()])
    }

    fn look_up(&self, predicate: PredicateId, args: &[u16]) -> Option<u32> {
        if let [object] = args {
            let atom = self.tables[usize::from(predicate)].unary[usize::from(*object)];
            (atom != UNKNOWN).then_some(atom)
        } else if args.len() <= SHORT {
            self.known.get(&short_key(predicate, args)).copied()
        } else {
            self.known_long.get(&long_key(predicate, args)).copied()
        }
    }

    /// Notes a new fact; `false` when it was known.
    fn note(&mut self, predicate: PredicateId, args: &[u16], atom: u32) -> bool {
        use std::collections::hash_map::Entry;
        if let [object] = args {
            let known = &mut self.tables[usize::from(predicate)].unary[usize::from(*object)];
            if *known != UNKNOWN {
                return false;
            }
            *known = atom;
        } else if args.len() <= SHORT {
            match self.known.entry(short_key(predicate, args)) {
                Entry::Vacant(entry) => entry.insert(atom),
                Entry::Occupied(_) => return false,
            };
        } else {
            match self.known_long.entry(long_key(predicate, args)) {
                Entry::Vacant(entry) => entry.insert(atom),
                Entry::Occupied(_) => return false,
            };
        }
        true
    }

    /// Orders a join: what is bound is checked, then the literal that promises the fewest rows is matched.
    fn plan(&mut self, body: &Body<'_>, bound_slots: &[Slot], skip: Option<usize>) -> Vec<Step> {
        self.spend(body.literals.len() * body.literals.len());
        let objects = self.object_types.len();
        let mut bound = vec![false; body.slot_types.len()];
        bound_slots
            .iter()
            .for_each(|slot| bound[usize::from(*slot)] = true);
        let mut left: Vec<usize> = (0..body.literals.len())
            .filter(|i| Some(*i) != skip && !body.literals[*i].negated)
            .collect();
        let mut steps = Vec::new();
        loop {
            let is_bound = |arg: &Arg, bound: &[bool]| match arg {
                Arg::Slot(slot) => bound[usize::from(*slot)],
                Arg::Object(_) | Arg::Missing => true,
            };
            left.retain(|&literal| {
                let checked = body.literals[literal]
                    .args
                    .iter()
                    .all(|arg| is_bound(arg, &bound));
                if checked {
                    steps.push(Step::Check(literal));
                }
                !checked
            });
            let cost = |literal: usize| {
                let GroundLiteral {
                    test: Test::Predicate(predicate),
                    args,
                    ..
                } = &body.literals[literal]
                else {
                    return usize::MAX;
                };
                let table = &self.tables[usize::from(*predicate)];
                let rows = if table.fluent {
                    table.count.max(1000)
                } else {
                    table.count
                };
                if args.iter().any(|arg| is_bound(arg, &bound)) {
                    rows / 16
                } else {
                    rows
                }
            };
            let best = left
                .iter()
                .copied()
                .min_by_key(|literal| cost(*literal))
                .filter(|best| cost(*best) < usize::MAX);
            if let Some(literal) = best {
                let Test::Predicate(predicate) = body.literals[literal].test else {
                    unreachable!("cost is finite")
                };
                let args = &body.literals[literal].args;
                let positions: Vec<usize> = (0..args.len())
                    .filter(|i| is_bound(&args[*i], &bound))
                    .collect();
                for position in &positions {
                    self.tables[usize::from(predicate)].ensure_index(*position, objects);
                }
                let binds = body.binds(literal, &bound);
                for arg in args {
                    if let Arg::Slot(slot) = arg {
                        bound[usize::from(*slot)] = true;
                    }
                }
                left.retain(|other| *other != literal);
                steps.push(Step::Match {
                    literal,
                    bound: positions,
                    binds,
                });
            } else if let Some(&slot) = body.slots.iter().find(|slot| !bound[usize::from(**slot)]) {
                bound[usize::from(slot)] = true;
                steps.push(Step::Enumerate(slot));
            } else {
                return steps;
            }
        }
    }

    /// Appends to `found` every frame that fulfils the positive literals of `body`.
    fn join(
        &self,
        body: &Body<'_>,
        steps: &[Step],
        trigger: Option<Trigger>,
        frame: &mut [u16],
        found: &mut Vec<u16>,
    ) {
        let Some((step, rest)) = steps.split_first() else {
            found.extend_from_slice(frame);
            return;
        };
        if !self.spend(1) || (found.len() > FOUND_LIMIT && !self.spend(WORK_LIMIT as usize)) {
            return;
        }
        // Facts at or after the trigger are left to later rounds.
        let newest = |literal: usize| match trigger {
            Some(trigger) if literal < trigger.literal => trigger.atom.checked_sub(1),
            Some(trigger) => Some(trigger.atom),
            None => Some(STATIC - 1),
        };
        match step {
            Step::Check(index) => {
                let literal = &body.literals[*index];
                let holds = match literal.test {
                    Test::Predicate(predicate) => {
                        match self.find(predicate, &literal.args, frame) {
                            Some(STATIC) => true,
                            Some(atom) => newest(*index).is_some_and(|newest| atom <= newest),
                            None => false,
                        }
                    }
                    Test::Equal => Self::are_equal(literal, frame),
                    Test::Axiom(_) => false,
                };
                if holds {
                    self.join(body, rest, trigger, frame, found);
                }
            }
            Step::Match {
                literal: index,
                bound,
                binds,
            } => {
                let literal = &body.literals[*index];
                let Test::Predicate(predicate) = literal.test else {
                    return;
                };
                let table = &self.tables[usize::from(predicate)];
                let Some(newest) = newest(*index) else { return };
                let mut shortest: Option<&[u32]> = None;
                for position in bound {
                    let Some(object) = value(literal.args[*position], frame) else {
                        return;
                    };
                    let Some(by) = &table.by[*position] else {
                        continue;
                    };
                    let rows = &by[usize::from(object)][..];
                    if shortest.is_none_or(|best| rows.len() < best.len()) {
                        shortest = Some(rows);
                    }
                }
                let count = shortest.map_or(table.count, <[u32]>::len);
                for index in 0..count {
                    let row = shortest.map_or(index, |rows| rows[index] as usize);
                    if table.fluent && table.atoms[row] > newest {
                        break;
                    }
                    self.spend(1);
                    if self.bind(binds, table.row(row), frame) {
                        self.join(body, rest, trigger, frame, found);
                    }
                }
            }
            Step::Enumerate(slot) => {
                let Some(wanted) = body.slot_types[usize::from(*slot)] else {
                    return;
                };
                for object in &self.by_type[usize::from(wanted)] {
                    frame[usize::from(*slot)] = *object;
                    self.join(body, rest, trigger, frame, found);
                }
            }
        }
    }

    /// Meets a row argument by argument; `false` where one does not fit.
    fn bind(&self, binds: &[Bind], row: &[u16], frame: &mut [u16]) -> bool {
        binds.iter().zip(row).all(|(bind, object)| match *bind {
            Bind::Known(slot) => frame[usize::from(slot)] == *object,
            Bind::Fresh(slot, wide) => {
                frame[usize::from(slot)] = *object;
                self.has_type(*object, wide)
            }
            Bind::Object(wanted) => wanted == *object,
            Bind::Never => false,
        })
    }

    /// Whether the two sides of an equality are one object; its negation aside.
    fn are_equal(literal: &GroundLiteral, frame: &[u16]) -> bool {
        let sides = (value(literal.args[0], frame), value(literal.args[1], frame));
        matches!(sides, (Some(left), Some(right)) if left == right)
    }
}

// ---- the grounder -------------------------------------------------------------------------------------------------

/// What a derived atom came to.
#[derive(Clone, Copy)]
enum Derived {
    Always,
    Never,
    Atom(u32),
}

enum Head {
    Operator {
        action: usize,
        adds: Vec<(PredicateId, Vec<Arg>)>,
        effects: Vec<GroundLiteral>,
        /// No effect has conditions or variables of its own.
        plain: bool,
    },
    Effect {
        predicate: PredicateId,
        args: Vec<Arg>,
    },
}

struct Rule<'a> {
    head: Head,
    body: Body<'a>,
    /// By positive fluent literal.
    plans: Vec<Plan>,
}

/// How a rule fires on a new fact: the literal that meets it, and the rest of the join.
struct Plan {
    literal: usize,
    binds: Vec<Bind>,
    steps: Vec<Step>,
}

struct Candidate {
    rule: u32,
    frame: u32,
}

struct Grounder<'a> {
    domain: &'a Domain,
    problem: &'a Problem,
    numbers: FxHashMap<&'a str, u16>,
    facts: Facts<'a>,
    /// Predicate and row of every atom.
    atoms: Vec<(PredicateId, u32)>,
    memo: FxHashMap<(usize, Vec<u16>), Derived>,
    conjunctions: Vec<(u32, Vec<Setting>)>,
    grounded: Grounded,
    /// What is being grounded: the byte of an action in the domain text, or of the goal in the problem text.
    at: usize,
    in_problem: bool,
}

/// A fault in the problem text or else in the domain text.
#[derive(Debug)]
pub(crate) struct GroundFault {
    pub(crate) in_problem: bool,
    pub(crate) fault: Fault,
}

type Result<T> = std::result::Result<T, GroundFault>;

/// Grounds a problem.
pub(crate) fn ground(domain: &Domain, problem: &Problem) -> Result<Grounded> {
    let mut grounder = Grounder::new(domain, problem);
    grounder.run()?;
    Ok(grounder.grounded)
}

impl<'a> Grounder<'a> {
    fn new(domain: &'a Domain, problem: &'a Problem) -> Self {
        let object_types: Vec<TypeId> = problem
            .objects
            .iter()
            .map(|(_, type_id)| *type_id)
            .collect();
        let mut by_type = vec![Vec::new(); domain.types.names.len()];
        for (number, narrow) in object_types.iter().enumerate() {
            for (wide, objects) in by_type.iter_mut().enumerate() {
                if domain.types.is_under(*narrow, wide as TypeId) {
                    objects.push(number as u16);
                }
            }
        }
        let table = |arity: usize| {
            let unary = if arity == 1 {
                vec![UNKNOWN; problem.objects.len()]
            } else {
                Vec::new()
            };
            Table {
                arity,
                unary,
                ..Table::default()
            }
        };
        let mut tables: Vec<Table> = domain.predicates.iter().map(|p| table(p.arity)).collect();
        for action in &domain.actions {
            for effect in &action.effects {
                if let Test::Predicate(predicate) = effect.literal.test {
                    tables[usize::from(predicate)].fluent = true;
                }
            }
        }
        let numbers = problem
            .objects
            .iter()
            .enumerate()
            .map(|(n, (name, _))| (name.as_str(), n as u16))
            .collect();
        let known =
            FxHashMap::with_capacity_and_hasher(4 * problem.init.len(), rustc_hash::FxBuildHasher);
        let facts = Facts {
            domain,
            object_types,
            by_type,
            tables,
            known,
            known_long: FxHashMap::default(),
            work: Cell::new(0),
        };
        Self {
            domain,
            problem,
            numbers,
            facts,
            atoms: Vec::new(),
            memo: FxHashMap::default(),
            conjunctions: Vec::new(),
            grounded: Grounded::default(),
            at: 0,
            in_problem: false,
        }
    }

    fn fault(&self, reason: impl Into<String>) -> GroundFault {
        GroundFault {
            in_problem: self.in_problem,
            fault: Fault::new(self.at, reason),
        }
    }

    fn run(&mut self) -> Result<()> {
        for (predicate, args) in &self.problem.init {
            self.add_fact(
                *predicate,
                &args[..self.facts.tables[usize::from(*predicate)].arity],
            );
        }
        self.grounded.initial = vec![true; self.atoms.len()];
        let rules = self.rules()?;
        let (candidates, frames) = self.explore(&rules)?;
        self.grounded.fluents = self.atoms.len();
        self.grounded.initial.resize(self.atoms.len(), false);
        let mut conditions = Vec::new();
        for candidate in &candidates {
            let frame = &frames[candidate.frame as usize..];
            self.finish_operator(&rules[candidate.rule as usize], frame, &mut conditions)?;
        }
        (self.at, self.in_problem) = (self.problem.goal_at, true);
        self.grounded.goal = match self.derive(usize::MAX, &[])? {
            Derived::Atom(atom) => atom,
            Derived::Always => return Err(self.fault("the goal holds whatever is done")),
            Derived::Never => return Err(self.fault("the goal can never hold")),
        };
        for (atom, conditions) in std::mem::take(&mut self.conjunctions) {
            self.grounded.supports.push(atom);
            self.grounded.conditions.push(conditions);
        }
        self.grounded.tables = std::mem::take(&mut self.facts.tables);
        Ok(())
    }

    /// Records a fact that holds at the start or could come to hold.
    fn add_fact(&mut self, predicate: PredicateId, args: &[u16]) {
        let fluent = self.facts.tables[usize::from(predicate)].fluent;
        let atom = if fluent {
            self.atoms.len() as u32
        } else {
            STATIC
        };
        if self.facts.note(predicate, args, atom) {
            let table = &mut self.facts.tables[usize::from(predicate)];
            if fluent {
                self.atoms.push((predicate, table.count as u32));
                table.atoms.push(atom);
            }
            table.push(args);
        }
    }

    fn look_up(&self, literal: &Literal) -> GroundLiteral {
        let arg = |term: &Term| match term {
            Term::Slot(slot) => Arg::Slot(*slot),
            Term::Name(name) => self
                .numbers
                .get(&**name)
                .map_or(Arg::Missing, |number| Arg::Object(*number)),
        };
        let args = literal.args.iter().map(arg).collect();
        GroundLiteral {
            negated: literal.negated,
            test: literal.test,
            args,
        }
    }

    fn body<'t>(
        &self,
        slot_types: &'t [Option<TypeId>],
        slots: impl IntoIterator<Item = Slot>,
        branches: &[&Branch],
    ) -> Body<'t> {
        let mut slots: Vec<Slot> = slots.into_iter().collect();
        for branch in branches {
            slots.extend(&branch.variables);
        }
        let literals: Vec<GroundLiteral> = branches
            .iter()
            .flat_map(|branch| &branch.literals)
            .map(|literal| self.look_up(literal))
            .collect();
        self.facts.spend(literals.len());
        let is_open = |literal: &GroundLiteral| {
            let changes = |predicate| self.facts.tables[usize::from(predicate)].fluent;
            literal.negated
                || matches!(literal.test, Test::Predicate(predicate) if changes(predicate))
        };
        let open = (0..literals.len())
            .filter(|literal| is_open(&literals[*literal]))
            .collect();
        Body {
            slot_types,
            slots,
            literals,
            open,
        }
    }

    /// One rule for every alternative of every action, one more for every effect that has conditions of its own.
    fn rules(&mut self) -> Result<Vec<Rule<'a>>> {
        let mut rules = Vec::new();
        for (index, action) in self.domain.actions.iter().enumerate() {
            let parameters = 0..action.parameters.len() as Slot;
            for branch in &action.branches {
                let mut adds = Vec::new();
                let mut conditional = Vec::new();
                self.at = action.at;
                for effect in action
                    .effects
                    .iter()
                    .filter(|effect| !effect.literal.negated)
                {
                    let Test::Predicate(predicate) = effect.literal.test else {
                        continue;
                    };
                    let args = self.look_up(&effect.literal).args;
                    for condition in &*effect.conditions {
                        if is_plain(effect, condition) {
                            adds.push((predicate, args.clone()));
                        } else {
                            let slots = parameters.clone().chain(effect.variables.iter().copied());
                            let body = self.body(&action.slot_types, slots, &[branch, condition]);
                            conditional.push((
                                Head::Effect {
                                    predicate,
                                    args: args.clone(),
                                },
                                body,
                            ));
                            self.check_work()?;
                        }
                    }
                }
                let body = self.body(&action.slot_types, parameters.clone(), &[branch]);
                let effects = action
                    .effects
                    .iter()
                    .map(|effect| self.look_up(&effect.literal))
                    .collect();
                let plain = action
                    .effects
                    .iter()
                    .all(|e| e.conditions.iter().all(|condition| is_plain(e, condition)));
                let operator = Head::Operator {
                    action: index,
                    adds,
                    effects,
                    plain,
                };
                for (head, body) in std::iter::once((operator, body)).chain(conditional) {
                    // A type without objects: never applicable.
                    if body
                        .slots
                        .iter()
                        .all(|slot| body.slot_types[usize::from(*slot)].is_some())
                    {
                        rules.push(self.planned(head, body));
                        self.check_work()?;
                    }
                }
            }
        }
        Ok(rules)
    }

    fn planned(&mut self, head: Head, body: Body<'a>) -> Rule<'a> {
        let mut plans = Vec::new();
        for (index, literal) in body.literals.iter().enumerate() {
            if let Test::Predicate(predicate) = literal.test
                && !literal.negated
                && self.facts.tables[usize::from(predicate)].fluent
            {
                let slots: Vec<Slot> = literal
                    .args
                    .iter()
                    .filter_map(|arg| {
                        if let Arg::Slot(slot) = arg {
                            Some(*slot)
                        } else {
                            None
                        }
                    })
                    .collect();
                let binds = body.binds(index, &vec![false; body.slot_types.len()]);
                plans.push(Plan {
                    literal: index,
                    binds,
                    steps: self.facts.plan(&body, &slots, Some(index)),
                });
            }
        }
        Rule { head, body, plans }
    }

    fn check_work(&self) -> Result<()> {
        if self.facts.work.get() > WORK_LIMIT {
            return Err(self.fault(format!(
                "grounding takes more than {WORK_LIMIT} looks at facts"
            )));
        }
        Ok(())
    }

    /// Runs the fixpoint; returns the operators met on the way and their frames.
    fn explore(&mut self, rules: &[Rule<'a>]) -> Result<(Vec<Candidate>, Vec<u16>)> {
        let mut watchers: Vec<Vec<(u32, u32)>> = vec![Vec::new(); self.domain.predicates.len()];
        for (number, rule) in rules.iter().enumerate() {
            for (number_of_plan, plan) in rule.plans.iter().enumerate() {
                if let Test::Predicate(predicate) = rule.body.literals[plan.literal].test {
                    watchers[usize::from(predicate)].push((number as u32, number_of_plan as u32));
                }
            }
        }
        let mut candidates = Vec::new();
        let mut frames = Vec::new();
        let mut found = Vec::new();
        for (number, rule) in rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.plans.is_empty())
        {
            let steps = self.facts.plan(&rule.body, &[], None);
            let mut frame = vec![0; rule.body.frame_size()];
            self.join(&rule.body, &steps, None, &mut frame, &mut found)?;
            self.fire(number, rule, &mut found, &mut candidates, &mut frames)?;
        }
        let mut next = 0;
        let mut frame = Vec::new();
        while next < self.atoms.len() {
            let (predicate, row) = self.atoms[next];
            for &(number, plan) in &watchers[usize::from(predicate)] {
                let rule = &rules[number as usize];
                let plan = &rule.plans[plan as usize];
                frame.clear();
                frame.resize(rule.body.frame_size(), 0);
                let table = &self.facts.tables[usize::from(predicate)];
                if self
                    .facts
                    .bind(&plan.binds, table.row(row as usize), &mut frame)
                {
                    let trigger = Trigger {
                        literal: plan.literal,
                        atom: next as u32,
                    };
                    self.join(
                        &rule.body,
                        &plan.steps,
                        Some(trigger),
                        &mut frame,
                        &mut found,
                    )?;
                    self.fire(
                        number as usize,
                        rule,
                        &mut found,
                        &mut candidates,
                        &mut frames,
                    )?;
                }
            }
            next += 1;
        }
        Ok((candidates, frames))
    }

    fn join(
        &mut self,
        body: &Body<'_>,
        steps: &[Step],
        trigger: Option<Trigger>,
        frame: &mut [u16],
        found: &mut Vec<u16>,
    ) -> Result<()> {
        self.facts.join(body, steps, trigger, frame, found);
        self.check_work()
    }

    /// Takes the frames a rule was found to fire with: new facts, and an operator for each.
    fn fire(
        &mut self,
        number: usize,
        rule: &Rule<'a>,
        found: &mut Vec<u16>,
        candidates: &mut Vec<Candidate>,
        frames: &mut Vec<u16>,
    ) -> Result<()> {
        for frame in found.chunks_exact(rule.body.frame_size()) {
            match &rule.head {
                Head::Operator { action, adds, .. } => {
                    self.at = self.domain.actions[*action].at;
                    for (predicate, args) in adds {
                        self.reach(*predicate, args, frame)?;
                    }
                    candidates.push(Candidate {
                        rule: number as u32,
                        frame: frames.len() as u32,
                    });
                    frames.extend_from_slice(frame);
                    if candidates.len() > OPERATOR_LIMIT {
                        return Err(self
                            .fault(format!("the game has more than {OPERATOR_LIMIT} operators")));
                    }
                }
                Head::Effect { predicate, args } => self.reach(*predicate, args, frame)?,
            }
        }
        found.clear();
        Ok(())
    }

    fn reach(&mut self, predicate: PredicateId, args: &[Arg], frame: &[u16]) -> Result<()> {
        let mut values = [0; ARITY_LIMIT];
        for (slot, arg) in values.iter_mut().zip(args) {
            let unknown = || self.fault("an effect names an object that the problem does not have");
            *slot = value(*arg, frame).ok_or_else(unknown)?;
        }
        self.add_fact(predicate, &values[..args.len()]);
        if self.atoms.len() > ATOM_LIMIT {
            return Err(self.fault(format!("the game has more than {ATOM_LIMIT} atoms")));
        }
        Ok(())
    }

    // ---- operators ----

    /// The settings a joined conjunction asks for, or `None` where it can never hold.
    fn settings(&mut self, body: &Body<'_>, frame: &[u16]) -> Result<Option<Vec<Setting>>> {
        let mut settings = Vec::new();
        Ok(self
            .settings_into(body, frame, &mut settings)?
            .then_some(settings))
    }

    /// As [`Self::settings`], into a list that is empty before; `false` where the conjunction can never hold.
    fn settings_into(
        &mut self,
        body: &Body<'_>,
        frame: &[u16],
        settings: &mut Vec<Setting>,
    ) -> Result<bool> {
        for literal in body.open.iter().map(|open| &body.literals[*open]) {
            match literal.test {
                Test::Predicate(predicate) => match (
                    self.facts.find(predicate, &literal.args, frame),
                    literal.negated,
                ) {
                    (Some(STATIC), false) | (None, true) => {}
                    (Some(STATIC), true) | (None, false) => return Ok(false),
                    (Some(atom), negated) => settings.push(setting(atom, !negated)),
                },
                Test::Equal => {
                    if Facts::are_equal(literal, frame) == literal.negated {
                        return Ok(false);
                    }
                }
                Test::Axiom(axiom) => {
                    let free = self.axiom(axiom).free.clone();
                    let values: Vec<u16> =
                        free.iter().map(|slot| frame[usize::from(*slot)]).collect();
                    match self.derive(axiom, &values)? {
                        Derived::Always => return Ok(false),
                        Derived::Never => {}
                        Derived::Atom(atom) => settings.push(setting(atom, false)),
                    }
                }
            }
        }
        settings.sort_unstable();
        settings.dedup();
        Ok(!settings.windows(2).any(|pair| pair[0] ^ 1 == pair[1]))
    }

    fn axiom(&self, index: usize) -> &'a Axiom {
        if index == usize::MAX {
            return &self.problem.goal;
        }
        let own = self.domain.axioms.len();
        if index < own {
            &self.domain.axioms[index]
        } else {
            &self.problem.goal_axioms[index - own]
        }
    }

    /// The derived atom of an axiom (or, for `usize::MAX`, of the goal) under given free variables.
    fn derive(&mut self, index: usize, values: &[u16]) -> Result<Derived> {
        let memo = (index, values.to_vec());
        if let Some(&known) = self.memo.get(&memo) {
            return Ok(known);
        }
        let axiom = self.axiom(index);
        let mut conjunctions: Vec<Vec<Setting>> = Vec::new();
        let mut always = false;
        for branch in &axiom.branches {
            let body = self.body(&axiom.slot_types, [], &[branch]);
            if body
                .slots
                .iter()
                .any(|slot| body.slot_types[usize::from(*slot)].is_none())
            {
                continue;
            }
            let steps = self.facts.plan(&body, &axiom.free, None);
            let mut frame = vec![0; body.frame_size()];
            for (slot, value) in axiom.free.iter().zip(values) {
                frame[usize::from(*slot)] = *value;
            }
            let mut found = Vec::new();
            self.join(&body, &steps, None, &mut frame, &mut found)?;
            for frame in found.chunks_exact(frame.len()) {
                if let Some(settings) = self.settings(&body, frame)? {
                    always |= settings.is_empty();
                    conjunctions.push(settings);
                    if conjunctions.len() + self.conjunctions.len() > OPERATOR_LIMIT {
                        return Err(self.fault(format!(
                            "conditions unfold into more than {OPERATOR_LIMIT} cases"
                        )));
                    }
                }
            }
        }
        let derived = if always {
            Derived::Always
        } else if conjunctions.is_empty() {
            Derived::Never
        } else {
            let atom = (self.grounded.fluents + self.grounded.derived) as u32;
            self.grounded.derived += 1;
            conjunctions.sort_unstable();
            conjunctions.dedup();
            self.conjunctions
                .extend(conjunctions.into_iter().map(|settings| (atom, settings)));
            Derived::Atom(atom)
        };
        self.memo.insert(memo, derived);
        Ok(derived)
    }

    fn finish_operator(
        &mut self,
        rule: &Rule<'a>,
        frame: &[u16],
        conditions: &mut Vec<Setting>,
    ) -> Result<()> {
        let Head::Operator {
            action: index,
            effects,
            plain,
            ..
        } = &rule.head
        else {
            return Ok(());
        };
        let frame = &frame[..rule.body.frame_size()];
        let action = &self.domain.actions[*index];
        self.at = action.at;
        conditions.clear();
        if !self.settings_into(&rule.body, frame, conditions)? {
            return Ok(());
        }
        let before = self.grounded.effects.items.len();
        if *plain {
            self.plain_effects(effects, frame, conditions);
        } else {
            let mut changes = self.changes(action, effects, frame)?;
            prune(&mut changes, conditions);
            for change in changes {
                let mut condition = ALWAYS;
                if !change.condition.is_empty() {
                    condition = self.grounded.effect_conditions.len() as u32;
                    self.grounded.effect_conditions.push(change.condition);
                }
                self.grounded.effects.items.push(Effect {
                    setting: change.setting,
                    condition,
                });
            }
        }
        if self.grounded.effects.items.len() == before {
            return Ok(());
        }
        self.grounded.effects.push([]);
        self.grounded.actions.push(*index as u16);
        self.grounded
            .parameters
            .push(frame[..action.parameters.len()].iter().copied());
        self.grounded.conditions.push(conditions.iter().copied());
        Ok(())
    }

    /// Effects without conditions of their own: an addition beats a deletion, and what repeats a condition is dropped.
    fn plain_effects(&mut self, literals: &[GroundLiteral], frame: &[u16], conditions: &[Setting]) {
        let items = &mut self.grounded.effects.items;
        let before = items.len();
        for literal in literals {
            let Test::Predicate(predicate) = literal.test else {
                continue;
            };
            if let Some(atom) = self.facts.find(predicate, &literal.args, frame) {
                items.push(Effect {
                    setting: setting(atom, !literal.negated),
                    condition: ALWAYS,
                });
            }
        }
        items[before..].sort_unstable_by_key(|effect| effect.setting ^ 1);
        let mut kept = before;
        let mut last_atom = u32::MAX;
        for index in before..items.len() {
            let effect = items[index];
            let atom = effect.setting >> 1;
            if atom != last_atom && conditions.binary_search(&effect.setting).is_err() {
                items[kept] = effect;
                kept += 1;
            }
            last_atom = atom;
        }
        items.truncate(kept);
    }

    /// All effects of an operator that could matter, unpruned.
    fn changes(
        &mut self,
        action: &'a Action,
        literals: &[GroundLiteral],
        frame: &[u16],
    ) -> Result<Vec<Change>> {
        let mut changes = Vec::with_capacity(action.effects.len());
        for (effect, literal) in action.effects.iter().zip(literals) {
            let Test::Predicate(predicate) = literal.test else {
                continue;
            };
            for condition in &*effect.conditions {
                if is_plain(effect, condition) {
                    if let Some(atom) = self.facts.find(predicate, &literal.args, frame) {
                        changes.push(Change {
                            setting: setting(atom, !literal.negated),
                            condition: Vec::new(),
                        });
                    }
                    continue;
                }
                let body = self.body(
                    &action.slot_types,
                    effect.variables.iter().copied(),
                    &[condition],
                );
                if body
                    .slots
                    .iter()
                    .any(|slot| body.slot_types[usize::from(*slot)].is_none())
                {
                    continue;
                }
                let bound: Vec<Slot> = (0..action.slot_types.len() as Slot)
                    .filter(|s| !body.slots.contains(s))
                    .collect();
                let steps = self.facts.plan(&body, &bound, None);
                let mut frame = frame.to_vec();
                let mut found = Vec::new();
                self.join(&body, &steps, None, &mut frame, &mut found)?;
                for frame in found.chunks_exact(frame.len()) {
                    let Some(condition) = self.settings(&body, frame)? else {
                        continue;
                    };
                    if let Some(atom) = self.facts.find(predicate, &literal.args, frame) {
                        changes.push(Change {
                            setting: setting(atom, !literal.negated),
                            condition,
                        });
                    }
                }
            }
        }
        Ok(changes)
    }
}

fn is_plain(effect: &super::pddl::Effect, condition: &Branch) -> bool {
    effect.variables.is_empty() && condition.variables.is_empty() && condition.literals.is_empty()
}

/// An effect under construction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    setting: Setting,
    condition: Vec<Setting>,
}

/// Drops the effects the planner's translator drops, and sorts the rest: by atom, adding before deleting.
fn prune(changes: &mut Vec<Change>, conditions: &[Setting]) {
    let adds: Vec<Change> = changes
        .iter()
        .filter(|change| change.setting & 1 == 1)
        .cloned()
        .collect();
    changes.retain(|change| change.setting & 1 == 1 || can_delete(change, &adds));
    let asked = |setting: &Setting| conditions.binary_search(setting).is_ok();
    // The effect repeats a condition, or its own condition contradicts one.
    changes.retain(|change| {
        !asked(&change.setting) && !change.condition.iter().any(|setting| asked(&(setting ^ 1)))
    });
    for change in changes.iter_mut() {
        change.condition.retain(|setting| !asked(setting));
    }
    changes.sort_unstable_by(|a, b| {
        (a.setting >> 1, b.setting & 1, &a.condition).cmp(&(
            b.setting >> 1,
            a.setting & 1,
            &b.condition,
        ))
    });
    changes.dedup();
}

/// Whether there is a case where the deletion fires and no addition of the same atom does.
fn can_delete(deletion: &Change, adds: &[Change]) -> bool {
    let rivals: Vec<&Change> = adds
        .iter()
        .filter(|add| add.setting == deletion.setting | 1)
        .collect();
    if rivals
        .iter()
        .any(|add| add.condition.is_empty() || add.condition == deletion.condition)
    {
        return false;
    }
    let mut case = deletion.condition.clone();
    case.push(deletion.setting | 1);
    if case.contains(&deletion.setting) {
        return false;
    }
    fn open(case: &mut Vec<Setting>, rivals: &[&Change], budget: &mut usize) -> bool {
        let Some((first, rest)) = rivals.split_first() else {
            return true;
        };
        *budget = budget.saturating_sub(1);
        if *budget == 0 {
            return true;
        }
        first.condition.iter().any(|setting| {
            if case.contains(setting) {
                return false;
            }
            case.push(setting ^ 1);
            let found = open(case, rest, budget);
            case.pop();
            found
        })
    }
    open(&mut case, &rivals, &mut 10_000)
}
