//! The object and receptacle types of household games.
//!
//! The vocabulary, and which receptacles may contain which objects, are AI2-THOR's. The usual
//! places of objects are rounded counts over ALFWorld's games. Names are lower-case, as in
//! observations (`countertop`); `title` is the form in task names (`CounterTop`).

use Trait::{Blade, Cleanable, Coolable, Fixed, Heatable, Lamp, Sliceable, Vessel};
use Use::{Cleans, Cools, Heats};

/// A type of receptacle.
#[derive(Debug, PartialEq, Eq)]
pub struct ReceptacleType {
    /// The form in task names: `CounterTop`.
    pub title: &'static str,
    /// The form in observations: `countertop`.
    pub name: &'static str,
    /// Whether it has a door. If so, it must be open before an object is taken out or put in.
    pub openable: bool,
    /// What it does to a held object, if anything. Its door need not be open.
    pub does: Option<Use>,
    /// Names of the object types that it may contain, separated by spaces.
    holds: &'static str,
}

/// What an appliance does to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// A microwave.
    Heats,
    /// A fridge.
    Cools,
    /// A sinkbasin.
    Cleans,
}

/// A type of object.
#[derive(Debug, PartialEq, Eq)]
pub struct ObjectType {
    /// The form in task names: `DishSponge`.
    pub title: &'static str,
    /// The form in observations: `dishsponge`.
    pub name: &'static str,
    /// What can be done with it.
    pub traits: &'static [Trait],
    /// Receptacle types where it is usually found, with weights, the most likely first.
    pub places: &'static [(&'static str, u32)],
}

/// What can be done with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trait {
    /// A sinkbasin cleans it.
    Cleanable,
    /// A microwave heats it.
    Heatable,
    /// A fridge cools it.
    Coolable,
    /// A knife slices it.
    Sliceable,
    /// It slices other objects.
    Blade,
    /// A bowl, a box, a pan: `examine` lists its contents.
    Vessel,
    /// It is switched on at its place and cannot be taken.
    Lamp,
    /// It cannot be taken or used.
    Fixed,
}

impl ReceptacleType {
    /// Returns true if an object of that type may be put here.
    #[must_use]
    pub fn holds(&self, object: &str) -> bool {
        self.holds
            .split_ascii_whitespace()
            .any(|name| name == object)
    }
}

impl ObjectType {
    /// Returns true if the object type has the trait.
    #[must_use]
    pub fn is(&self, which: Trait) -> bool {
        self.traits.contains(&which)
    }

    /// Returns true if an agent can take the object.
    #[must_use]
    pub fn pickupable(&self) -> bool {
        !self.is(Lamp) && !self.is(Fixed)
    }
}

/// Returns the receptacle type with that name (`countertop`).
#[must_use]
pub fn receptacle_type(name: &str) -> Option<&'static ReceptacleType> {
    RECEPTACLES
        .iter()
        .find(|receptacle| receptacle.name == name)
}

/// Returns the object type with that name (`mug`).
#[must_use]
pub fn object_type(name: &str) -> Option<&'static ObjectType> {
    OBJECTS.iter().find(|object| object.name == name)
}

/// Returns the receptacle types where an object of that type is usually found, the most likely
/// first. If the object is unknown, the list is empty.
///
/// ```
/// let places = scenarios::household::catalog::likely_receptacles("mug");
/// assert_eq!(places[0], "countertop");
/// assert!(places.contains(&"coffeemachine"));
/// ```
#[must_use]
pub fn likely_receptacles(object: &str) -> Vec<&'static str> {
    object_type(object).map_or(Vec::new(), |object| {
        object.places.iter().map(|&(name, _)| name).collect()
    })
}

/// Returns the prior probability, in [0, 1], that an object of that type is in receptacles of that
/// type if the room is not known.
#[must_use]
pub fn prior(object: &str, receptacle: &str) -> f64 {
    let places = object_type(object).map_or(&[][..], |object| object.places);
    let total: u32 = places.iter().map(|&(_, weight)| weight).sum();
    let here = places
        .iter()
        .find(|&&(name, _)| name == receptacle)
        .map_or(0, |&(_, weight)| weight);
    f64::from(here) / f64::from(total.max(1))
}

/// Returns true if receptacles of that type may contain objects of that type. If a name is unknown,
/// returns false.
#[must_use]
pub fn can_hold(receptacle: &str, object: &str) -> bool {
    receptacle_type(receptacle).is_some_and(|receptacle| receptacle.holds(object))
}

