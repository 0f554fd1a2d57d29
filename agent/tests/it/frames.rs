//! Which frames the turns of a model get: [`ChosenFrames::choose`].

use agent::AgentError;
use agent::text::chat::{PromptPosition, observation_tokens};
use agent::text::template::{ChatTemplate, ChosenFrames, FrameOptions, FrameSource, SpecialTokens};
use agent::text::tokenizer::{Frames, Tokenizer, UnframedTokenizer};
use scenarios::Thinking;
use std::path::PathBuf;

/// A tokenizer with these three special tokens.
fn tokenizer(special: [&str; 3]) -> UnframedTokenizer {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let trained = Tokenizer::train(["go to desk 1"].into_iter(), 300).unwrap();
    trained.save(&path).unwrap();
    let mut json = std::fs::read_to_string(path).unwrap();
    for (own, other) in ["<|begin|>", "<|agent|>", "<|end|>"].iter().zip(special) {
        json = json.replace(own, other);
    }
    UnframedTokenizer::from_json(json.as_bytes()).unwrap()
}

fn special(eos: &str) -> SpecialTokens {
    SpecialTokens {
        bos: Some("<b>".into()),
        eos: Some(eos.into()),
        ..SpecialTokens::default()
    }
}

/// Chooses for a model with the tokens `<u>`, `<a>` and `<e>`.
fn chosen(source: Option<&str>, thinking: Option<Thinking>) -> Result<ChosenFrames, AgentError> {
    let template = source.map(|source| ChatTemplate::new(source, special("<e>")).unwrap());
    let options = FrameOptions {
        template: None,
        thinking,
    };
    ChosenFrames::choose(
        template,
        &special("<e>"),
        &tokenizer(["<u>", "<a>", "<e>"]),
        &options,
    )
}

/// A template that keeps of a completion what follows its thought, and ends a prompt with `opener`.
fn dropping(opener: &str) -> String {
    format!(
        "{{% for m in messages %}}{{% if m.role == 'user' %}}<u>{{{{ m.content }}}}{{% else %}}\
         <a>{{{{ m.content.split('</think>')[-1] }}}}<e>{{% endif %}}{{% endfor %}}\
         {{% if add_generation_prompt %}}<a>{opener}{{% endif %}}"
    )
}

/// As DeepSeek-R1-Distill: earlier thoughts are dropped, and the prompt opens a new one.
#[test]
fn a_template_that_opens_thoughts_keeps_them_in_an_episode() {
    let source = dropping("<think>\n");
    let kept = chosen(Some(&source), None).unwrap();
    assert_eq!(kept.source, FrameSource::TemplateWithThoughts);
    let expected = Frames {
        opening: "<u>".into(),
        answer: "<a><think>\n".into(),
        end: "<e>".into(),
        between: "<u>".into(),
        strips: false,
    };
    assert_eq!(kept.frames, expected);
    assert!(kept.reason.unwrap().contains("not prefix-preserving"));
    let off = chosen(Some(&source), Some(Thinking::Off)).unwrap();
    assert_eq!(off.frames.answer, "<a><think>\n\n</think>\n\n");
}

/// As Qwen3: earlier thoughts are dropped, and a variable switches thoughts off.
#[test]
fn the_switch_of_a_template_is_used() {
    let opener = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}";
    let source = dropping(opener);
    for (thinking, answer) in [
        (None, "<a>"),
        (Some(Thinking::Keep), "<a>"),
        (Some(Thinking::On), "<a>"),
        (Some(Thinking::Off), "<a><think>\n\n</think>\n\n"),
    ] {
        let found = chosen(Some(&source), thinking).unwrap();
        assert_eq!(found.frames.answer, answer, "{thinking:?}");
        assert_eq!(found.thinking, thinking.unwrap_or_default());
        assert_eq!(found.source, FrameSource::TemplateWithThoughts);
    }
}

