//! PDDL: a domain and a problem, read into types, facts, and actions whose conditions are in disjunctive normal form.
//!
//! The reading follows Fast Downward's translator, which the Python stack uses: a type nobody declared is a type
//! without objects (`?l - location,` is one), every type lies under `object`, and `(increase (total-cost) …)` is
//! skipped. A `forall` condition becomes an [`Axiom`]: it holds when no counterexample does. Refused are derived
//! predicates, `either`, numeric effects other than the total cost, and types used as predicates (which the translator
//! takes and then never finds true).

mod sexpr;

use crate::error::Fault;
use rustc_hash::FxHashMap;
use sexpr::{Kind, Node};
use std::sync::{Arc, Mutex, PoisonError};

/// A condition may unfold into this many alternatives.
const BRANCH_LIMIT: usize = 512;
/// One alternative may have this many conditions.
const LITERAL_LIMIT: usize = 1000;
/// An action, with its quantifiers, may have this many variables; so may the goal.
const VARIABLE_LIMIT: usize = 100;
/// A domain may have this many predicates, and this many actions.
const DECLARATION_LIMIT: usize = 5000;
/// A predicate may have this many arguments.
pub(crate) const ARITY_LIMIT: usize = 6;
/// A domain may declare this many types.
const TYPE_LIMIT: usize = 1000;

/// Index of a type in [`Types`].
pub(crate) type TypeId = u16;
/// Index of a predicate in [`Domain::predicates`].
pub(crate) type PredicateId = u16;
/// Index of a variable in the frame of its action, axiom or goal.
pub(crate) type Slot = u16;

/// The type hierarchy.
#[derive(Debug, Default)]
pub(crate) struct Types {
    pub(crate) names: Vec<String>,
    ids: FxHashMap<String, TypeId>,
    /// Row by type: itself and all its supertypes.
    under: Vec<Vec<bool>>,
    /// Subtypes by type, as the text grammar walks them: every type below, sorted by name.
    below: Vec<Vec<TypeId>>,
    /// What [`Types::signatures`] has found so far.
    found: Mutex<FxHashMap<Box<[TypeId]>, Signatures>>,
}

/// Type signatures in the order they are visited.
pub(crate) type Signatures = Arc<[Box<[TypeId]>]>;

impl Types {
    pub(crate) fn id(&self, name: &str) -> Option<TypeId> {
        self.ids.get(name).copied()
    }

    /// Whether every object of type `narrow` is one of type `wide`.
    pub(crate) fn is_under(&self, narrow: TypeId, wide: TypeId) -> bool {
        self.under[usize::from(narrow)][usize::from(wide)]
    }

