//! Derives the frames of a template by rendering, and checks that they hold.

use super::frames::TurnFrames;
use super::message::{Message, Role};
use super::render::ChatTemplate;
use crate::error::AgentError;

impl TurnFrames {
    /// The frames of a template with the given system prompt. If `system` is `None`, they contain
    /// the template's default system prompt, if it has one.
    ///
    /// Renders conversations of one, two and three turns and compares each with the frames.
    ///
    /// # Errors
    /// [`AgentError::Config`] if a rendering is not a prefix of the next, changes a text, leaves
    /// the system prompt out, or raises. The message shows both renderings around the first
    /// difference.
    pub fn derive(template: &ChatTemplate, system: Option<&str>) -> Result<Self, AgentError> {
        let probe = FrameProbe { template, system };
        let mut frames = probe.frames()?;
        for (turns, what) in [
            (&PLAIN, "texts"),
            (&REASONING, "texts with `<think>`"),
            (&MARKUP, "texts with markup"),
        ] {
            probe.compare(&frames, turns, what)?;
        }
        frames.strips =
            expected(&frames, &PADDED) != probe.rendered(&PADDED, NextWriter::Policy)?;
        Ok(frames)
    }

    /// The frames of a template whose only fault is what it does with thoughts, as those of Qwen3 and DeepSeek-R1-Distill: it
    /// drops the thoughts of earlier turns, or opens a thought (`<think>`) only where the policy writes next. In an episode,
    /// which only grows, every turn keeps what was written, and is prompted as the template prompts the last one.
    ///
    /// # Errors
    /// As [`Self::derive`], if the template does not fit for another reason.
    pub fn derive_with_thoughts(
        template: &ChatTemplate,
        system: Option<&str>,
    ) -> Result<Self, AgentError> {
        let probe = FrameProbe { template, system };
        let (earlier, prompt) = probe.frames_with_thoughts()?;
        probe.compare_with(&earlier, &prompt, &PLAIN, "texts")?;
        let padded = probe.rendered(&PADDED, NextWriter::Policy)?;
        let strips = expected_with(&earlier, &prompt, &PADDED) != padded;
        Ok(Self {
            generation_prompt: prompt,
            before_completion: String::new(),
            strips,
            ..earlier
        })
    }

    /// Returns the texts that the template puts around the first turn and between the first two. This is for templates that
    /// do not fit as a whole; later turns are framed like the second.
    ///
    /// # Errors
    /// As [`Self::derive`], if not even two turns show these texts.
    pub fn derive_around_turns(
        template: &ChatTemplate,
        system: Option<&str>,
    ) -> Result<Self, AgentError> {
        let probe = FrameProbe { template, system };
        let (earlier, prompt) = probe.frames_with_thoughts()?;
        let padded = probe.rendered(&PADDED[..1], NextWriter::Policy)?;
        let strips = expected_with(&earlier, &prompt, &PADDED[..1]) != padded;
        Ok(Self {
            generation_prompt: prompt,
            before_completion: String::new(),
            strips,
            ..earlier
        })
    }
}

/// What opens a thought, and what closes it.
pub(crate) const THOUGHTS: [(&str, &str); 2] = [("<think>", "</think>"), ("[THINK]", "[/THINK]")];

/// What closes the thought that a text leaves open; `None` if none is open.
#[must_use]
pub fn open_thought(text: &str) -> Option<&'static str> {
    THOUGHTS.into_iter().find_map(|(open, close)| {
        let last = text.rfind(open)?;
        (!text[last..].contains(close)).then_some(close)
    })
}

/// An observation and its completion.
type ProbeTurn = (&'static str, &'static str);

/// Texts without meaning, to be found again in a rendering.
const MARKS: [ProbeTurn; 2] = [
    ("hearth observation A", "hearth completion A"),
    ("hearth observation B", "hearth completion B"),
];

