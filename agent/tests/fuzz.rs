//! Readers of files that come from strangers, on files that are damaged or hostile: weights, GGUF, `config.json`,
//! tokenizers and chat templates. Whatever a file holds, it is opened or refused with a message that names it; nothing
//! panics, hangs, or takes more memory than the file has reason for. What was opened can be encoded with and played.
//!
//! Each reader gets two seconds of inputs that follow from a seed; `HEARTH_FUZZ_SECONDS=600` makes that ten minutes,
//! `HEARTH_FUZZ_SEED=2` other inputs, `HEARTH_FUZZ_FROM=553` begins at one of them. What fails is kept in
//! `target/fuzz/READER-SEED-NUMBER/`. The cases that were found stand below, one test each.

#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/seeds.rs"]
mod seeds;

use agent::AgentError;
use agent::inference::device::Backend;
use agent::inference::sample::Sampling;
use agent::inference::{KvCache, PolicyInference, Span, ValueInference};
use agent::model::config::DecoderConfig;
use agent::model::folder::Model;
use agent::model::gguf::GgufFile;
use agent::model::weights::Weights;
use agent::text::chat::{Place, observation_tokens};
use agent::text::template::{ChatTemplate, TurnFrames};
use agent::text::tokenizer::{Frames, Tokenizer};
use mutate::Mutator;
use rand::{SeedableRng, rngs::StdRng};
use scenarios::WeightFormat;
use seeds::{Files, Gguf, WORDS};
use serde_json::{Value, json};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What an input may take beside eight times its own bytes.
const MEMORY: usize = 64 << 20;
/// Longest message, in bytes, beside the path.
const MESSAGE: usize = 4_000;

// Memory: what is held, the most that was held, the most that was asked for at once.

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

impl Counting {
    fn take(size: usize) {
        LARGEST.fetch_max(size, Relaxed);
        let held = HELD.fetch_add(size, Relaxed) + size;
        PEAK.fetch_max(held, Relaxed);
    }
}

// SAFETY: everything is left to the system's allocator; the counters are atomic.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::take(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::take(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::take(size);
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.realloc(place, layout, size) }
    }
}

// What is read, and what is done with what was opened.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Safetensors,
    Gguf,
    Config,
    Tokenizer,
}

impl Reader {
    /// Whether a file of a model folder is one that this reader is tried on.
    fn reads(self, name: &str) -> bool {
        match self {
            Self::Safetensors => name.contains("safetensors"),
            Self::Gguf => false,
            Self::Config => name == "config.json",
            Self::Tokenizer => name != "config.json" && !name.contains("safetensors"),
        }
    }

    /// Reads the files of a folder in all ways; whether the whole was accepted.
    fn read(self, folder: &Path, then: Then) -> bool {
        match self {
            Self::Safetensors => {
                for name in ["model.safetensors", "model-1.safetensors"] {
                    see(folder, Weights::open(&folder.join(name)));
                }
                see(folder, Weights::open_folder(folder))
                    .is_some_and(|weights| weights.hash().len() == 16)
                    && see(folder, Model::open(folder)).is_some_and(|model| play(&model, then))
            }
            Self::Gguf => {
                let path = folder.join("model.gguf");
                if let Some(mut file) = see(folder, GgufFile::open(&path)) {
                    see(folder, file.config());
                    see(folder, file.tokenizer());
                    see(folder, file.rope_factors());
                    see(folder, file.special_tokens());
                    see(folder, file.hf_tensors());
                }
                see(folder, Model::open_gguf(&path)).is_some_and(|model| play(&model, then))
            }
            Self::Config => {
                let Some(config) = see(folder, DecoderConfig::open(&folder.join("config.json")))
                else {
                    return false;
                };
                let again = DecoderConfig::from_hugging_face(config.to_hugging_face()).unwrap();
                let bare = |config: &DecoderConfig| DecoderConfig {
                    source: serde_json::Map::new(),
                    ..config.clone()
                };
                assert_eq!(bare(&again), bare(&config), "a config comes back as it was");
                see(folder, Model::open(folder)).map(|model| play(&model, then));
                play_shape(&config)
            }
            Self::Tokenizer => {
                see(
                    folder,
                    Tokenizer::open(&folder.join("tokenizer.json"), Frames::default()),
                )
                .map(|tokenizer| speak(&tokenizer));
                if let Some(Some(template)) = see(folder, ChatTemplate::from_hf_folder(folder)) {
                    let system = TurnFrames::derive(&template, Some("Be brief."));
                    let _ = told(system).map(|frames| frames.into_frames(Some("</s>")));
                }
                see(folder, Model::open(folder)).is_some_and(|model| play(&model, then))
            }
        }
    }
}

