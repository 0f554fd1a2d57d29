//! An expert that plays household games from observations alone, for demonstrations.
//!
//! The rule is the same in every turn. If the expert holds the object, it brings the object to the
//! next station of the task (appliance, lamp or target). If its hands are empty, it fetches an
//! object that was seen. If none was seen, it searches the receptacle with the highest expected
//! gain that was not searched yet. It goes to the place, opens a closed door, then acts. It reads
//! texts of ALFWorld 2.1.1 and 2.1.3, and its commands follow the version of the texts. It does not
//! read the game file, the admissible commands or the status of the game.

mod commands;
mod habits;
mod noise;
mod room;
mod search_order;
#[cfg(test)]
mod tests;
mod text;

use crate::text_version::TextVersion;
use commands::ExpertCommand;
use room::RoomBelief;
use search_order::SearchOrder;
use text::{End, ExpertGoal, SeenDoor};

/// A player of household games that receives the same observations as any policy.
///
/// ```
/// use scenarios::expert::Expert;
/// let mut expert = Expert::new(0);
/// let opening = "Looking quickly around you, you see a bed 1, and a desk 1.\n\nYour task is to: put some pencil on bed.";
/// assert_eq!(expert.act(opening), "go to desk 1");
/// let arrival = "You arrive at desk 1. On the desk 1, you see a mug 1, and a pencil 2.";
/// assert_eq!(expert.act(arrival), "take pencil 2 from desk 1");
/// ```
#[derive(Debug)]
pub struct Expert {
    seed: u64,
    goal: Option<ExpertGoal>,
    room: RoomBelief,
    held: Option<String>,
    /// Objects that the appliance has treated.
    treated: Vec<String>,
    /// Objects that the appliance cannot treat.
    untreatable: Vec<String>,
    /// Number of consecutive takes that failed. If it exceeds 1, the hands may not be empty.
    failed_takes: usize,
    /// The text version of the game.
    version: TextVersion,
    last: Option<ExpertCommand>,
    /// Whether the last command was replaced. If so, a refusal is not evidence about the room.
    replaced: bool,
}

/// Returns the object type in the task sentence of an opening text, such as `mug`. Returns `None`
/// if the sentence has no known form.
#[must_use]
pub fn goal_object(opening: &str) -> Option<String> {
    text::goal(opening).map(|goal| goal.object)
}

/// Returns the receptacles that an opening text lists, such as `desk 1`, in its order. If it lists
/// none, the result is empty.
#[must_use]
pub fn receptacles(opening: &str) -> Vec<String> {
    text::receptacles(opening)
}

/// Returns the objects that an observation lists in a receptacle, such as `mug 1`, in its order. If
/// the receptacle is empty, the list is empty. Returns `None` if the observation has no such list.
#[must_use]
pub fn listed_objects(observation: &str) -> Option<Vec<String>> {
    text::view(observation)?.objects
}