const fn receptacle(
    title: &'static str,
    name: &'static str,
    openable: bool,
    does: Option<Use>,
    holds: &'static str,
) -> ReceptacleType {
    ReceptacleType {
        title,
        name,
        openable,
        does,
        holds,
    }
}

const fn object(
    title: &'static str,
    name: &'static str,
    traits: &'static [Trait],
    places: &'static [(&'static str, u32)],
) -> ObjectType {
    ObjectType {
        title,
        name,
        traits,
        places,
    }
}

/// Every receptacle type.
#[rustfmt::skip]
pub const RECEPTACLES: &[ReceptacleType] = &[
    receptacle("ArmChair", "armchair", false, None,
        "book box cellphone cloth creditcard keychain laptop newspaper pillow remotecontrol teddybear"),
    receptacle("BathtubBasin", "bathtubbasin", false, None, "cloth dishsponge handtowel soapbar"),
    receptacle("Bed", "bed", false, None,
        "baseballbat basketball book cellphone laptop pillow teddybear tennisracket"),
    receptacle("Cabinet", "cabinet", true, None,
        "book bowl box candle cd cloth cup dishsponge glassbottle handtowel kettle ladle mug newspaper pan \
         papertowelroll peppershaker plate plunger pot saltshaker soapbar soapbottle spraybottle tissuebox \
         toiletpaper vase wateringcan winebottle"),
    receptacle("Cart", "cart", false, None,
        "candle cloth dishsponge handtowel papertowelroll plunger soapbar soapbottle spraybottle tissuebox \
         toiletpaper"),
    receptacle("CoffeeMachine", "coffeemachine", false, None, "mug"),
    receptacle("CoffeeTable", "coffeetable", false, None,
        "book bowl box candle cellphone creditcard keychain laptop newspaper pen pencil plate remotecontrol \
         statue tissuebox vase watch wateringcan"),
    receptacle("CounterTop", "countertop", false, None,
        "alarmclock apple book bowl bread butterknife candle cd cellphone cloth creditcard cup dishsponge egg \
         fork glassbottle handtowel kettle keychain knife ladle laptop lettuce mug pan papertowelroll pen \
         pencil peppershaker plate pot potato remotecontrol saltshaker soapbar soapbottle spatula spoon \
         spraybottle statue tissuebox toiletpaper tomato vase winebottle"),
    receptacle("Desk", "desk", false, None,
        "alarmclock basketball book bowl box cd cellphone cloth creditcard keychain laptop mug pen pencil \
         remotecontrol statue tennisracket tissuebox vase watch wateringcan"),
    receptacle("DiningTable", "diningtable", false, None,
        "alarmclock apple baseballbat basketball book bowl box bread butterknife candle cd cellphone cloth \
         creditcard cup dishsponge egg fork glassbottle kettle keychain knife ladle laptop lettuce mug \
         newspaper pan papertowelroll pen pencil peppershaker plate pot potato remotecontrol saltshaker \
         soapbottle spatula spoon spraybottle statue tennisracket tissuebox tomato vase watch wateringcan \
         winebottle"),
    receptacle("Drawer", "drawer", true, None,
        "book butterknife candle cd cellphone cloth creditcard dishsponge fork handtowel keychain knife ladle \
         newspaper pen pencil peppershaker remotecontrol saltshaker soapbar soapbottle spatula spoon \
         spraybottle tissuebox toiletpaper watch wateringcan"),
    receptacle("Dresser", "dresser", false, None,
        "alarmclock basketball book bowl box candle cd cellphone cloth creditcard keychain laptop mug \
         newspaper pen pencil plate remotecontrol spraybottle statue tennisracket tissuebox toiletpaper vase \
         watch wateringcan"),
    receptacle("Fridge", "fridge", true, Some(Cools),
        "apple bowl bread cup egg glassbottle lettuce mug pan plate pot potato tomato winebottle"),
    receptacle("GarbageCan", "garbagecan", false, None,
        "apple bread cd cloth dishsponge egg handtowel lettuce newspaper papertowelroll pen pencil potato \
         soapbar soapbottle spraybottle tissuebox toiletpaper tomato winebottle"),
    receptacle("HandTowelHolder", "handtowelholder", false, None, "handtowel"),
    receptacle("LaundryHamper", "laundryhamper", false, None, "cloth"),
    receptacle("Microwave", "microwave", true, Some(Heats),
        "apple bowl bread cup egg glassbottle mug plate potato tomato"),
    receptacle("Ottoman", "ottoman", false, None,
        "book box cellphone creditcard keychain laptop newspaper pillow remotecontrol"),
    receptacle("Safe", "safe", true, None, "cd cellphone creditcard keychain statue vase watch"),
    receptacle("Shelf", "shelf", false, None,
        "alarmclock book bowl box candle cd cellphone cloth creditcard cup dishsponge glassbottle handtowel \
         kettle keychain mug newspaper papertowelroll pen pencil peppershaker plate pot remotecontrol \
         saltshaker soapbar soapbottle spraybottle statue tissuebox toiletpaper vase watch wateringcan \
         winebottle"),
    receptacle("SideTable", "sidetable", false, None,
        "alarmclock apple baseballbat basketball book bowl box bread butterknife candle cd cellphone cloth \
         creditcard cup dishsponge egg fork handtowel kettle keychain knife laptop lettuce mug newspaper pan \
         papertowelroll pen pencil peppershaker plate pot potato remotecontrol saltshaker soapbar soapbottle \
         spatula spoon spraybottle statue tennisracket tissuebox toiletpaper tomato vase watch wateringcan \
         winebottle"),
    receptacle("SinkBasin", "sinkbasin", false, Some(Cleans),
        "apple bowl butterknife cloth cup dishsponge egg fork glassbottle handtowel kettle knife ladle \
         lettuce mug pan plate pot potato soapbar spatula spoon tomato"),
    receptacle("Sofa", "sofa", false, None,
        "book box cellphone creditcard keychain laptop newspaper pillow remotecontrol teddybear"),
    receptacle("StoveBurner", "stoveburner", false, None, "kettle pan pot"),
    receptacle("Toaster", "toaster", false, None, ""),
    receptacle("Toilet", "toilet", false, None,
        "candle cloth dishsponge handtowel papertowelroll soapbar soapbottle spraybottle tissuebox \
         toiletpaper"),
    receptacle("ToiletPaperHanger", "toiletpaperhanger", false, None, "toiletpaper"),
    receptacle("TowelHolder", "towelholder", false, None, "towel"),
    receptacle("TVStand", "tvstand", false, None, "tissuebox"),
];

