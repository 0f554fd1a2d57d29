//! Chat templates as Hugging Face models bring them, and the frames that they put around turns.
//!
//! An episode only appends: what stands is never rendered or tokenized again. A template fits that when the rendering
//! of `k` turns is a prefix of the rendering of `k + 1` turns, each text in it word for word. [`TurnFrames::derive`]
//! finds out by rendering, and says what differs where a template does not fit (those that drop earlier reasoning, or
//! move the system prompt along); [`ChatTemplate::chatml`] is what to fall back to.
//!
//! Knows nothing of token ids. A text that spells a frame out, such as `<|im_end|>`, stays as it is: who encodes it
//! must encode it as text.

use super::jinja;
use crate::error::AgentError;
use crate::files;
use crate::text::tokenizer::Frames;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt::Formatter,
    path::{Path, PathBuf},
};

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that stand before all turns.
    System,
    /// The world.
    User,
    /// The policy.
    Assistant,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of the system, the world or the policy.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
        }
    }
}

/// The texts of a tokenizer's special tokens. One that is `None` is undefined in the template, as in transformers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<String>,
    /// Ends a text.
    pub eos: Option<String>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<String>,
    /// Fills a batch up.
    pub pad: Option<String>,
    /// All others that the tokenizer knows; only [`TurnFrames::derive`] looks at them, for the end of a turn.
    pub others: Vec<String>,
}

/// A Jinja template that makes one text of a conversation.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    special: SpecialTokens,
    path: Option<PathBuf>,
}

/// The variables that a template sees. No tools and no documents are ever given.
#[derive(Serialize)]
struct Variables<'a> {
    messages: &'a [Message],
    add_generation_prompt: bool,
    tools: Option<()>,
    documents: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bos_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eos_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unk_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pad_token: Option<&'a str>,
}

const CHATML: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

impl ChatTemplate {
    /// A template from its Jinja text.
    ///
    /// # Errors
    /// [`AgentError::Config`] where the text is not Jinja, or asks for what no chat template needs.
    pub fn new(source: &str, special: SpecialTokens) -> Result<Self, AgentError> {
        Self {
            source: source.into(),
            special,
            path: None,
        }
        .checked()
    }

    /// The plain ChatML template: no system prompt of its own, every text word for word, `<|im_end|>` ends a turn.
    #[must_use]
    pub fn chatml() -> Self {
        let special = SpecialTokens {
            eos: Some(IM_END.into()),
            ..SpecialTokens::default()
        };
        Self {
            source: CHATML.into(),
            special,
            path: None,
        }
    }

    /// The template in a folder of a Hugging Face model: `chat_template.jinja`, or else `chat_template` (a text, or the
    /// one named `default`) in `tokenizer_config.json`, which also names the special tokens. `None` where neither is.
    ///
    /// # Errors
    /// [`AgentError::File`] and [`AgentError::Content`] for files that cannot be read or do not hold what they should.
    pub fn from_hf_folder(folder: &Path) -> Result<Option<Self>, AgentError> {
        let (settings, jinja) = (
            folder.join("tokenizer_config.json"),
            folder.join("chat_template.jinja"),
        );
        Self::from_hf_texts(
            folder,
            text_if_any(&settings)?.as_deref(),
            text_if_any(&jinja)?,
        )
    }

    /// The same from the texts of `tokenizer_config.json` and `chat_template.jinja`; the folder is for error messages.
    ///
    /// # Errors
    /// As [`ChatTemplate::from_hf_folder`].
    pub fn from_hf_texts(
        folder: &Path,
        settings_text: Option<&str>,
        jinja_text: Option<String>,
    ) -> Result<Option<Self>, AgentError> {
        let (settings, jinja) = (
            folder.join("tokenizer_config.json"),
            folder.join("chat_template.jinja"),
        );
        let content = |reason: String| AgentError::Content {
            path: settings.clone(),
            reason,
        };
        let config = match settings_text {
            Some(text) => serde_json::from_str(text).map_err(|e| content(e.to_string()))?,
            None => TokenizerConfig::default(),
        };
        let special = config.special_tokens();
        let (source, path) = match (jinja_text, config.chat_template) {
            (Some(source), _) => (source, jinja),
            (None, Some(Templates::One(source))) => (source, settings),
            (None, Some(Templates::Named(all))) => {
                let names: Vec<_> = all.iter().map(|one| one.name.clone()).collect();
                let default = all.into_iter().find(|one| one.name == "default");
                let missing = || {
                    content(format!(
                        "no chat template is named `default`, only {}",
                        names.join(", ")
                    ))
                };
                (default.ok_or_else(missing)?.template, settings)
            }
            (None, None) => return Ok(None),
        };
        Self {
            source,
            special,
            path: Some(path),
        }
        .checked()
        .map(Some)
    }