/// What was opened, or `None` for a refusal that says in which file and why, in words that a terminal can bear.
fn see<T>(folder: &Path, result: Result<T, AgentError>) -> Option<T> {
    if let Err(error) = &result {
        assert!(
            error.to_string().contains(&*folder.to_string_lossy()),
            "the message names no file: {error}"
        );
    }
    told(result)
}

fn told<T>(result: Result<T, AgentError>) -> Option<T> {
    if let Err(error) = &result {
        let message = error.to_string();
        assert!(
            message.len() < MESSAGE,
            "a message of {} bytes: {:.200}",
            message.len(),
            message
        );
        let control = message
            .chars()
            .find(|letter| letter.is_control() && *letter != '\n');
        assert_eq!(control, None, "a control character in {message:?}");
    }
    result.ok()
}

const SAID: &str = "You see a mug 1.\n é🙂\u{301} <|im_end|></s> {{ x }}\0  eeeeeeeeeeeeeeeeeeee aaaaaaaaaaaaaaaaaaaa go to desk 1";

/// Texts that begin and end with letters of every length, or are hardly texts.
const SAID_SHORTLY: [&str; 9] = [
    "",
    " ",
    "é",
    "🙂",
    "\u{301}",
    "日本 1é",
    "\u{FDFA}\u{FDFA} ",
    "İ\u{AD}\0",
    "  a\t\r\n🙂",
];

/// Token ids of a conversation, and their text again.
fn speak(tokenizer: &Tokenizer) -> Vec<u32> {
    let places = [Place::Opening, Place::AfterEnd, Place::AfterCut];
    let ids: Vec<u32> = places
        .iter()
        .flat_map(|place| observation_tokens(tokenizer, SAID, *place))
        .collect();
    assert!(
        !tokenizer.frames().end.is_empty() && !ids.is_empty(),
        "no frames"
    );
    assert!(tokenizer.decode(&ids).len() < 1 << 20);
    (0..300).for_each(|id| drop(tokenizer.decode(&[id, id + 1])));
    let _ = tokenizer.decode(&[tokenizer.end, u32::MAX]);
    SAID_SHORTLY
        .into_iter()
        .for_each(|text| drop(tokenizer.decode(&tokenizer.encode(text))));
    ids
}

/// What is done with an accepted model beside playing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    WriteAndReadAgain,
}

/// Plays a little with a model.
fn play(model: &Model, then: Then) -> bool {
    let ids = speak(&model.tokenizer);
    say(&model.config, &model.policy, &ids);
    if let Some(value) = model.value.as_ref().filter(|value| {
        value
            .get("value_head.weight", &[1, model.config.hidden_size])
            .is_ok()
    }) {
        let config = short(&model.config);
        let engine = ValueInference::from_weights(
            &config,
            &mut value.clone(),
            WeightFormat::Exact,
            &Backend::Cpu,
        )
        .unwrap();
        let _ = engine.value(&vec![0.5; config.hidden_size]);
    }
    if then == Then::Nothing {
        return true;
    }
    let again = tempfile::tempdir_in(fast()).unwrap();
    model.save(again.path()).unwrap();
    let same = Model::open(again.path()).unwrap();
    assert_eq!(
        same.policy.hash(),
        model.policy.hash(),
        "a model comes back as it was"
    );
    assert_eq!(
        speak(&same.tokenizer),
        ids,
        "a tokenizer comes back as it was"
    );
    true
}

/// The rotary table of a decoder is as long as its context; here a short one will do.
fn short(config: &DecoderConfig) -> DecoderConfig {
    DecoderConfig {
        max_position_embeddings: config.max_position_embeddings.min(64),
        ..config.clone()
    }
}

