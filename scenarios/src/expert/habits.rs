//! The usual places of objects: the percentage of the receptacles of a type that hold the object,
//! in rooms in which the task names it.
//!
//! Counted over ALFWorld's `train` games only. If an object in a receptacle would have won at once,
//! it is left out. Each object has at most ten receptacle types.

/// Returns the percentage of receptacles of type `place` that hold an object of type `object`.
pub(super) fn percent(object: &str, place: &str) -> f64 {
    let row = HABITS
        .lines()
        .find_map(|line| line.strip_prefix(object)?.strip_prefix(": "))
        .unwrap_or(ANYTHING);
    let entry = row
        .split(", ")
        .find_map(|entry| entry.strip_prefix(place)?.strip_prefix(' '));
    entry
        .and_then(|percent| percent.parse().ok())
        .unwrap_or(ELSEWHERE)
}

/// Returns true if receptacles of this type mostly have doors, so that a look costs two turns.
pub(super) fn usually_closed(place: &str) -> bool {
    matches!(
        place,
        "cabinet" | "drawer" | "fridge" | "microwave" | "safe"
    )
}

/// The percentage for types that a row does not list.
const ELSEWHERE: f64 = 1.0;

/// The row of an object that is not in the table.
const ANYTHING: &str = "diningtable 50, desk 50, dresser 45, coffeetable 45, countertop 40, sidetable 35, shelf 15, cabinet 5, drawer 4";

