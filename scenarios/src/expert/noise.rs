//! Commands that are possible but useless: the noise of noise injection.

use super::commands::ExpertCommand;
use super::room::RoomBelief;
use super::text::SeenDoor;
use crate::seed;

/// Returns a command that very likely works and does not help. The draw selects among walks to
/// other receptacles and, in 30 % of the draws, takes of objects at hand. If an object is held,
/// putting it down replaces the takes. Returns `None` if there is no such
/// command.
pub(super) fn useless_command(
    room: &RoomBelief,
    held: Option<&str>,
    draw: u64,
) -> Option<ExpertCommand> {
    let handled = commands_at_hand(room, held);
    let commands = if seed::of_word(draw, "hands") % 10 < 3 && !handled.is_empty() {
        handled
    } else {
        room.indices()
            .filter(|place| !room.is_here(*place))
            .map(ExpertCommand::GoTo)
            .collect()
    };
    let index = seed::of_word(draw, "place").checked_rem(commands.len() as u64)?;
    commands.into_iter().nth(usize::try_from(index).ok()?)
}

/// Returns the commands that put the held object into a receptacle at hand, or take an object from
/// one.
fn commands_at_hand(room: &RoomBelief, held: Option<&str>) -> Vec<ExpertCommand> {
    let mut commands = Vec::new();
    for index in room.indices() {
        let place = &room.places[index];
        if !room.is_here(index) || place.door == SeenDoor::Closed {
            continue;
        }
        match held {
            Some(object) => commands.push(ExpertCommand::Put(object.to_owned(), index)),
            None => commands.extend(
                place
                    .objects
                    .iter()
                    .map(|object| ExpertCommand::Take(object.clone(), index)),
            ),
        }
    }
    commands
}