/// Every object type.
#[rustfmt::skip]
pub const OBJECTS: &[ObjectType] = &[
    object("AlarmClock", "alarmclock", &[], 
        &[("desk", 7), ("shelf", 4), ("sidetable", 4), ("dresser", 3), ("diningtable", 1)]),
    object("Apple", "apple", &[Cleanable, Heatable, Coolable, Sliceable], 
        &[("fridge", 5), ("countertop", 5), ("diningtable", 3), ("microwave", 3), ("garbagecan", 3), ("sinkbasin", 2), ("sidetable", 1)]),
    object("BaseballBat", "baseballbat", &[], &[("bed", 2), ("diningtable", 1), ("sidetable", 1)]),
    object("BasketBall", "basketball", &[], 
        &[("bed", 2), ("dresser", 2), ("desk", 1), ("sidetable", 1), ("diningtable", 1)]),
    object("Book", "book", &[], 
        &[("bed", 8), ("desk", 3), ("countertop", 2), ("drawer", 2), ("dresser", 1), ("diningtable", 1), ("cabinet", 1), ("sidetable", 1), ("coffeetable", 1), ("armchair", 1), ("sofa", 1), ("shelf", 1)]),
    object("Bowl", "bowl", &[Cleanable, Coolable, Vessel], 
        &[("cabinet", 6), ("fridge", 4), ("countertop", 4), ("diningtable", 3), ("desk", 1), ("shelf", 1), ("sinkbasin", 1), ("microwave", 1), ("dresser", 1)]),
    object("Box", "box", &[Vessel], 
        &[("diningtable", 5), ("sofa", 4), ("coffeetable", 4), ("shelf", 2), ("sidetable", 1), ("desk", 1), ("cabinet", 1), ("dresser", 1), ("armchair", 1)]),
    object("Bread", "bread", &[Heatable, Coolable, Sliceable], 
        &[("countertop", 11), ("diningtable", 6), ("fridge", 3)]),
    object("ButterKnife", "butterknife", &[Cleanable, Blade], 
        &[("countertop", 12), ("diningtable", 5), ("drawer", 2), ("sinkbasin", 1)]),
    object("CD", "cd", &[], 
        &[("drawer", 6), ("desk", 4), ("dresser", 3), ("sidetable", 2), ("garbagecan", 2), ("shelf", 1), ("diningtable", 1), ("cabinet", 1)]),
    object("Candle", "candle", &[], 
        &[("countertop", 6), ("toilet", 6), ("cabinet", 3), ("drawer", 2), ("shelf", 1), ("sidetable", 1), ("coffeetable", 1), ("diningtable", 1), ("cart", 1)]),
    object("CellPhone", "cellphone", &[], 
        &[("drawer", 4), ("bed", 4), ("desk", 2), ("countertop", 2), ("dresser", 2), ("sidetable", 2), ("shelf", 1), ("diningtable", 1), ("armchair", 1), ("safe", 1)]),
    object("Cloth", "cloth", &[Cleanable], 
        &[("bathtubbasin", 6), ("cabinet", 4), ("countertop", 3), ("drawer", 3), ("shelf", 1), ("sinkbasin", 1), ("toilet", 1)]),
    object("CreditCard", "creditcard", &[], 
        &[("drawer", 5), ("shelf", 3), ("sidetable", 2), ("desk", 2), ("dresser", 2), ("countertop", 1), ("sofa", 1), ("armchair", 1), ("coffeetable", 1), ("diningtable", 1)]),
    object("Cup", "cup", &[Cleanable, Heatable, Coolable, Vessel], 
        &[("cabinet", 5), ("fridge", 4), ("countertop", 4), ("diningtable", 3), ("sinkbasin", 2), ("microwave", 1), ("shelf", 1), ("sidetable", 1)]),
    object("DeskLamp", "desklamp", &[Lamp], 
        &[("sidetable", 7), ("desk", 6), ("dresser", 4), ("shelf", 2), ("coffeetable", 1)]),
    object("DishSponge", "dishsponge", &[Cleanable], 
        &[("countertop", 5), ("cabinet", 5), ("drawer", 4), ("diningtable", 2), ("sinkbasin", 2), ("garbagecan", 1), ("shelf", 1), ("bathtubbasin", 1)]),
    object("Egg", "egg", &[Cleanable, Heatable, Coolable, Sliceable], 
        &[("fridge", 5), ("countertop", 5), ("sinkbasin", 3), ("garbagecan", 3), ("microwave", 2), ("diningtable", 2)]),
    object("Fork", "fork", &[Cleanable], &[("countertop", 9), ("diningtable", 5), ("drawer", 4), ("sinkbasin", 2)]),
    object("Glassbottle", "glassbottle", &[], 
        &[("cabinet", 6), ("countertop", 6), ("diningtable", 2), ("sinkbasin", 2), ("fridge", 1), ("shelf", 1)]),
    object("HandTowel", "handtowel", &[], 
        &[("handtowelholder", 9), ("countertop", 2), ("cabinet", 2), ("drawer", 2), ("shelf", 1), ("garbagecan", 1)]),
    object("HousePlant", "houseplant", &[Fixed], 
        &[("countertop", 9), ("sidetable", 3), ("diningtable", 3), ("shelf", 1), ("coffeetable", 1), ("desk", 1), ("dresser", 1), ("cabinet", 1)]),
    object("Kettle", "kettle", &[Cleanable], 
        &[("stoveburner", 8), ("countertop", 5), ("cabinet", 5), ("diningtable", 1), ("sinkbasin", 1)]),
    object("KeyChain", "keychain", &[], 
        &[("drawer", 5), ("sidetable", 3), ("shelf", 2), ("desk", 2), ("dresser", 2), ("coffeetable", 1), ("diningtable", 1), ("armchair", 1), ("sofa", 1), ("safe", 1)]),
    object("Knife", "knife", &[Cleanable, Blade], 
        &[("countertop", 10), ("diningtable", 5), ("drawer", 4), ("sinkbasin", 1)]),
    object("Ladle", "ladle", &[Cleanable], 
        &[("countertop", 8), ("cabinet", 5), ("drawer", 4), ("diningtable", 3), ("sinkbasin", 1)]),
    object("Laptop", "laptop", &[], 
        &[("bed", 9), ("desk", 2), ("sofa", 2), ("diningtable", 2), ("coffeetable", 2), ("dresser", 1), ("armchair", 1), ("sidetable", 1)]),
    object("Lettuce", "lettuce", &[Cleanable, Coolable, Sliceable], 
        &[("countertop", 8), ("diningtable", 6), ("fridge", 5), ("sinkbasin", 1)]),
    object("Mug", "mug", &[Cleanable, Heatable, Coolable, Vessel], 
        &[("countertop", 5), ("coffeemachine", 3), ("cabinet", 3), ("fridge", 2), ("diningtable", 2), ("microwave", 1), ("desk", 1), ("sinkbasin", 1), ("shelf", 1), ("sidetable", 1), ("dresser", 1)]),
    object("Newspaper", "newspaper", &[], 
        &[("sofa", 4), ("coffeetable", 3), ("diningtable", 3), ("sidetable", 3), ("shelf", 2), ("dresser", 2), ("armchair", 1), ("drawer", 1)]),
    object("Pan", "pan", &[Cleanable, Coolable, Vessel], 
        &[("stoveburner", 11), ("countertop", 6), ("cabinet", 1), ("diningtable", 1), ("fridge", 1)]),
    object("PaperTowelRoll", "papertowelroll", &[], 
        &[("countertop", 5), ("diningtable", 2), ("shelf", 2), ("garbagecan", 1), ("cabinet", 1)]),
    object("Pen", "pen", &[], 
        &[("desk", 4), ("drawer", 4), ("dresser", 3), ("sidetable", 3), ("shelf", 3), ("diningtable", 2), ("countertop", 1), ("coffeetable", 1), ("garbagecan", 1)]),
    object("Pencil", "pencil", &[], 
        &[("drawer", 4), ("desk", 4), ("sidetable", 3), ("shelf", 3), ("dresser", 2), ("diningtable", 2), ("garbagecan", 1), ("countertop", 1), ("coffeetable", 1)]),
    object("PepperShaker", "peppershaker", &[], 
        &[("cabinet", 7), ("countertop", 6), ("diningtable", 3), ("drawer", 3), ("shelf", 1), ("sidetable", 1)]),
    object("Pillow", "pillow", &[], &[("bed", 6), ("sofa", 3), ("armchair", 2), ("ottoman", 1)]),
    object("Plate", "plate", &[Cleanable, Heatable, Coolable, Vessel], 
        &[("cabinet", 7), ("countertop", 5), ("diningtable", 4), ("fridge", 2), ("shelf", 1), ("sinkbasin", 1), ("coffeetable", 1)]),
    object("Plunger", "plunger", &[], &[("cabinet", 3), ("cart", 1)]),
    object("Pot", "pot", &[Cleanable, Coolable, Vessel], 
        &[("stoveburner", 15), ("countertop", 3), ("fridge", 1), ("diningtable", 1), ("cabinet", 1)]),
    object("Potato", "potato", &[Cleanable, Heatable, Coolable, Sliceable], 
        &[("countertop", 6), ("fridge", 5), ("diningtable", 3), ("sinkbasin", 2), ("microwave", 2), ("garbagecan", 1)]),
    object("RemoteControl", "remotecontrol", &[], 
        &[("coffeetable", 4), ("sofa", 3), ("sidetable", 3), ("diningtable", 2), ("drawer", 2), ("armchair", 2), ("dresser", 2), ("desk", 1), ("shelf", 1)]),
    object("SaltShaker", "saltshaker", &[], 
        &[("cabinet", 6), ("countertop", 6), ("diningtable", 3), ("drawer", 3), ("shelf", 1), ("sidetable", 1)]),
    object("SoapBar", "soapbar", &[Cleanable], 
        &[("countertop", 4), ("toilet", 3), ("sinkbasin", 3), ("cabinet", 2), ("bathtubbasin", 2), ("drawer", 2), ("garbagecan", 1), ("shelf", 1), ("sidetable", 1)]),
    object("SoapBottle", "soapbottle", &[], 
        &[("countertop", 6), ("cabinet", 6), ("diningtable", 3), ("garbagecan", 2), ("toilet", 1), ("shelf", 1), ("drawer", 1)]),
    object("Spatula", "spatula", &[Cleanable], 
        &[("countertop", 9), ("diningtable", 5), ("drawer", 4), ("sinkbasin", 2)]),
    object("Spoon", "spoon", &[Cleanable], 
        &[("countertop", 8), ("drawer", 6), ("diningtable", 4), ("sinkbasin", 2), ("sidetable", 1)]),
    object("SprayBottle", "spraybottle", &[], 
        &[("countertop", 6), ("toilet", 4), ("cabinet", 4), ("garbagecan", 2), ("shelf", 1), ("cart", 1), ("diningtable", 1), ("sidetable", 1), ("dresser", 1)]),
    object("Statue", "statue", &[], 
        &[("shelf", 6), ("countertop", 4), ("coffeetable", 3), ("diningtable", 3), ("sidetable", 2), ("dresser", 1), ("desk", 1)]),
    object("TeddyBear", "teddybear", &[], &[("bed", 8), ("sofa", 1), ("armchair", 1)]),
    object("Television", "television", &[Fixed], 
        &[("dresser", 9), ("tvstand", 8), ("coffeetable", 2), ("sidetable", 1)]),
    object("TennisRacket", "tennisracket", &[], 
        &[("bed", 2), ("desk", 1), ("dresser", 1), ("sidetable", 1), ("diningtable", 1)]),
    object("TissueBox", "tissuebox", &[], 
        &[("shelf", 4), ("coffeetable", 3), ("drawer", 3), ("countertop", 2), ("sidetable", 2), ("diningtable", 2), ("desk", 2), ("tvstand", 1), ("cabinet", 1), ("dresser", 1), ("cart", 1)]),
    object("ToiletPaper", "toiletpaper", &[], 
        &[("toilet", 5), ("countertop", 4), ("cabinet", 2), ("toiletpaperhanger", 2), ("drawer", 2), ("garbagecan", 2), ("shelf", 1), ("cart", 1), ("dresser", 1)]),
    object("Tomato", "tomato", &[Cleanable, Heatable, Coolable, Sliceable], 
        &[("fridge", 7), ("countertop", 6), ("diningtable", 4), ("garbagecan", 2), ("sinkbasin", 1), ("sidetable", 1)]),
    object("Towel", "towel", &[], &[("towelholder", 9)]),
    object("Vase", "vase", &[], 
        &[("shelf", 7), ("cabinet", 3), ("countertop", 3), ("coffeetable", 2), ("diningtable", 1), ("dresser", 1), ("sidetable", 1)]),
    object("Watch", "watch", &[], 
        &[("drawer", 4), ("coffeetable", 4), ("sidetable", 3), ("diningtable", 2), ("dresser", 2), ("shelf", 1), ("desk", 1)]),
    object("WateringCan", "wateringcan", &[], &[("coffeetable", 11), ("shelf", 7), ("sidetable", 2)]),
    object("WineBottle", "winebottle", &[Coolable], 
        &[("countertop", 7), ("cabinet", 5), ("diningtable", 5), ("garbagecan", 2), ("shelf", 1)]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_across_objects_and_receptacles() {
        let names: Vec<_> = OBJECTS
            .iter()
            .map(|o| o.name)
            .chain(RECEPTACLES.iter().map(|r| r.name))
            .collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        assert!(
            OBJECTS
                .iter()
                .all(|o| o.title.to_ascii_lowercase() == o.name)
        );
        assert!(
            RECEPTACLES
                .iter()
                .all(|r| r.title.to_ascii_lowercase() == r.name)
        );
    }

    #[test]
    fn every_name_in_a_table_is_a_type() {
        for receptacle in RECEPTACLES {
            for object in receptacle.holds.split_ascii_whitespace() {
                assert!(
                    object_type(object).is_some(),
                    "{} holds {object}",
                    receptacle.name
                );
            }
        }
    }

    #[test]
    fn objects_are_found_only_where_they_may_be_put() {
        for object in OBJECTS {
            assert!(
                object.places.is_sorted_by(|a, b| a.1 >= b.1),
                "{}",
                object.name
            );
            for &(place, _) in object.places {
                let receptacle = receptacle_type(place).expect(place);
                assert!(
                    !object.pickupable() || receptacle.holds(object.name),
                    "{} in {place}",
                    object.name
                );
            }
        }
    }

    /// An apple's weights are 5, 5, 3, 3, 3, 2, 1. Their sum is 22, and 5 of it is the fridge's.
    #[test]
    fn priors_are_shares_of_the_weights() {
        assert!((prior("apple", "fridge") - 5.0 / 22.0).abs() < 1e-12);
        assert!(prior("apple", "sofa").abs() < 1e-12 && prior("unicorn", "fridge").abs() < 1e-12);
        assert!(
            can_hold("coffeemachine", "mug")
                && !can_hold("coffeemachine", "pan")
                && !can_hold("toaster", "bread")
        );
    }
}
