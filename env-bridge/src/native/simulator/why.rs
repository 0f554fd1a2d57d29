//! Why a command gives "Nothing happens.", in words.

use super::game::NativeGame;
use super::state::GameState;
use crate::native::environment::is_blank;

impl NativeGame {
    /// Returns the reasons why a command is not admissible, one sentence each; none if it is admissible.
    /// They name facts of the state, which a player may not know.
    ///
    /// # Panics
    /// Panics if `state` belongs to another game.
    #[must_use]
    pub fn why(&self, state: &GameState, command: &str) -> Vec<String> {
        self.assert_own(state);
        let command = command.trim_matches(is_blank);
        if let Some(index) = self.command_index(command) {
            let unmet = self.unmet_conditions(state, index);
            return unmet.iter().map(ToString::to_string).collect();
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