    /// The type signatures that facts are looked up under when a query names `types`, in the order TextWorld visits
    /// them. A signature can come twice: its breadth-first search marks the first generation only when it meets it
    /// again, and the planner hands over all ancestors of a type as parents.
    pub(crate) fn signatures(&self, types: &[TypeId], limit: usize) -> Option<Signatures> {
        let mut known = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signatures) = known.get(types) {
            return Some(signatures.clone());
        }
        let signatures: Signatures = self.search_signatures(types, limit)?.into();
        known.insert(types.into(), signatures.clone());
        Some(signatures)
    }

    fn search_signatures(&self, types: &[TypeId], limit: usize) -> Option<Vec<Box<[TypeId]>>> {
        let expand = |signature: &[TypeId]| {
            let mut wider = Vec::new();
            for position in 0..signature.len() {
                for &below in &self.below[usize::from(signature[position])] {
                    let mut next = signature.to_vec();
                    next[position] = below;
                    wider.push(next.into_boxed_slice());
                }
            }
            wider
        };
        let mut found: Vec<Box<[TypeId]>> = vec![types.into()];
        found.extend(expand(types));
        let mut seen = rustc_hash::FxHashSet::default();
        let mut next = 1;
        while next < found.len() {
            for signature in expand(&found[next]) {
                if seen.insert(signature.clone()) {
                    found.push(signature);
                }
            }
            if found.len() > limit {
                return None;
            }
            next += 1;
        }
        Some(found)
    }

    fn build(declared: &[(String, String, usize)]) -> Result<Self, Fault> {
        let mut types = Self::default();
        let mut times_declared: Vec<usize> = Vec::new();
        for name in
            std::iter::once("object").chain(declared.iter().map(|(name, _, _)| name.as_str()))
        {
            if let Some(id) = types.id(name) {
                times_declared[usize::from(id)] += 1;
                continue;
            }
            if types.names.len() == TYPE_LIMIT {
                return Err(Fault::new(
                    declared[0].2,
                    format!("more than {TYPE_LIMIT} types"),
                ));
            }
            types
                .ids
                .insert(name.to_owned(), types.names.len() as TypeId);
            types.names.push(name.to_owned());
            times_declared.push(1);
        }
        let count = types.names.len();
        let mut bases: Vec<Vec<TypeId>> = vec![Vec::new(); count];
        for (name, base, at) in declared {
            let unknown = || {
                Fault::new(
                    *at,
                    format!("type {name:?} is based on the unknown type {base:?}"),
                )
            };
            let base = types.id(base).ok_or_else(unknown)?;
            bases[usize::from(types.ids[name])].push(base);
        }
        types.under = vec![vec![false; count]; count];
        types.below = vec![Vec::new(); count];
        for id in 0..count {
            let mut todo = bases[id].clone();
            let mut above = vec![false; count];
            while let Some(base) = todo.pop() {
                if !std::mem::replace(&mut above[usize::from(base)], true) {
                    todo.extend(&bases[usize::from(base)]);
                }
            }
            // A type declared twice has no parents in TextWorld's hierarchy: its first, bare mention is kept.
            if times_declared[id] == 1 {
                for base in (0..count).filter(|base| above[*base]) {
                    types.below[base].push(id as TypeId);
                }
            }
            above[id] = true;
            types.under[id] = above;
        }
        let names = &types.names;
        for below in &mut types.below {
            below.sort_by(|a, b| names[usize::from(*a)].cmp(&names[usize::from(*b)]));
        }
        Ok(types)
    }
}

/// A predicate: its name and how many arguments it takes.
#[derive(Debug)]
pub(crate) struct Predicate {
    pub(crate) name: String,
    pub(crate) arity: usize,
}

/// A variable or the name of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Term {
    Slot(Slot),
    Name(Box<str>),
}

/// What a literal asks of its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    Predicate(PredicateId),
    Equal,
    /// Only ever negated: "no counterexample".
    Axiom(usize),
}

/// A test or its negation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Literal {
    pub(crate) at: usize,
    pub(crate) negated: bool,
    pub(crate) test: Test,
    pub(crate) args: Vec<Term>,
}

/// One alternative of a condition: a conjunction over the frame and the variables of its `exists`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Branch {
    pub(crate) variables: Vec<Slot>,
    pub(crate) literals: Vec<Literal>,
}

/// "Some counterexample exists" for one `forall`; its free variables are those of the frame it stands in.
#[derive(Debug)]
pub(crate) struct Axiom {
    pub(crate) free: Vec<Slot>,
    pub(crate) slot_types: Vec<Option<TypeId>>,
    pub(crate) branches: Vec<Branch>,
}

/// One effect literal with its `forall` variables and its `when` condition.
#[derive(Debug)]
pub(crate) struct Effect {
    pub(crate) variables: Vec<Slot>,
    pub(crate) conditions: Arc<[Branch]>,
    pub(crate) literal: Literal,
}

/// An action; the first slots of its frame are its parameters.
#[derive(Debug)]
pub(crate) struct Action {
    pub(crate) at: usize,
    pub(crate) name: String,
    /// Names without `?`, and the declared type's name.
    pub(crate) parameters: Vec<(String, String)>,
    /// Type of every slot; `None` is a type without objects.
    pub(crate) slot_types: Vec<Option<TypeId>>,
    pub(crate) branches: Vec<Branch>,
    pub(crate) effects: Vec<Effect>,
}

