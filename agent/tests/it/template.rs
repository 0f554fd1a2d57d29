//! Chat templates render as transformers renders them, byte for byte. If a template fits an episode,
//! it has frames. No template can hang or fill memory.
//!
//! `golden/chat_templates.json` is the output of `oracle/chat_templates.py`.

use agent::AgentError;
use agent::text::template::{ChatTemplate, Message, Role, SpecialTokens, TurnFrames};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[derive(Deserialize)]
struct GoldenTemplates {
    conversations: BTreeMap<String, Vec<GoldenMessage>>,
    templates: Vec<GoldenTemplate>,
}

#[derive(Deserialize)]
struct GoldenMessage {
    role: String,
    content: String,
}

#[derive(Deserialize)]
struct GoldenTemplate {
    name: String,
    source: String,
    bos: Option<String>,
    eos: Option<String>,
    cases: Vec<GoldenRendering>,
}

#[derive(Deserialize)]
struct GoldenRendering {
    conversation: String,
    add_generation_prompt: bool,
    text: Option<String>,
    error: Option<String>,
}

fn golden() -> GoldenTemplates {
    serde_json::from_str(include_str!("../golden/chat_templates.json"))
        .expect("the tests' own data fit")
}

fn template(name: &str) -> ChatTemplate {
    let found = golden()
        .templates
        .into_iter()
        .find(|template| template.name == name)
        .expect("the tests' own data fit");
    found.opened()
}

impl GoldenTemplate {
    fn opened(&self) -> ChatTemplate {
        let special = SpecialTokens {
            bos: self.bos.clone(),
            eos: self.eos.clone(),
            ..SpecialTokens::default()
        };
        ChatTemplate::new(&self.source, special).expect("the tests' own data fit")
    }
}

fn messages(recorded: &[GoldenMessage]) -> Vec<Message> {
    recorded
        .iter()
        .map(|message| {
            let role = match message.role.as_str() {
                "system" => Role::System,
                "user" => Role::User,
                _ => Role::Assistant,
            };
            Message::new(role, message.content.clone())
        })
        .collect()
}

#[test]
fn templates_render_as_transformers_renders_them() {
    let golden = golden();
    let (mut texts, mut raised) = (0, 0);
    for recorded in &golden.templates {
        let template = recorded.opened();
        for case in &recorded.cases {
            let place = format!(
                "{}, {}, {}",
                recorded.name, case.conversation, case.add_generation_prompt
            );
            let rendered = template.render(
                &messages(&golden.conversations[&case.conversation]),
                case.add_generation_prompt,
            );
            match (&case.text, rendered) {
                (Some(text), Ok(rendered)) => assert_eq!(&rendered, text, "{place}"),
                (None, Err(error)) => {
                    let reason = case.error.as_ref().unwrap();
                    assert!(
                        error.to_string().contains(reason),
                        "{place}: {error} lacks {reason}"
                    );
                }
                (_, rendered) => {
                    panic!(
                        "{place}: {rendered:?} where transformers has {:?} {:?}",
                        case.text, case.error
                    )
                }
            }
            *(if case.text.is_some() {
                &mut texts
            } else {
                &mut raised
            }) += 1;
        }
    }
    assert!(
        texts > 120 && raised > 4,
        "{texts} texts and {raised} raised"
    );
}