impl Expert {
    /// Creates an expert. The seed selects between receptacles that are about equally likely.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            goal: None,
            room: RoomBelief::default(),
            held: None,
            treated: Vec::new(),
            untreatable: Vec::new(),
            failed_takes: 0,
            version: TextVersion::V2_1_3,
            last: None,
            replaced: false,
        }
    }

    /// Returns the next command. The first observation must be the opening text with the task. If
    /// another opening text follows, another game begins. If the task is not known, the command is
    /// `look`.
    pub fn act(&mut self, observation: &str) -> String {
        self.update(observation);
        let command = self.decide();
        let text = self.text_of(&command);
        self.last = Some(command);
        self.replaced = false;
        text
    }

    /// Records that this command was executed instead of the one that [`Expert::act`] returned. The
    /// expert continues from the state to which it leads.
    pub fn replace_last(&mut self, command: &str) {
        self.last = ExpertCommand::parse(command, &self.room, self.treatment());
        self.replaced = true;
    }

    /// Returns a command that very likely works and does not help: a walk to another receptacle, a
    /// take of an object, or putting down the held object. The draw selects one. Returns `None` if
    /// there is none, for example before a room was observed.
    #[must_use]
    pub fn useless_command(&self, draw: u64) -> Option<String> {
        noise::useless_command(&self.room, self.held.as_deref(), draw)
            .map(|command| self.text_of(&command))
    }

    fn treatment(&self) -> Option<text::Treatment> {
        self.goal.as_ref().and_then(|goal| goal.treatment)
    }

    fn text_of(&self, command: &ExpertCommand) -> String {
        command.text(&self.room, self.treatment(), self.version)
    }

    fn update(&mut self, observation: &str) {
        if observation.contains("Your task is to: ") {
            *self = Self::new(self.seed);
            self.goal = text::goal(observation);
            self.room = RoomBelief::new(text::receptacles(observation));
            return;
        }
        if observation.starts_with("You arrive at loc ") {
            self.version = TextVersion::V2_1_1;
        }
        if let Some(command) = self.last.take() {
            if observation.trim() != "Nothing happens." {
                self.update_after_success(command, observation);
            } else if !self.replaced {
                self.update_after_refusal(command);
            }
        }
        if let Some(view) = text::view(observation) {
            self.room.see(view);
        }
    }

    fn update_after_success(&mut self, command: ExpertCommand, observation: &str) {
        match command {
            ExpertCommand::GoTo(place) => self.room.arrive(place),
            ExpertCommand::Take(object, place) => {
                self.room.remove(&object, place);
                self.held = Some(object);
                self.failed_takes = 0;
            }
            ExpertCommand::Put(object, place) => {
                self.room.add(&object, place);
                self.held = None;
            }
            ExpertCommand::Treat(object, _) => self.treated.push(object),
            ExpertCommand::Inventory => {
                self.held = text::carried(observation);
                self.failed_takes = 0;
            }
            ExpertCommand::Open(_)
            | ExpertCommand::Examine(_)
            | ExpertCommand::Use(..)
            | ExpertCommand::Look => {}
        }
    }

    fn update_after_refusal(&mut self, command: ExpertCommand) {
        match command {
            ExpertCommand::GoTo(place) => self.room.join_here(place),
            ExpertCommand::Open(place) => self.room.places[place].door = SeenDoor::None,
            ExpertCommand::Examine(place) => self.room.leave(place),
            ExpertCommand::Take(object, place) => {
                self.room.remove(&object, place);
                self.failed_takes += 1;
            }
            ExpertCommand::Put(object, place) => self.room.places[place].refused.push(object),
            ExpertCommand::Treat(object, _) => self.untreatable.push(object),
            ExpertCommand::Use(lamp, place) => self.room.remove(&lamp, place),
            ExpertCommand::Inventory | ExpertCommand::Look => {}
        }
    }

    fn decide(&mut self) -> ExpertCommand {
        let Some(goal) = self.goal.clone() else {
            return ExpertCommand::Look;
        };
        if self.room.places.is_empty() {
            return ExpertCommand::Look;
        }
        if self.failed_takes > 1 {
            return ExpertCommand::Inventory;
        }
        match self.held.clone() {
            Some(object) if self.is_wanted(&object, &goal) => self.bring(&object, &goal),
            Some(object) => self.put_aside(&object),
            None => self.fetch(&goal),
        }
    }

    fn is_wanted(&self, object: &str, goal: &ExpertGoal) -> bool {
        text::kind(object) == goal.object && !self.untreatable.iter().any(|other| other == object)
    }

    /// Brings the held object to the next station of the task.
    fn bring(&mut self, object: &str, goal: &ExpertGoal) -> ExpertCommand {
        if let Some(treatment) = goal.treatment
            && !self.treated.iter().any(|treated| treated == object)
            && let Some(appliance) = self.order().nearest(treatment.appliance(), object, goal)
        {
            return self.at(
                appliance,
                ExpertCommand::Treat(object.to_owned(), appliance),
            );
        }
        match &goal.end {
            End::Light(lamp) => self.use_lamp(lamp),
            End::Place(kind) => match self.order().nearest(kind, object, goal) {
                Some(target) => self.inside(target, ExpertCommand::Put(object.to_owned(), target)),
                None => self.search_again(),
            },
        }
    }

    fn use_lamp(&mut self, lamp: &str) -> ExpertCommand {
        match self.order().find(|object| text::kind(object) == lamp) {
            Some((object, place)) => self.at(place, ExpertCommand::Use(object, place)),
            None => self.search(lamp, None),
        }
    }

    /// Takes a known object of the right type, or searches for one. The hands are empty.
    fn fetch(&mut self, goal: &ExpertGoal) -> ExpertCommand {
        let target = match &goal.end {
            End::Place(kind) if goal.treatment.is_none() => self.order().nearest(kind, "", goal),
            _ => None,
        };
        let found = self.order().find(|object| {
            let is_delivered = target.is_some_and(|target| self.room.places[target].holds(object));
            self.is_wanted(object, goal) && !is_delivered
        });
        match found {
            Some((object, place)) => self.inside(place, ExpertCommand::Take(object, place)),
            None => self.search(&goal.object, Some(goal)),
        }
    }

    /// Puts a wrong object into the first receptacle that accepts it; one at hand comes first.
    fn put_aside(&mut self, object: &str) -> ExpertCommand {
        let place = self
            .room
            .indices()
            .filter(|&place| !self.room.places[place].refuses(object))
            .min_by_key(|&place| !self.room.is_here(place));
        match place {
            Some(place) => self.inside(place, ExpertCommand::Put(object.to_owned(), place)),
            None => self.search_again(),
        }
    }

    /// Searches a receptacle that was not searched yet: one at hand, or else the one with the
    /// highest expected gain. If the search is for the object of the task, `goal` excludes the
    /// target.
    fn search(&mut self, object: &str, goal: Option<&ExpertGoal>) -> ExpertCommand {
        let at_hand = self
            .room
            .indices()
            .find(|&place| !self.room.places[place].searched && self.room.is_here(place));
        if let Some(place) = at_hand {
            return self.inspect(place);
        }
        match self.order().most_promising(object, goal) {
            Some(place) => ExpertCommand::GoTo(place),
            None => self.search_again(),
        }
    }

    fn order(&self) -> SearchOrder<'_> {
        SearchOrder {
            seed: self.seed,
            room: &self.room,
        }
    }

    /// Goes to the receptacle. If the agent is there, returns `then`.
    fn at(&self, place: usize, then: ExpertCommand) -> ExpertCommand {
        if self.room.is_here(place) {
            then
        } else {
            ExpertCommand::GoTo(place)
        }
    }

    /// Goes to the receptacle and opens its door. If neither is necessary, returns `then`.
    fn inside(&self, place: usize, then: ExpertCommand) -> ExpertCommand {
        if !self.room.is_here(place) {
            return ExpertCommand::GoTo(place);
        }
        match self.room.places[place].door {
            SeenDoor::Closed | SeenDoor::Unknown => self.inspect(place),
            SeenDoor::None | SeenDoor::Open => then,
        }
    }

    /// Looks into a receptacle at hand. If it was never described, but others of its type have
    /// doors, it is opened.
    fn inspect(&self, place: usize) -> ExpertCommand {
        let known = &self.room.places[place];
        match known.door {
            SeenDoor::Closed => ExpertCommand::Open(place),
            SeenDoor::Unknown if self.room.has_doors(known.kind()) => ExpertCommand::Open(place),
            SeenDoor::Unknown | SeenDoor::None | SeenDoor::Open => ExpertCommand::Examine(place),
        }
    }

    /// Allows another attempt at everything, because every receptacle has been tried.
    fn search_again(&mut self) -> ExpertCommand {
        self.room.doubt_everything();
        self.untreatable.clear();
        ExpertCommand::Look
    }
}
