//! The expert's commands: their texts, and the command that a text means.

use super::room::RoomBelief;
use super::text::Treatment;
use crate::text_version::TextVersion;

/// A command. Receptacles are indices into the room.
#[derive(Debug, Clone)]
pub(super) enum ExpertCommand {
    GoTo(usize),
    Open(usize),
    Examine(usize),
    Take(String, usize),
    Put(String, usize),
    Treat(String, usize),
    Use(String, usize),
    Inventory,
    Look,
}

impl ExpertCommand {
    /// Returns the text of the command. If the goal has no treatment, the verb of `Treat` is
    /// `clean`.
    pub(super) fn text(
        &self,
        room: &RoomBelief,
        treatment: Option<Treatment>,
        version: TextVersion,
    ) -> String {
        match self {
            Self::GoTo(place) => format!("go to {}", room.places[*place].name),
            Self::Open(place) => format!("open {}", room.places[*place].name),
            Self::Examine(place) => format!("examine {}", room.places[*place].name),
            Self::Take(object, place) => {
                format!("take {object} from {}", room.places[*place].name)
            }
            Self::Put(object, place) => version.put_command(object, &room.places[*place].name),
            Self::Treat(object, place) => {
                let verb = treatment.map_or("clean", Treatment::verb);
                format!("{verb} {object} with {}", room.places[*place].name)
            }
            Self::Use(lamp, _) => format!("use {lamp}"),
            Self::Inventory => "inventory".to_owned(),
            Self::Look => "look".to_owned(),
        }
    }

    /// Returns the command that a text means. Returns `None` if the text is not a command that
    /// changes the expert's beliefs, or if its receptacle is not in the room.
    pub(super) fn parse(
        text: &str,
        room: &RoomBelief,
        treatment: Option<Treatment>,
    ) -> Option<Self> {
        if let Some(name) = text.strip_prefix("go to ") {
            return room.find(name).map(Self::GoTo);
        }
        if let Some(name) = text.strip_prefix("open ") {
            return room.find(name).map(Self::Open);
        }
        if let Some((object, name)) = parts(text, "take ", " from ") {
            return Some(Self::Take(object.to_owned(), room.find(name)?));
        }
        if text == "inventory" {
            return Some(Self::Inventory);
        }
        if let Some((object, name)) =
            treatment.and_then(|treatment| treatment_parts(text, treatment))
        {
            return Some(Self::Treat(object.to_owned(), room.find(name)?));
        }
        let (object, name) = TextVersion::V2_1_3
            .put_parts(text)
            .or_else(|| TextVersion::V2_1_1.put_parts(text))?;
        Some(Self::Put(object.to_owned(), room.find(name)?))
    }
}

fn parts<'a>(text: &'a str, verb: &str, separator: &str) -> Option<(&'a str, &'a str)> {
    text.strip_prefix(verb)?.split_once(separator)
}

fn treatment_parts(text: &str, treatment: Treatment) -> Option<(&str, &str)> {
    let rest = text.strip_prefix(treatment.verb())?;
    parts(rest, " ", " with ")
}