fn frames(name: &str, system: Option<&str>) -> TurnFrames {
    TurnFrames::derive(&template(name), system).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn unfit(name: &str, system: Option<&str>) -> String {
    let error = TurnFrames::derive(&template(name), system).expect_err(name);
    assert!(matches!(error, AgentError::Config(_)), "{error}");
    error.to_string()
}

#[test]
fn the_frames_of_chatml_are_those_of_its_template() {
    for system in [None, Some("Be brief.")] {
        assert_eq!(
            TurnFrames::derive(&ChatTemplate::chatml(), system).unwrap(),
            TurnFrames::chatml(system)
        );
    }
}

#[test]
fn a_default_system_prompt_belongs_to_the_opening() {
    let own = "<|im_start|>system\nYou are a small helper.<|im_end|>\n<|im_start|>user\n";
    assert_eq!(
        frames("smollm2", None),
        TurnFrames {
            opening: own.into(),
            ..TurnFrames::chatml(None)
        }
    );
    assert_eq!(
        frames("smollm2", Some("Be brief.")),
        TurnFrames::chatml(Some("Be brief."))
    );
    let own = "<|im_start|>system\nYou are a helper made far away.<|im_end|>\n<|im_start|>user\n";
    assert_eq!(
        frames("qwen2", None),
        TurnFrames {
            opening: own.into(),
            ..TurnFrames::chatml(None)
        }
    );
}

#[test]
fn the_blanks_of_llama_2_are_outside_of_completions() {
    let expected = TurnFrames {
        opening: "<s>[INST] ".into(),
        generation_prompt: " [/INST]".into(),
        before_completion: " ".into(),
        after_completion: " ".into(),
        end_of_turn: Some("</s>".into()),
        next_observation: "<s>[INST] ".into(),
        strips: true,
    };
    assert_eq!(frames("llama2", None), expected);
    assert_eq!(
        frames("llama2", Some("Be brief.")).opening,
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n"
    );
}

#[test]
fn llama_3_strips_and_ends_with_eot() {
    let frames = frames("llama3", None);
    assert_eq!(
        frames.opening,
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
    );
    assert_eq!(
        frames.generation_prompt,
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    );
    assert_eq!(frames.end_of_turn.as_deref(), Some("<|eot_id|>"));
    assert_eq!(
        frames.next_observation,
        "<|start_header_id|>user<|end_header_id|>\n\n"
    );
    assert!(frames.strips);
    assert_eq!(
        self::frames("llama3_dated", None)
            .opening
            .matches("26 Jul 2024")
            .count(),
        1
    );
}

#[test]
fn minicpm_ends_turns_with_nothing() {
    let frames = frames("minicpm", None);
    assert_eq!(
        (frames.opening.as_str(), frames.generation_prompt.as_str()),
        ("<用户>", "<AI>")
    );
    assert_eq!(
        (
            frames.end_of_turn.as_deref(),
            frames.between_turns().as_str()
        ),
        (None, "<用户>")
    );
    assert!(frames.strips);
    assert_eq!(
        self::frames("minicpm", Some("Be brief.")).opening,
        "Be brief.<用户>"
    );
}

#[test]
fn the_end_of_a_turn_is_not_the_end_of_a_text() {
    let phi = frames("phi3", None);
    assert_eq!(phi.end_of_turn.as_deref(), Some("<|end|>"));
    assert_eq!(phi.next_observation, "\n<|user|>\n");
    let gemma = frames("gemma", None);
    assert_eq!(gemma.end_of_turn.as_deref(), Some("<end_of_turn>"));
    let vicuna = frames("vicuna", None);
    assert_eq!(
        (
            vicuna.generation_prompt.as_str(),
            vicuna.before_completion.as_str()
        ),
        (" ASSISTANT:", " ")
    );
    assert_eq!(vicuna.end_of_turn.as_deref(), Some("</s>"));
}

#[test]
fn a_template_that_drops_reasoning_has_no_frames() {
    let error = unfit("thinking", None);
    assert!(
        error.contains("not prefix-preserving") && error.contains("<think>"),
        "{error}"
    );
    assert!(error.contains("--template FILE"), "{error}");
}

#[test]
fn a_moving_system_prompt_has_no_frames() {
    let error = unfit("mistral", Some("Be brief."));
    assert!(
        error.contains("not prefix-preserving") && error.contains("Be brief."),
        "{error}"
    );
    assert_eq!(frames("mistral", None).end_of_turn.as_deref(), Some("</s>"));
    assert!(unfit("gemma", Some("Be brief.")).contains("no system role"));
}

fn from_source(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, SpecialTokens::default()).expect("the tests' own data fit")
}

/// The frames of a template that writes `content` of each message `m`.
fn derived(content: &str) -> Result<TurnFrames, AgentError> {
    let source =
        format!("{{% for m in messages %}}<{{{{ m.role }}}}>{{{{ {content} }}}}</>{{% endfor %}}");
    TurnFrames::derive(&from_source(&source), None)
}

#[test]
fn templates_that_change_texts_have_no_frames() {
    assert!(!derived("m.content").unwrap().strips);
    assert!(derived("m.content.rstrip()").unwrap().strips);
    for changed in [
        "m.content.lower()",
        "m.content.split()|join(' ')",
        "m.content ~ m.content",
        "m.content if loop.last",
        "m.content.split('</think>')[-1]",
        "loop.length ~ m.content",
        "m.content|replace('<', '&lt;')",
        "raise_exception('not me') if m.role == 'user'",
    ] {
        let error = derived(changed).expect_err(changed).to_string();
        assert!(error.contains("\nhint: "), "{changed}: {error}");
    }
}

/// A template that runs `step` 99 times.
fn doubling(step: &str) -> String {
    format!(
        "{{% set ns = namespace(x='aaaaaaaa', l=[1]) %}}{{% for i in range(99) %}}{step}{{% endfor %}}{{{{ ns.x }}}}"
    )
}

/// A template that replaces `ns.x` 99 times.
fn set(value: &str) -> String {
    doubling(&format!("{{% set ns.x = {value} %}}"))
}

