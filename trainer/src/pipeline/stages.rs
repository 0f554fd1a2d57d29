//! What a recipe asks for, step by step, and what decides each: the table of what depends on what. A step's [`StageInputs`] are
//! the part of the recipe that it reads, seeds, and hashes of what earlier steps made; it depends on nothing else. Where
//! it runs (device, cores, shards) changes how long it takes and how sums are rounded, and is no input.

use crate::learn::selection;
use crate::pipeline::manifest::{Form, StageInputs, StagePaths, VERSION};
use crate::pipeline::recipe::{DataSource, GamesRecipe, Recipe, StartFrom};
use scenarios::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One step of a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// The suite.
    Games,
    /// The expert's episodes.
    Demonstrations,
    /// The expert's episodes beside a student.
    Dagger {
        /// Its place in the recipe.
        dagger: usize,
    },
    /// A job of an iteration, by its place in the recipe.
    Train {
        /// From 1.
        iteration: usize,
        /// Its place.
        job: usize,
    },
    /// The policy's own episodes of an iteration.
    Collect {
        /// From 1.
        iteration: usize,
    },
    /// A job's model on the test games, with K candidates a turn.
    Evaluate {
        /// From 1.
        iteration: usize,
        /// The job's place.
        job: usize,
        /// K.
        k: usize,
    },
}

/// What finished steps made, by their names: hashes, by what they are called among the inputs of later ones.
pub type StageOutputs = BTreeMap<String, BTreeMap<String, String>>;

/// All steps of a recipe in their order.
#[must_use]
pub fn steps(recipe: &Recipe) -> Vec<Stage> {
    let mut steps = vec![Stage::Games, Stage::Demonstrations];
    for iteration in 1..=recipe.iterations {
        let of = |once: bool| {
            let jobs = recipe.jobs.iter().enumerate();
            jobs.filter(move |(_, about)| about.is_learned_once() == once)
        };
        if iteration == 1 {
            for (job, about) in of(true) {
                steps.push(Stage::Train { iteration, job });
                let dagger = recipe
                    .dagger
                    .iter()
                    .position(|dagger| dagger.student == about.name);
                steps.extend(dagger.map(|dagger| Stage::Dagger { dagger }));
            }
        }
        steps.push(Stage::Collect { iteration });
        steps.extend(of(false).map(|(job, _)| Stage::Train { iteration, job }));
        for (job, about) in recipe.jobs.iter().enumerate() {
            let is_learned = !about.is_learned_once() || iteration == 1;
            let can_choose = about.algorithm.critic().is_some();
            let ks = recipe
                .evaluate
                .best_of
                .iter()
                .filter(|k| is_learned && (**k == 1 || can_choose));
            steps.extend(ks.map(|k| Stage::Evaluate {
                iteration,
                job,
                k: *k,
            }));
        }
    }
    steps
}

impl Stage {
    /// Its name, and the path of its output in the run's folder.
    #[must_use]
    pub fn name(&self, recipe: &Recipe) -> String {
        match *self {
            Self::Games => "games".into(),
            Self::Demonstrations => DEMONSTRATIONS.into(),
            Self::Dagger { dagger } => dagger_stage(&recipe.dagger[dagger].student),
            Self::Train { iteration, job } => {
                format!("{iteration}/{}", recipe.jobs[job].name)
            }
            Self::Collect { iteration } => format!("{iteration}/rollouts"),
            Self::Evaluate { iteration, job, k } => {
                format!("{iteration}/eval/{}-k{k}", recipe.jobs[job].name)
            }
        }
    }

    /// Where its output is.
    #[must_use]
    pub fn place(&self, recipe: &Recipe, run: &Path) -> StagePaths {
        let form = if matches!(self, Self::Train { .. }) {
            Form::Folder
        } else {
            Form::Files
        };
        StagePaths::new(run, &name_on_disk(run, &self.name(recipe)), form)
    }

    /// Whether it plays episodes, and shards share it.
    #[must_use]
    pub fn is_played(&self) -> bool {
        matches!(
            self,
            Self::Demonstrations
                | Self::Dagger { .. }
                | Self::Collect { .. }
                | Self::Evaluate { .. }
        )
    }

