//! Why a command gives "Nothing happens.", in words.

use super::facts::UnmetCondition;
use super::game::NativeGame;
use super::state::GameState;
use crate::native::environment::is_blank;

/// ALFWorld's predicate for the location of the player.
const AT_LOCATION: &str = "atlocation";

impl NativeGame {
    /// Returns the reasons why a command is not admissible, one sentence each; none if it is admissible.
    /// They tell facts of the state, which a player may not know. The facts of ALFWorld's domain are in plain words, such
    /// as `fridge 1 must be open`; those of another domain look like `lit(lamp 1) must be true and is false`.
    ///
    /// # Panics
    /// Panics if `state` belongs to another game.
    #[must_use]
    pub fn why(&self, state: &GameState, command: &str) -> Vec<String> {
        self.assert_own(state);
        let command = command.trim_matches(is_blank);
        if let Some(index) = self.command_index(command) {
            if self.only_elsewhere(state, index) {
                let place = self.receptacles_at(self.player_location(state).unwrap_or_default());
                return vec![format!("you must not be at {place}")];
            }
            let unmet = self.unmet_conditions(state, index);
            return unmet.iter().map(|unmet| self.in_words(unmet)).collect();
        }
        let templates: Vec<&str> = self.command_templates().collect();
        let matches: Vec<Vec<&str>> = templates
            .iter()
            .filter_map(|template| placeholders(template, command))
            .collect();
        // If several templates match, the one with the fewest unknown objects is what was meant.
        let unknown = |names: &Vec<&str>| -> Vec<String> {
            let is_known = |name: &str| self.object_names().any(|object| object == name);
            names
                .iter()
                .filter(|name| !is_known(name))
                .map(|name| format!("there is no {name:?} in this game"))
                .collect()
        };
        match matches.iter().map(unknown).min_by_key(Vec::len) {
            None => vec![format!(
                "no command of this game has the form of {command:?}; the forms are: {}",
                templates.join("; ")
            )],
            Some(unknown) if unknown.is_empty() => {
                vec![format!(
                    "{command:?} is possible in no state of this game that can be reached"
                )]
            }
            Some(unknown) => unknown,
        }
    }

    /// Returns what a condition demands, in plain words if its predicate is one of ALFWorld's domain.
    fn in_words(&self, unmet: &UnmetCondition<'_>) -> String {
        let must = if unmet.needed { "must" } else { "must not" };
        let names: Vec<&str> = unmet
            .fact
            .objects
            .iter()
            .map(|o| o.name.trim_end())
            .collect();
        match (unmet.fact.predicate, &names[..]) {
            (AT_LOCATION, [_, location]) => {
                format!("you {must} be at {}", self.receptacles_at(location))
            }
            ("holds", [_, object]) => format!("you {must} hold {object}"),
            ("holdsany", [_]) if unmet.needed => "you must hold something".to_owned(),
            ("holdsany", [_]) => "your hands must be empty".to_owned(),
            ("inreceptacle", [object, receptacle]) => {
                format!("{object} {must} be in/on {receptacle}")
            }
            ("opened", [receptacle]) => {
                let state = if unmet.needed { "open" } else { "closed" };
                format!("{receptacle} must be {state}")
            }
            _ => unmet.to_string(),
        }
    }

    /// Returns whether a command needs only another location of the player, whichever it is. `go to shelf 1` is like that at
    /// shelf 1: it has one operator for each other location, and none for the location itself.
    fn only_elsewhere(&self, state: &GameState, command: usize) -> bool {
        let predicates = &self.domain.predicates;
        let at = predicates.iter().position(|p| p.name == AT_LOCATION);
        let tables = &self.transitions.grounded.tables;
        let locations = at.map_or(0, |at| tables[at].atoms.len());
        let operators = self.commands.operators(command);
        operators.len() > 1
            && operators.len() + 1 == locations
            && operators.iter().all(|operator| {
                let unmet = self.unmet_of_operator(state, *operator as usize);
                matches!(&unmet[..], [one] if one.needed && one.fact.predicate == AT_LOCATION)
            })
    }

    /// Returns the name of the location of ALFWorld's player.
    fn player_location(&self, state: &GameState) -> Option<&str> {
        let mut facts = self.facts(state).into_iter();
        let here = facts.find(|fact| fact.predicate == AT_LOCATION && !fact.made_false)?;
        here.objects.get(1).map(|location| location.name.trim_end())
    }

    /// Returns the names of the receptacles at a location, or the name of the location if there is none.
    fn receptacles_at(&self, location: &str) -> String {
        let facts = self.facts(&self.initial);
        let here = facts.iter().filter_map(|fact| match &fact.objects[..] {
            [receptacle, place]
                if fact.predicate == "receptacleatlocation"
                    && place.name.trim_end() == location =>
            {
                Some(receptacle.name.trim_end())
            }
            _ => None,
        });
        let mut names: Vec<&str> = here.collect();
        names.sort_unstable();
        if names.is_empty() {
            location.to_owned()
        } else {
            names.join(" or ")
        }
    }
}

/// Returns the text at each placeholder of a template such as `take {o} from {r}`, or `None` if the command
/// does not have its form. Each placeholder takes as little as possible.
///
/// A query in brackets, such as `[{r.name | at(r, l)}]`, counts as one placeholder.
fn placeholders<'c>(template: &str, command: &'c str) -> Option<Vec<&'c str>> {
    let template = template.replace("[{", "{").replace("}]", "}");
    let mut parts = template.split('{');
    let mut rest = command.strip_prefix(parts.next()?)?;
    let mut found = Vec::new();
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        let (_, literal) = part.split_once('}')?;
        let end = if parts.peek().is_none() {
            rest.strip_suffix(literal)?.len()
        } else {
            rest.find(literal).filter(|_| !literal.is_empty())?
        };
        let (text, after) = rest.split_at(end);
        if text.is_empty() {
            return None;
        }
        found.push(text);
        rest = &after[literal.len()..];
    }
    rest.is_empty().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::placeholders;

    #[test]
    fn a_command_is_split_at_the_words_of_its_template() {
        let take = "take {o} from {r}";
        assert_eq!(
            placeholders(take, "take mug 1 from desk 2"),
            Some(vec!["mug 1", "desk 2"])
        );
        assert_eq!(placeholders(take, "take mug 1"), None);
        assert_eq!(placeholders(take, "take  from "), None);
        assert_eq!(placeholders("look", "look"), Some(vec![]));
        assert_eq!(placeholders("look", "look around"), None);
        assert_eq!(
            placeholders("go to [{r.name | at(r, l)}]", "go to desk 2"),
            Some(vec!["desk 2"])
        );
        assert_eq!(placeholders("{a}{b}", "xy"), None);
    }
}