    /// The special tokens that the template was given.
    #[must_use]
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// The Jinja text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation, as transformers' `apply_chat_template` renders it; with `add_generation_prompt`, up
    /// to where the policy begins to write. `strftime_now` always answers Friday, 26 July 2024, midnight.
    ///
    /// # Errors
    /// Where the template raises, uses what chat templates do not have, or makes more than 8 MiB of text on the way;
    /// [`AgentError::Content`] when it came from a file, [`AgentError::Config`] otherwise.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, AgentError> {
        let variables = Variables {
            messages,
            add_generation_prompt,
            tools: None,
            documents: None,
            bos_token: self.special.bos.as_deref(),
            eos_token: self.special.eos.as_deref(),
            unk_token: self.special.unk.as_deref(),
            pad_token: self.special.pad.as_deref(),
        };
        jinja::render(&self.source, minijinja::Value::from_serialize(variables))
            .map_err(|reason| self.failed(&reason))
    }

    fn checked(self) -> Result<Self, AgentError> {
        jinja::check(&self.source).map_err(|reason| self.failed(&reason))?;
        Ok(self)
    }

    fn failed(&self, reason: &str) -> AgentError {
        let reason = format!("chat template: {reason}");
        match &self.path {
            Some(path) => AgentError::Content {
                path: path.clone(),
                reason,
            },
            None => AgentError::Config(reason),
        }
    }
}

// tokenizer_config.json, as far as templates need it.

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenizerConfig {
    chat_template: Option<Templates>,
    bos_token: Option<TokenText>,
    eos_token: Option<TokenText>,
    unk_token: Option<TokenText>,
    pad_token: Option<TokenText>,
    added_tokens_decoder: BTreeMap<String, AddedToken>,
}

enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

enum TokenText {
    Plain(String),
    Added(AddedToken),
}

#[derive(Deserialize)]
struct AddedToken {
    content: String,
    #[serde(default)]
    special: bool,
}

// Derived for an enum without tags, it would hold whatever stands there before it looks at it, at many times its size.

impl<'de> Deserialize<'de> for Templates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TemplatesVisitor)
    }
}

struct TemplatesVisitor;

impl<'de> Visitor<'de> for TemplatesVisitor {
    type Value = Templates;

    fn expecting(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        out.write_str("a chat template or a list of named ones")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Templates, E> {
        Ok(Templates::One(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Templates, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(Templates::Named)
    }
}

impl<'de> Deserialize<'de> for TokenText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TokenTextVisitor)
    }
}

struct TokenTextVisitor;

impl<'de> Visitor<'de> for TokenTextVisitor {
    type Value = TokenText;

