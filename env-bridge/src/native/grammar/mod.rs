//! The text grammar: the TWL2 document, its rules, and the program they are compiled into.
//!
//! Three parsers follow TextWorld's:
//! - the document (`grammar :: """…"""`, `action NAME { template :: "…"; feedback :: "…"; }`);
//! - the rule text (`#symbol#`, `{expression | query}`, `[{expression | query}]`, plain text);
//! - the query (`p(x:type) & not_q(x:type, y:type)`).
//!
//! If a character fits none of the forms, the rule text ends there without an error, as it does in
//! TextWorld.
//!
//! A symbol is compiled once for every list of placeholders that it can be called with, because the
//! free placeholders of a query depend on what the caller has bound. The compiler reads the
//! domain's types and predicates, but no object and no fact.

mod compile;
mod document;
mod expression;
mod program;
mod rule_text;
mod scope;

pub(crate) use compile::compile;
pub(crate) use program::{
    FramePlace, ListWords, ObjectAttribute, Piece, Program, QueryArgument, QueryAtom,
};
