//! Parses a domain: its types, predicates, constants and actions.

use super::condition::{
    Axiom, Condition, ConditionBranch, Literal, PredicateId, Term, Test, expand, product,
};
use super::list::{TypedName, definition, typed_list};
use super::sexpr::{self, Sexpr};
use super::types::{TypeDeclaration, TypeId, Types};
use super::variables::{Slot, VariableScope};
use crate::error::Fault;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// The largest number of predicates in a domain, and of actions.
const DECLARATION_LIMIT: usize = 5000;
/// The largest number of arguments of a predicate.
pub(crate) const ARITY_LIMIT: usize = 6;

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

/// A predicate: its name and its number of arguments.
#[derive(Debug)]
pub(crate) struct Predicate {
    pub(crate) name: String,
    pub(crate) arity: usize,
}

/// An action. The first slots of its frame are its parameters.
#[derive(Debug)]
pub(crate) struct Action {
    pub(crate) at: usize,
    pub(crate) name: String,
    /// Each parameter's name without `?`, and the name of its declared type.
    pub(crate) parameters: Vec<(String, String)>,
    /// The type of every slot, or `None` if the type has no objects.
    pub(crate) slot_types: Vec<Option<TypeId>>,
    pub(crate) branches: Vec<ConditionBranch>,
    pub(crate) effects: Vec<ActionEffect>,
}

/// One effect literal with its `forall` variables and its `when` condition.
#[derive(Debug)]
pub(crate) struct ActionEffect {
    pub(crate) variables: Vec<Slot>,
    pub(crate) conditions: Arc<[ConditionBranch]>,
    pub(crate) literal: Literal,
}

