//! The expert's beliefs about the room: the receptacles, and the objects that were seen in them. If
//! an observation contradicts a belief, the belief is corrected. This file does not depend on the
//! task.

use super::text::{self, ReceptacleView, SeenDoor};

/// The beliefs about one receptacle.
#[derive(Debug)]
pub(super) struct PlaceBelief {
    pub(super) name: String,
    /// If two receptacles have the same spot, the agent is at both: going from one to the other
    /// changes nothing.
    pub(super) spot: usize,
    pub(super) door: SeenDoor,
    /// Whether its contents were seen.
    pub(super) searched: bool,
    /// The objects that are believed to be in it.
    pub(super) objects: Vec<String>,
    /// Objects that could not be put into it.
    pub(super) refused: Vec<String>,
}

impl PlaceBelief {
    pub(super) fn kind(&self) -> &str {
        text::kind(&self.name)
    }

    /// Returns true if this object is believed to be in it.
    pub(super) fn holds(&self, object: &str) -> bool {
        self.objects.iter().any(|other| other == object)
    }

    /// Returns true if this object could not be put into it.
    pub(super) fn refuses(&self, object: &str) -> bool {
        self.refused.iter().any(|refused| refused == object)
    }

    /// Returns the number of objects of a type that are believed to be in it.
    pub(super) fn count(&self, kind: &str) -> usize {
        self.objects
            .iter()
            .filter(|object| text::kind(object) == kind)
            .count()
    }
}

/// The beliefs about all receptacles and the position of the agent.
#[derive(Debug, Default)]
pub(super) struct RoomBelief {
    pub(super) places: Vec<PlaceBelief>,
    spot: Option<usize>,
}

impl RoomBelief {
    /// Creates a room in which every receptacle has its own spot, until an observation contradicts
    /// it.
    pub(super) fn new(names: Vec<String>) -> Self {
        let places = names
            .into_iter()
            .enumerate()
            .map(|(spot, name)| PlaceBelief {
                name,
                spot,
                door: SeenDoor::Unknown,
                searched: false,
                objects: Vec::new(),
                refused: Vec::new(),
            })
            .collect();
        Self { places, spot: None }
    }

    pub(super) fn indices(&self) -> std::ops::Range<usize> {
        0..self.places.len()
    }

    /// Returns the index of the receptacle with this name.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.places.iter().position(|place| place.name == name)
    }

    pub(super) fn is_here(&self, place: usize) -> bool {
        self.spot == Some(self.places[place].spot)
    }

    pub(super) fn arrive(&mut self, place: usize) {
        self.spot = Some(self.places[place].spot);
    }

    /// Corrects the beliefs if going to `place` changed nothing: the agent is already there.
    pub(super) fn join_here(&mut self, place: usize) {
        let joined = self.places[place].spot;
        if let Some(here) = self.spot {
            for place in self.places.iter_mut().filter(|place| place.spot == joined) {
                place.spot = here;
            }
        }
    }

    /// Corrects the beliefs if `place` cannot be examined: the agent is not there. It counts as
    /// searched, so that other receptacles come first.
    pub(super) fn leave(&mut self, place: usize) {
        let spot = 1 + self.places.iter().map(|p| p.spot).max().unwrap_or(0);
        let place = &mut self.places[place];
        place.spot = spot;
        place.door = SeenDoor::Unknown;
        place.searched = true;
    }

    pub(super) fn see(&mut self, view: ReceptacleView) {
        let Some(index) = self.find(&view.receptacle) else {
            return;
        };
        let place = &mut self.places[index];
        place.door = view.door;
        if let Some(objects) = view.objects {
            place.objects = objects;
            place.searched = true;
        }
    }

    pub(super) fn add(&mut self, object: &str, place: usize) {
        self.places[place].objects.push(object.to_owned());
    }

    pub(super) fn remove(&mut self, object: &str, place: usize) {
        self.places[place].objects.retain(|other| other != object);
    }

    /// Marks every receptacle as not searched and not refusing anything.
    pub(super) fn doubt_everything(&mut self) {
        for place in &mut self.places {
            place.searched = false;
            place.refused.clear();
        }
    }

    /// Returns true if a receptacle of this type was seen to have a door.
    pub(super) fn has_doors(&self, kind: &str) -> bool {
        self.places.iter().any(|place| {
            place.kind() == kind && matches!(place.door, SeenDoor::Closed | SeenDoor::Open)
        })
    }
}
