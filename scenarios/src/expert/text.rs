//! What the expert reads: the task sentence, the list of receptacles, and what stands where. Texts of both ALFWorld
//! versions. Knows nothing of what to do about them.

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Goal {
    /// Object type, e.g. `mug`.
    pub(super) object: String,
    /// How many of them, all in one receptacle.
    pub(super) count: usize,
    /// What must be done to the object first.
    pub(super) treatment: Option<Treatment>,
    /// Where it ends.
    pub(super) end: End,
}

impl Goal {
    /// Whether an object that lay in a receptacle of this type would have won the game already.
    pub(super) fn is_settled_in(&self, kind: &str) -> bool {
        self.count == 1
            && self.treatment.is_none()
            && matches!(&self.end, End::Place(end) if end == kind)
    }
}

/// The last part of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The object lies in a receptacle of this type.
    Place(String),
    /// The object is held where a lamp of this type has been turned on.
    Light(String),
}

/// What an appliance does to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Treatment {
    Clean,
    Heat,
    Cool,
}

impl Treatment {
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Heat => "heat",
            Self::Cool => "cool",
        }
    }

    /// The receptacle type that does it.
    pub(super) fn appliance(self) -> &'static str {
        match self {
            Self::Clean => "sinkbasin",
            Self::Heat => "microwave",
            Self::Cool => "fridge",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        match word {
            "clean" => Some(Self::Clean),
            "heat" | "hot" => Some(Self::Heat),
            "cool" | "cold" => Some(Self::Cool),
            _ => None,
        }
    }
}

/// Whether a receptacle can be looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Unknown,
    None,
    Closed,
    Open,
}

/// One receptacle as an observation shows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) receptacle: String,
    pub(super) door: Door,
    /// `None` behind a closed door.
    pub(super) things: Option<Vec<String>>,
}

/// The goal in an opening text; `None` when there is no task sentence or none that is known.
pub(super) fn goal(opening: &str) -> Option<Goal> {
    let (_, rest) = opening.split_once("Your task is to: ")?;
    let sentence = rest.lines().next()?.trim().trim_end_matches('.');
    let words: Vec<&str> = sentence.split(' ').collect();
    let (object, count, treatment, end) = match words.as_slice() {
        ["examine", "the", object, "with", "the", lamp]
        | ["look", "at", object, "under", "the", lamp] => {
            (object, 1, None, End::Light((*lamp).to_owned()))
        }
        ["put", "two", object, "in" | "on", place]
        | [
            "find",
            "two",
            object,
            "and",
            "put",
            "them",
            "in" | "on",
            place,
        ] => (object, 2, None, End::Place((*place).to_owned())),
        ["put", "a" | "some", object, "in" | "on", place] => {
            (object, 1, None, End::Place((*place).to_owned()))
        }
        ["put", "a" | "some", state, object, "in" | "on", place] => (
            object,
            1,
            Some(Treatment::from_word(state)?),
            End::Place((*place).to_owned()),
        ),
        [
            verb,
            "a" | "some",
            object,
            "and",
            "put",
            "it",
            "in" | "on",
            place,
        ] => (
            object,
            1,
            Some(Treatment::from_word(verb)?),
            End::Place((*place).to_owned()),
        ),
        _ => return None,
    };
    Some(Goal {
        object: (*object).to_owned(),
        count,
        treatment,
        end,
    })
}

/// The receptacles that an opening text lists.
pub(super) fn receptacles(opening: &str) -> Vec<String> {
    opening
        .split_once("around you, you see ")
        .map(|(_, list)| names(list))
        .unwrap_or_default()
}

/// The receptacle that an observation describes, if it describes one.
pub(super) fn view(observation: &str) -> Option<View> {
    let seen = |receptacle: &str, door, list: Option<&str>| {
        Some(View {
            receptacle: receptacle.to_owned(),
            door,
            things: list.map(names),
        })
    };
    if let Some((_, rest)) = observation.split_once("On the ") {
        let (receptacle, list) = rest.split_once(", you see ")?;
        return seen(receptacle, Door::None, Some(list));
    }
    let (_, rest) = observation.rsplit_once("The ")?;
    if let Some((receptacle, list)) = rest.split_once(" is open. In it, you see ") {
        return seen(receptacle, Door::Open, Some(list));
    }
    seen(rest.split_once(" is closed.")?.0, Door::Closed, None)
}

/// What the agent carries, out of the answer to `inventory`.
pub(super) fn carried(observation: &str) -> Option<String> {
    names(observation.split_once("You are carrying: ")?.1)
        .into_iter()
        .next()
}

