//! Room layouts: the receptacles of a room, their locations and their doors.
//!
//! A layout depends only on its size and number, not on a seed. `L12` is the same kitchen in every
//! suite. So a layout that is reserved for `valid_unseen` is never in a training split, under any
//! seed.

use super::alfworld;
use super::catalog::{self, ReceptacleType};
use super::rooms::RoomKind;
use crate::seed::SplitMix64;
use crate::task::Split;
use std::collections::HashSet;
use std::str::FromStr;

/// The size of rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Size {
    /// 7 to 13 receptacles and 6 to 14 objects: short episodes.
    #[default]
    Small,
    /// Similar to ALFWorld's own rooms: up to 54 receptacles.
    Full,
    /// The receptacles, doors, objects and goals that ALFWorld's `train` games have, in rooms that it
    /// lacks.
    Alfworld,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Small, Self::Full, Self::Alfworld]
            .into_iter()
            .find(|size| size.name() == name)
            .ok_or_else(|| format!("unknown size {name:?}; known: small, full, alfworld"))
    }
}

impl Size {
    /// Returns `small`, `full` or `alfworld`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Full => "full",
            Self::Alfworld => "alfworld",
        }
    }
}

/// One room without objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// `L12` for a small room, `F12` for a full one, `A12` for one like ALFWorld's. The hundreds give the room type, as in
    /// AI2-THOR's floor plans.
    pub id: String,
    /// The room type.
    pub room: RoomKind,
    /// Its size.
    pub size: Size,
    /// Its receptacles.
    pub receptacles: Vec<Receptacle>,
    /// Its index among the layouts of its room type, from 0.
    place: u16,
}

/// A receptacle at its location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receptacle {
    /// Its type.
    pub kind: &'static ReceptacleType,
    /// Its PDDL id, from which the simulator derives the name.
    pub id: String,
    /// Its name in observations: `cabinet 3`.
    pub name: String,
    /// PDDL id of the location in front of it.
    pub location: String,
    /// Its door at the start of a game.
    pub door: Door,
}

/// The door of a receptacle at the start of a game.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Door {
    /// The receptacle has no door.
    Absent,
    /// Closed, as nearly all doors are.
    Closed,
    /// Open.
    Open,
}

/// Number of layouts per room type, including those of `valid_unseen`. The numbers of living rooms
/// begin at 200 and those of bedrooms at 300, so there can be 100.
fn layout_count(size: Size) -> u16 {
    match size {
        Size::Small | Size::Full => 30,
        Size::Alfworld => 100,
    }
}

/// How many of them, the last ones, are reserved for `valid_unseen`.
const UNSEEN: u16 = 5;
/// Number of cells along each side of a room.
const GRID: usize = 12;

impl Layout {
    /// Returns true if games of `split` may use this layout.
    #[must_use]
    pub fn serves(&self, split: Split) -> bool {
        (self.place >= layout_count(self.size) - UNSEEN) == (split == Split::ValidUnseen)
    }

    /// Returns true if there is a receptacle of that type.
    #[must_use]
    pub fn has(&self, kind: &str) -> bool {
        self.receptacles
            .iter()
            .any(|receptacle| receptacle.kind.name == kind)
    }

    /// Returns the receptacle types, without duplicates, sorted by name.
    pub(super) fn kinds(&self) -> Vec<&'static ReceptacleType> {
        let mut kinds: Vec<_> = self
            .receptacles
            .iter()
            .map(|receptacle| receptacle.kind)
            .collect();
        kinds.sort_by_key(|kind| kind.name);
        kinds.dedup();
        kinds
    }
}

/// Returns every layout of that size. No two layouts of a room type have the same numbers of
/// receptacles.
#[must_use]
pub fn layouts(size: Size) -> Vec<Layout> {
    RoomKind::ALL
        .into_iter()
        .flat_map(|room| room_layouts(room, size))
        .collect()
}

fn room_layouts(room: RoomKind, size: Size) -> Vec<Layout> {
    let mut rng = SplitMix64::new(&[u64::from(room.first_number()), size as u64]);
    let mut seen = HashSet::new();
    let mut layouts = Vec::new();
    while layouts.len() < usize::from(layout_count(size)) {
        let counts = draw_counts(room, size, &mut rng);
        let total: usize = counts.iter().sum();
        if (smallest(size)..=largest(size)).contains(&total) && seen.insert(counts.clone()) {
            layouts.push(build(room, size, layouts.len() as u16, &counts, &mut rng));
        }
    }
    layouts
}

fn smallest(size: Size) -> usize {
    match size {
        Size::Small => 7,
        Size::Full => 10,
        Size::Alfworld => 6,
    }
}

fn largest(size: Size) -> usize {
    match size {
        Size::Small => 13,
        Size::Full | Size::Alfworld => 54,
    }
}

/// Draws the number of receptacles of each type in the room.
fn draw_counts(room: RoomKind, size: Size, rng: &mut SplitMix64) -> Vec<usize> {
    furniture(room, size)
        .iter()
        .map(|&(_, presence, range)| match rng.percent(presence) {
            true => rng.within(range),
            false => 0,
        })
        .collect()
}