fn say(config: &DecoderConfig, weights: &Weights, ids: &[u32]) {
    let config = short(config);
    let engine = PolicyInference::from_weights(
        &config,
        &mut weights.clone(),
        WeightFormat::Exact,
        &Backend::Cpu,
    )
    .unwrap();
    let tokens = &ids[..ids.len().min(config.max_position_embeddings)];
    let hidden = engine
        .trunk
        .extend(&mut [Span::new(tokens, &mut KvCache::default())]);
    let logprobs = engine.logprobs(&hidden[hidden.len() - config.hidden_size..]);
    let drawn = Sampling::UNTEMPERED.draw(&logprobs, &mut StdRng::seed_from_u64(1));
    assert!((drawn.token as usize) < config.vocab_size);
}

/// Plays with random weights of that shape, where they are few.
fn play_shape(config: &DecoderConfig) -> bool {
    let few = config.num_hidden_layers <= 4 && config.head_width() <= 4096;
    if few
        && config
            .tensors()
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum::<usize>()
            <= 1 << 18
    {
        say(config, &Weights::random(config, 1), &[0, 0, 0]);
    }
    true
}

// Inputs.

struct Inputs {
    reader: Reader,
    folders: Vec<Files>,
    ggufs: Vec<Gguf>,
    templates: Vec<Vec<u8>>,
}

impl Inputs {
    fn new(reader: Reader) -> Self {
        let place = tempfile::tempdir_in(fast()).unwrap();
        let folders = seeds::folders(place.path());
        Self {
            reader,
            folders,
            ggufs: seeds::ggufs(),
            templates: seeds::templates(),
        }
    }

    fn damaged(&self, mutator: &mut Mutator) -> Files {
        if self.reader == Reader::Gguf {
            let (seed, other) = (
                self.ggufs[mutator.below(self.ggufs.len())].clone(),
                mutator.choose(&self.ggufs),
            );
            return Files::from([("model.gguf".into(), mutator.gguf(&seed, other))]);
        }
        let mut files = mutator.choose(&self.folders).clone();
        let names: Vec<String> = files
            .keys()
            .filter(|name| self.reader.reads(name))
            .cloned()
            .collect();
        for _ in 0..=usize::from(mutator.one_in(8)) {
            let name = mutator.choose(&names).clone();
            if mutator.one_in(100) {
                files.remove(&name);
                continue;
            }
            let name = if name == "model.safetensors.index.json" && mutator.one_in(4) {
                "model-1.safetensors".into()
            } else {
                name
            };
            let other = mutator
                .choose(&self.folders)
                .get(&name)
                .or_else(|| files.get(&name))
                .cloned()
                .unwrap_or_default();
            let Some(bytes) = files.get_mut(&name) else {
                continue;
            };
            match Path::new(&name)
                .extension()
                .and_then(|extension| extension.to_str())
            {
                _ if mutator.one_in(12) => mutator.bytes(bytes, &other),
                Some("safetensors") => mutator.safetensors(bytes, &other, &WORDS),
                Some("jinja") => {
                    *bytes = mutator.choose(&self.templates).clone();
                    let other = mutator.choose(&self.templates).clone();
                    mutator.jinja(bytes, &other, &WORDS);
                }
                _ => mutator.json(bytes, &other, &WORDS),
            }
        }
        files
    }
}

/// A folder in memory, where there is one.
fn fast() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    }
}

/// The files of the input that is tried, on disk.
struct Bench {
    folder: tempfile::TempDir,
    files: Files,
}

impl Bench {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir_in(fast()).unwrap(),
            files: Files::new(),
        }
    }

    fn put(&mut self, files: Files) {
        for name in self.files.keys().filter(|name| !files.contains_key(*name)) {
            std::fs::remove_file(self.folder.path().join(name)).unwrap();
        }
        for (name, bytes) in files
            .iter()
            .filter(|(name, bytes)| self.files.get(*name) != Some(bytes))
        {
            std::fs::write(self.folder.path().join(name), bytes).unwrap();
        }
        self.files = files;
    }
}