/// `mug` of `mug 12`.
pub(super) fn kind(name: &str) -> &str {
    name.rsplit_once(' ').map_or(name, |(kind, _)| kind)
}

/// `12` of `mug 12`; 0 where there is no number.
pub(super) fn number(name: &str) -> u64 {
    name.rsplit_once(' ')
        .and_then(|(_, number)| number.parse().ok())
        .unwrap_or(0)
}

/// The names in `a x 1, a y 2, and a z 3.`, read up to the end of the sentence; none for `nothing.`.
fn names(list: &str) -> Vec<String> {
    let list = list.split_once('.').map_or(list, |(list, _)| list);
    list.split(", ")
        .filter_map(|item| {
            item.strip_prefix("and ")
                .unwrap_or(item)
                .strip_prefix("a ")
                .map(str::to_owned)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sentence: &str) -> Option<Goal> {
        goal(&format!(
            "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room.\n\nYour task is to: {sentence}"
        ))
    }

    fn placed(
        object: &str,
        count: usize,
        treatment: Option<Treatment>,
        place: &str,
    ) -> Option<Goal> {
        Some(Goal {
            object: object.into(),
            count,
            treatment,
            end: End::Place(place.into()),
        })
    }

    #[test]
    fn every_sentence_form_is_read() {
        use Treatment::{Clean, Cool, Heat};
        assert_eq!(
            read("put a kettle in shelf."),
            placed("kettle", 1, None, "shelf")
        );
        assert_eq!(
            read("put some pencil on desk."),
            placed("pencil", 1, None, "desk")
        );
        assert_eq!(
            read("put two lettuce in fridge."),
            placed("lettuce", 2, None, "fridge")
        );
        assert_eq!(
            read("find two pen and put them in drawer."),
            placed("pen", 2, None, "drawer")
        );
        assert_eq!(
            read("put a clean mug in coffeemachine."),
            placed("mug", 1, Some(Clean), "coffeemachine")
        );
        assert_eq!(
            read("clean some cloth and put it in toilet."),
            placed("cloth", 1, Some(Clean), "toilet")
        );
        assert_eq!(
            read("put a hot egg in garbagecan."),
            placed("egg", 1, Some(Heat), "garbagecan")
        );
        assert_eq!(
            read("heat some apple and put it in fridge."),
            placed("apple", 1, Some(Heat), "fridge")
        );
        assert_eq!(
            read("put a cool pot in stoveburner."),
            placed("pot", 1, Some(Cool), "stoveburner")
        );
        assert_eq!(
            read("cool some wine and put it in cabinet."),
            placed("wine", 1, Some(Cool), "cabinet")
        );
        let lit = Some(Goal {
            object: "cd".into(),
            count: 1,
            treatment: None,
            end: End::Light("desklamp".into()),
        });
        assert_eq!(read("examine the cd with the desklamp."), lit);
        assert_eq!(read("look at cd under the desklamp."), lit);
        assert_eq!(read("juggle the cd."), None);
    }

    #[test]
    fn an_opening_lists_its_receptacles() {
        let text = "Looking quickly around you, you see a bed 1, a desk 2, and a shelf 1.\n\nYour task is to: put a cd in safe.";
        assert_eq!(receptacles(text), ["bed 1", "desk 2", "shelf 1"]);
    }

    #[test]
    fn views_of_both_versions_are_read() {
        let desk = View {
            receptacle: "desk 1".into(),
            door: Door::None,
            things: Some(vec!["bowl 1".into(), "mug 1".into()]),
        };
        assert_eq!(
            view("You arrive at desk 1. On the desk 1, you see a bowl 1, and a mug 1."),
            Some(desk)
        );
        let fridge = View {
            receptacle: "fridge 1".into(),
            door: Door::Closed,
            things: None,
        };
        assert_eq!(
            view("You arrive at loc 14. The fridge 1 is closed."),
            Some(fridge)
        );
        let safe = View {
            receptacle: "safe 1".into(),
            door: Door::Open,
            things: Some(Vec::new()),
        };
        assert_eq!(
            view("You open the safe 1. The safe 1 is open. In it, you see nothing."),
            Some(safe)
        );
        assert_eq!(view("You close the safe 1."), None);
        assert_eq!(view("Nothing happens."), None);
    }

    #[test]
    fn the_inventory_is_read() {
        assert_eq!(
            carried("You are carrying: a alarmclock 1."),
            Some("alarmclock 1".into())
        );
        assert_eq!(carried("You are not carrying anything."), None);
    }
}
