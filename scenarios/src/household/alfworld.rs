//! What ALFWorld's rooms contain, for generated rooms of [`Size::Alfworld`](super::Size::Alfworld).
//!
//! Measured on the 3553 games of ALFWorld's `train` split alone: 27 floor plans per room type. A
//! receptacle type has the percentage of floor plans that have any, and the 10 % and 90 % quantiles
//! of its number in those. An object type has the percentage of games (at most six per floor plan)
//! with one in a receptacle. `total` has the same quantiles of the number of objects in
//! receptacles.

use super::rooms::RoomKind;

/// The contents of one room type.
pub(super) struct AlfworldRoom {
    /// Receptacle type, percentage of rooms that have any, fewest and most in those.
    pub(super) furniture: &'static [(&'static str, u32, (usize, usize))],
    /// Object type and percentage of games that have any.
    pub(super) objects: &'static [(&'static str, u32)],
    /// Fewest and most objects.
    pub(super) total: (usize, usize),
}

/// Percentage of the cabinets, drawers and safes that have no door. All other doors are closed.
pub(super) const WITHOUT_DOOR: u32 = 17;

/// Object types that no task of `train` is about, although the household rules would allow it.
pub(super) const NEVER_TARGETS: &[&str] = &[
    "baseballbat",
    "basketball",
    "papertowelroll",
    "plunger",
    "teddybear",
    "tennisracket",
    "towel",
];

/// Receptacle types in which no task of `train` ends.
pub(super) const NEVER_PARENTS: &[&str] = &[
    "bathtubbasin",
    "handtowelholder",
    "laundryhamper",
    "toaster",
    "towelholder",
    "tvstand",
];

/// Returns the contents of a room type.
pub(super) fn room(kind: RoomKind) -> &'static AlfworldRoom {
    match kind {
        RoomKind::Kitchen => &KITCHEN,
        RoomKind::Living => &LIVING,
        RoomKind::Bedroom => &BEDROOM,
        RoomKind::Bathroom => &BATHROOM,
    }
}

#[rustfmt::skip]
const KITCHEN: AlfworldRoom = AlfworldRoom {
    furniture: &[
        ("cabinet", 100, (4, 23)), ("coffeemachine", 100, (1, 1)), ("countertop", 100, (1, 4)),
        ("fridge", 100, (1, 1)), ("garbagecan", 100, (1, 1)), ("microwave", 100, (1, 1)),
        ("sinkbasin", 100, (1, 1)), ("stoveburner", 100, (4, 4)), ("toaster", 100, (1, 1)),
        ("drawer", 96, (2, 12)), ("diningtable", 56, (1, 2)), ("shelf", 15, (3, 3)),
        ("sidetable", 11, (1, 1)), ("safe", 4, (1, 1)),
    ],
    objects: &[
        ("bowl", 100), ("cup", 100), ("pan", 100), ("peppershaker", 100), ("pot", 100),
        ("saltshaker", 100), ("tomato", 100), ("apple", 99), ("bread", 99), ("dishsponge", 99),
        ("egg", 99), ("lettuce", 99), ("potato", 99), ("spatula", 99), ("knife", 99), ("plate",
        99), ("spoon", 99), ("fork", 98), ("mug", 98), ("soapbottle", 97), ("butterknife", 95),
        ("kettle", 48), ("ladle", 37), ("winebottle", 37), ("houseplant", 33),
        ("papertowelroll", 33), ("glassbottle", 22), ("cellphone", 11), ("statue", 11), ("vase",
        11), ("book", 7), ("creditcard", 7), ("pen", 7), ("pencil", 7), ("spraybottle", 7),
    ],
    total: (37, 51),
};