    fn expecting(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        out.write_str("a token's text, or a token")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<TokenText, E> {
        Ok(TokenText::Plain(text.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TokenText, A::Error> {
        AddedToken::deserialize(MapAccessDeserializer::new(map)).map(TokenText::Added)
    }
}

impl TokenizerConfig {
    fn special_tokens(&self) -> SpecialTokens {
        let text = |token: &Option<TokenText>| {
            token.as_ref().map(|token| match token {
                TokenText::Plain(text) | TokenText::Added(AddedToken { content: text, .. }) => {
                    text.clone()
                }
            })
        };
        let others = self
            .added_tokens_decoder
            .values()
            .filter(|token| token.special);
        SpecialTokens {
            bos: text(&self.bos_token),
            eos: text(&self.eos_token),
            unk: text(&self.unk_token),
            pad: text(&self.pad_token),
            others: others.map(|token| token.content.clone()).collect(),
        }
    }
}

/// Longest file that is read for its template, in bytes.
const LONGEST_FILE: u64 = 16 << 20;

fn text_if_any(path: &Path) -> Result<Option<String>, AgentError> {
    files::read_if_any(path, LONGEST_FILE)?
        .map(|bytes| files::text(path, bytes))
        .transpose()
}

/// The texts that a template puts around the observations and completions of an episode.
///
/// An episode is `opening`, then for each turn the observation, `generation_prompt`, what the policy writes up to and
/// with `end_of_turn`, and `next_observation` before the next turn. A completion that somebody else wrote (a
/// demonstration) stands between `before_completion` and `after_completion`, as the template would have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnFrames {
    /// Before the first observation: the system prompt, the template's own where none is given, and the user's header.
    pub opening: String,
    /// Between an observation and what the policy writes.
    pub generation_prompt: String,
    /// Between the generation prompt and a completion's own text; mostly nothing, one blank in Llama 2.
    pub before_completion: String,
    /// Between a completion's own text and the end of the turn; mostly nothing, one blank in Llama 2.
    pub after_completion: String,
    /// What ends a completion; `None` where the template closes with nothing (MiniCPM), so that the tokenizer's own
    /// end, which the template would leave out, has to serve.
    pub end_of_turn: Option<String>,
    /// Between the end of a turn and the next observation.
    pub next_observation: String,
    /// The template strips blanks from the ends of texts: the frames hold for stripped texts, so strip before encoding.
    pub strips: bool,
}

const IM_END: &str = "<|im_end|>";

impl TurnFrames {
    /// The frames as a tokenizer wants them: `eos` ends a completion where the template itself closes with nothing.
    ///
    /// # Errors
    /// When nothing ends a completion.
    pub fn into_frames(self, eos: Option<&str>) -> Result<Frames, AgentError> {
        let end = self.end_of_turn.as_deref().or(eos).map(str::to_owned);
        let end = end.ok_or_else(|| {
            AgentError::Config("nothing ends a completion: there is no eos_token".into())
        })?;
        Ok(Frames {
            opening: self.opening,
            answer: self.generation_prompt,
            end,
            between: self.next_observation,
            strips: self.strips,
        })
    }

    /// The frames of a template, with a given system prompt or the one that the template puts in by itself.
    ///
    /// Renders conversations of one, two and three turns and compares each with what the frames say.
    ///
    /// # Errors
    /// [`AgentError::Config`] where a rendering is no prefix of the next, changes a text, leaves the system prompt out,
    /// or raises; the message shows both renderings around the first difference.
    pub fn derive(template: &ChatTemplate, system: Option<&str>) -> Result<Self, AgentError> {
        let probe = Probe { template, system };
        let mut frames = probe.frames()?;
        for (turns, what) in [
            (&PLAIN, "texts"),
            (&REASONING, "texts with `<think>`"),
            (&MARKUP, "texts with markup"),
        ] {
            probe.compare(&frames, turns, what)?;
        }
        frames.strips = !probe.agrees(&frames, &PADDED)?;
        Ok(frames)
    }

    /// The frames of [`ChatTemplate::chatml`].
    #[must_use]
    pub fn chatml(system: Option<&str>) -> Self {
        let system = system.map_or(String::new(), |text| {
            format!("<|im_start|>system\n{text}{IM_END}\n")
        });
        Self {
            opening: format!("{system}<|im_start|>user\n"),
            generation_prompt: format!("{IM_END}\n<|im_start|>assistant\n"),
            before_completion: String::new(),
            after_completion: String::new(),
            end_of_turn: Some(IM_END.into()),
            next_observation: "\n<|im_start|>user\n".into(),
            strips: false,
        }
    }

    /// All that stands between a completion's own text and the next observation.
    #[must_use]
    pub fn between_turns(&self) -> String {
        [
            &self.after_completion,
            self.end_of_turn.as_deref().unwrap_or(""),
            &self.next_observation,
        ]
        .concat()
    }

    /// What the template should render of these turns, up to where the policy answers the last observation.
    fn text(&self, turns: &[Turn]) -> String {
        let mut text = self.opening.clone();
        for (index, (observation, completion)) in turns.iter().enumerate() {
            text.extend([*observation, &self.generation_prompt]);
            if index + 1 < turns.len() {
                text.extend([&self.before_completion, *completion, &self.between_turns()]);
            }
        }
        text
    }
}

/// An observation and the completion to it.
type Turn = (&'static str, &'static str);

/// Texts that stand for nothing, to be found again.
const MARKS: [Turn; 2] = [
    ("hearth observation A", "hearth completion A"),
    ("hearth observation B", "hearth completion B"),
];

const PLAIN: [Turn; 3] = [
    (
        "You are in the middle of a room.\n\nLooking  around you, you see a desk 1.\n\nYour task is to: look.",
        "go to desk 1",
    ),
    (
        "On the desk 1, you see nothing.",
        "Let me see.\n\nexamine  desk 1",
    ),
    ("Nothing happens.", "look"),
];

const REASONING: [Turn; 3] = [
    (
        "You see a mug 1.",
        "<think>\nA mug is needed.\n</think>\n\ntake mug 1",
    ),
    (
        "You pick up the mug 1.",
        "Thought: heat it\n</think>\ngo to stove 1",
    ),
    ("The stove 1 is closed.", "<think></think>open stove 1"),
];

const MARKUP: [Turn; 3] = [
    (
        "Ein Stück «Käse» {{ messages }} <b>&amp;</b>",
        "nimm 'Käse' \"1\" {% if %}",
    ),
    ("日本 🙂 [1] ### </s>", "### Response: 取る"),
    ("\\n %s {0}", "100 % #{x}"),
];

const PADDED: [Turn; 3] = [
    ("\n  You see a desk.\n\n", " \tlook \n"),
    ("  Nothing.  ", "\n\ngo to desk 1\n"),
    (" Done. \n", "look"),
];

/// A template under question.
struct Probe<'a> {
    template: &'a ChatTemplate,
    system: Option<&'a str>,
}

impl Probe<'_> {
    fn frames(&self) -> Result<TurnFrames, AgentError> {
        let [(first, completion), (second, _)] = MARKS;
        let (one, two) = (
            self.rendered(&MARKS[..1], Asks::Policy)?,
            self.rendered(&MARKS, Asks::Policy)?,
        );
        let (opening, generation_prompt) = self.cut(&one, first)?;
        if !two.starts_with(&one) {
            return Err(self.unfit("one turn is no prefix of two", &two, &one));
        }
        let (before_completion, rest) = self.cut(&two[one.len()..], completion)?;
        let (closing, _) = self.cut(rest, second)?;
        self.holds_system(opening)?;
        let closed = self.rendered(&MARKS[..1], Asks::Nobody).unwrap_or_default();
        let last = closed
            .split_once(completion)
            .map_or("", |(_, closing)| closing);
        let (after_completion, end_of_turn, next_observation) = self.cut_closing(closing, last);
        Ok(TurnFrames {
            opening: opening.into(),
            generation_prompt: generation_prompt.into(),
            before_completion: before_completion.into(),
            after_completion: after_completion.into(),
            end_of_turn: end_of_turn.map(str::to_string),
            next_observation: next_observation.into(),
            strips: false,
        })
    }

    /// What follows a completion, cut at the end of its turn. The end is what an inner and the last turn share
    /// (`closing` and `last`): a special token in it, or else a tag, or a line.
    fn cut_closing<'t>(&self, closing: &'t str, last: &str) -> (&'t str, Option<&'t str>, &'t str) {
        let shared = common_prefix(closing, last);
        let special = &self.template.special;
        let known = special
            .eos
            .iter()
            .chain(&special.others)
            .filter(|token| !token.is_empty());
        let found = known.filter_map(|token| Some((closing.find(token.as_str())?, token.len())));
        let earliest = found
            .filter(|(start, length)| start + length <= shared)
            .min_by_key(|(s, l)| (*s, usize::MAX - l));
        let Some((start, length)) = earliest.or_else(|| tag(&closing[..shared])) else {
            return ("", None, closing);
        };
        (
            &closing[..start],
            Some(&closing[start..start + length]),
            &closing[start + length..],
        )
    }