/// A domain.
#[derive(Debug, Default)]
pub(crate) struct Domain {
    pub(crate) name: String,
    pub(crate) types: Types,
    pub(crate) predicates: Vec<Predicate>,
    pub(crate) predicate_ids: FxHashMap<String, PredicateId>,
    pub(crate) constants: Vec<(String, TypeId)>,
    pub(crate) actions: Vec<Action>,
    pub(crate) axioms: Vec<Axiom>,
}

/// A problem, with objects by name order.
#[derive(Debug)]
pub(crate) struct Problem {
    /// Name and type, sorted by name; an object's place here is its number.
    pub(crate) objects: Vec<(String, TypeId)>,
    /// True facts: predicate and the numbers of its arguments, without doubles.
    pub(crate) init: Vec<(PredicateId, [u16; ARITY_LIMIT])>,
    /// Whether an object occurs in the initial facts; only those get a display name.
    pub(crate) mentioned: Vec<bool>,
    pub(crate) goal_at: usize,
    pub(crate) goal: Axiom,
    /// Axioms of the goal; their numbers follow those of the domain.
    pub(crate) goal_axioms: Vec<Axiom>,
}

/// A condition in negation normal form.
enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Exists(Vec<Slot>, Box<Condition>),
    Forall(Vec<Slot>, Box<Condition>),
    Literal(Literal),
}

/// The variables in scope and the slots handed out so far.
#[derive(Default)]
struct Scope<'a> {
    names: Vec<(&'a str, Slot)>,
    slot_types: Vec<Option<TypeId>>,
}

impl<'a> Scope<'a> {
    fn declare(&mut self, typed: &[Typed<'a>], types: &Types) -> Result<Vec<Slot>, Fault> {
        let mut slots = Vec::new();
        for variable in typed {
            if !variable.name.starts_with('?') {
                return Err(Fault::new(
                    variable.at,
                    format!("expected a variable, found {:?}", variable.name),
                ));
            }
            if self.slot_types.len() == VARIABLE_LIMIT {
                return Err(Fault::new(
                    variable.at,
                    format!("more than {VARIABLE_LIMIT} variables"),
                ));
            }
            let slot = self.slot_types.len() as Slot;
            self.slot_types.push(types.id(variable.type_name));
            self.names.push((variable.name, slot));
            slots.push(slot);
        }
        Ok(slots)
    }

    fn slot(&self, name: &str) -> Option<Slot> {
        self.names
            .iter()
            .rev()
            .find(|(known, _)| *known == name)
            .map(|(_, slot)| *slot)
    }
}

/// A name with the type written after its dash.
struct Typed<'a> {
    at: usize,
    name: &'a str,
    type_name: &'a str,
}

fn typed_list<'a>(nodes: &[Node<'a>], default: &'a str) -> Result<Vec<Typed<'a>>, Fault> {
    let mut typed = Vec::new();
    let mut waiting = 0;
    let mut nodes = nodes.iter();
    while let Some(node) = nodes.next() {
        let name = node.word()?;
        if name == "-" {
            let type_node = nodes
                .next()
                .ok_or_else(|| Fault::new(node.at, "no type after '-'"))?;
            let type_name = type_node.word().map_err(|_| {
                Fault::new(
                    type_node.at,
                    "a type must be one word; (either …) is not supported",
                )
            })?;
            for entry in &mut typed[waiting..] {
                let entry: &mut Typed<'_> = entry;
                entry.type_name = type_name;
            }
            waiting = typed.len();
        } else {
            typed.push(Typed {
                at: node.at,
                name,
                type_name: default,
            });
        }
    }
    Ok(typed)
}

