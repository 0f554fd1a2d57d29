//! A run on a full disk, a read-only disk, or in a folder that cannot be made.

use super::process::{HEARTH, done, episodes, finished, hearth, in_order, output, with_recipe};
use crate::binary::expert_plays;
use crate::tiny;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A command that cannot write a file above this many blocks of 512 bytes, as if the disk were
/// full.
fn limited(folder: &Path, blocks: usize, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let script = format!("ulimit -f {blocks}; trap '' XFSZ; exec \"$0\" \"$@\"");
    command
        .arg("-c")
        .arg(script)
        .arg(HEARTH)
        .args(arguments)
        .current_dir(folder);
    command
}

#[test]
fn a_store_on_a_full_disk_keeps_its_episodes_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny::suite(&path.join("games"));
    let collect = |out| expert_plays(out, &["--repetitions", "1"]);
    done(&mut hearth(path, &collect("whole.jsonl")));
    let whole = fs::metadata(path.join("whole.jsonl")).unwrap().len();
    let (code, _, stderr) = output(&mut limited(
        path,
        usize::try_from(whole / 1024).unwrap(),
        &collect("full.jsonl"),
    ));
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains("error: cannot append to full.jsonl: File too large"),
        "{stderr}"
    );
    let kept = episodes(&path.join("full.jsonl"));
    assert!(!kept.is_empty() && kept.len() < 6, "{}", kept.len());
    done(&mut hearth(path, &collect("full.jsonl")));
    assert_eq!(
        episodes(&path.join("full.jsonl"))[..kept.len()],
        kept,
        "what was there stays where it was"
    );
    assert_eq!(
        in_order(episodes(&path.join("full.jsonl"))),
        in_order(episodes(&path.join("whole.jsonl")))
    );
}

/// The size limit of files grows from run to run, so that the loop stops at one writer after the
/// other.
#[test]
fn a_loop_on_a_full_disk_loses_no_stage_and_ends_in_the_same_table() {
    let folder = with_recipe(1);
    let path = folder.path();
    done(&mut hearth(path, &["loop", "tiny.toml", "--out", "whole"]));
    let largest = |name: &str| {
        let files = tiny::files(&path.join("whole")).into_iter();
        files
            .filter(|(path, _)| path.ends_with(name))
            .map(|(_, bytes)| bytes.len())
            .max()
            .unwrap()
            / 512
    };
    let (games, weights) = (largest("game.tw-pddl"), largest("model.safetensors"));
    let mut before: Vec<String> = Vec::new();
    let mut stopped = Vec::new();
    for blocks in [
        1,
        games / 2,
        games + 2,
        weights / 2,
        weights + 2,
        weights * 2,
        weights * 3,
    ] {
        let (code, _, stderr) = output(&mut limited(path, blocks, &["loop", "tiny.toml"]));
        if code == 0 {
            break;
        }
        let error =
            stderr[stderr.find("error: ").unwrap_or_else(|| panic!("{stderr}"))..].to_string();
        assert!(
            error.contains("File too large") && error.contains("runs/tiny"),
            "{error}"
        );
        stopped.push(error);
        let now = finished(path);
        assert!(
            before.iter().all(|stage| now.contains(stage)),
            "{before:?}, then {now:?}"
        );
        before = now;
    }
    assert!(stopped.len() > 2, "{stopped:?}");
    done(&mut hearth(path, &["loop", "tiny.toml"]));
    for file in [
        "eval.csv",
        "1/oreo/model.safetensors",
        "1/oreo/value/model.safetensors",
    ] {
        let [whole, full] =
            ["whole", "runs/tiny"].map(|run| fs::read(path.join(run).join(file)).unwrap());
        assert!(whole == full, "{file}");
    }
    let drafts: Vec<PathBuf> = tiny::files(&path.join("runs/tiny"))
        .into_keys()
        .filter(|path| path.to_string_lossy().contains(".new"))
        .collect();
    assert!(drafts.is_empty(), "half written files stay: {drafts:?}");
}

/// A file system in memory, if the test may mount one. It is unmounted when the value is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(folder: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(folder).unwrap();
        let mounted = Self::mount(
            &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"],
            folder,
        );
        if !mounted {
            eprintln!("skipped: this test mounts a small file system, which only root may");
        }
        mounted.then(|| Self(folder.into()))
    }

    fn remount(&self, options: &str) {
        assert!(
            Self::mount(&["-o", &format!("remount,{options}")], &self.0),
            "{options}"
        );
    }

    fn mount(arguments: &[&str], folder: &Path) -> bool {
        let mut command = Command::new("mount");
        command.args(arguments).arg(folder).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_run_goes_on_when_its_disk_has_room_again_and_may_be_written_again() {
    let folder = with_recipe(1);
    let path = folder.path();
    let Some(disk) = Mounted::new(&path.join("runs"), "1m") else {
        return;
    };
    let (mut before, mut failures) = (Vec::new(), 0);
    for size in ["1m", "1200k", "1400k"] {
        disk.remount(&format!("size={size}"));
        let (code, _, stderr) = output(&mut hearth(path, &["loop", "tiny.toml"]));
        if code == 0 {
            break;
        }
        assert!(stderr.contains("No space left on device"), "{stderr}");
        failures += 1;
        let now = finished(path);
        assert!(
            before.iter().all(|stage| now.contains(stage)),
            "{before:?}, then {now:?}"
        );
        before = now;
    }
    assert!(failures > 0, "the disk is too large for this test");
    let before = finished(path);
    disk.remount("size=64m,ro");
    let held = tiny::files(&path.join("runs"));
    let (code, _, stderr) = output(&mut hearth(path, &["loop", "tiny.toml"]));
    assert_eq!(code, 2, "{stderr}");
    assert_eq!(
        stderr,
        "error: cannot use runs/tiny/run.lock: Read-only file system (os error 30)\n"
    );
    assert_eq!(
        finished(path),
        before,
        "what is there can still be looked at"
    );
    disk.remount("size=64m,rw");
    assert!(tiny::files(&path.join("runs")) == held);
    done(&mut hearth(path, &["loop", "tiny.toml"]));
    assert_eq!(
        finished(path).len(),
        10,
        "games, demonstrations, rollouts, three jobs, four evaluations"
    );
}

/// Root can write to every folder. So a file is put where the folder should be.
#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = with_recipe(1);
    fs::write(folder.path().join("file"), "mine").unwrap();
    let (code, _, stderr) = output(&mut hearth(
        folder.path(),
        &["loop", "tiny.toml", "--out", "file/run"],
    ));
    assert_eq!(
        (code, stderr.as_str()),
        (
            2,
            "error: cannot use file/run: Not a directory (os error 20)\n"
        )
    );
    assert_eq!(
        fs::read_to_string(folder.path().join("file")).unwrap(),
        "mine"
    );
}