    /// What decides it.
    ///
    /// # Errors
    /// The name of an earlier step that has made nothing yet.
    pub fn inputs(&self, recipe: &Recipe, outcomes: &StageOutputs) -> Result<StageInputs, String> {
        let made = |step: &str, what: &str| {
            outcomes
                .get(step)
                .and_then(|made| made.get(what))
                .ok_or_else(|| step.to_string())
        };
        let inputs = StageInputs::default().with("version", &VERSION);
        if *self == Self::Games {
            return Ok(match &recipe.games {
                GamesRecipe::Folder { .. } => inputs.with("games.kind", &"folder"), // which games, its hash says
                games @ GamesRecipe::Household { .. } => {
                    inputs.with("games", games).with("seed", &recipe.seed)
                }
            });
        }
        let inputs = inputs.with("seed", &self.seed(recipe));
        let played = |inputs: StageInputs| {
            Ok(inputs
                .with("suite", made("games", "suite")?)
                .with("protocol", &self.protocol(recipe)))
        };
        match *self {
            Self::Games | Self::Demonstrations => {
                played(inputs.with("demonstrations", &recipe.demonstrations))
            }
            Self::Dagger { dagger } => {
                let about = &recipe.dagger[dagger];
                let inputs = inputs
                    .with("games", &about.games)
                    .with("repetitions", &about.repetitions);
                played(inputs.with("student", made(&format!("1/{}", about.student), "policy")?))
            }
            Self::Collect { iteration } => {
                let inputs = inputs
                    .with("games", &recipe.collect.games)
                    .with("repetitions", &recipe.collect.repetitions);
                played(inputs.with("policy", made(&collector(recipe, iteration), "policy")?))
            }
            Self::Evaluate { iteration, job, .. } => {
                let step = Self::Train { iteration, job }.name(recipe);
                let inputs = inputs
                    .with("splits", &recipe.evaluate.splits)
                    .with("games", &recipe.evaluate.games);
                let inputs = inputs.with("policy", made(&step, "policy")?);
                played(match made(&step, "value") {
                    Ok(value) => inputs.with("value", value),
                    Err(_) => inputs,
                })
            }
            Self::Train { iteration, job } => {
                let about = &recipe.jobs[job];
                let inputs = inputs
                    .with("job", about)
                    .with("context", &recipe.model.context);
                let inputs = match start(recipe, job, iteration) {
                    None => inputs.with("model", &recipe.model),
                    Some(start) => inputs.with("start", made(&start, "policy")?),
                };
                read(recipe, job, iteration)
                    .into_iter()
                    .try_fold(inputs, |inputs, step| {
                        let hash = made(&step, "episodes")?;
                        Ok(inputs.with(&format!("data.{step}"), hash))
                    })
            }
        }
    }

    /// The seed of what is random in it.
    #[must_use]
    pub fn seed(&self, recipe: &Recipe) -> u64 {
        match *self {
            Self::Collect { iteration } => recipe.seed + 1000 * iteration as u64,
            Self::Dagger { dagger } => recipe.seed + 1_000_000 * (dagger as u64 + 1), // not the demonstrations' episodes
            _ => recipe.seed,
        }
    }

    /// How its episodes are played.
    #[must_use]
    pub fn protocol(&self, recipe: &Recipe) -> Protocol {
        let (temperature, k) = match *self {
            Self::Collect { .. } => (recipe.collect.temperature, 1),
            Self::Dagger { dagger } => (recipe.dagger[dagger].temperature, 1),
            Self::Evaluate { k, .. } if k > 1 => (recipe.evaluate.temperature, k),
            _ => (0.0, 1),
        };
        recipe
            .protocol
            .protocol(recipe.model.context, temperature, k)
    }
}

/// The job whose model collects in an iteration, and from which that iteration's jobs start.
#[must_use]
pub fn collector(recipe: &Recipe, iteration: usize) -> String {
    let is_learned_once = |name: &str| {
        recipe
            .jobs
            .iter()
            .any(|l| l.name == name && l.is_learned_once())
    };
    let then = &recipe.collect.then;
    match iteration {
        1 => format!("1/{}", recipe.collect.policy),
        _ if is_learned_once(then) => format!("1/{then}"),
        later => format!("{}/{then}", later - 1),
    }
}

/// The step whose model a job starts from; `None` for a fresh one.
#[must_use]
pub fn start(recipe: &Recipe, job: usize, iteration: usize) -> Option<String> {
    match &recipe.jobs[job].from {
        StartFrom::Fresh => None,
        StartFrom::Job(name) => Some(format!("1/{name}")),
        StartFrom::Collector => Some(collector(recipe, iteration)),
    }
}

const DEMONSTRATIONS: &str = "demonstrations";
const DAGGER: &str = "dagger-";
const OLD_DAGGER: &str = "guided-";

