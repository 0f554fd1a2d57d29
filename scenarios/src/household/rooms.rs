//! The four room types: their receptacles and objects, with frequencies.

/// The four room types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RoomKind {
    /// It has appliances that heat, cool and clean.
    Kitchen,
    /// It has sofas, and often a lamp.
    Living,
    /// It has a bed, and often a lamp.
    Bedroom,
    /// It has a sinkbasin, which cleans.
    Bathroom,
}

/// The number of receptacles of one type in a room.
#[derive(Debug)]
pub(super) struct Furniture {
    pub(super) name: &'static str,
    /// Percentage of the rooms that have any.
    pub(super) presence: u32,
    /// Fewest and most in a small room, if it has any.
    pub(super) small: (usize, usize),
    /// Fewest and most in a full room, if it has any.
    pub(super) full: (usize, usize),
}

impl RoomKind {
    /// All four, in the order of their layout numbers.
    pub const ALL: [Self; 4] = [Self::Kitchen, Self::Living, Self::Bedroom, Self::Bathroom];

    /// Returns the hundreds of the layout numbers, as in AI2-THOR's floor plans.
    #[must_use]
    pub fn first_number(self) -> u16 {
        match self {
            Self::Kitchen => 0,
            Self::Living => 200,
            Self::Bedroom => 300,
            Self::Bathroom => 400,
        }
    }

    pub(super) fn furniture(self) -> &'static [Furniture] {
        match self {
            Self::Kitchen => KITCHEN,
            Self::Living => LIVING,
            Self::Bedroom => BEDROOM,
            Self::Bathroom => BATHROOM,
        }
    }

    /// Returns the object types in such rooms, each with the percentage of rooms that have any.
    pub(super) fn objects(self) -> &'static [(&'static str, u32)] {
        match self {
            Self::Kitchen => KITCHEN_OBJECTS,
            Self::Living => LIVING_OBJECTS,
            Self::Bedroom => BEDROOM_OBJECTS,
            Self::Bathroom => BATHROOM_OBJECTS,
        }
    }
}

const fn furniture(
    name: &'static str,
    presence: u32,
    small: (usize, usize),
    full: (usize, usize),
) -> Furniture {
    Furniture {
        name,
        presence,
        small,
        full,
    }
}

const KITCHEN: &[Furniture] = &[
    furniture("fridge", 100, (1, 1), (1, 1)),
    furniture("microwave", 100, (1, 1), (1, 1)),
    furniture("sinkbasin", 100, (1, 1), (1, 1)),
    furniture("countertop", 100, (1, 2), (1, 3)),
    furniture("garbagecan", 80, (1, 1), (1, 1)),
    furniture("cabinet", 95, (1, 3), (6, 20)),
    furniture("drawer", 65, (1, 2), (3, 10)),
    furniture("stoveburner", 60, (1, 2), (4, 4)),
    furniture("coffeemachine", 65, (1, 1), (1, 1)),
    furniture("toaster", 35, (1, 1), (1, 1)),
    furniture("diningtable", 50, (1, 1), (1, 2)),
    furniture("shelf", 30, (1, 2), (1, 4)),
    furniture("sidetable", 20, (1, 1), (1, 1)),
];

const LIVING: &[Furniture] = &[
    furniture("sofa", 100, (1, 1), (1, 2)),
    furniture("garbagecan", 85, (1, 1), (1, 1)),
    furniture("armchair", 75, (1, 2), (1, 2)),
    furniture("coffeetable", 80, (1, 1), (1, 2)),
    furniture("sidetable", 75, (1, 2), (1, 3)),
    furniture("diningtable", 45, (1, 1), (1, 2)),
    furniture("drawer", 50, (1, 3), (2, 9)),
    furniture("dresser", 40, (1, 1), (1, 2)),
    furniture("shelf", 40, (1, 2), (2, 9)),
    furniture("tvstand", 35, (1, 1), (1, 2)),
    furniture("cabinet", 25, (1, 2), (1, 6)),
    furniture("desk", 15, (1, 1), (1, 1)),
    furniture("ottoman", 15, (1, 1), (1, 1)),
    furniture("safe", 15, (1, 1), (1, 1)),
];