const PLAIN: [ProbeTurn; 3] = [
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

const REASONING: [ProbeTurn; 3] = [
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

const MARKUP: [ProbeTurn; 3] = [
    (
        "Ein Stück «Käse» {{ messages }} <b>&amp;</b>",
        "nimm 'Käse' \"1\" {% if %}",
    ),
    ("日本 🙂 [1] ### </s>", "### Response: 取る"),
    ("\\n %s {0}", "100 % #{x}"),
];

const PADDED: [ProbeTurn; 3] = [
    ("\n  You see a desk.\n\n", " \tlook \n"),
    ("  Nothing.  ", "\n\ngo to desk 1\n"),
    (" Done. \n", "look"),
];

/// Who writes after a rendering ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NextWriter {
    /// The policy: the rendering ends with an observation and the generation prompt.
    Policy,
    /// Nobody: the rendering ends with a completion.
    Nobody,
}

/// A template whose frames are derived.
struct FrameProbe<'a> {
    template: &'a ChatTemplate,
    system: Option<&'a str>,
}

/// A completion's end, cut in three.
struct Closing<'t> {
    after_completion: &'t str,
    end_of_turn: Option<&'t str>,
    next_observation: &'t str,
}

impl FrameProbe<'_> {
    fn frames(&self) -> Result<TurnFrames, AgentError> {
        let [(first, completion), (second, _)] = MARKS;
        let one = self.rendered(&MARKS[..1], NextWriter::Policy)?;
        let two = self.rendered(&MARKS, NextWriter::Policy)?;
        let (opening, generation_prompt) = self.cut(&one, first)?;
        if !two.starts_with(&one) {
            return Err(self.unfit("one turn is not a prefix of two", &two, &one));
        }
        let (before_completion, rest) = self.cut(&two[one.len()..], completion)?;
        let (closing, _) = self.cut(rest, second)?;
        let frames = TurnFrames {
            opening: opening.into(),
            generation_prompt: generation_prompt.into(),
            before_completion: before_completion.into(),
            ..self.closed(closing)?
        };
        self.check_system(&frames.opening)?;
        Ok(frames)
    }

    /// The frames of an earlier turn, and the prompt of the last one.
    fn frames_with_thoughts(&self) -> Result<(TurnFrames, String), AgentError> {
        let [(first, completion), (second, _)] = MARKS;
        let one = self.rendered(&MARKS[..1], NextWriter::Policy)?;
        let two = self.rendered(&MARKS, NextWriter::Policy)?;
        let (opening, prompt) = self.cut(&one, first)?;
        let (again, rest) = self.cut(&two, first)?;
        if again != opening {
            return Err(self.unfit(
                "the beginning changes with the number of turns",
                opening,
                again,
            ));
        }
        let (before, rest) = self.cut(rest, completion)?;
        let (closing, last_prompt) = self.cut(rest, second)?;
        if last_prompt != prompt {
            return Err(self.unfit(
                "the end changes with the number of turns",
                prompt,
                last_prompt,
            ));
        }
        self.check_system(opening)?;
        let earlier = TurnFrames {
            opening: opening.into(),
            generation_prompt: before.into(),
            before_completion: String::new(),
            ..self.closed(closing)?
        };
        Ok((earlier, prompt.into()))
    }

    /// Frames that only contain what follows a completion, given everything up to the next observation.
    fn closed(&self, closing: &str) -> Result<TurnFrames, AgentError> {
        let [(_, completion), _] = MARKS;
        let closed = self
            .rendered(&MARKS[..1], NextWriter::Nobody)
            .unwrap_or_default();
        let last = closed
            .split_once(completion)
            .map_or("", |(_, closing)| closing);
        let closing = self.cut_closing(closing, last);
        Ok(TurnFrames {
            opening: String::new(),
            generation_prompt: String::new(),
            before_completion: String::new(),
            after_completion: closing.after_completion.into(),
            end_of_turn: closing.end_of_turn.map(str::to_string),
            next_observation: closing.next_observation.into(),
            strips: false,
        })
    }

    /// Cuts what follows a completion at the end of its turn. The end is in what an inner turn and
    /// the last turn have in common (`closing` and `last`): a special token, or else a tag, or else
    /// a line.
    fn cut_closing<'t>(&self, closing: &'t str, last: &str) -> Closing<'t> {
        let shared = common_prefix(closing, last);
        let special = self.template.special_tokens();
        let earliest = special
            .eos
            .iter()
            .chain(&special.others)
            .filter(|token| !token.is_empty())
            .filter_map(|token| Some((closing.find(token.as_str())?, token.len())))
            .filter(|(start, length)| start + length <= shared)
            .min_by_key(|(start, length)| (*start, usize::MAX - length));
        let Some((start, length)) = earliest.or_else(|| tag(&closing[..shared])) else {
            return Closing {
                after_completion: "",
                end_of_turn: None,
                next_observation: closing,
            };
        };
        Closing {
            after_completion: &closing[..start],
            end_of_turn: Some(&closing[start..start + length]),
            next_observation: &closing[start + length..],
        }
    }

    fn check_system(&self, opening: &str) -> Result<(), AgentError> {
        match self.system {
            Some(system) if !opening.contains(system.trim()) => {
                Err(self.unfit("the system prompt is left out", system, opening))
            }
            _ => Ok(()),
        }
    }

    /// The text before and after a mark that must be in it exactly once.
    fn cut<'t>(&self, text: &'t str, mark: &str) -> Result<(&'t str, &'t str), AgentError> {
        let mut places = text.match_indices(mark);
        match (places.next(), places.next()) {
            (Some((place, _)), None) => Ok((&text[..place], &text[place + mark.len()..])),
            (None, _) => Err(self.unfit("a text is left out or changed", mark, text)),
            _ => Err(self.unfit("a text is repeated", mark, text)),
        }
    }

    /// Checks that one, two and three turns render as the frames predict.
    fn compare(
        &self,
        frames: &TurnFrames,
        turns: &[ProbeTurn],
        what: &str,
    ) -> Result<(), AgentError> {
        self.compare_with(frames, &frames.generation_prompt, turns, what)
    }

    /// The same, if the last turn has another generation prompt than the earlier ones.
    fn compare_with(
        &self,
        frames: &TurnFrames,
        last_prompt: &str,
        turns: &[ProbeTurn],
        what: &str,
    ) -> Result<(), AgentError> {
        for count in 1..=turns.len() {
            let turns = &turns[..count];
            let expected = expected_with(frames, last_prompt, turns);
            let found = self.rendered(turns, NextWriter::Policy)?;
            if expected != found {
                return Err(self.unfit(&format!("{what}, {count} turns"), &expected, &found));
            }
        }
        Ok(())
    }

    fn rendered(&self, turns: &[ProbeTurn], next: NextWriter) -> Result<String, AgentError> {
        let system = self.system.map(|text| Message::new(Role::System, text));
        let turns = turns.iter().flat_map(|(observation, completion)| {
            [
                Message::new(Role::User, *observation),
                Message::new(Role::Assistant, *completion),
            ]
        });
        let mut messages: Vec<_> = system.into_iter().chain(turns).collect();
        if next == NextWriter::Policy {
            messages.pop();
        }
        self.template
            .render(&messages, next == NextWriter::Policy)
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
            .path()
            .map_or(String::new(), |path| format!("{}: ", path.display()));
        let difference = difference(expected, found);
        AgentError::Config(format!(
            "{file}chat template is not prefix-preserving: {what}: {difference}\n{HINT}"
        ))
    }
}

