//! The scripts and the manifest.

use crate::args::shard::SHARDS;
use anyhow::Context;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Seconds that a process waits for the others: a week. The scheduler's time limit ends it earlier.
const WAIT: u32 = 604_800;

/// How often a task that was killed is started again.
const RESTARTS: u32 = 20;

/// A loop as an array of processes on a shared folder.
#[derive(Debug)]
pub(super) struct LoopJob {
    /// The run's name.
    pub(super) name: String,
    /// The version of the code that printed the script.
    pub(super) version: String,
    pub(super) hearth: PathBuf,
    pub(super) recipe: PathBuf,
    pub(super) run: PathBuf,
    pub(super) device: String,
    pub(super) processes: u32,
    pub(super) cpus: u32,
    /// GiB.
    pub(super) memory: u32,
    pub(super) gpus: u32,
    pub(super) time: Option<String>,
    pub(super) queue: Option<String>,
}

/// What Kubernetes needs besides.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) image: String,
    /// A claim of a volume that all pods can write to.
    pub(super) claim: String,
    pub(super) mount: PathBuf,
}

impl LoopJob {
    /// Returns the script for `sbatch`.
    pub(super) fn slurm(&self) -> String {
        let mut lines = vec![
            format!("--job-name={}", self.label()),
            format!("--array=0-{}", self.processes - 1),
            "--ntasks=1".into(),
            format!("--cpus-per-task={}", self.cpus),
            format!("--mem={}G", self.memory),
        ];
        if self.gpus > 0 {
            lines.push(format!("--gres=gpu:{}", self.gpus));
        }
        lines.extend(self.time.iter().map(|time| format!("--time={time}")));
        lines.extend(
            self.queue
                .iter()
                .map(|queue| format!("--partition={queue}")),
        );
        lines.push("--requeue".into());
        lines.push("--signal=B:USR1@120".into());
        lines.push("--open-mode=append".into());
        lines.push(format!("--output={}-%A-%a.log", self.label()));
        let command = self.command();
        format!(
            "#!/bin/bash\n{}{}set -u\n\
             again() {{ # start this task again, from where it stopped\n    \
             if [ \"${{SLURM_RESTART_COUNT:-0}}\" -lt {RESTARTS} ]; then scontrol requeue \"$SLURM_JOB_ID\"; sleep 60; fi\n\
             }}\n\
             trap again USR1 # two minutes before the time limit\n\
             {command} &\n\
             wait $!\n\
             status=$?\n\
             if [ $status -eq 137 ]; then again; fi # it was killed, for example because memory ran out\n\
             exit $status\n",
            self.header(),
            directives("#SBATCH", &lines),
        )
    }

    /// Returns the script for `qsub` of PBS Professional.
    pub(super) fn pbs(&self) -> String {
        let gpus = match self.gpus {
            0 => String::new(),
            count => format!(":ngpus={count}"),
        };
        let mut lines = vec![format!("-N {}", self.label())];
        if self.processes > 1 {
            lines.push(format!("-J 0-{}", self.processes - 1));
        }
        lines.push(format!(
            "-l select=1:ncpus={}:mem={}gb{gpus}",
            self.cpus, self.memory
        ));
        lines.extend(self.time.iter().map(|time| format!("-l walltime={time}")));
        lines.extend(self.queue.iter().map(|queue| format!("-q {queue}")));
        lines.push("-r y".into());
        lines.push("-j oe".into());
        let environment = if self.processes > 1 {
            format!("export {SHARDS}={}\n", self.processes)
        } else {
            String::new()
        };
        format!(
            "#!/bin/bash\n{}{}{environment}exec {}\n",
            self.header(),
            directives("#PBS", &lines),
            self.command()
        )
    }

    /// Returns the manifest of an Indexed Job.
    ///
    /// # Errors
    /// If a path is not UTF-8.
    pub(super) fn kubernetes(&self, cluster: &Cluster) -> anyhow::Result<String> {
        let text = |path: &Path| {
            let path = path
                .to_str()
                .with_context(|| format!("{}: not UTF-8", path.display()))?;
            Ok::<_, anyhow::Error>(quoted(path))
        };
        let arguments = [
            quoted("loop"),
            text(&self.recipe)?,
            quoted("--out"),
            text(&self.run)?,
            quoted("--device"),
            quoted(&self.device),
            quoted("--shard"),
            quoted("auto"),
            quoted("--wait"),
            quoted(&WAIT.to_string()),
        ];
        let gpus = match self.gpus {
            0 => String::new(),
            count => format!("\n              nvidia.com/gpu: {count}"),
        };
        let mut manifest = self.header();
        write!(
            manifest,
            "apiVersion: batch/v1
kind: Job
metadata:
  name: {label}
spec:
  completions: {processes}
  parallelism: {processes}
  completionMode: Indexed
  backoffLimit: {backoff}
  podFailurePolicy:
    rules:
      - action: Ignore # a pod that was preempted or evicted is started again and does not count
        onPodConditions:
          - type: DisruptionTarget
            status: \"True\"
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: hearth
          image: {image}
          command: [{program}]
          args: [{arguments}]
          env:
            - name: {SHARDS}
              value: \"{processes}\"
          resources:
            requests:
              cpu: {cpus}
              memory: {memory}Gi
            limits:
              memory: {memory}Gi{gpus}
          volumeMounts:
            - name: runs
              mountPath: {mount}
      volumes:
        - name: runs
          persistentVolumeClaim:
            claimName: {claim}
",
            label = quoted(&self.label()),
            processes = self.processes,
            backoff = self.processes.saturating_mul(RESTARTS),
            image = quoted(&cluster.image),
            program = text(&self.hearth)?,
            arguments = arguments.join(", "),
            cpus = self.cpus,
            memory = self.memory,
            mount = text(&cluster.mount)?,
            claim = quoted(&cluster.claim),
        )
        .context("cannot format the manifest")?;
        Ok(manifest)
    }