impl Domain {
    /// Reads a lower-case domain text.
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        let root = sexpr::parse(text)?;
        let mut domain = Self::default();
        let (name, sections) = definition(&root, "domain")?;
        name.clone_into(&mut domain.name);
        let mut declared_types = Vec::new();
        for section in sections {
            if let (":types", rest) = section.headed()? {
                for typed in typed_list(rest, "object")? {
                    declared_types.push((
                        typed.name.to_owned(),
                        typed.type_name.to_owned(),
                        typed.at,
                    ));
                }
            }
        }
        domain.types = Types::build(&declared_types)?;
        for section in sections {
            if let (":predicates", rest) = section.headed()? {
                domain.declare_predicates(rest)?;
            }
        }
        for section in sections {
            match section.headed()? {
                (":requirements" | ":types" | ":predicates" | ":functions", _) => {}
                (":constants", rest) => {
                    for typed in typed_list(rest, "object")? {
                        let id = domain.object_type(&typed)?;
                        domain.constants.push((typed.name.to_owned(), id));
                    }
                }
                (":action", rest) => domain.parse_action(section.at, rest)?,
                (":derived", _) => {
                    return Err(Fault::new(
                        section.at,
                        "derived predicates are not supported",
                    ));
                }
                (other, _) => {
                    return Err(Fault::new(section.at, format!("unknown section {other:?}")));
                }
            }
        }
        Ok(domain)
    }

    fn declare_predicates(&mut self, nodes: &[Node<'_>]) -> Result<(), Fault> {
        for node in nodes {
            let (name, parameters) = node.headed()?;
            let arity = typed_list(parameters, "object")?.len();
            if arity > ARITY_LIMIT {
                return Err(Fault::new(
                    node.at,
                    format!("predicate {name:?} has more than {ARITY_LIMIT} arguments"),
                ));
            }
            if self.predicates.len() == DECLARATION_LIMIT {
                return Err(Fault::new(
                    node.at,
                    format!("more than {DECLARATION_LIMIT} predicates"),
                ));
            }
            if self
                .predicate_ids
                .insert(name.to_owned(), self.predicates.len() as PredicateId)
                .is_some()
            {
                return Err(Fault::new(
                    node.at,
                    format!("predicate {name:?} is declared twice"),
                ));
            }
            self.predicates.push(Predicate {
                name: name.to_owned(),
                arity,
            });
        }
        Ok(())
    }

    fn object_type(&self, typed: &Typed<'_>) -> Result<TypeId, Fault> {
        self.types.id(typed.type_name).ok_or_else(|| {
            Fault::new(
                typed.at,
                format!(
                    "object {:?} has the unknown type {:?}",
                    typed.name, typed.type_name
                ),
            )
        })
    }

    fn parse_action<'a>(&mut self, at: usize, nodes: &[Node<'a>]) -> Result<(), Fault> {
        let (name_node, fields) = nodes
            .split_first()
            .ok_or_else(|| Fault::new(at, "an action without a name"))?;
        let name = name_node.word()?;
        if self.actions.iter().any(|action| action.name == name) {
            return Err(Fault::new(
                name_node.at,
                format!("action {name:?} is defined twice"),
            ));
        }
        if self.actions.len() == DECLARATION_LIMIT {
            return Err(Fault::new(
                at,
                format!("more than {DECLARATION_LIMIT} actions"),
            ));
        }
        let mut scope = Scope::default();
        let mut parameters = Vec::new();
        let mut branches = vec![Branch::default()];
        let mut effects = Vec::new();
        let mut axioms = std::mem::take(&mut self.axioms);
        let mut fields = fields.iter();
        while let Some(field) = fields.next() {
            let value = fields
                .next()
                .ok_or_else(|| Fault::new(field.at, "a field without a value"))?;
            match field.word()? {
                ":parameters" => {
                    let typed = typed_list(value.list()?, "object")?;
                    scope.declare(&typed, &self.types)?;
                    parameters = typed
                        .iter()
                        .map(|t| (t.name[1..].to_owned(), t.type_name.to_owned()))
                        .collect();
                }
                ":precondition" => {
                    if !value.list()?.is_empty() {
                        let condition = self.parse_condition(value, false, &mut scope)?;
                        branches = unfold(condition, &mut axioms, 0, value.at)?;
                    }
                }
                ":effect" => {
                    if !value.list()?.is_empty() {
                        let mut context = EffectContext {
                            scope: &mut scope,
                            axioms: &mut axioms,
                            effects: &mut effects,
                        };
                        self.parse_effect(value, &mut context, &[], &[Branch::default()].into())?;
                    }
                }
                other => {
                    return Err(Fault::new(
                        field.at,
                        format!("unknown field {other:?} in action {name:?}"),
                    ));
                }
            }
        }
        self.axioms = axioms;
        // The planner drops an action that changes nothing at all.
        if !effects.is_empty() {
            let slot_types = scope.slot_types;
            for axiom in &mut self.axioms {
                if axiom.slot_types.is_empty() {
                    axiom.slot_types.clone_from(&slot_types);
                }
            }
            self.actions.push(Action {
                at,
                name: name.to_owned(),
                parameters,
                slot_types,
                branches,
                effects,
            });
        }
        Ok(())
    }

    fn parse_effect<'a>(
        &self,
        node: &Node<'a>,
        context: &mut EffectContext<'_, 'a>,
        variables: &[Slot],
        conditions: &Arc<[Branch]>,
    ) -> Result<(), Fault> {
        let (head, rest) = node.headed()?;
        match (head, rest) {
            ("and", parts) => parts
                .iter()
                .try_for_each(|part| self.parse_effect(part, context, variables, conditions)),
            ("forall", [typed, effect]) => {
                let outside = context.scope.names.len();
                let more = context
                    .scope
                    .declare(&typed_list(typed.list()?, "object")?, &self.types)?;
                let variables = [variables, &more].concat();
                self.parse_effect(effect, context, &variables, conditions)?;
                context.scope.names.truncate(outside);
                Ok(())
            }
            ("when", [condition, effect]) => {
                let inner = self.parse_condition(condition, false, context.scope)?;
                let inner = unfold(inner, context.axioms, 0, condition.at)?;
                let both = product(conditions, &inner, condition.at)?;
                self.parse_effect(effect, context, variables, &both.into())
            }
            ("increase", [amount, _]) => match amount.headed()? {
                ("total-cost", []) => Ok(()),
                _ => Err(Fault::new(amount.at, "only (total-cost) can be increased")),
            },
            ("forall" | "when" | "increase", _) => {
                Err(Fault::new(node.at, format!("{head:?} takes two parts")))
            }
            _ => {
                let literal = self.parse_literal(node, false, context.scope)?;
                if !matches!(literal.test, Test::Predicate(_)) {
                    return Err(Fault::new(node.at, "only a predicate can be changed"));
                }
                context.effects.push(Effect {
                    variables: variables.to_vec(),
                    conditions: conditions.clone(),
                    literal,
                });
                Ok(())
            }
        }
    }

    fn parse_condition<'a>(
        &self,
        node: &Node<'a>,
        negated: bool,
        scope: &mut Scope<'a>,
    ) -> Result<Condition, Fault> {
        let (head, rest) = node.headed()?;
        match (head, rest) {
            ("not", [part]) => self.parse_condition(part, !negated, scope),
            ("and" | "or", parts) => {
                let parts = parts
                    .iter()
                    .map(|part| self.parse_condition(part, negated, scope))
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(if (head == "and") == negated {
                    Condition::Any(parts)
                } else {
                    Condition::All(parts)
                })
            }
            ("imply", [premise, conclusion]) => {
                let parts = vec![
                    self.parse_condition(premise, !negated, scope)?,
                    self.parse_condition(conclusion, negated, scope)?,
                ];
                Ok(if negated {
                    Condition::All(parts)
                } else {
                    Condition::Any(parts)
                })
            }
            ("exists" | "forall", [typed, part]) => {
                let outside = scope.names.len();
                let slots = scope.declare(&typed_list(typed.list()?, "object")?, &self.types)?;
                let part = Box::new(self.parse_condition(part, negated, scope)?);
                scope.names.truncate(outside);
                Ok(if (head == "exists") == negated {
                    Condition::Forall(slots, part)
                } else {
                    Condition::Exists(slots, part)
                })
            }
            ("not" | "imply" | "exists" | "forall", _) => Err(Fault::new(
                node.at,
                format!("wrong number of parts in {head:?}"),
            )),
            _ => Ok(Condition::Literal(
                self.parse_literal(node, negated, scope)?,
            )),
        }
    }

    fn parse_literal(
        &self,
        node: &Node<'_>,
        negated: bool,
        scope: &Scope<'_>,
    ) -> Result<Literal, Fault> {
        let (head, rest) = node.headed()?;
        if let ("not", [part]) = (head, rest) {
            return self.parse_literal(part, !negated, scope);
        }
        let (test, arity) = if let Some(&id) = self.predicate_ids.get(head) {
            (Test::Predicate(id), self.predicates[usize::from(id)].arity)
        } else if head == "=" {
            (Test::Equal, 2)
        } else if self.types.id(head).is_some() {
            return Err(Fault::new(
                node.at,
                format!("type {head:?} used as a predicate, which is not supported"),
            ));
        } else {
            return Err(Fault::new(node.at, format!("unknown predicate {head:?}")));
        };
        if rest.len() != arity {
            return Err(Fault::new(
                node.at,
                format!("{head:?} takes {arity} arguments, found {}", rest.len()),
            ));
        }
        let term = |node: &Node<'_>| {
            let name = node.word()?;
            if !name.starts_with('?') {
                return Ok(Term::Name(name.into()));
            }
            let unbound = || Fault::new(node.at, format!("unbound variable {name:?}"));
            scope.slot(name).map(Term::Slot).ok_or_else(unbound)
        };
        let args = rest.iter().map(term).collect::<Result<_, _>>()?;
        Ok(Literal {
            at: node.at,
            negated,
            test,
            args,
        })
    }
}