    fn holds_system(&self, opening: &str) -> Result<(), AgentError> {
        let kept = self
            .system
            .is_none_or(|system| opening.contains(system.trim()));
        if kept {
            Ok(())
        } else {
            Err(self.unfit(
                "the system prompt is left out",
                self.system.unwrap_or(""),
                opening,
            ))
        }
    }

    fn cut<'t>(&self, text: &'t str, mark: &str) -> Result<(&'t str, &'t str), AgentError> {
        let mut places = text.match_indices(mark);
        match (places.next(), places.next()) {
            (Some((place, _)), None) => Ok((&text[..place], &text[place + mark.len()..])),
            (None, _) => Err(self.unfit("a text is left out or changed", mark, text)),
            _ => Err(self.unfit("a text is said twice", mark, text)),
        }
    }

    /// One, two and three turns are what the frames say.
    fn compare(&self, frames: &TurnFrames, turns: &[Turn], what: &str) -> Result<(), AgentError> {
        for count in 1..=turns.len() {
            let (expected, found) = (
                frames.text(&turns[..count]),
                self.rendered(&turns[..count], Asks::Policy)?,
            );
            if expected != found {
                return Err(self.unfit(&format!("{what}, {count} turns"), &expected, &found));
            }
        }
        Ok(())
    }

    fn agrees(&self, frames: &TurnFrames, turns: &[Turn]) -> Result<bool, AgentError> {
        Ok(frames.text(turns) == self.rendered(turns, Asks::Policy)?)
    }

    fn rendered(&self, turns: &[Turn], asks: Asks) -> Result<String, AgentError> {
        let system = self.system.map(|text| Message::new(Role::System, text));
        let said = turns.iter().flat_map(|(observation, completion)| {
            [
                Message::new(Role::User, *observation),
                Message::new(Role::Assistant, *completion),
            ]
        });
        let mut messages: Vec<_> = system.into_iter().chain(said).collect();
        if asks == Asks::Policy {
            messages.pop();
        }
        self.template
            .render(&messages, asks == Asks::Policy)
            .map_err(|error| match error {
                AgentError::Config(reason) => AgentError::Config(format!("{reason}\n{HINT}")),
                AgentError::Content { path, reason } => AgentError::Content {
                    path,
                    reason: format!("{reason}\n{HINT}"),
                },
                other => other,
            })
    }

    fn unfit(&self, what: &str, expected: &str, found: &str) -> AgentError {
        let file = self
            .template
            .path
            .as_ref()
            .map_or(String::new(), |path| format!("{}: ", path.display()));
        let shown = difference(expected, found);
        AgentError::Config(format!(
            "{file}chat template is not prefix-preserving: {what}: {shown}\n{HINT}"
        ))
    }
}