const BEDROOM: &[Furniture] = &[
    furniture("bed", 100, (1, 1), (1, 2)),
    furniture("garbagecan", 85, (1, 1), (1, 1)),
    furniture("desk", 70, (1, 1), (1, 2)),
    furniture("drawer", 85, (1, 3), (2, 10)),
    furniture("sidetable", 65, (1, 2), (1, 2)),
    furniture("shelf", 60, (1, 2), (1, 8)),
    furniture("dresser", 50, (1, 1), (1, 2)),
    furniture("laundryhamper", 30, (1, 1), (1, 1)),
    furniture("armchair", 25, (1, 1), (1, 2)),
    furniture("safe", 25, (1, 1), (1, 1)),
    furniture("cabinet", 20, (1, 2), (1, 4)),
    furniture("diningtable", 10, (1, 1), (1, 1)),
];

const BATHROOM: &[Furniture] = &[
    furniture("sinkbasin", 100, (1, 2), (1, 2)),
    furniture("toilet", 100, (1, 1), (1, 1)),
    furniture("toiletpaperhanger", 90, (1, 1), (1, 1)),
    furniture("garbagecan", 90, (1, 1), (1, 1)),
    furniture("towelholder", 80, (1, 1), (1, 2)),
    furniture("handtowelholder", 80, (1, 2), (1, 2)),
    furniture("countertop", 80, (1, 1), (1, 2)),
    furniture("bathtubbasin", 60, (1, 1), (1, 1)),
    furniture("cabinet", 55, (1, 3), (2, 8)),
    furniture("drawer", 50, (1, 2), (2, 7)),
    furniture("shelf", 30, (1, 2), (1, 3)),
    furniture("cart", 20, (1, 1), (1, 1)),
    furniture("sidetable", 12, (1, 1), (1, 1)),
    furniture("dresser", 10, (1, 1), (1, 1)),
];

#[rustfmt::skip]
const KITCHEN_OBJECTS: &[(&str, u32)] = &[
    ("apple", 90), ("bowl", 95), ("bread", 85), ("butterknife", 80), ("cup", 95), ("dishsponge", 85), ("egg", 90),
    ("fork", 85), ("knife", 85), ("lettuce", 85), ("mug", 95), ("pan", 90), ("peppershaker", 85), ("plate", 95), ("pot", 90),
    ("potato", 90), ("saltshaker", 85), ("soapbottle", 80), ("spatula", 80), ("spoon", 85), ("tomato", 90), ("kettle", 50),
    ("winebottle", 40), ("houseplant", 20), ("papertowelroll", 30), ("ladle", 40), ("glassbottle", 30), ("vase", 20),
    ("statue", 15), ("cellphone", 15), ("creditcard", 12), ("book", 10),
];

#[rustfmt::skip]
const LIVING_OBJECTS: &[(&str, u32)] = &[
    ("laptop", 90), ("creditcard", 90), ("pillow", 90), ("remotecontrol", 95), ("statue", 80), ("keychain", 90), ("box", 85),
    ("television", 50), ("houseplant", 45), ("newspaper", 70), ("watch", 60), ("vase", 55), ("tissuebox", 45), ("plate", 35),
    ("book", 45), ("desklamp", 50), ("cellphone", 40), ("pen", 30), ("pencil", 30), ("bowl", 20), ("candle", 20),
    ("wateringcan", 15),
];

#[rustfmt::skip]
const BEDROOM_OBJECTS: &[(&str, u32)] = &[
    ("creditcard", 90), ("cellphone", 95), ("laptop", 90), ("pillow", 95), ("pen", 90), ("book", 95), ("pencil", 90),
    ("alarmclock", 90), ("keychain", 85), ("cd", 85), ("desklamp", 70), ("mug", 50), ("bowl", 45), ("teddybear", 25),
    ("houseplant", 20), ("statue", 15), ("tissuebox", 20), ("remotecontrol", 15), ("box", 15), ("watch", 15), ("vase", 10),
    ("baseballbat", 12), ("basketball", 12), ("tennisracket", 12), ("cloth", 15),
];

#[rustfmt::skip]
const BATHROOM_OBJECTS: &[(&str, u32)] = &[
    ("towel", 80), ("spraybottle", 90), ("handtowel", 90), ("cloth", 95), ("toiletpaper", 95), ("candle", 90),
    ("soapbar", 95), ("soapbottle", 95), ("tissuebox", 40), ("dishsponge", 40), ("papertowelroll", 20), ("plunger", 25),
    ("houseplant", 8),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::household::catalog::{object_type, receptacle_type};

    #[test]
    fn every_name_in_a_table_is_a_type() {
        for room in RoomKind::ALL {
            assert!(
                room.furniture()
                    .iter()
                    .all(|f| receptacle_type(f.name).is_some())
            );
            assert!(
                room.objects()
                    .iter()
                    .all(|&(name, _)| object_type(name).is_some())
            );
        }
    }
}