/// One row per object: receptacle types with their percentages.
const HABITS: &str = "\
alarmclock: desk 61, sidetable 53, dresser 45, shelf 16
apple: sidetable 53, diningtable 46, garbagecan 30, countertop 26, fridge 22, microwave 21, sinkbasin 14
book: bed 65, desk 56, coffeetable 47, dresser 40, diningtable 36, armchair 24, cabinet 22, sofa 17, sidetable 13, drawer 3
bowl: desk 61, diningtable 46, dresser 40, countertop 24, shelf 19, sidetable 19, fridge 16, microwave 8, cabinet 6, sinkbasin 4
box: sofa 48, coffeetable 36, diningtable 33, tvstand 21, dresser 12, sidetable 7, cabinet 6, armchair 3
bread: diningtable 59, countertop 41, fridge 10, garbagecan 9, microwave 2
butterknife: countertop 47, diningtable 38, sinkbasin 3, drawer 2
candle: toilet 77, countertop 76, shelf 24, cabinet 9, drawer 7
cd: diningtable 100, dresser 70, desk 64, sidetable 32, armchair 27, cabinet 20, garbagecan 13, safe 8, drawer 6, shelf 4
cellphone: coffeetable 78, desk 51, dresser 47, bed 47, diningtable 47, armchair 33, sofa 27, sidetable 23, safe 15, shelf 8
cloth: countertop 64, bathtubbasin 62, dresser 46, cabinet 25, shelf 21, toilet 11, drawer 5, sinkbasin 4
creditcard: desk 62, dresser 55, tvstand 50, sofa 44, diningtable 43, sidetable 39, coffeetable 37, armchair 15, shelf 6, drawer 6
cup: diningtable 46, fridge 37, countertop 23, sinkbasin 21, sidetable 20, microwave 12, shelf 6, cabinet 4
desklamp: dresser 44, sidetable 42, desk 38, coffeetable 11, shelf 4
dishsponge: bathtubbasin 50, countertop 48, toilet 33, cart 31, garbagecan 23, shelf 22, sinkbasin 7, drawer 6, cabinet 3
egg: diningtable 48, sidetable 36, sinkbasin 27, countertop 26, garbagecan 25, fridge 25, microwave 11
fork: diningtable 76, countertop 38, drawer 5
glassbottle: diningtable 50, countertop 30, sinkbasin 25, garbagecan 17, shelf 11, fridge 10, cabinet 7
handtowel: handtowelholder 84, countertop 8
kettle: diningtable 36, stoveburner 22, countertop 20, cabinet 3, sinkbasin 2
keychain: coffeetable 58, diningtable 45, dresser 39, sidetable 37, desk 32, tvstand 32, safe 27, armchair 24, sofa 14, shelf 9
knife: diningtable 43, countertop 41, sidetable 38, drawer 3
ladle: diningtable 72, countertop 40, cabinet 4, drawer 3
laptop: bed 77, sofa 56, diningtable 42, desk 33, coffeetable 32, dresser 14, sidetable 6, armchair 3
lettuce: diningtable 60, sidetable 38, countertop 28, fridge 15, garbagecan 7, sinkbasin 6
mug: desk 55, coffeemachine 50, dresser 38, diningtable 35, sidetable 30, countertop 29, fridge 21, sinkbasin 12, microwave 12, shelf 11
newspaper: diningtable 58, dresser 48, coffeetable 35, sofa 30, sidetable 24, armchair 24, shelf 17, tvstand 15
pan: stoveburner 29, countertop 22, fridge 7, diningtable 4
papertowelroll: diningtable 41, toilet 24, sidetable 23, countertop 21, cart 19, garbagecan 14, shelf 10
pen: diningtable 92, desk 65, dresser 46, sidetable 40, shelf 15, garbagecan 8, drawer 3
pencil: dresser 62, desk 57, sidetable 55, shelf 12, garbagecan 10, drawer 4
peppershaker: countertop 38, diningtable 36, shelf 11, cabinet 4, drawer 4
pillow: bed 100, sofa 83, armchair 23
plate: diningtable 51, countertop 26, fridge 21, sidetable 16, sinkbasin 9, coffeetable 9, cabinet 5, shelf 4
pot: stoveburner 32, diningtable 17, countertop 7, fridge 4, sinkbasin 3
potato: diningtable 49, sidetable 40, countertop 35, fridge 29, sinkbasin 18, microwave 17, garbagecan 16
remotecontrol: diningtable 51, dresser 50, coffeetable 49, sofa 39, tvstand 37, sidetable 19, armchair 13, drawer 2, shelf 2
saltshaker: countertop 47, diningtable 41, sidetable 38, cabinet 8, shelf 6
soapbar: sidetable 88, countertop 50, toilet 46, bathtubbasin 41, garbagecan 24, shelf 13, cabinet 12, sinkbasin 6, drawer 6
soapbottle: countertop 56, toilet 49, shelf 37, garbagecan 21, cabinet 17
spatula: diningtable 71, countertop 42, sinkbasin 6
spoon: diningtable 48, countertop 42, sidetable 27, sinkbasin 6, drawer 4
spraybottle: countertop 61, toilet 59, garbagecan 24, shelf 19, cabinet 13, dresser 10
statue: coffeetable 62, diningtable 59, sidetable 36, dresser 30, shelf 24, tvstand 11
teddybear: bed 61
tissuebox: countertop 100, diningtable 55, desk 50, coffeetable 43, dresser 25, toilet 18, sidetable 14, cabinet 12, shelf 12, drawer 6
toiletpaper: dresser 69, countertop 59, toilet 52, sidetable 38, toiletpaperhanger 36, shelf 31, garbagecan 27, cabinet 7, drawer 4
tomato: diningtable 53, sidetable 38, fridge 35, countertop 29, garbagecan 24, sinkbasin 10
towel: towelholder 87, countertop 3
vase: dresser 70, diningtable 42, coffeetable 42, tvstand 36, shelf 28, sidetable 21, cabinet 12
watch: tvstand 62, diningtable 50, coffeetable 50, sidetable 33, dresser 28, shelf 6, drawer 6
wateringcan: shelf 18, coffeetable 12, sidetable 2
winebottle: diningtable 55, countertop 31, garbagecan 28, fridge 3, cabinet 2";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_whole_names() {
        assert!((percent("pan", "stoveburner") - 29.0).abs() < 1e-9);
        assert!((percent("pan", "bed") - ELSEWHERE).abs() < 1e-9);
        assert!((percent("umbrella", "desk") - 50.0).abs() < 1e-9);
    }

    #[test]
    fn every_entry_has_a_number() {
        for line in HABITS.lines() {
            let (_, row) = line.split_once(": ").expect("an object and its row");
            assert!(
                row.split(", ").all(|entry| entry
                    .split_once(' ')
                    .is_some_and(|(_, n)| n.parse::<u8>().is_ok())),
                "{line}"
            );
        }
    }
}