    /// A name that Slurm, PBS and Kubernetes take: lower-case letters, digits and `-`, at most 15
    /// characters for old versions of PBS.
    fn label(&self) -> String {
        let mut label = String::from("hearth");
        for c in self.name.to_lowercase().chars() {
            let c = if c.is_ascii_alphanumeric() { c } else { '-' };
            if label.len() == 6 && c != '-' {
                label.push('-');
            }
            if label.len() < 15 && !(c == '-' && label.ends_with('-')) && label.len() > 6 {
                label.push(c);
            }
        }
        label.trim_end_matches('-').into()
    }

    fn header(&self) -> String {
        let what = match self.processes {
            1 => "one process".into(),
            count => format!("{count} processes, which share the folder of the run"),
        };
        format!(
            "# {}: hearth's loop in {what}. The first also merges, trains and evaluates.\n\
             # What is played or trained is never lost: submitted again, the script continues. Written by `hearth submit`, \
             hearth {}.\n",
            self.name.replace(['\n', '\r'], " "),
            self.version
        )
    }

    fn command(&self) -> String {
        let path = |path: &Path| shell_quoted(&path.to_string_lossy());
        format!(
            "{} loop {} --out {} --device {} --shard auto --wait {WAIT}",
            path(&self.hearth),
            path(&self.recipe),
            path(&self.run),
            shell_quoted(&self.device)
        )
    }
}

/// Lines that a scheduler reads.
fn directives(prefix: &str, lines: &[String]) -> String {
    lines.iter().fold(String::new(), |text, line| {
        text + prefix + " " + line + "\n"
    })
}

/// A word of a shell.
fn shell_quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:+".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.into()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// A string of YAML, which reads JSON's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str) -> LoopJob {
        LoopJob {
            name: name.into(),
            version: "0.1.0".into(),
            hearth: "/opt/hearth".into(),
            recipe: "/home/a b/it's.toml".into(),
            run: "/data/runs/x".into(),
            device: "cuda".into(),
            processes: 4,
            cpus: 8,
            memory: 32,
            gpus: 1,
            time: Some("12:00:00".into()),
            queue: Some("long".into()),
        }
    }

    #[test]
    fn names_are_labels() {
        for (name, label) in [
            ("tiny", "hearth-tiny"),
            ("ALFWorld, seed 1", "hearth-alfworld"),
            ("--_é--", "hearth"),
            ("a--b", "hearth-a-b"),
            ("quickstart-long", "hearth-quicksta"),
        ] {
            assert_eq!(job(name).label(), label, "{name}");
        }
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        let script = job("x").slurm();
        assert!(
            script.contains(r"loop '/home/a b/it'\''s.toml' --out /data/runs/x"),
            "{script}"
        );
        for line in [
            "--array=0-3",
            "--gres=gpu:1",
            "--time=12:00:00",
            "--partition=long",
            "--requeue",
        ] {
            assert!(
                script.contains(&format!("\n#SBATCH {line}\n")),
                "{line}: {script}"
            );
        }
        let script = job("x").pbs();
        for line in [
            "-J 0-3",
            "-l select=1:ncpus=8:mem=32gb:ngpus=1",
            "-l walltime=12:00:00",
            "-q long",
        ] {
            assert!(
                script.contains(&format!("\n#PBS {line}\n")),
                "{line}: {script}"
            );
        }
        assert!(script.contains("\nexport HEARTH_SHARDS=4\n"));
        let alone = LoopJob {
            processes: 1,
            ..job("x")
        }
        .pbs();
        assert!(!alone.contains("-J") && !alone.contains(SHARDS), "{alone}");
    }

    #[test]
    fn strings_are_quoted_for_yaml() {
        let cluster = Cluster {
            image: "registry/hearth: 1".into(),
            claim: "runs".into(),
            mount: "/data".into(),
        };
        let manifest = job("x").kubernetes(&cluster).expect("formats");
        assert!(
            manifest.contains("image: \"registry/hearth: 1\""),
            "{manifest}"
        );
        assert!(manifest.contains("\"/home/a b/it's.toml\""), "{manifest}");
        assert!(manifest.contains("nvidia.com/gpu: 1"), "{manifest}");
    }
}