/// Where the effects of an action are gathered.
struct EffectContext<'s, 'a> {
    scope: &'s mut Scope<'a>,
    axioms: &'s mut Vec<Axiom>,
    effects: &'s mut Vec<Effect>,
}

/// Unfolds a condition into alternatives; a `forall` becomes an axiom whose number counts from `first_axiom`.
fn unfold(
    condition: Condition,
    axioms: &mut Vec<Axiom>,
    first_axiom: usize,
    at: usize,
) -> Result<Vec<Branch>, Fault> {
    match condition {
        Condition::Literal(literal) => Ok(vec![Branch {
            variables: Vec::new(),
            literals: vec![literal],
        }]),
        Condition::All(parts) => {
            let mut branches = vec![Branch::default()];
            for part in parts {
                branches = with_all(branches, &unfold(part, axioms, first_axiom, at)?, at)?;
            }
            Ok(branches)
        }
        Condition::Any(parts) => {
            let mut branches = Vec::new();
            for part in parts {
                branches.extend(unfold(part, axioms, first_axiom, at)?);
                if branches.len() > BRANCH_LIMIT {
                    return Err(too_many_branches(at));
                }
            }
            Ok(branches)
        }
        Condition::Exists(slots, part) => {
            let mut branches = unfold(*part, axioms, first_axiom, at)?;
            for branch in &mut branches {
                branch.variables.splice(0..0, slots.iter().copied());
            }
            Ok(branches)
        }
        Condition::Forall(slots, part) => {
            let counterexample = Condition::Exists(slots, Box::new(negate(*part)));
            let branches = unfold(counterexample, axioms, first_axiom, at)?;
            let free = free_slots(&branches);
            let args = free.iter().map(|slot| Term::Slot(*slot)).collect();
            let test = Test::Axiom(first_axiom + axioms.len());
            axioms.push(Axiom {
                free,
                slot_types: Vec::new(),
                branches,
            });
            Ok(vec![Branch {
                variables: Vec::new(),
                literals: vec![Literal {
                    at,
                    negated: true,
                    test,
                    args,
                }],
            }])
        }
    }
}

