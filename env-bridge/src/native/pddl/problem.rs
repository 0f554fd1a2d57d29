//! Parses a problem: its objects, initial facts and goal.

use super::condition::{Axiom, PredicateId, expand};
use super::domain::{ARITY_LIMIT, Domain};
use super::list::{definition, typed_list};
use super::sexpr::{self, Sexpr, SexprKind};
use super::types::TypeId;
use super::variables::VariableScope;
use crate::error::Fault;
use crate::native::limits::{OBJECT_LIMIT, OBJECT_PREDICATE_LIMIT};
use rustc_hash::{FxHashMap, FxHashSet};

/// A true fact: its predicate and the numbers of its arguments.
type InitialFact = (PredicateId, [u16; ARITY_LIMIT]);

/// A problem.
#[derive(Debug)]
pub(crate) struct PddlProblem {
    /// Name and type of every object, sorted by name. An object's index is its number.
    pub(crate) objects: Vec<(String, TypeId)>,
    /// The initial facts, without duplicates.
    pub(crate) init: Vec<InitialFact>,
    /// By object: whether it occurs in the initial facts. Only those objects get a display name.
    pub(crate) mentioned: Vec<bool>,
    pub(crate) goal_at: usize,
    pub(crate) goal: Axiom,
    /// The axioms of the goal. Their numbers follow those of the domain.
    pub(crate) goal_axioms: Vec<Axiom>,
}

impl PddlProblem {
    /// Parses a lower-case problem text.
    pub(crate) fn parse(text: &str, domain: &Domain) -> Result<Self, Fault> {
        let root = sexpr::parse(text)?;
        let (_, sections) = definition(&root, "problem")?;
        let mut objects: Vec<(String, TypeId)> = domain.constants.clone();
        let mut init = None;
        let mut goal = None;
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
                    for typed in typed_list(rest)? {
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
        check_objects(&mut objects, domain, root.at)?;
        let (goal, goal_axioms) = parse_goal(goal_node, domain)?;
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

    fn read_facts(&mut self, nodes: &[Sexpr<'_>], domain: &Domain) -> Result<(), Fault> {
        let numbers: FxHashMap<&str, u16> = self
            .objects
            .iter()
            .enumerate()
            .map(|(number, (name, _))| (name.as_str(), number as u16))
            .collect();
        let mut seen = FxHashSet::default();
        let mut denied = Vec::new();
        for node in nodes {
            let (mut head, mut rest) = node.headed()?;
            if let Some(function) = assigned_function(head, rest) {
                // Nothing reads the value of a function, but its objects count as mentioned.
                if let SexprKind::List(parts) = &function.kind {
                    for part in parts.iter().skip(1) {
                        self.mentioned[usize::from(object_number(part, &numbers)?)] = true;
                    }
                }
                continue;
            }
            let mut holds = true;
            if let ("not", [inner]) = (head, rest) {
                (head, rest) = inner.headed()?;
                holds = false;
            }
            let id = domain
                .predicate_ids
                .get(head)
                .copied()
                .ok_or_else(|| Fault::new(node.at, format!("unknown predicate {head:?}")))?;
            let arity = domain.predicates[usize::from(id)].arity;
            if rest.len() != arity {
                return Err(Fault::new(
                    node.at,
                    format!("{head:?} takes {arity} arguments, found {}", rest.len()),
                ));
            }
            let mut args = [0; ARITY_LIMIT];
            for (arg, node) in args.iter_mut().zip(rest) {
                *arg = object_number(node, &numbers)?;
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

/// Sorts the objects by name, and checks their number and that no name occurs twice.
fn check_objects(
    objects: &mut [(String, TypeId)],
    domain: &Domain,
    at: usize,
) -> Result<(), Fault> {
    if objects.len() > OBJECT_LIMIT {
        return Err(Fault::new(at, format!("more than {OBJECT_LIMIT} objects")));
    }
    if objects.len() * domain.predicates.len() > OBJECT_PREDICATE_LIMIT {
        return Err(Fault::new(
            at,
            format!("objects times predicates is more than {OBJECT_PREDICATE_LIMIT}"),
        ));
    }
    objects.sort_unstable();
    match objects.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(Fault::new(
            at,
            format!("object {:?} is declared twice", pair[0].0),
        )),
        None => Ok(()),
    }
}

/// Returns the goal and its axioms.
fn parse_goal<'a>(node: &Sexpr<'a>, domain: &Domain) -> Result<(Axiom, Vec<Axiom>), Fault> {
    let mut scope = VariableScope::default();
    let mut axioms = Vec::new();
    let condition = domain.parse_condition(node, false, &mut scope)?;
    let branches = expand(condition, &mut axioms, domain.axioms.len(), node.at)?;
    for axiom in &mut axioms {
        axiom.slot_types.clone_from(&scope.slot_types);
    }
    let goal = Axiom {
        free: Vec::new(),
        slot_types: scope.slot_types,
        branches,
    };
    Ok((goal, axioms))
}

/// Returns the function of `(= function number)`, or `None` if the entry is something else.
fn assigned_function<'n, 'a>(head: &str, rest: &'n [Sexpr<'a>]) -> Option<&'n Sexpr<'a>> {
    match (head, rest) {
        ("=", [function, value]) if matches!(value.kind, SexprKind::Word(_)) => Some(function),
        _ => None,
    }
}

fn object_number(node: &Sexpr<'_>, numbers: &FxHashMap<&str, u16>) -> Result<u16, Fault> {
    let name = node.word()?;
    numbers
        .get(name)
        .copied()
        .ok_or_else(|| Fault::new(node.at, format!("unknown object {name:?}")))
}