impl Domain {
    /// Parses a lower-case domain text.
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        let root = sexpr::parse(text)?;
        let mut domain = Self::default();
        let (name, sections) = definition(&root, "domain")?;
        name.clone_into(&mut domain.name);
        let mut declared_types = Vec::new();
        for section in sections {
            if let (":types", rest) = section.headed()? {
                declared_types.extend(typed_list(rest)?.iter().map(|typed| TypeDeclaration {
                    name: typed.name.to_owned(),
                    base: typed.type_name.to_owned(),
                    at: typed.at,
                }));
            }
        }
        domain.types = Types::build(&declared_types)?;
        for section in sections {
            if let (":predicates", rest) = section.headed()? {
                domain.declare_predicates(rest)?;
            }
        }
        for section in sections {
            domain.parse_section(section)?;
        }
        Ok(domain)
    }

    /// Parses a section that is neither `:types` nor `:predicates`.
    fn parse_section(&mut self, section: &Sexpr<'_>) -> Result<(), Fault> {
        match section.headed()? {
            (":requirements" | ":types" | ":predicates" | ":functions", _) => Ok(()),
            (":constants", rest) => {
                for typed in typed_list(rest)? {
                    let id = self.object_type(&typed)?;
                    self.constants.push((typed.name.to_owned(), id));
                }
                Ok(())
            }
            (":action", rest) => self.parse_action(section.at, rest),
            (":derived", _) => Err(Fault::new(
                section.at,
                "derived predicates are not supported",
            )),
            (other, _) => Err(Fault::new(section.at, format!("unknown section {other:?}"))),
        }
    }

    fn declare_predicates(&mut self, nodes: &[Sexpr<'_>]) -> Result<(), Fault> {
        for node in nodes {
            let (name, parameters) = node.headed()?;
            let arity = typed_list(parameters)?.len();
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
            let id = self.predicates.len() as PredicateId;
            if self.predicate_ids.insert(name.to_owned(), id).is_some() {
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

    /// Returns the type of a declared object or constant.
    pub(super) fn object_type(&self, typed: &TypedName<'_>) -> Result<TypeId, Fault> {
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

    fn parse_action<'a>(&mut self, at: usize, nodes: &[Sexpr<'a>]) -> Result<(), Fault> {
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
        let mut scope = VariableScope::default();
        let mut parameters = Vec::new();
        let mut branches = vec![ConditionBranch::default()];
        let mut effects = Vec::new();
        let mut axioms = std::mem::take(&mut self.axioms);
        let mut fields = fields.iter();
        while let Some(field) = fields.next() {
            let value = fields
                .next()
                .ok_or_else(|| Fault::new(field.at, "a field without a value"))?;
            match field.word()? {
                ":parameters" => {
                    let typed = typed_list(value.list()?)?;
                    scope.declare(&typed, &self.types)?;
                    parameters = typed
                        .iter()
                        .map(|t| (t.name[1..].to_owned(), t.type_name.to_owned()))
                        .collect();
                }
                ":precondition" => {
                    if !value.list()?.is_empty() {
                        let condition = self.parse_condition(value, false, &mut scope)?;
                        branches = expand(condition, &mut axioms, 0, value.at)?;
                    }
                }
                ":effect" => {
                    if !value.list()?.is_empty() {
                        let mut context = EffectContext {
                            scope: &mut scope,
                            axioms: &mut axioms,
                            effects: &mut effects,
                        };
                        let always = [ConditionBranch::default()].into();
                        self.parse_effect(value, &mut context, &[], &always)?;
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
        // The planner drops an action if it has no effects.
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
        node: &Sexpr<'a>,
        context: &mut EffectContext<'_, 'a>,
        variables: &[Slot],
        conditions: &Arc<[ConditionBranch]>,
    ) -> Result<(), Fault> {
        let (head, rest) = node.headed()?;
        match (head, rest) {
            ("and", parts) => parts
                .iter()
                .try_for_each(|part| self.parse_effect(part, context, variables, conditions)),
            ("forall", [typed, effect]) => {
                let outside = context.scope.depth();
                let more = context
                    .scope
                    .declare(&typed_list(typed.list()?)?, &self.types)?;
                let variables = [variables, &more].concat();
                self.parse_effect(effect, context, &variables, conditions)?;
                context.scope.leave(outside);
                Ok(())
            }
            ("when", [condition, effect]) => {
                let inner = self.parse_condition(condition, false, context.scope)?;
                let inner = expand(inner, context.axioms, 0, condition.at)?;
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
                context.effects.push(ActionEffect {
                    variables: variables.to_vec(),
                    conditions: conditions.clone(),
                    literal,
                });
                Ok(())
            }
        }
    }

    /// Parses a condition, or its negation, into negation normal form.
    pub(super) fn parse_condition<'a>(
        &self,
        node: &Sexpr<'a>,
        negated: bool,
        scope: &mut VariableScope<'a>,
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
                let outside = scope.depth();
                let slots = scope.declare(&typed_list(typed.list()?)?, &self.types)?;
                let part = Box::new(self.parse_condition(part, negated, scope)?);
                scope.leave(outside);
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
        node: &Sexpr<'_>,
        negated: bool,
        scope: &VariableScope<'_>,
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
        let args = rest
            .iter()
            .map(|node| parse_term(node, scope))
            .collect::<Result<_, _>>()?;
        Ok(Literal {
            at: node.at,
            negated,
            test,
            args,
        })
    }
}

/// Where the parts of an action's effects are collected.
struct EffectContext<'s, 'a> {
    scope: &'s mut VariableScope<'a>,
    axioms: &'s mut Vec<Axiom>,
    effects: &'s mut Vec<ActionEffect>,
}

fn parse_term(node: &Sexpr<'_>, scope: &VariableScope<'_>) -> Result<Term, Fault> {
    let name = node.word()?;
    if !name.starts_with('?') {
        return Ok(Term::Name(name.into()));
    }
    scope
        .slot(name)
        .map(Term::Slot)
        .ok_or_else(|| Fault::new(node.at, format!("unbound variable {name:?}")))
}