// The trial of one input.

/// Where the input under trial panicked, and what it said.
static PANIC: Mutex<String> = Mutex::new(String::new());
/// Since when an input is under trial.
static SINCE: Mutex<Option<Instant>> = Mutex::new(None);
/// The counters know one trial at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is wrong with how an input was read: its kind, and all about it. Otherwise whether it was accepted.
fn attempt(
    bytes: usize,
    patience: Duration,
    read: impl FnOnce() -> bool + Send,
) -> Result<bool, (String, String)> {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    LARGEST.store(0, Relaxed);
    let start = Instant::now();
    *locked(&SINCE) = Some(start);
    let result = std::thread::scope(|scope| {
        let input = std::thread::Builder::new()
            .name("input".into())
            .stack_size(2 << 20);
        input
            .spawn_scoped(scope, || {
                (read(), time_used().unwrap_or_else(|| start.elapsed()))
            })
            .unwrap()
            .join()
    });
    *locked(&SINCE) = None;
    let peak = PEAK
        .load(Relaxed)
        .saturating_sub(before)
        .max(LARGEST.load(Relaxed));
    let Ok((accepted, time)) = result else {
        let panic = locked(&PANIC).clone();
        return Err((panic.lines().next().unwrap_or("").to_string(), panic));
    };
    if peak > MEMORY + 8 * bytes {
        let asked = LARGEST.load(Relaxed);
        return Err((
            "memory".into(),
            format!("{peak} bytes held ({asked} at once) for {bytes} bytes of files"),
        ));
    }
    if time > patience {
        return Err(("time".into(), format!("{time:?}")));
    }
    Ok(accepted)
}

/// Time that this thread was computing, where the system tells: others may keep it waiting for longer.
fn time_used() -> Option<Duration> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(told.split(' ').next()?.parse().ok()?))
}

