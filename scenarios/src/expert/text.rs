//! The parser of observations: the task sentence, the list of receptacles, and the objects in a
//! receptacle. It reads the texts of both ALFWorld versions.

/// The goal in a task sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExpertGoal {
    /// Object type, for example `mug`.
    pub(super) object: String,
    /// Number of objects that must be in one receptacle.
    pub(super) count: usize,
    /// What must be done to the object first.
    pub(super) treatment: Option<Treatment>,
    /// The last part of the task.
    pub(super) end: End,
}

impl ExpertGoal {
    /// Returns true if an object in a receptacle of this type would have won the game already.
    pub(super) fn is_settled_in(&self, kind: &str) -> bool {
        self.count == 1
            && self.treatment.is_none()
            && matches!(&self.end, End::Place(end) if end == kind)
    }
}

/// The last part of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The object is in a receptacle of this type.
    Place(String),
    /// The object is held at a lamp of this type that is on.
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

    /// Returns the receptacle type that does it.
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

/// The door of a receptacle, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SeenDoor {
    Unknown,
    None,
    Closed,
    Open,
}

/// The description of one receptacle in an observation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReceptacleView {
    pub(super) receptacle: String,
    pub(super) door: SeenDoor,
    /// The objects in it; `None` if its door is closed.
    pub(super) objects: Option<Vec<String>>,
}

/// Returns the goal in an opening text, or `None` if it has no task sentence of a known form.
pub(super) fn goal(opening: &str) -> Option<ExpertGoal> {
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
    Some(ExpertGoal {
        object: (*object).to_owned(),
        count,
        treatment,
        end,
    })
}

/// Returns the receptacles that an opening text lists.
pub(super) fn receptacles(opening: &str) -> Vec<String> {
    opening
        .split_once("around you, you see ")
        .map(|(_, list)| names(list))
        .unwrap_or_default()
}

/// Returns the description of a receptacle in an observation, if it contains one.
pub(super) fn view(observation: &str) -> Option<ReceptacleView> {
    let (receptacle, door, list) = if let Some((_, rest)) = observation.split_once("On the ") {
        let (receptacle, list) = rest.split_once(", you see ")?;
        (receptacle, SeenDoor::None, Some(list))
    } else {
        let (_, rest) = observation.rsplit_once("The ")?;
        match rest.split_once(" is open. In it, you see ") {
            Some((receptacle, list)) => (receptacle, SeenDoor::Open, Some(list)),
            None => (rest.split_once(" is closed.")?.0, SeenDoor::Closed, None),
        }
    };
    Some(ReceptacleView {
        receptacle: receptacle.to_owned(),
        door,
        objects: list.map(names),
    })
}

/// Returns the object that the agent holds, from the response to `inventory`.
pub(super) fn carried(observation: &str) -> Option<String> {
    names(observation.split_once("You are carrying: ")?.1)
        .into_iter()
        .next()
}

/// Returns the type in a name: `mug` of `mug 12`.
pub(super) fn kind(name: &str) -> &str {
    name.rsplit_once(' ').map_or(name, |(kind, _)| kind)
}

/// Returns the number in a name: 12 of `mug 12`. If there is no number, returns 0.
pub(super) fn number(name: &str) -> u64 {
    name.rsplit_once(' ')
        .and_then(|(_, number)| number.parse().ok())
        .unwrap_or(0)
}

/// Returns the names in `a x 1, a y 2, and a z 3.`, up to the end of the sentence. If the text is
/// `nothing.`, there are none.
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

    fn read(sentence: &str) -> Option<ExpertGoal> {
        goal(&format!(
            "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room.\n\nYour task is to: {sentence}"
        ))
    }

    fn placed(
        object: &str,
        count: usize,
        treatment: Option<Treatment>,
        place: &str,
    ) -> Option<ExpertGoal> {
        Some(ExpertGoal {
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
        let lit = Some(ExpertGoal {
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
        let desk = ReceptacleView {
            receptacle: "desk 1".into(),
            door: SeenDoor::None,
            objects: Some(vec!["bowl 1".into(), "mug 1".into()]),
        };
        assert_eq!(
            view("You arrive at desk 1. On the desk 1, you see a bowl 1, and a mug 1."),
            Some(desk)
        );
        let fridge = ReceptacleView {
            receptacle: "fridge 1".into(),
            door: SeenDoor::Closed,
            objects: None,
        };
        assert_eq!(
            view("You arrive at loc 14. The fridge 1 is closed."),
            Some(fridge)
        );
        let safe = ReceptacleView {
            receptacle: "safe 1".into(),
            door: SeenDoor::Open,
            objects: Some(Vec::new()),
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
