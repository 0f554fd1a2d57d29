//! The names of atoms: which fact an atom of a game stands for.

use crate::native::ground::Grounded;

/// Where the name of an atom is: its predicate, and its row in the predicate's table.
pub(super) type AtomNames = Vec<(u16, u32)>;

/// Returns the name of every fluent.
pub(super) fn atom_names(grounded: &Grounded) -> AtomNames {
    let mut names = vec![(0, 0); grounded.fluents];
    for (predicate, table) in grounded.tables.iter().enumerate() {
        for (row, atom) in table.atoms.iter().enumerate() {
            names[*atom as usize] = (predicate as u16, row as u32);
        }
    }
    names
}