/// Who writes next in a rendering: the policy, after an observation, or nobody, after a completion.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    Policy,
    Nobody,
}

const HINT: &str = "hint: play with the stated ChatML instead of the model's own template";

/// Bytes that two texts begin with alike, to a whole letter.
fn common_prefix(left: &str, right: &str) -> usize {
    left.chars()
        .zip(right.chars())
        .take_while(|(l, r)| l == r)
        .map(|(letter, _)| letter.len_utf8())
        .sum()
}

/// Place and length of the first tag, such as `<|end|>` or `[/X]`, or else of the first line; blanks do not count.
fn tag(text: &str) -> Option<(usize, usize)> {
    let start = text.len() - text.trim_start().len();
    let word = &text[start..];
    let close = match word.chars().next()? {
        '<' => '>',
        '[' => ']',
        _ => '\n',
    };
    let end = word.find(close).map(|place| {
        if close == '\n' {
            place
        } else {
            place + close.len_utf8()
        }
    });
    Some((start, end.unwrap_or(word.trim_end().len())))
}

/// Both texts around their first difference.
fn difference(expected: &str, found: &str) -> String {
    let place = common_prefix(expected, found);
    let start = expected[..place]
        .char_indices()
        .rev()
        .nth(23)
        .map_or(0, |(index, _)| index);
    let around = |text: &str| text[start..].chars().take(72).collect::<String>();
    format!(
        "expected {:?}, found {:?} (from byte {start}, differing at {place})",
        around(expected),
        around(found)
    )
}
