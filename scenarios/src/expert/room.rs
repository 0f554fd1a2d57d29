//! What the expert believes about the room: where the receptacles are and what was seen in them. Repaired when the
//! world contradicts it; knows nothing of the task.

use super::text::{self, Door, View};

/// A receptacle.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) name: String,
    /// Places with one `spot` are reached together: going from one to the other changes nothing.
    pub(super) spot: usize,
    pub(super) door: Door,
    /// Whether it was looked into.
    pub(super) searched: bool,
    /// What is thought to be in it.
    pub(super) things: Vec<String>,
    /// Objects it would not take.
    pub(super) refused: Vec<String>,
}

impl Place {
    pub(super) fn kind(&self) -> &str {
        text::kind(&self.name)
    }

    /// Whether that very object is thought to be in it.
    pub(super) fn holds(&self, thing: &str) -> bool {
        self.things.iter().any(|other| other == thing)
    }

    /// Whether it would not take that very object.
    pub(super) fn refuses(&self, thing: &str) -> bool {
        self.refused.iter().any(|refused| refused == thing)
    }

    /// How many objects of the type are thought to be in it.
    pub(super) fn count(&self, object: &str) -> usize {
        self.things
            .iter()
            .filter(|thing| text::kind(thing) == object)
            .count()
    }
}

/// All receptacles and where the agent stands.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) places: Vec<Place>,
    spot: Option<usize>,
}

impl Room {
    /// A room in which every place has a spot of its own, until the world says otherwise.
    pub(super) fn new(names: Vec<String>) -> Self {
        let place = |(spot, name)| Place {
            name,
            spot,
            door: Door::Unknown,
            searched: false,
            things: Vec::new(),
            refused: Vec::new(),
        };
        Self {
            places: names.into_iter().enumerate().map(place).collect(),
            spot: None,
        }
    }

    pub(super) fn is_here(&self, place: usize) -> bool {
        self.spot == Some(self.places[place].spot)
    }

    pub(super) fn arrive(&mut self, place: usize) {
        self.spot = Some(self.places[place].spot);
    }

    /// Going to `place` changed nothing: it is where the agent stands already.
    pub(super) fn join_here(&mut self, place: usize) {
        let joined = self.places[place].spot;
        if let Some(here) = self.spot {
            self.places
                .iter_mut()
                .filter(|p| p.spot == joined)
                .for_each(|p| p.spot = here);
        }
    }

    /// `place` does not answer: it is not where the agent stands, and others are worth trying first.
    pub(super) fn leave(&mut self, place: usize) {
        let spot = 1 + self.places.iter().map(|p| p.spot).max().unwrap_or(0);
        let place = &mut self.places[place];
        (place.spot, place.door, place.searched) = (spot, Door::Unknown, true);
    }

    pub(super) fn see(&mut self, view: View) {
        if let Some(place) = self
            .places
            .iter_mut()
            .find(|place| place.name == view.receptacle)
        {
            place.door = view.door;
            if let Some(things) = view.things {
                place.things = things;
                place.searched = true;
            }
        }
    }

    pub(super) fn add(&mut self, thing: &str, place: usize) {
        self.places[place].things.push(thing.to_owned());
    }

    pub(super) fn remove(&mut self, thing: &str, place: usize) {
        self.places[place].things.retain(|other| other != thing);
    }

    /// Every place deserves another look and another try.
    pub(super) fn doubt_everything(&mut self) {
        for place in &mut self.places {
            place.searched = false;
            place.refused.clear();
        }
    }

    /// Whether a place of this type was seen to have a door.
    pub(super) fn has_doors(&self, kind: &str) -> bool {
        self.places
            .iter()
            .any(|place| place.kind() == kind && matches!(place.door, Door::Closed | Door::Open))
    }
}