fn negate(condition: Condition) -> Condition {
    match condition {
        Condition::All(parts) => Condition::Any(parts.into_iter().map(negate).collect()),
        Condition::Any(parts) => Condition::All(parts.into_iter().map(negate).collect()),
        Condition::Exists(slots, part) => Condition::Forall(slots, Box::new(negate(*part))),
        Condition::Forall(slots, part) => Condition::Exists(slots, Box::new(negate(*part))),
        Condition::Literal(literal) => Condition::Literal(Literal {
            negated: !literal.negated,
            ..literal
        }),
    }
}

/// The product of alternatives; a single one on the right is added in place.
fn with_all(mut left: Vec<Branch>, right: &[Branch], at: usize) -> Result<Vec<Branch>, Fault> {
    let [only] = right else {
        return product(&left, right, at);
    };
    for branch in &mut left {
        branch.variables.extend(&only.variables);
        branch.literals.extend_from_slice(&only.literals);
        if branch.literals.len() > LITERAL_LIMIT {
            return Err(too_many_literals(at));
        }
    }
    Ok(left)
}

fn product(left: &[Branch], right: &[Branch], at: usize) -> Result<Vec<Branch>, Fault> {
    if left.len() * right.len() > BRANCH_LIMIT {
        return Err(too_many_branches(at));
    }
    let longest = |branches: &[Branch]| {
        branches
            .iter()
            .map(|branch| branch.literals.len())
            .max()
            .unwrap_or(0)
    };
    if longest(left) + longest(right) > LITERAL_LIMIT {
        return Err(too_many_literals(at));
    }
    let join = |a: &Branch, b: &Branch| Branch {
        variables: [&a.variables[..], &b.variables].concat(),
        literals: [&a.literals[..], &b.literals].concat(),
    };
    Ok(left
        .iter()
        .flat_map(|a| right.iter().map(move |b| join(a, b)))
        .collect())
}

