//! The state of grounding that all its phases share.

use super::facts::{Facts, WORK_LIMIT};
use super::grounded::{Grounded, Setting};
use super::join::{Join, JoinStep, Trigger};
use super::literal::{GroundArgument, GroundLiteral, JoinBody};
use crate::error::Fault;
use crate::native::pddl::{
    ConditionBranch, Domain, Literal, PddlProblem, PredicateId, Slot, Term, Test, TypeId,
};
use rustc_hash::FxHashMap;

/// The value of an axiom under given free variables.
#[derive(Clone, Copy)]
pub(super) enum DerivedValue {
    Always,
    Never,
    Atom(u32),
}

/// A fault in the problem text or in the domain text.
#[derive(Debug)]
pub(crate) struct GroundFault {
    pub(crate) in_problem: bool,
    pub(crate) fault: Fault,
}

/// The result of a step of grounding.
pub(super) type GroundResult<T> = Result<T, GroundFault>;

/// The state of grounding.
pub(super) struct Grounder<'a> {
    pub(super) domain: &'a Domain,
    pub(super) problem: &'a PddlProblem,
    /// By name: the number of an object.
    numbers: FxHashMap<&'a str, u16>,
    pub(super) facts: Facts<'a>,
    /// By atom: its predicate and row.
    pub(super) atoms: Vec<(PredicateId, u32)>,
    /// The values of axioms computed so far, by axiom and free variables.
    pub(super) derived_values: FxHashMap<(usize, Vec<u16>), DerivedValue>,
    /// Each conjunction with the derived atom that it makes true.
    pub(super) conjunctions: Vec<(u32, Vec<Setting>)>,
    pub(super) grounded: Grounded,
    /// The place for a fault: the byte of the current action in the domain text, or of the goal in
    /// the problem text.
    pub(super) at: usize,
    pub(super) in_problem: bool,
}

impl<'a> Grounder<'a> {
    pub(super) fn new(domain: &'a Domain, problem: &'a PddlProblem) -> Self {
        let object_types: Vec<TypeId> = problem
            .objects
            .iter()
            .map(|(_, type_id)| *type_id)
            .collect();
        let mut facts = Facts::new(domain, object_types, 4 * problem.init.len());
        for effect in domain.actions.iter().flat_map(|action| &action.effects) {
            if let Test::Predicate(predicate) = effect.literal.test {
                facts.tables[usize::from(predicate)].fluent = true;
            }
        }
        let numbers = problem
            .objects
            .iter()
            .enumerate()
            .map(|(n, (name, _))| (name.as_str(), n as u16))
            .collect();
        Self {
            domain,
            problem,
            numbers,
            facts,
            atoms: Vec::new(),
            derived_values: FxHashMap::default(),
            conjunctions: Vec::new(),
            grounded: Grounded::default(),
            at: 0,
            in_problem: false,
        }
    }

    /// Adds the initial facts of the problem.
    pub(super) fn add_initial_facts(&mut self) {
        for (predicate, args) in &self.problem.init {
            let arity = self.facts.tables[usize::from(*predicate)].arity;
            self.add_fact(*predicate, &args[..arity]);
        }
        self.grounded.initial = vec![true; self.atoms.len()];
    }

    /// Adds a fact that holds at the start or can become true.
    pub(super) fn add_fact(&mut self, predicate: PredicateId, args: &[u16]) {
        let atom = self.atoms.len() as u32;
        if let Some(row) = self.facts.add(predicate, args, atom)
            && self.facts.is_fluent(predicate)
        {
            self.atoms.push((predicate, row as u32));
        }
    }

    /// Returns a fault at the current place.
    pub(super) fn fault(&self, reason: impl Into<String>) -> GroundFault {
        GroundFault {
            in_problem: self.in_problem,
            fault: Fault::new(self.at, reason),
        }
    }

    /// Returns a fault if grounding has visited too many facts.
    pub(super) fn check_work(&self) -> GroundResult<()> {
        if self.facts.is_within_limit() {
            return Ok(());
        }
        Err(self.fault(format!(
            "grounding visits more than {WORK_LIMIT} facts and conditions"
        )))
    }

    /// Looks up the object names of a literal.
    pub(super) fn look_up(&self, literal: &Literal) -> GroundLiteral {
        let mut args = Vec::with_capacity(literal.args.len());
        for term in &literal.args {
            args.push(match term {
                Term::Slot(slot) => GroundArgument::Slot(*slot),
                Term::Name(name) => self
                    .numbers
                    .get(&**name)
                    .map_or(GroundArgument::Missing, |number| {
                        GroundArgument::Object(*number)
                    }),
            });
        }
        GroundLiteral {
            negated: literal.negated,
            test: literal.test,
            args,
        }
    }

    /// Returns the conjunction of some branches. The join binds `slots` and the branches' own
    /// variables.
    pub(super) fn body<'t>(
        &self,
        slot_types: &'t [Option<TypeId>],
        slots: impl IntoIterator<Item = Slot>,
        branches: &[&ConditionBranch],
    ) -> JoinBody<'t> {
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
        let open = (0..literals.len())
            .filter(|literal| self.is_open(&literals[*literal]))
            .collect();
        JoinBody {
            slot_types,
            slots,
            literals,
            open,
        }
    }

    /// Returns whether a finished join leaves a literal undecided.
    fn is_open(&self, literal: &GroundLiteral) -> bool {
        literal.negated
            || matches!(literal.test, Test::Predicate(predicate) if self.facts.is_fluent(predicate))
    }

    /// Appends to `found` every frame that satisfies the positive literals of `body`.
    pub(super) fn join(
        &self,
        body: &JoinBody<'_>,
        steps: &[JoinStep],
        trigger: Option<Trigger>,
        frame: &mut [u16],
        found: &mut Vec<u16>,
    ) -> GroundResult<()> {
        let mut join = Join {
            facts: &self.facts,
            body,
            trigger,
            found,
        };
        join.run(steps, frame);
        self.check_work()
    }
}
