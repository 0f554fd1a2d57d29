//! Room layouts: which receptacles stand where, and which have doors.
//!
//! A layout depends on its size and number alone, never on a seed: `L12` is the same kitchen in every suite, so that a layout
//! kept for `valid_unseen` is unseen by whatever was trained on, under any seed.

use super::catalog::{self, ReceptacleType, Room};
use crate::seed::SplitMix64;
use crate::task::Split;
use std::collections::HashSet;
use std::str::FromStr;

/// How large rooms are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Size {
    /// 7 to 13 receptacles and 6 to 14 objects: short episodes.
    #[default]
    Small,
    /// Near ALFWorld's own rooms: up to 54 receptacles.
    Full,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Small, Self::Full]
            .into_iter()
            .find(|size| size.name() == name)
            .ok_or_else(|| format!("unknown size {name:?}; known: small, full"))
    }
}

impl Size {
    /// `small` or `full`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Full => "full",
        }
    }
}

/// One room, before anything is put into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// `L12` for a small room, `F12` for a full one; hundreds tell the room as in AI2-THOR's floor plans.
    pub id: String,
    /// Which kind of room.
    pub room: Room,
    /// How large.
    pub size: Size,
    /// What stands in it.
    pub receptacles: Vec<Receptacle>,
    /// Place among the layouts of its room, from 0.
    place: u16,
}

/// A receptacle at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receptacle {
    /// Its type.
    pub kind: &'static ReceptacleType,
    /// PDDL id; the world makes the name from it.
    pub id: String,
    /// As the world prints it: `cabinet 3`.
    pub name: String,
    /// PDDL id of the place before it.
    pub location: String,
    /// How its door stands at the start.
    pub door: Door,
}

/// A receptacle's door at the start of a game.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Door {
    /// There is none.
    Absent,
    /// Shut, as nearly all are.
    Closed,
    /// Somebody left it open.
    Open,
}

/// Layouts a room, train and unseen together.
const LAYOUTS: u16 = 30;
/// The last of them, kept for `valid_unseen`.
const UNSEEN: u16 = 5;
const GRID: usize = 12;

impl Layout {
    /// Whether games of `split` may happen here.
    #[must_use]
    pub fn serves(&self, split: Split) -> bool {
        (self.place >= LAYOUTS - UNSEEN) == (split == Split::ValidUnseen)
    }

    /// Whether there is such a receptacle.
    #[must_use]
    pub fn has(&self, kind: &str) -> bool {
        self.receptacles
            .iter()
            .any(|receptacle| receptacle.kind.name == kind)
    }

    /// Receptacle types, each once, sorted by name.
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

/// Every layout of that size; no two rooms of a kind hold the same numbers of receptacles.
#[must_use]
pub fn layouts(size: Size) -> Vec<Layout> {
    Room::ALL
        .into_iter()
        .flat_map(|room| room_layouts(room, size))
        .collect()
}

fn room_layouts(room: Room, size: Size) -> Vec<Layout> {
    let mut rng = SplitMix64::new(&[u64::from(room.first_number()), size as u64]);
    let mut seen = HashSet::new();
    let mut layouts = Vec::new();
    while layouts.len() < LAYOUTS as usize {
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
    }
}

fn largest(size: Size) -> usize {
    match size {
        Size::Small => 13,
        Size::Full => 54,
    }
}

/// How many of each of the room's receptacle types.
fn draw_counts(room: Room, size: Size, rng: &mut SplitMix64) -> Vec<usize> {
    let draw = |some: &catalog::Furniture| match (rng.percent(some.presence), size) {
        (false, _) => 0,
        (true, Size::Small) => rng.within(some.small),
        (true, Size::Full) => rng.within(some.full),
    };
    room.furniture().iter().map(draw).collect()
}

fn build(room: Room, size: Size, place: u16, counts: &[usize], rng: &mut SplitMix64) -> Layout {
    let mut cells: Vec<usize> = (0..GRID * GRID).collect();
    rng.shuffle(&mut cells);
    let mut cells = cells.into_iter();
    let mut receptacles = Vec::new();
    for (some, &count) in room.furniture().iter().zip(counts) {
        let kind = catalog::receptacle_type(some.name)
            .expect("a test checks that every table names types");
        receptacles.extend(
            cells
                .by_ref()
                .take(count)
                .map(|cell| stand(kind, cell, rng)),
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
    };
    Layout {
        id: format!("{letter}{}", room.first_number() + place + 1),
        room,
        size,
        receptacles,
        place,
    }
}

fn stand(kind: &'static ReceptacleType, cell: usize, rng: &mut SplitMix64) -> Receptacle {
    let (x, y) = (cell / GRID, cell % GRID);
    let id = match kind.name.strip_suffix("basin") {
        Some(stem) => format!("{stem}_bar_{x:02}_bar_{y:02}_bar_{}", kind.name),
        None => format!("{}_bar_{x:02}_bar_{y:02}", kind.name),
    };
    let door = match (kind.openable, kind.name) {
        (false, _) => Door::Absent,
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

/// The names that the world gives to ids, in the order asked: among ids sorted by bytes, the numbers of a base name (the text
/// before the first `_bar_`, with `basin` when the id holds that word) are handed out from the highest down.
pub(super) fn display_names<'a>(ids: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    let base = |id: &str| {
        let stem = id.split("_bar_").next().unwrap_or(id);
        if id.contains("basin") {
            format!("{stem}basin")
        } else {
            stem.to_owned()
        }
    };
    let rank = |id: &str| {
        ids.clone()
            .filter(|other| base(other) == base(id) && *other >= id)
            .count()
    };
    ids.clone()
        .map(|id| format!("{} {}", base(id), rank(id)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sorted: fork_bar_01, fork_bar_02, sink_bar_05_bar_sinkbasin. The first fork gets the highest number.
    #[test]
    fn names_count_down_along_sorted_ids() {
        let ids = ["fork_bar_02", "sink_bar_05_bar_sinkbasin", "fork_bar_01"];
        assert_eq!(
            display_names(ids.into_iter()),
            ["fork 1", "sinkbasin 1", "fork 2"]
        );
    }

    #[test]
    fn no_two_rooms_hold_the_same_receptacles() {
        for size in [Size::Small, Size::Full] {
            let layouts = layouts(size);
            let signature = |layout: &Layout| {
                let mut names: Vec<_> = layout.receptacles.iter().map(|r| r.kind.name).collect();
                names.sort_unstable();
                names.join(" ")
            };
            let signatures: HashSet<_> = layouts.iter().map(signature).collect();
            assert_eq!(signatures.len(), layouts.len());
            assert_eq!(layouts.len(), 4 * LAYOUTS as usize);
            assert!(
                layouts
                    .iter()
                    .all(|l| (smallest(size)..=largest(size)).contains(&l.receptacles.len()))
            );
        }
    }

    #[test]
    fn unseen_layouts_serve_no_other_split() {
        for layout in layouts(Size::Small) {
            let unseen = layout.serves(Split::ValidUnseen);
            assert!(
                [Split::Train, Split::ValidTrain, Split::ValidSeen]
                    .iter()
                    .all(|&s| layout.serves(s) != unseen)
            );
        }
    }
}