fn too_many_literals(at: usize) -> Fault {
    Fault::new(
        at,
        format!("a conjunction of more than {LITERAL_LIMIT} conditions"),
    )
}

fn too_many_branches(at: usize) -> Fault {
    Fault::new(
        at,
        format!("the condition unfolds into more than {BRANCH_LIMIT} alternatives"),
    )
}

fn free_slots(branches: &[Branch]) -> Vec<Slot> {
    let mut free = Vec::new();
    for branch in branches {
        for term in branch.literals.iter().flat_map(|literal| &literal.args) {
            if let Term::Slot(slot) = term
                && !branch.variables.contains(slot)
                && !free.contains(slot)
            {
                free.push(*slot);
            }
        }
    }
    free
}

/// Unwraps `(define (KIND name) section…)`.
fn definition<'n, 'a>(root: &'n Node<'a>, kind: &str) -> Result<(&'a str, &'n [Node<'a>]), Fault> {
    let (head, rest) = root.headed()?;
    if head != "define" {
        return Err(Fault::new(
            root.at,
            format!("expected (define …), found ({head} …)"),
        ));
    }
    let (title, sections) = rest
        .split_first()
        .ok_or_else(|| Fault::new(root.at, "an empty definition"))?;
    match title.headed()? {
        (found, [name]) if found == kind => Ok((name.word()?, sections)),
        _ => Err(Fault::new(title.at, format!("expected ({kind} NAME)"))),
    }
}

impl Problem {
    /// Reads a lower-case problem text.
    pub(crate) fn parse(text: &str, domain: &Domain) -> Result<Self, Fault> {
        let root = sexpr::parse(text)?;
        let (_, sections) = definition(&root, "problem")?;
        let mut objects: Vec<(String, TypeId)> = domain.constants.clone();
        let (mut init, mut goal) = (None, None);
        for section in sections {
            match section.headed()? {
                (":domain", [name]) if name.word()? == domain.name => {}
                (":domain", _) => {
                    return Err(Fault::new(
                        section.at,
                        format!("the problem is not of domain {:?}", domain.name),
                    ));
                }
                (":objects", rest) => {
                    for typed in typed_list(rest, "object")? {
                        objects.push((typed.name.to_owned(), domain.object_type(&typed)?));
                    }
                }
                (":init", rest) => init = Some(rest),
                (":goal", [condition]) => goal = Some(condition),
                (":requirements" | ":metric", _) => {}
                (other, _) => {
                    return Err(Fault::new(section.at, format!("unknown section {other:?}")));
                }
            }
        }
        let init_nodes = init.ok_or_else(|| Fault::new(root.at, "the problem has no (:init …)"))?;
        let goal_node = goal.ok_or_else(|| Fault::new(root.at, "the problem has no (:goal …)"))?;
        if objects.len() > super::OBJECT_LIMIT {
            return Err(Fault::new(
                root.at,
                format!("more than {} objects", super::OBJECT_LIMIT),
            ));
        }
        if objects.len() * domain.predicates.len() > super::OBJECT_PREDICATE_LIMIT {
            let reason = format!(
                "objects times predicates is more than {}",
                super::OBJECT_PREDICATE_LIMIT
            );
            return Err(Fault::new(root.at, reason));
        }
        objects.sort_unstable();
        if let Some(pair) = objects.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Fault::new(
                root.at,
                format!("object {:?} is declared twice", pair[0].0),
            ));
        }
        let mut scope = Scope::default();
        let mut goal_axioms = Vec::new();
        let condition = domain.parse_condition(goal_node, false, &mut scope)?;
        let branches = unfold(
            condition,
            &mut goal_axioms,
            domain.axioms.len(),
            goal_node.at,
        )?;
        for axiom in &mut goal_axioms {
            axiom.slot_types.clone_from(&scope.slot_types);
        }
        let goal = Axiom {
            free: Vec::new(),
            slot_types: scope.slot_types,
            branches,
        };
        let mut problem = Self {
            mentioned: vec![false; objects.len()],
            objects,
            init: Vec::with_capacity(init_nodes.len()),
            goal_at: goal_node.at,
            goal,
            goal_axioms,
        };
        problem.read_facts(init_nodes, domain)?;
        Ok(problem)
    }

    fn read_facts(&mut self, nodes: &[Node<'_>], domain: &Domain) -> Result<(), Fault> {
        let numbers: FxHashMap<&str, u16> = self
            .objects
            .iter()
            .enumerate()
            .map(|(number, (name, _))| (name.as_str(), number as u16))
            .collect();
        let number = |node: &Node<'_>| {
            let name = node.word()?;
            numbers
                .get(name)
                .copied()
                .ok_or_else(|| Fault::new(node.at, format!("unknown object {name:?}")))
        };
        let mut seen = rustc_hash::FxHashSet::default();
        let mut denied = Vec::new();
        for node in nodes {
            let (mut head, mut rest) = node.headed()?;
            let mut holds = true;
            if let (
                "=",
                [
                    function,
                    Node {
                        kind: Kind::Word(_),
                        ..
                    },
                ],
            ) = (head, rest)
            {
                // A number for a function: nothing reads it, but the objects in it count as mentioned.
                if let Kind::List(parts) = &function.kind {
                    for part in parts.iter().skip(1) {
                        self.mentioned[usize::from(number(part)?)] = true;
                    }
                }
                continue;
            }
            if let ("not", [inner]) = (head, rest) {
                (head, rest) = inner.headed()?;
                holds = false;
            }
            let unknown = || Fault::new(node.at, format!("unknown predicate {head:?}"));
            let id = domain
                .predicate_ids
                .get(head)
                .copied()
                .ok_or_else(unknown)?;
            let arity = domain.predicates[usize::from(id)].arity;
            if rest.len() != arity {
                return Err(Fault::new(
                    node.at,
                    format!("{head:?} takes {arity} arguments, found {}", rest.len()),
                ));
            }
            let mut args = [0; ARITY_LIMIT];
            for (arg, node) in args.iter_mut().zip(rest) {
                *arg = number(node)?;
            }
            if !holds {
                denied.push((node.at, (id, args)));
            } else if seen.insert((id, args)) {
                for arg in &args[..arity] {
                    self.mentioned[usize::from(*arg)] = true;
                }
                self.init.push((id, args));
            }
        }
        match denied.iter().find(|(_, fact)| seen.contains(fact)) {
            Some((at, _)) => Err(Fault::new(*at, "this fact is both true and false")),
            None => Ok(()),
        }
    }
}