/// A template that nests `ns.x` 40 000 times.
fn nest(value: &str) -> String {
    format!(
        "{{% set ns = namespace(x=1) %}}{{% for i in range(40000) %}}{{% set ns.x = {value} %}}{{% endfor %}}"
    )
}

#[test]
fn hostile_templates_end_with_an_error() {
    let loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let hostile = [
        loops.to_string(),
        "{% for i in range(10**12) %}x{% endfor %}".into(),
        "{% for i in range(999999999) %}x{% endfor %}".into(),
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}".into(),
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(0) }}".into(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".into(),
        "{{ 'a' * 1000000000 }}".into(),
        "{{ 1000000000 * 'a' }}".into(),
        "{% set n = 1000000000 %}{% set a = 'a' %}{{ a * n }}".into(),
        "{% set n = 1000000000 %}{{ ('a' ~ 'b') * n }}".into(),
        "{{ 1 in [0] * 1000000000000000 }}".into(),
        "{% set l = [0] %}{{ (l * 9999999999) | length }}".into(),
        "{{ 9 ** 999999999 }}".into(),
        "{% set n = 9 %}{{ n ** 999999999 }}".into(),
        set("ns.x ~ ns.x"),
        set("ns.x + ns.x"),
        set("ns.x.replace('a', ns.x)"),
        set("ns.x | replace('a', ns.x)"),
        set("ns.x.join([ns.x, ns.x])"),
        set("[ns.x, ns.x] | join(ns.x)"),
        set("[ns.x, ns.x] | string"),
        set("[ns.x, ns.x] | tojson"),
        set("{'a': ns.x, 'b': ns.x}"),
        doubling("{% set ns.l = ns.l + ns.l %}") + "{{ 7 in ns.l }}",
        doubling("{% set ns.l = ns.l[:] + ns.l[::-1] %}") + "{{ ns.l == ns.l }}",
        doubling("{% set ns.l = [ns.l, ns.l] %}") + "{{ ns.l }}",
        doubling("{% set x %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = x %}"),
        "{% macro f(x, n) %}{% if n %}{{ f(x ~ x, n - 1) }}{% endif %}{% endmacro %}{{ f('aaaaaaaa', 60) }}".into(),
        format!("{{% set x %}}{{% for i in range(99999) %}}{}{{% endfor %}}{{% endset %}}", "x".repeat(50_000)),
        format!("{{% for i in range(99999) %}}{}{{% endfor %}}", "x".repeat(50_000)),
        nest("[ns.x]"),
        nest("{'a': ns.x}"),
        nest("namespace(x=ns.x)"),
        nest("dict(x=ns.x)"),
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}".into(),
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns == ns }}".into(),
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ [ns] | tojson }}".into(),
        "{% set g = namespace(p=1) %}{% for i in range(20000) %}{% set n = namespace() %}{% set n.x = g.p %}{% set g.p = n %}{% endfor %}".into(),
        "{{ 'abc'.count('') ~ 'abc'.split('') }}".into(),
        "{{ '{:>999999999}'.format('x') }}".into(),
        "{{ '%999999999s' | format('x') }}".into(),
        "{{ 'x' | indent(999999999) }}".into(),
        "{{ 'x' | center(999999999) }}".into(),
        "{{ [1] | tojson(indent=999999999) }}".into(),
        "{{ range(99999) | batch(1) | list }}".into(),
        "{{ 'x' | nosuchfilter }}".into(),
        "{{ 'x' is nosuchtest }}".into(),
        "{{ 'x'.nosuchmethod() }}".into(),
        "{{ nosuchfunction() }}".into(),
        "{{ missing.attribute }}".into(),
        "{{ missing['item'] }}".into(),
        "{{ missing + 'x' }}".into(),
        "{% include 'other' %}".into(),
        "{% block b %}x{% endblock %}".into(),
        "{% extends 'other' %}".into(),
        "{{ self.b() }}".into(),
        "{{ messages.__class__.__mro__ }}".into(),
        "{% for m in messages %}".into(),
        "{{ '".into(),
        format!("{{{{ {}1 }}}}", "(".repeat(390)),
        format!("{{{{ {}1 }}}}", "(".repeat(50_000)),
        format!("{{{{ 1{} }}}}", "~1".repeat(25_000)),
        format!("{{{{ x{} }}}}", ".x".repeat(25_000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(10_000)),
        format!("{{{{ {}1 }}}}", "-".repeat(25_000)),
        format!("{{{{ 1{} }}}}", "|int".repeat(10_000)),
        format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(4_000)),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(4_000)),
        "{% if 1 %}".repeat(5_000),
        "{% for a in [1] %}".repeat(3_000),
        "{% macro f() %}".repeat(3_000),
        "x".repeat(60_001),
    ];
    for source in &hostile {
        let start = Instant::now();
        let rendered = ChatTemplate::new(source, SpecialTokens::default())
            .and_then(|template| template.render(&[Message::new(Role::User, "x")], true));
        let time = start.elapsed();
        let shown: String = source.chars().take(90).collect();
        assert!(
            rendered.is_err() || source.contains("count('')"),
            "{shown} renders {} bytes",
            rendered.unwrap().len()
        );
        assert!(time < Duration::from_secs(20), "{shown} took {time:?}");
    }
}