/// Keeps panics of inputs off the screen, and ends a trial that would never end.
fn watch(patience: Duration) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some("input") {
            return usual(panic);
        }
        let place = panic
            .location()
            .map_or(String::new(), |at| format!("{}:{}", at.file(), at.line()));
        let said = panic.payload_as_str().unwrap_or("");
        *locked(&PANIC) = format!("panic at {place}\n{said:.2000}");
    }));
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            if locked(&SINCE).is_some_and(|since| since.elapsed() > 30 * patience) {
                eprintln!("an input hangs");
                std::process::abort();
            }
        }
    });
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn fuzz(reader: Reader) {
    let _alone = locked(&ALONE);
    let long = setting("HEARTH_FUZZ_SECONDS");
    let (time, seed) = (
        Duration::from_secs(long.unwrap_or(2)),
        setting("HEARTH_FUZZ_SEED").unwrap_or(1),
    );
    // The short run may be one of a debug build.
    let patience = Duration::from_secs(if long.is_some() { 2 } else { 20 });
    watch(patience);
    let (inputs, mut bench) = (Inputs::new(reader), Bench::new());
    eprintln!(
        "{reader:?}: the input under trial lies in {}",
        bench.folder.path().display()
    );
    let mut findings: BTreeMap<String, String> = BTreeMap::new();
    let (mut tried, mut accepted, first, start) = (
        0,
        0,
        setting("HEARTH_FUZZ_FROM").unwrap_or(0),
        Instant::now(),
    );
    while start.elapsed() < time && findings.len() < 12 {
        let number = first + tried;
        tried += 1;
        bench.put(inputs.damaged(&mut Mutator::new(seed, number)));
        let bytes = bench.files.values().map(Vec::len).sum();
        let folder = bench.folder.path().to_path_buf();
        let then = if number.is_multiple_of(8) {
            Then::WriteAndReadAgain
        } else {
            Then::Nothing
        };
        match attempt(bytes, patience, move || reader.read(&folder, then)) {
            Ok(whole) => accepted += u64::from(whole),
            Err((kind, _)) if findings.contains_key(&kind) => {}
            Err((kind, finding)) => {
                let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("fuzz");
                let kept = kept.join(format!("{reader:?}-{seed}-{number}"));
                std::fs::create_dir_all(&kept).unwrap();
                for (name, bytes) in &bench.files {
                    std::fs::write(kept.join(name), bytes).unwrap();
                }
                findings.insert(kind, format!("{}: {finding}", kept.display()));
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{reader:?}: {tried} inputs in {seconds:.0} s, {:.0} a second; {accepted} accepted",
        tried as f64 / seconds
    );
    let list: Vec<String> = findings.into_values().collect();
    assert!(
        list.is_empty(),
        "seed {seed}, {} findings:\n\n{}\n",
        list.len(),
        list.join("\n\n")
    );
    assert!(accepted > 0, "no input was accepted, so little was tried");
}

#[test]
fn damaged_safetensors_are_refused() {
    fuzz(Reader::Safetensors);
}

#[test]
fn damaged_ggufs_are_refused() {
    fuzz(Reader::Gguf);
}

#[test]
fn damaged_configs_are_refused() {
    fuzz(Reader::Config);
}

#[test]
fn damaged_tokenizers_and_templates_are_refused() {
    fuzz(Reader::Tokenizer);
}

// Cases that were found, by the runs above or on the way to them.

/// What a reader says to files, held to the bounds of all inputs; `None` where they were accepted.
fn said<T>(
    files: &Files,
    open: impl FnOnce(&Path) -> Result<T, AgentError> + Send,
) -> Option<String> {
    let _alone = locked(&ALONE);
    let mut bench = Bench::new();
    bench.put(files.clone());
    let (folder, mut message) = (bench.folder.path(), None);
    let read = || {
        let result = open(folder);
        message = result.as_ref().err().map(ToString::to_string);
        see(folder, result).is_some()
    };
    attempt(
        files.values().map(Vec::len).sum(),
        Duration::from_secs(20),
        read,
    )
    .unwrap();
    message
}

fn folders() -> Vec<Files> {
    seeds::folders(tempfile::tempdir().unwrap().path())
}

/// A folder with another value at a place in one of its files.
fn with(files: &Files, name: &str, place: &str, value: Value) -> Files {
    let mut json: Value = serde_json::from_slice(&files[name]).unwrap();
    let (parent, key) = place.rsplit_once('/').unwrap();
    json.pointer_mut(parent).unwrap()[key] = value;
    let mut files = files.clone();
    files.insert(name.into(), json.to_string().into_bytes());
    files
}

fn refused(files: &Files, words: &str) {
    let message = said(files, Model::open).unwrap_or_else(|| panic!("accepted, though {words}"));
    assert!(message.contains(words), "{message}");
}

/// The library pads every text to that length, cuts it to three tokens, or repeats it with a stride.
#[test]
fn what_a_tokenizer_does_to_lengths_is_left_out() {
    let files = &folders()[0];
    let ids = |files: &Files| {
        let mut ids = Vec::new();
        let open = |folder: &Path| Model::open(folder).map(|model| ids = speak(&model.tokenizer));
        assert_eq!(said(files, open), None);
        ids
    };
    let padding = json!({"strategy": {"Fixed": 99_999_999_999_u64}, "direction": "Right", "pad_to_multiple_of": 7,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "x"});
    let truncation =
        json!({"max_length": 3, "stride": 9, "strategy": "LongestFirst", "direction": "Left"});
    assert_eq!(
        ids(&with(files, "tokenizer.json", "/padding", padding)),
        ids(files)
    );
    assert_eq!(
        ids(&with(files, "tokenizer.json", "/truncation", truncation)),
        ids(files)
    );
}

/// Each of these is a panic of the library, while it reads or at the first text.
#[test]
fn parts_of_a_tokenizer_that_the_library_cannot_bear_are_refused() {
    let files = &folders()[0];
    let tokenizer = |place: &str, value: Value, words: &str| {
        refused(&with(files, "tokenizer.json", place, value), words)
    };
    let charsmap = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    tokenizer(
        "/normalizer",
        charsmap,
        "normalizer: \"Precompiled\" is not read",
    );
    tokenizer(
        "/normalizer",
        json!({"type": "Prepend", "prepend": ""}),
        "normalizer: Prepend has 0 bytes",
    );
    tokenizer(
        "/pre_tokenizer",
        json!({"type": "FixedLength", "length": 0}),
        "\"FixedLength\" is not read",
    );
    let strip = json!({"type": "Strip", "content": " ", "start": 0, "stop": 1});
    tokenizer(
        "/decoder",
        json!({"type": "Sequence", "decoders": [strip]}),
        "decoder: Strip at the end is not supported",
    );
    tokenizer("/decoder", json!([]), "decoder: its type is missing");
    let long = json!({"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]});
    tokenizer(
        "/model",
        long,
        "merge 0, \"a\" and \"b\", does not make a token of two",
    );
    let prefix = json!({"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "a"]], "continuing_subword_prefix": "##"});
    tokenizer(
        "/model",
        prefix,
        "continuing_subword_prefix \"##\" is not supported",
    );
    tokenizer(
        "/model/unk_token",
        json!("nothing"),
        "unk_token \"nothing\" is not in the vocabulary",
    );
    tokenizer(
        "/model/vocab/a",
        json!(u32::MAX),
        "token \"a\" has the id 4294967295",
    );
    tokenizer("/model/dropout", json!(0.5), "dropout is not supported");
    let words = json!({"type": "WordLevel", "vocab": {"<|begin|>": 0, "<|agent|>": 1, "<|end|>": 2}, "unk_token": "no"});
    tokenizer(
        "/model",
        words,
        "unknown variant `WordLevel`, expected `BPE`",
    );
    tokenizer(
        "/added_tokens/0/id",
        json!(7),
        "added token \"<|begin|>\" has the id 0, not 7",
    );
}

/// Bytes spelled as letters, thirty times over, make 2³⁰ letters of one; so do replacements by longer texts. A pattern
/// that repeats repetitions is compiled as often.
#[test]
fn parts_of_a_tokenizer_that_grow_without_bound_are_refused() {
    let files = &folders()[0];
    let tokenizer = |place: &str, value: Value, words: &str| {
        refused(&with(files, "tokenizer.json", place, value), words)
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let sequence = json!({"type": "Sequence", "pretokenizers": vec![bytes.clone(); 30]});
    tokenizer(
        "/pre_tokenizer",
        sequence,
        "pre_tokenizer: more than 4 parts that make a text longer",
    );
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    tokenizer(
        "/normalizer",
        replace(json!({"String": "e"}), "ee"),
        "Replace by \"ee\" makes a text longer",
    );
    tokenizer(
        "/normalizer",
        replace(json!({"Regex": ""}), "ee"),
        "Replace by \"ee\" makes a text longer",
    );
    tokenizer(
        "/decoder",
        replace(json!({"String": ""}), "e"),
        "Replace by \"e\" makes a text longer",
    );
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    tokenizer(
        "/pre_tokenizer",
        split("((((a?){30}){30}){30})(?!b)"),
        "repeats too much",
    );
    tokenizer(
        "/pre_tokenizer",
        split(&"x".repeat(3000)),
        "patterns of more than 2048 bytes",
    );
    let nested = (0..100).fold(
        bytes,
        |inner, _| json!({"type": "Sequence", "pretokenizers": [inner]}),
    );
    tokenizer("/pre_tokenizer", nested, "");
}

/// The automaton that finds added tokens took sixty times their bytes, and a second for each million of them.
#[test]
fn long_added_tokens_take_no_memory() {
    let files = &folders()[0];
    let first = files_vocabulary(files);
    let token = |index: usize| {
        let content = format!("{index}{}", "x".repeat(250));
        json!({"id": first + index, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": false})
    };
    let added: Value = (0..20_000).map(token).collect();
    refused(
        &with(files, "tokenizer.json", "/added_tokens", added),
        "bytes, 1048576 are allowed",
    );
    let mut one = token(0);
    one["content"] = json!("x".repeat(300));
    refused(
        &with(files, "tokenizer.json", "/added_tokens", json!([one])),
        "has 300 bytes; 1 to 256 bytes",
    );
}

/// One reader of such JSON sees the first, another the last.
#[test]
fn a_key_that_stands_twice_is_refused() {
    let files = &folders()[0];
    let mut twice = files.clone();
    let text = String::from_utf8(files["tokenizer.json"].clone()).unwrap();
    let decoder = r#""decoder":{"type":"Fuse","type":"CTC"},"ignored":"#;
    twice.insert(
        "tokenizer.json".into(),
        text.replace("\"decoder\":", decoder).into_bytes(),
    );
    refused(&twice, "\"type\" stands twice");
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 8]].concat();
    let mut twice = files.clone();
    twice.insert("model.safetensors".into(), bytes);
    refused(&twice, "tensor \"a\" stands twice");
}

/// A token without an embedding ends an episode in a panic.
#[test]
fn a_tokenizer_with_more_tokens_than_the_model_is_refused() {
    let files = &folders()[0];
    refused(
        &with(files, "config.json", "/vocab_size", json!(100)),
        "vocab_size is 100",
    );
    let id = files_vocabulary(files);
    let added = json!([{"id": id, "content": "<new>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true}]);
    refused(
        &with(files, "tokenizer.json", "/added_tokens", added),
        &format!("ids up to {id}, and the model's vocab_size is {id}"),
    );
}

fn files_vocabulary(files: &Files) -> usize {
    let json: Value = serde_json::from_slice(&files["tokenizer.json"]).unwrap();
    json["model"]["vocab"].as_object().unwrap().len()
}

/// A turn must begin with some token.
#[test]
fn frames_that_the_vocabulary_cannot_spell_are_refused() {
    let mut files = folders()[1].clone();
    files.insert(
        "tokenizer.json".into(),
        br#"{"model":{"vocab":{"<|im_end|>":0},"merges":[]}}"#.to_vec(),
    );
    files.insert(
        "chat_template.jinja".into(),
        b"{% for m in messages %}{{ m.content }}{% endfor %}".to_vec(),
    );
    refused(
        &files,
        "the vocabulary has no token for the frames of a turn",
    );
}

/// The names of sixteen million layers were listed, in two gigabytes, before the weights were looked at.
#[test]
fn layers_and_contexts_that_nobody_has_take_no_memory() {
    for files in &folders()[..2] {
        refused(
            &with(files, "config.json", "/num_hidden_layers", json!(1 << 24)),
            "num_hidden_layers is 16777216, and may be 4096",
        );
        let wide = with(files, "config.json", "/head_dim", json!(1 << 20));
        refused(
            &with(
                &wide,
                "config.json",
                "/max_position_embeddings",
                json!(1 << 20),
            ),
            "is above 268435456",
        );
    }
}

/// Whatever stood there was held in memory, at many times its size, before it was refused.
#[test]
fn long_lists_in_small_places_take_no_memory() {
    let zeros = format!("[{}0]", "0,".repeat(7 << 20)).into_bytes();
    let files = &folders()[1];
    for place in ["bos_token", "chat_template"] {
        let mut long = files.clone();
        let text = [format!("{{\"{place}\":").as_bytes(), &zeros, b"}"].concat();
        long.insert("tokenizer_config.json".into(), text);
        refused(&long, "tokenizer_config.json: invalid type: ");
    }
    for (place, words) in [("normalizer", "more than 256 settings"), ("padding", "")] {
        let text = String::from_utf8(files["tokenizer.json"].clone()).unwrap();
        let value = format!(
            "\"{place}\":{},\"ignored\":",
            String::from_utf8_lossy(&zeros)
        );
        let mut long = files.clone();
        long.insert(
            "tokenizer.json".into(),
            text.replace(&format!("\"{place}\":"), &value).into_bytes(),
        );
        match words {
            "" => assert_eq!(said(&long, Model::open), None),
            words => refused(&long, words),
        }
    }
    let mut long = files.clone();
    long.insert(
        "config.json".into(),
        [b"{\"a\":", &zeros[..], b"}"].concat(),
    );
    refused(&long, "and such a file at most 1048576");
    for header in [
        [b"{\"a\":", &zeros[..7 << 20], b"0]}"].concat(),
        [b"{\"a\":", &zeros[..], b"}"].concat(),
    ] {
        let mut long = folders()[0].clone();
        long.insert(
            "model.safetensors".into(),
            [&(header.len() as u64).to_le_bytes()[..], &header].concat(),
        );
        refused(&long, "header");
    }
}

/// A template may say a long token often; the texts of one, two and three turns stood in memory at once.
#[test]
fn a_template_that_repeats_a_long_token_takes_no_memory() {
    let mut files = folders()[1].clone();
    let settings = json!({"bos_token": "x".repeat(100_000), "eos_token": "<|im_end|>"});
    files.insert(
        "tokenizer_config.json".into(),
        settings.to_string().into_bytes(),
    );
    files.insert(
        "chat_template.jinja".into(),
        "{{ bos_token }}".repeat(300).into_bytes(),
    );
    let open = |folder: &Path| {
        Model::open(folder).map(|model| {
            assert!(
                model
                    .companions
                    .reframed
                    .unwrap()
                    .contains("makes more than 8 MiB of text or lists")
            );
        })
    };
    assert_eq!(said(&files, open), None);
}

/// Types, keys and names of a file come back in messages.
#[test]
fn a_file_cannot_speak_to_the_terminal() {
    let files = &folders()[1];
    refused(
        &with(
            files,
            "config.json",
            "/model_type",
            json!("\x1b[2J\u{202e}".repeat(10_000)),
        ),
        "… (of ",
    );
    let index = json!({"weight_map": {"a": "\x1b]0;owned\x07"}})
        .to_string()
        .into_bytes();
    let mut shards = files.clone();
    shards.insert("model.safetensors.index.json".into(), index);
    refused(&shards, "\\u{1b}]0;owned\\u{7}");
    let mut template = files.clone();
    template.insert(
        "chat_template.jinja".into(),
        b"{{ raise_exception('\x1b[31m') }}".to_vec(),
    );
    assert_eq!(
        said(&template, |folder| {
            Model::open(folder)
                .map(|model| assert!(model.companions.reframed.unwrap().contains("\\u{1b}[31m")))
        }),
        None
    );
}

/// A message quoted a list of a hundred megabytes number by number.
#[test]
fn a_gguf_is_not_quoted_at_length() {
    let mut gguf = seeds::ggufs().swap_remove(0);
    let many = [
        &9_u32.to_le_bytes()[..],
        &0_u32.to_le_bytes(),
        &(16_u64 << 20).to_le_bytes(),
        &vec![200; 16 << 20],
    ]
    .concat();
    gguf.values.push(("llama.expert_count".into(), many));
    let files = Files::from([("model.gguf".into(), gguf.bytes())]);
    let message = said(&files, |folder| {
        Model::open_gguf(&folder.join("model.gguf"))
    })
    .unwrap();
    assert!(
        message.ends_with("metadata llama.expert_count is not a number"),
        "{message}"
    );
}

/// A chat template in a GGUF file that is no Jinja: the message named `tokenizer_config.json`, which is not there.
#[test]
fn a_gguf_with_a_damaged_template_is_named() {
    let mut gguf = seeds::ggufs().swap_remove(0);
    let template = gguf
        .values
        .iter_mut()
        .find(|(key, _)| key == "tokenizer.chat_template")
        .unwrap();
    template.1 = [&8_u32.to_le_bytes()[..], &5_u64.to_le_bytes(), b"{{ , "].concat();
    let files = Files::from([("model.gguf".into(), gguf.bytes())]);
    let message = said(&files, |folder| {
        Model::open_gguf(&folder.join("model.gguf"))
    })
    .unwrap();
    assert!(
        message.contains("model.gguf: chat template: line 1: "),
        "{message}"
    );
}

/// Nothing that only waits, and nothing without end, stands in for a file.
#[cfg(unix)]
#[test]
fn only_files_are_opened() {
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors.index.json",
        "model-1.safetensors",
    ] {
        let mut files = folders()[1].clone();
        files.remove(name);
        let link = |folder: &Path| {
            std::os::unix::fs::symlink("/dev/zero", folder.join(name)).unwrap();
            Model::open(folder)
        };
        let message = said(&files, link).unwrap();
        assert!(
            message.ends_with(&format!("{name}: it is no regular file")),
            "{message}"
        );
    }
}
