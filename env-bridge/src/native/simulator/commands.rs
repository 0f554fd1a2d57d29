//! The commands of a game: one text for every operator, numbered in byte order.

use super::game_text::GameTexts;
use crate::error::Fault;
use crate::native::ground::Grounded;
use crate::native::lists::Lists;
use rustc_hash::FxHashMap;
use std::cmp::Ordering;

/// The largest number of parameters in the key of a command text. If a template uses more, the text
/// is rendered for every operator.
const KEY_PARAMETERS: usize = 8;

/// The commands of a game.
#[derive(Debug)]
pub(super) struct GameCommands {
    /// The texts, sorted by bytes and without duplicates.
    texts: JoinedTexts,
    /// By operator: its command.
    pub(super) of_operator: Vec<u32>,
    /// By command: its operators, in the order of grounding.
    operators: Lists<u32>,
}

/// Texts, stored end to end.
#[derive(Debug, Default)]
struct JoinedTexts {
    text: String,
    ends: Vec<u32>,
}

impl JoinedTexts {
    fn get(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start as usize..self.ends[index] as usize]
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.end();
    }

    /// Ends the text that was appended to `self.text`.
    fn end(&mut self) {
        self.ends.push(self.text.len() as u32);
    }
}

impl GameCommands {
    /// Renders the command of every operator. The fault's place is in the grammar.
    pub(super) fn new(texts: &GameTexts, grounded: &Grounded) -> Result<Self, Fault> {
        let (rendered, text_of) = render(texts, grounded)?;
        let (sorted, command_of) = sort(&rendered);
        let of_operator: Vec<u32> = text_of
            .into_iter()
            .map(|text| command_of[text as usize])
            .collect();
        let mut by_command: Vec<u32> = (0..of_operator.len() as u32).collect();
        by_command.sort_by_key(|operator| of_operator[*operator as usize]);
        let mut groups =
            by_command.chunk_by(|a, b| of_operator[*a as usize] == of_operator[*b as usize]);
        let mut operators = Lists::default();
        for _ in 0..sorted.len() {
            operators.push(groups.next().unwrap_or_default().iter().copied());
        }
        Ok(Self {
            texts: sorted,
            of_operator,
            operators,
        })
    }

    /// Returns the number of commands.
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// Returns the text of a command.
    pub(super) fn text(&self, command: usize) -> &str {
        self.texts.get(command)
    }

    /// Returns the operators of a command, in the order of grounding.
    pub(super) fn operators(&self, command: usize) -> &[u32] {
        self.operators.get(command)
    }

    /// Returns the command with this text.
    pub(super) fn find(&self, text: &str) -> Option<usize> {
        let mut low = 0;
        let mut high = self.len();
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.text(middle).cmp(text) {
                Ordering::Equal => return Some(middle),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        None
    }
}

/// Returns the rendered texts, in the order of operators, and the text of every operator.
fn render(texts: &GameTexts, grounded: &Grounded) -> Result<(JoinedTexts, Vec<u32>), Fault> {
    let used = texts.template_parameters(grounded)?;
    let mut known: FxHashMap<(u16, u128), u32> = FxHashMap::default();
    let mut rendered = JoinedTexts::default();
    let mut work = 0;
    let mut text_of = Vec::with_capacity(grounded.actions.len());
    for (operator, action) in grounded.actions.iter().enumerate() {
        let parameters = grounded.parameters.get(operator);
        let places = &used[usize::from(*action)];
        let fits = places.len() <= KEY_PARAMETERS;
        let key = places.iter().fold(0u128, |key, place| {
            key << 16 | u128::from(parameters[usize::from(*place)])
        });
        let text = match known.get(&(*action, key)) {
            Some(text) if fits => *text,
            _ => {
                let text = rendered.len() as u32;
                texts.render_command(grounded, operator, &mut rendered.text, &mut work)?;
                rendered.end();
                known.insert((*action, key), text);
                text
            }
        };
        text_of.push(text);
    }
    Ok((rendered, text_of))
}

/// Returns the texts sorted by bytes and without duplicates, and the new number of every text.
fn sort(rendered: &JoinedTexts) -> (JoinedTexts, Vec<u32>) {
    let mut order: Vec<u32> = (0..rendered.len() as u32).collect();
    order.sort_unstable_by(|a, b| rendered.get(*a as usize).cmp(rendered.get(*b as usize)));
    let mut sorted = JoinedTexts::default();
    let mut number_of = vec![0u32; order.len()];
    let mut last: Option<&str> = None;
    for text in order {
        let own = rendered.get(text as usize);
        if last != Some(own) {
            sorted.push(own);
            last = Some(own);
        }
        number_of[text as usize] = sorted.len() as u32 - 1;
    }
    (sorted, number_of)
}