#[test]
fn deep_but_allowed_templates_do_not_overflow_the_stack() {
    for source in [
        format!("{{{{ 1{} }}}}", "~1".repeat(195)),
        format!("{{{{ messages{} }}}}", "|list".repeat(195)),
        format!("{{{{ {}1 }}}}", "not ".repeat(140)),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(395)),
        format!("{}1{}", "{% if 1 %}".repeat(70), "{% endif %}".repeat(70)),
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(8) }}".into(),
    ] {
        from_source(&source).render(&[], true).unwrap();
    }
}

#[test]
fn a_missing_variable_is_undefined_as_in_transformers() {
    let template = from_source(
        "[{{ bos_token }}{{ enable_thinking }}{{ messages[0].name }}{{ tools is none }}]",
    );
    assert_eq!(
        template
            .render(&[Message::new(Role::User, "x")], true)
            .unwrap(),
        "[True]"
    );
    assert!(
        from_source("{{ bos_token + 'x' }}")
            .render(&[], true)
            .is_err()
    );
    assert_eq!(
        from_source("{{ strftime_now('%d %b %Y, %-m%%') }}")
            .render(&[], true)
            .unwrap(),
        "26 Jul 2024, 7%"
    );
}

#[test]
fn errors_name_line_and_reason() {
    let error = from_source("\n\n{{ raise_exception('no such role') }}")
        .render(&[], true)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "model configuration: chat template: line 3: no such role"
    );
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("the tests' own data fit");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("the tests' own data fit");
    }
    folder
}

fn opened(files: &[(&str, &str)]) -> Result<Option<ChatTemplate>, AgentError> {
    ChatTemplate::from_hf_folder(folder(files).path())
}

#[test]
fn a_model_folder_has_its_template() {
    let plain = r#"{"chat_template": "{{ bos_token }}a{{ eos_token }}", "bos_token": "<s>", "model_max_length": 1e30,
        "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": false}, "unk_token": null,
        "added_tokens_decoder": {"2": {"content": "<|end|>", "special": true}, "3": {"content": "yes", "special": false}}}"#;
    let template = opened(&[("tokenizer_config.json", plain)])
        .unwrap()
        .unwrap();
    assert_eq!(template.render(&[], true).unwrap(), "<s>a</s>");
    assert_eq!(template.special_tokens().others, ["<|end|>"]);
    let beside = opened(&[
        ("tokenizer_config.json", plain),
        ("chat_template.jinja", "b{{ eos_token }}\n"),
    ])
    .unwrap();
    assert_eq!(beside.unwrap().render(&[], true).unwrap(), "b</s>");
    let alone = opened(&[("chat_template.jinja", "c")]).unwrap().unwrap();
    assert_eq!(alone.render(&[], true).unwrap(), "c");
    let named = r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#;
    assert_eq!(
        opened(&[("tokenizer_config.json", named)])
            .unwrap()
            .unwrap()
            .render(&[], true)
            .unwrap(),
        "d"
    );
    assert!(
        opened(&[("tokenizer_config.json", "{}")])
            .unwrap()
            .is_none()
    );
    assert!(opened(&[]).unwrap().is_none());
}

fn broken(files: &[(&str, &str)]) -> String {
    opened(files).unwrap_err().to_string()
}

#[test]
fn a_broken_model_folder_is_refused_with_its_file() {
    let named = r#"{"chat_template": [{"name": "tool_use", "template": "t"}]}"#;
    assert!(
        broken(&[("tokenizer_config.json", named)])
            .contains("no chat template is named `default`, only tool_use")
    );
    assert!(broken(&[("tokenizer_config.json", "{")]).contains("tokenizer_config.json: EOF"));
    assert!(
        broken(&[("tokenizer_config.json", r#"{"chat_template": 3}"#)])
            .contains("tokenizer_config.json: ")
    );
    assert!(
        broken(&[("chat_template.jinja", "a\n{% if %}")])
            .contains("chat_template.jinja: chat template: line 2: ")
    );
}