/// Returns the receptacle types of a room: name, percentage of rooms that have any, fewest and most
/// in those.
fn furniture(room: RoomKind, size: Size) -> Vec<(&'static str, u32, (usize, usize))> {
    let entries = room.furniture().iter();
    match size {
        Size::Small => entries.map(|e| (e.name, e.presence, e.small)).collect(),
        Size::Full => entries.map(|e| (e.name, e.presence, e.full)).collect(),
        Size::Alfworld => alfworld::room(room).furniture.to_vec(),
    }
}

fn build(room: RoomKind, size: Size, place: u16, counts: &[usize], rng: &mut SplitMix64) -> Layout {
    let mut cells: Vec<usize> = (0..GRID * GRID).collect();
    rng.shuffle(&mut cells);
    let mut cells = cells.into_iter();
    let mut receptacles = Vec::new();
    for ((name, ..), &count) in furniture(room, size).into_iter().zip(counts) {
        let kind = catalog::receptacle_type(name)
            .expect("a test checks that every name in a table is a type");
        receptacles.extend(
            cells
                .by_ref()
                .take(count)
                .map(|cell| receptacle_at(kind, cell, size, rng)),
        );
    }
    let names = display_names(receptacles.iter().map(|receptacle| receptacle.id.as_str()));
    for (receptacle, name) in receptacles.iter_mut().zip(names) {
        receptacle.name = name;
    }
    receptacles.sort_by(|a, b| a.id.cmp(&b.id));
    let letter = match size {
        Size::Small => 'L',
        Size::Full => 'F',
        Size::Alfworld => 'A',
    };
    Layout {
        id: format!("{letter}{}", room.first_number() + place + 1),
        room,
        size,
        receptacles,
        place,
    }
}

fn receptacle_at(
    kind: &'static ReceptacleType,
    cell: usize,
    size: Size,
    rng: &mut SplitMix64,
) -> Receptacle {
    let x = cell / GRID;
    let y = cell % GRID;
    let id = match kind.name.strip_suffix("basin") {
        Some(stem) => format!("{stem}_bar_{x:02}_bar_{y:02}_bar_{}", kind.name),
        None => format!("{}_bar_{x:02}_bar_{y:02}", kind.name),
    };
    let door = match (kind.openable, kind.name) {
        (false, _) => Door::Absent,
        (true, "cabinet" | "drawer" | "safe")
            if size == Size::Alfworld && rng.percent(alfworld::WITHOUT_DOOR) =>
        {
            Door::Absent
        }
        (true, _) if size == Size::Alfworld => Door::Closed,
        (true, "cabinet" | "drawer") if rng.percent(6) => Door::Absent,
        (true, "cabinet" | "drawer") if rng.percent(5) => Door::Open,
        (true, _) => Door::Closed,
    };
    Receptacle {
        kind,
        id,
        name: String::new(),
        location: format!("loc_bar_{x:02}_bar_{y:02}"),
        door,
    }
}

/// Returns the names that the simulator gives to ids, in the order of `ids`.
///
/// The base name is the text before the first `_bar_`; if the id contains `basin`, that word is
/// added. Along the ids sorted by bytes, the numbers of a base name count down.
pub(super) fn display_names<'a>(ids: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    ids.clone()
        .map(|id| {
            let base = base_name(id);
            let number = ids
                .clone()
                .filter(|other| *other >= id && base_name(other) == base)
                .count();
            format!("{base} {number}")
        })
        .collect()
}

fn base_name(id: &str) -> String {
    let stem = id.split("_bar_").next().unwrap_or(id);
    if id.contains("basin") {
        format!("{stem}basin")
    } else {
        stem.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sorted order is fork_bar_01, fork_bar_02, sink_bar_05_bar_sinkbasin. The first fork gets
    /// the highest number.
    #[test]
    fn names_count_down_along_sorted_ids() {
        let ids = ["fork_bar_02", "sink_bar_05_bar_sinkbasin", "fork_bar_01"];
        assert_eq!(
            display_names(ids.into_iter()),
            ["fork 1", "sinkbasin 1", "fork 2"]
        );
    }

    #[test]
    fn no_two_layouts_have_the_same_receptacles() {
        for size in [Size::Small, Size::Full, Size::Alfworld] {
            let layouts = layouts(size);
            let signatures: HashSet<String> = layouts
                .iter()
                .map(|layout| {
                    let mut names: Vec<_> =
                        layout.receptacles.iter().map(|r| r.kind.name).collect();
                    names.sort_unstable();
                    names.join(" ")
                })
                .collect();
            assert_eq!(signatures.len(), layouts.len());
            assert_eq!(layouts.len(), 4 * usize::from(layout_count(size)));
            assert!(
                layouts
                    .iter()
                    .all(|l| (smallest(size)..=largest(size)).contains(&l.receptacles.len()))
            );
        }
    }

    #[test]
    fn unseen_layouts_are_in_no_other_split() {
        let all = [Size::Small, Size::Alfworld].into_iter().flat_map(layouts);
        for layout in all {
            let unseen = layout.serves(Split::ValidUnseen);
            assert!(
                [Split::Train, Split::ValidTrain, Split::ValidSeen]
                    .iter()
                    .all(|&s| layout.serves(s) != unseen)
            );
        }
    }
}
