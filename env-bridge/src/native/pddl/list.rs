//! The two list forms that domains and problems share: the definition and the typed list.

use super::sexpr::Sexpr;
use crate::error::Fault;

/// A name and the type written after its dash.
pub(super) struct TypedName<'a> {
    pub(super) at: usize,
    pub(super) name: &'a str,
    pub(super) type_name: &'a str,
}

/// Reads a list of names with optional types, such as `?a ?b - thing ?c`. If a name has no type, it
/// gets the type `object`.
pub(super) fn typed_list<'a>(nodes: &[Sexpr<'a>]) -> Result<Vec<TypedName<'a>>, Fault> {
    let mut typed: Vec<TypedName<'a>> = Vec::new();
    let mut first_untyped = 0;
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
            for entry in &mut typed[first_untyped..] {
                entry.type_name = type_name;
            }
            first_untyped = typed.len();
        } else {
            typed.push(TypedName {
                at: node.at,
                name,
                type_name: "object",
            });
        }
    }
    Ok(typed)
}

/// Returns the name and the sections of `(define (KIND name) section…)`.
pub(super) fn definition<'n, 'a>(
    root: &'n Sexpr<'a>,
    kind: &str,
) -> Result<(&'a str, &'n [Sexpr<'a>]), Fault> {
    let (head, rest) = root.headed()?;
    if head != "define" {
        return Err(Fault::new(
            root.at,
            format!("expected (define …), found ({head} …)"),
        ));
    }
    let (title, sections) = rest
        .split_first()
        .ok_or_else(|| Fault::new(root.at, "the definition is empty"))?;
    match title.headed()? {
        (found, [name]) if found == kind => Ok((name.word()?, sections)),
        _ => Err(Fault::new(title.at, format!("expected ({kind} NAME)"))),
    }
}