#[test]
fn a_template_that_fits_is_used_as_it_is() {
    let source = "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{% if m.role[0] == 'a' %}<e>{% endif %}{% endfor %}\
                  {% if add_generation_prompt %}<a>{% endif %}";
    let found = chosen(Some(source), None).unwrap();
    assert_eq!((found.source, found.reason), (FrameSource::Template, None));
    let off = chosen(Some(source), Some(Thinking::Off)).unwrap();
    assert_eq!(off.thinking, Thinking::Keep, "there is nothing to switch");
}

/// The first observation moves to the end when there is a second.
#[test]
fn what_stands_around_two_turns_is_used_if_the_rest_does_not_fit() {
    let source = "{% for m in messages %}{% if m.role == 'user' %}<u>{{ m.content }}{% else %}<a>{{ m.content }}<e>{% endif %}\
                  {% if loop.index == 5 %}a reminder{% endif %}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}";
    let found = chosen(Some(source), None).unwrap();
    assert_eq!(found.source, FrameSource::AroundTurns);
    assert_eq!(
        (found.frames.answer.as_str(), found.frames.between.as_str()),
        ("<a>", "<u>")
    );
}

#[test]
fn a_base_model_gets_plain_text() {
    let found = chosen(None, None).unwrap();
    assert_eq!(found.source, FrameSource::Text);
    assert_eq!(
        found.reason.as_deref(),
        Some("the model has no chat template")
    );
    let tokenizer = tokenizer(["<u>", "<b>", "<e>"])
        .with_frames(found.frames)
        .unwrap();
    let ids = observation_tokens(&tokenizer, "You see a mug 1.", PromptPosition::Opening);
    assert_eq!(tokenizer.decode(&ids), "<b>You see a mug 1.\n\n> ");
}

#[test]
fn a_model_with_the_tokens_of_chatml_gets_chatml() {
    let found = ChosenFrames::choose(
        None,
        &special("<e>"),
        &tokenizer(["<|im_start|>", "<|im_end|>", "<e>"]),
        &FrameOptions::default(),
    );
    assert_eq!(found.unwrap().source, FrameSource::ChatMl);
}

#[test]
fn if_nothing_fits_the_error_has_every_reason() {
    let error = ChosenFrames::choose(
        None,
        &SpecialTokens::default(),
        &tokenizer(["<u>", "<a>", "<e>"]),
        &FrameOptions::default(),
    );
    let error = error.unwrap_err().to_string();
    for reason in [
        "no chat template",
        "lacks <|im_end|>",
        "no eos_token",
        "--template FILE",
    ] {
        assert!(error.contains(reason), "{error}");
    }
}

/// The user's template is used, or refused; nothing takes its place.
#[test]
fn the_template_of_a_file_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.jinja");
    let choose = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let options = FrameOptions {
            template: Some(PathBuf::from(&path)),
            thinking: None,
        };
        let own = ChatTemplate::new(&dropping(""), special("<e>")).unwrap();
        let tokenizer = tokenizer(["<u>", "<a>", "<e>"]);
        ChosenFrames::choose(Some(own), &special("<e>"), &tokenizer, &options)
    };
    // Windows line ends and a byte order mark.
    let source = "\u{feff}{% for m in messages %}{{ m.role }}:\r\n{{ m.content }}{% if m.role == 'assistant' %}<e>{% endif %}\r\n\
                  {% endfor %}{% if add_generation_prompt %}assistant:\r\n{% endif %}";
    let found = choose(source).unwrap();
    assert_eq!(found.frames.opening, "user:\n");
    assert_eq!(found.frames.answer, "assistant:\n");
    let reminding = "{% for m in messages %}{% if m.role == 'user' %}<u>{{ m.content }}{% else %}<a>{{ m.content }}<e>{% endif %}\
                     {% if loop.index == 5 %}a reminder{% endif %}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}";
    assert!(
        choose(reminding).is_err(),
        "what stands around two turns is not enough"
    );
    let error = choose("{{ messages[-1].content }}")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("own.jinja") && error.contains("prefix-preserving"),
        "{error}"
    );
}