/// The name that a stage's files have. Runs of earlier versions call the expert's episodes with a student `guided-STUDENT`;
/// if such files are there, they are used.
pub(crate) fn name_on_disk(run: &Path, stage: &str) -> String {
    if let Some(student) = stage.strip_prefix(DAGGER) {
        let old = format!("{OLD_DAGGER}{student}");
        if run.join(format!("{old}.stage.json")).exists() {
            return old;
        }
    }
    stage.into()
}

fn dagger_stage(student: &str) -> String {
    format!("{DAGGER}{student}")
}

/// Whether a step of this name holds what the expert showed, alone or beside a student.
#[must_use]
pub fn is_shown(step: &str) -> bool {
    step == DEMONSTRATIONS || step.starts_with(DAGGER) || step.starts_with(OLD_DAGGER)
}

/// The steps of the dagger students that a job reads.
#[must_use]
pub fn dagger(recipe: &Recipe, job: usize) -> Vec<String> {
    if !recipe.jobs[job].data.contains(&DataSource::Dagger) {
        return Vec::new();
    }
    recipe
        .students_before(job)
        .map(|dagger| dagger_stage(&dagger.student))
        .collect()
}

/// The steps whose episodes a job reads, by its place; a fresh one's vocabulary comes from the demonstrations.
#[must_use]
pub fn read(recipe: &Recipe, place: usize, iteration: usize) -> BTreeSet<String> {
    let job = &recipe.jobs[place];
    let shown = job.from == StartFrom::Fresh || job.data.contains(&DataSource::Demonstrations);
    let rollouts = job
        .data
        .iter()
        .filter_map(|source| selection::iterations(source, iteration))
        .flatten();
    let shown = shown.then(|| DEMONSTRATIONS.to_string());
    shown
        .into_iter()
        .chain(dagger(recipe, place))
        .chain(rollouts.map(|iteration| format!("{iteration}/rollouts")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::recipe::{DaggerRecipe, Lost, Prefer, TrainConfig};

    fn compare() -> Recipe {
        let text = include_str!("../../recipes/gigpo-online.toml");
        toml::from_str(text).expect("a recipe of ours")
    }

    /// Every step made something; what it is called by.
    fn outcomes(recipe: &Recipe) -> StageOutputs {
        let made = |step: &Stage| {
            let name = step.name(recipe);
            let hashes = ["suite", "episodes", "policy"]
                .map(|what| (what.to_string(), format!("{what} of {name}")));
            (name, hashes.into())
        };
        steps(recipe).iter().map(made).collect()
    }

    /// The steps whose inputs a change of the recipe touches, before anything is done anew.
    fn touched(change: impl Fn(&mut Recipe)) -> Vec<String> {
        let (before, mut after) = (compare(), compare());
        change(&mut after);
        let outcomes = outcomes(&before);
        let differ =
            |step: &&Stage| step.inputs(&after, &outcomes) != step.inputs(&before, &outcomes);
        steps(&before)
            .iter()
            .filter(differ)
            .map(|step| step.name(&before))
            .collect()
    }

    #[test]
    fn a_change_touches_what_reads_it_and_nothing_before_it() {
        let all: Vec<String> = steps(&compare())
            .iter()
            .map(|step| step.name(&compare()))
            .collect();
        assert_eq!(
            all[..7],
            [
                "games",
                "demonstrations",
                "1/sft",
                "1/rollouts",
                "1/gigpo",
                "1/eval/sft-k1",
                "1/eval/gigpo-k1"
            ]
        );
        assert_eq!(
            all[7..10],
            ["2/rollouts", "2/gigpo", "2/eval/gigpo-k1"],
            "the fresh job is learned once"
        );
        assert_eq!(touched(|_| {}), [""; 0]);
        assert_eq!(touched(|recipe| recipe.name = "other".into()), [""; 0]);
        assert_eq!(touched(|recipe| recipe.seed = 9), all);
        assert_eq!(
            touched(|recipe| recipe.evaluate.games = 3),
            [
                "1/eval/sft-k1",
                "1/eval/gigpo-k1",
                "2/eval/gigpo-k1",
                "3/eval/gigpo-k1",
                "4/eval/gigpo-k1"
            ]
        );
        assert_eq!(
            touched(|recipe| recipe.evaluate.temperature = 3.0),
            [""; 0],
            "it is greedy"
        );
        assert_eq!(
            touched(|recipe| recipe.jobs[0].optimizer.batch += 1),
            ["1/sft"]
        );
        assert_eq!(
            touched(|recipe| recipe.jobs[1].optimizer.batch += 1),
            ["1/gigpo", "2/gigpo", "3/gigpo", "4/gigpo"]
        );
        assert_eq!(
            touched(|recipe| recipe.collect.temperature = 0.5),
            ["1/rollouts", "2/rollouts", "3/rollouts", "4/rollouts"]
        );
        assert_eq!(
            touched(|recipe| recipe.demonstrations.expert_noise = 0.5),
            ["demonstrations"]
        );
    }

    /// Two students, one after the other; the second job reads what was shown beside the first, the third beside both.
    #[test]
    fn students_are_guided_before_the_lessons_that_read_it() {
        let mut recipe = compare();
        let fresh = recipe.jobs[0].clone();
        let data = vec![DataSource::Demonstrations, DataSource::Dagger];
        let again = |name: &str| TrainConfig {
            name: name.into(),
            data: data.clone(),
            ..fresh.clone()
        };
        recipe.jobs.splice(1..1, [again("second"), again("third")]);
        let dagger = |student: &str| DaggerRecipe {
            student: student.into(),
            games: 4,
            repetitions: 1,
            temperature: 0.5,
        };
        recipe.dagger = vec![dagger("second"), dagger("sft")];
        recipe.check().expect("it can be followed");
        let names: Vec<String> = steps(&recipe)
            .iter()
            .map(|step| step.name(&recipe))
            .collect();
        assert_eq!(
            names[1..8],
            [
                "demonstrations",
                "1/sft",
                "dagger-sft",
                "1/second",
                "dagger-second",
                "1/third",
                "1/rollouts"
            ]
        );
        recipe.jobs[2].from = StartFrom::Job("second".into());
        let starts: Vec<Option<String>> = (1..4).map(|job| start(&recipe, job, 3)).collect();
        assert_eq!(
            starts,
            [None, Some("1/second".into()), Some("2/gigpo".into())]
        );
        recipe.collect.policy = "third".into();
        recipe.check().expect("it can be followed");
        let reads = |job| read(&recipe, job, 1).into_iter().collect::<Vec<_>>();
        assert_eq!(reads(0), ["demonstrations"]);
        assert_eq!(reads(1), ["demonstrations", "dagger-sft"]);
        assert_eq!(reads(2), ["demonstrations", "dagger-second", "dagger-sft"]);
        let seeds: BTreeSet<u64> = steps(&recipe)[1..6]
            .iter()
            .map(|step| step.seed(&recipe))
            .collect();
        assert_eq!(seeds.len(), 3, "no episode is shown twice");

        let refused = |change: &dyn Fn(&mut Recipe)| {
            let mut other = recipe.clone();
            change(&mut other);
            other.check().expect_err("it cannot be followed")
        };
        let text = refused(&|recipe| recipe.dagger.clear());
        assert!(
            text.starts_with("job \"second\": nobody was dagger before it\nhint: "),
            "{text}"
        );
        assert!(
            refused(&|recipe| recipe.dagger[0].student = "gigpo".into())
                .contains("no job \"gigpo\" is learned before")
        );
        assert!(
            refused(&|recipe| recipe.dagger[0].student = "sft".into())
                .contains("stands there twice")
        );
        for start in ["third", "gigpo", "nobody"] {
            let text = refused(&|recipe| recipe.jobs[1].from = StartFrom::Job(start.into()));
            assert!(
                text.starts_with(&format!(
                    "job \"second\": it cannot start from \"{start}\"\nhint: "
                )),
                "{text}"
            );
        }
        let of_rollouts = |recipe: &mut Recipe| recipe.jobs[2].data.push(DataSource::Rollouts);
        assert!(
            refused(&of_rollouts).contains("learned before the first rollouts, so it has none")
        );
    }

    #[test]
    fn a_lesson_depends_on_the_iterations_that_it_reads() {
        let mut recipe = compare();
        recipe.jobs[1].data = vec![DataSource::SelectedRollouts {
            last: 2,
            won_per_game: 0,
            prefer: Prefer::Shortest,
            lost: Lost::Kept,
        }];
        let mut outcomes = outcomes(&recipe);
        let job = Stage::Train {
            iteration: 3,
            job: 1,
        };
        let before = job.inputs(&recipe, &outcomes).expect("all is there");
        outcomes.remove("1/rollouts");
        assert_eq!(job.inputs(&recipe, &outcomes), Ok(before));
        outcomes.remove("2/rollouts");
        assert_eq!(job.inputs(&recipe, &outcomes), Err("2/rollouts".into()));
    }
}