#[rustfmt::skip]
const LIVING: AlfworldRoom = AlfworldRoom {
    furniture: &[
        ("garbagecan", 100, (1, 1)), ("sofa", 100, (1, 2)), ("armchair", 93, (1, 2)),
        ("coffeetable", 85, (1, 2)), ("drawer", 78, (1, 8)), ("sidetable", 78, (1, 3)),
        ("diningtable", 52, (1, 2)), ("tvstand", 44, (1, 2)), ("shelf", 37, (2, 14)),
        ("dresser", 33, (1, 2)), ("ottoman", 15, (1, 1)), ("cabinet", 11, (1, 8)), ("desk", 4,
        (1, 1)), ("safe", 4, (1, 1)),
    ],
    objects: &[
        ("creditcard", 100), ("laptop", 100), ("pillow", 100), ("remotecontrol", 99), ("statue",
        96), ("keychain", 91), ("box", 85), ("television", 78), ("houseplant", 56),
        ("newspaper", 55), ("vase", 51), ("watch", 49), ("plate", 36), ("tissuebox", 30),
        ("book", 26), ("desklamp", 22), ("cellphone", 21), ("pen", 19), ("pencil", 14), ("bowl",
        11), ("candle", 11), ("wateringcan", 8),
    ],
    total: (15, 26),
};

#[rustfmt::skip]
const BEDROOM: AlfworldRoom = AlfworldRoom {
    furniture: &[
        ("bed", 100, (1, 2)), ("garbagecan", 100, (1, 1)), ("drawer", 96, (2, 13)), ("desk", 67,
        (1, 2)), ("shelf", 67, (1, 12)), ("sidetable", 67, (1, 2)), ("dresser", 48, (1, 2)),
        ("laundryhamper", 26, (1, 1)), ("armchair", 22, (1, 3)), ("cabinet", 15, (1, 4)),
        ("diningtable", 15, (1, 1)), ("safe", 15, (1, 1)), ("countertop", 4, (1, 1)),
    ],
    objects: &[
        ("book", 100), ("cellphone", 100), ("creditcard", 100), ("laptop", 100), ("pen", 100),
        ("pencil", 100), ("pillow", 100), ("alarmclock", 99), ("keychain", 97), ("cd", 94),
        ("desklamp", 67), ("mug", 51), ("bowl", 44), ("teddybear", 26), ("houseplant", 22),
        ("statue", 15), ("tissuebox", 15), ("remotecontrol", 11), ("box", 7), ("vase", 7),
        ("watch", 7), ("television", 4),
    ],
    total: (19, 27),
};

#[rustfmt::skip]
const BATHROOM: AlfworldRoom = AlfworldRoom {
    furniture: &[
        ("garbagecan", 100, (1, 1)), ("handtowelholder", 100, (1, 2)), ("sinkbasin", 100, (1,
        2)), ("toilet", 100, (1, 1)), ("toiletpaperhanger", 100, (1, 1)), ("towelholder", 100,
        (1, 2)), ("countertop", 85, (1, 2)), ("bathtubbasin", 70, (1, 1)), ("drawer", 56, (1,
        8)), ("cabinet", 48, (3, 5)), ("shelf", 26, (1, 4)), ("cart", 7, (1, 1)), ("dresser", 7,
        (1, 1)), ("sidetable", 7, (1, 1)),
    ],
    objects: &[
        ("cloth", 100), ("handtowel", 100), ("spraybottle", 100), ("towel", 100), ("soapbar",
        99), ("toiletpaper", 99), ("soapbottle", 98), ("candle", 97), ("tissuebox", 26),
        ("dishsponge", 20), ("papertowelroll", 12), ("houseplant", 4),
    ],
    total: (12, 18),
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::household::catalog::{OBJECTS, RECEPTACLES, object_type, receptacle_type};

    #[test]
    fn every_name_in_a_table_is_a_type() {
        for kind in RoomKind::ALL {
            let AlfworldRoom {
                furniture,
                objects,
                total,
            } = room(kind);
            assert!(
                furniture
                    .iter()
                    .all(|entry| receptacle_type(entry.0).is_some())
            );
            assert!(
                furniture
                    .iter()
                    .all(|&(_, _, (low, high))| 0 < low && low <= high)
            );
            assert!(objects.iter().all(|entry| object_type(entry.0).is_some()));
            assert!(total.0 < total.1);
        }
        assert!(
            NEVER_TARGETS
                .iter()
                .all(|name| OBJECTS.iter().any(|o| o.name == *name))
        );
        assert!(
            NEVER_PARENTS
                .iter()
                .all(|name| RECEPTACLES.iter().any(|r| r.name == *name))
        );
    }
}