const HINT: &str = "hint: `--template FILE` takes another chat template";

/// What the template should render of these turns, up to where the policy answers the last
/// observation.
fn expected(frames: &TurnFrames, turns: &[ProbeTurn]) -> String {
    expected_with(frames, &frames.generation_prompt, turns)
}

/// The same, if the last turn has another generation prompt than the earlier ones.
fn expected_with(frames: &TurnFrames, last_prompt: &str, turns: &[ProbeTurn]) -> String {
    let mut text = frames.opening.clone();
    for (index, (observation, completion)) in turns.iter().enumerate() {
        text.push_str(observation);
        if index + 1 < turns.len() {
            text.extend([
                &frames.generation_prompt,
                &frames.before_completion,
                *completion,
                &frames.between_turns(),
            ]);
        }
    }
    text + last_prompt
}

/// Length in bytes of the common beginning of two texts, in whole letters.
fn common_prefix(left: &str, right: &str) -> usize {
    left.chars()
        .zip(right.chars())
        .take_while(|(left, right)| left == right)
        .map(|(letter, _)| letter.len_utf8())
        .sum()
}

/// Place and length of the first tag, such as `<|end|>` or `[/X]`, or of the first line if there is
/// no tag. White space before it does not count.
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
    format!(
        "expected {:?}, found {:?} (from byte {start}, differing at {place})",
        excerpt(expected, start),
        excerpt(found, start)
    )
}

fn excerpt(text: &str, start: usize) -> String {
    text[start..].chars().take(72).collect()
}
