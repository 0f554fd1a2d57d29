//! What a recipe asks for, step by step, and what decides each: the table of what depends on what. A step's [`Inputs`] are
//! the part of the recipe that it reads, seeds, and hashes of what earlier steps made; it depends on nothing else. Where
//! it runs (device, cores, shards) changes how long it takes and how sums are rounded, and is no input.

use crate::mixture;
use crate::recipe::{Data, GamesRecipe, Recipe, Start};
use crate::stage::{Form, Inputs, Place, VERSION};
use scenarios::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One step of a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The suite.
    Games,
    /// The expert's episodes.
    Demonstrations,
    /// The expert's episodes beside a student.
    Guided {
        /// Its place in the recipe.
        guided: usize,
    },
    /// A lesson of an iteration, by its place in the recipe.
    Lesson {
        /// From 1.
        iteration: usize,
        /// Its place.
        lesson: usize,
    },
    /// The policy's own episodes of an iteration.
    Collect {
        /// From 1.
        iteration: usize,
    },
    /// A lesson's model on the test games, with K candidates a turn.
    Evaluate {
        /// From 1.
        iteration: usize,
        /// The lesson's place.
        lesson: usize,
        /// K.
        k: usize,
    },
}

/// What finished steps made, by their names: hashes, by what they are called among the inputs of later ones.
pub type Outcomes = BTreeMap<String, BTreeMap<String, String>>;

/// All steps of a recipe in their order.
#[must_use]
pub fn steps(recipe: &Recipe) -> Vec<Step> {
    let mut steps = vec![Step::Games, Step::Demonstrations];
    for iteration in 1..=recipe.iterations {
        let of = |once: bool| {
            let lessons = recipe.lessons.iter().enumerate();
            lessons.filter(move |(_, about)| about.is_learned_once() == once)
        };
        if iteration == 1 {
            for (lesson, about) in of(true) {
                steps.push(Step::Lesson { iteration, lesson });
                let guided = recipe
                    .guided
                    .iter()
                    .position(|guided| guided.student == about.name);
                steps.extend(guided.map(|guided| Step::Guided { guided }));
            }
        }
        steps.push(Step::Collect { iteration });
        steps.extend(of(false).map(|(lesson, _)| Step::Lesson { iteration, lesson }));
        for (lesson, about) in recipe.lessons.iter().enumerate() {
            let is_learned = !about.is_learned_once() || iteration == 1;
            let can_choose = about.algorithm.critic().is_some();
            let ks = recipe
                .evaluate
                .best_of
                .iter()
                .filter(|k| is_learned && (**k == 1 || can_choose));
            steps.extend(ks.map(|k| Step::Evaluate {
                iteration,
                lesson,
                k: *k,
            }));
        }
    }
    steps
}

impl Step {
    /// Its name, and the path of its output in the run's folder.
    #[must_use]
    pub fn name(&self, recipe: &Recipe) -> String {
        match *self {
            Self::Games => "games".into(),
            Self::Demonstrations => DEMONSTRATIONS.into(),
            Self::Guided { guided } => guided_by(&recipe.guided[guided].student),
            Self::Lesson { iteration, lesson } => {
                format!("{iteration}/{}", recipe.lessons[lesson].name)
            }
            Self::Collect { iteration } => format!("{iteration}/rollouts"),
            Self::Evaluate {
                iteration,
                lesson,
                k,
            } => {
                format!("{iteration}/eval/{}-k{k}", recipe.lessons[lesson].name)
            }
        }
    }

    /// Where its output is.
    #[must_use]
    pub fn place(&self, recipe: &Recipe, run: &Path) -> Place {
        let form = if matches!(self, Self::Lesson { .. }) {
            Form::Folder
        } else {
            Form::Files
        };
        Place::new(run, &self.name(recipe), form)
    }

    /// Whether it plays episodes, and shards share it.
    #[must_use]
    pub fn is_played(&self) -> bool {
        matches!(
            self,
            Self::Demonstrations
                | Self::Guided { .. }
                | Self::Collect { .. }
                | Self::Evaluate { .. }
        )
    }

    /// What decides it.
    ///
    /// # Errors
    /// The name of an earlier step that has made nothing yet.
    pub fn inputs(&self, recipe: &Recipe, outcomes: &Outcomes) -> Result<Inputs, String> {
        let made = |step: &str, what: &str| {
            outcomes
                .get(step)
                .and_then(|made| made.get(what))
                .ok_or_else(|| step.to_string())
        };
        let inputs = Inputs::default().with("version", &VERSION);
        if *self == Self::Games {
            return Ok(match &recipe.games {
                GamesRecipe::Folder { .. } => inputs.with("games.kind", &"folder"), // which games, its hash says
                games @ GamesRecipe::Household { .. } => {
                    inputs.with("games", games).with("seed", &recipe.seed)
                }
            });
        }
        let inputs = inputs.with("seed", &self.seed(recipe));
        let played = |inputs: Inputs| {
            Ok(inputs
                .with("suite", made("games", "suite")?)
                .with("protocol", &self.protocol(recipe)))
        };
        match *self {
            Self::Games | Self::Demonstrations => {
                played(inputs.with("demonstrations", &recipe.demonstrations))
            }
            Self::Guided { guided } => {
                let about = &recipe.guided[guided];
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
            Self::Evaluate {
                iteration, lesson, ..
            } => {
                let step = Self::Lesson { iteration, lesson }.name(recipe);
                let inputs = inputs
                    .with("splits", &recipe.evaluate.splits)
                    .with("games", &recipe.evaluate.games);
                let inputs = inputs.with("policy", made(&step, "policy")?);
                played(match made(&step, "value") {
                    Ok(value) => inputs.with("value", value),
                    Err(_) => inputs,
                })
            }
            Self::Lesson { iteration, lesson } => {
                let about = &recipe.lessons[lesson];
                let inputs = inputs
                    .with("lesson", about)
                    .with("context", &recipe.model.context);
                let inputs = match start(recipe, lesson, iteration) {
                    None => inputs.with("model", &recipe.model),
                    Some(start) => inputs.with("start", made(&start, "policy")?),
                };
                read(recipe, lesson, iteration)
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
            Self::Guided { guided } => recipe.seed + 1_000_000 * (guided as u64 + 1), // not the demonstrations' episodes
            _ => recipe.seed,
        }
    }

    /// How its episodes are played.
    #[must_use]
    pub fn protocol(&self, recipe: &Recipe) -> Protocol {
        let (temperature, k) = match *self {
            Self::Collect { .. } => (recipe.collect.temperature, 1),
            Self::Guided { guided } => (recipe.guided[guided].temperature, 1),
            Self::Evaluate { k, .. } if k > 1 => (recipe.evaluate.temperature, k),
            _ => (0.0, 1),
        };
        recipe
            .protocol
            .protocol(recipe.model.context, temperature, k)
    }
}

/// The lesson whose model collects in an iteration, and from which that iteration's lessons start.
#[must_use]
pub fn collector(recipe: &Recipe, iteration: usize) -> String {
    let is_learned_once = |name: &str| {
        recipe
            .lessons
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

/// The step whose model a lesson starts from; `None` for a fresh one.
#[must_use]
pub fn start(recipe: &Recipe, lesson: usize, iteration: usize) -> Option<String> {
    match &recipe.lessons[lesson].from {
        Start::Fresh => None,
        Start::Lesson(name) => Some(format!("1/{name}")),
        Start::Collector => Some(collector(recipe, iteration)),
    }
}

const DEMONSTRATIONS: &str = "demonstrations";
const GUIDED: &str = "guided-";

fn guided_by(student: &str) -> String {
    format!("{GUIDED}{student}")
}

/// Whether a step of this name holds what the expert showed, alone or beside a student.
#[must_use]
pub fn is_shown(step: &str) -> bool {
    step == DEMONSTRATIONS || step.starts_with(GUIDED)
}

/// The steps of the guided students that a lesson reads.
#[must_use]
pub fn guided(recipe: &Recipe, lesson: usize) -> Vec<String> {
    if !recipe.lessons[lesson].data.contains(&Data::Guided) {
        return Vec::new();
    }
    recipe
        .students_before(lesson)
        .map(|guided| guided_by(&guided.student))
        .collect()
}

/// The steps whose episodes a lesson reads, by its place; a fresh one's vocabulary comes from the demonstrations.
#[must_use]
pub fn read(recipe: &Recipe, place: usize, iteration: usize) -> BTreeSet<String> {
    let lesson = &recipe.lessons[place];
    let shown = lesson.from == Start::Fresh || lesson.data.contains(&Data::Demonstrations);
    let rollouts = lesson
        .data
        .iter()
        .filter_map(|source| mixture::iterations(source, iteration))
        .flatten();
    let shown = shown.then(|| DEMONSTRATIONS.to_string());
    shown
        .into_iter()
        .chain(guided(recipe, place))
        .chain(rollouts.map(|iteration| format!("{iteration}/rollouts")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{GuidedRecipe, LessonRecipe, Lost, Prefer};

    fn compare() -> Recipe {
        let text = include_str!("../recipes/gigpo-online.toml");
        toml::from_str(text).expect("a recipe of ours")
    }

    /// Every step made something; what it is called by.
    fn outcomes(recipe: &Recipe) -> Outcomes {
        let made = |step: &Step| {
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
            |step: &&Step| step.inputs(&after, &outcomes) != step.inputs(&before, &outcomes);
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
            "the fresh lesson is learned once"
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
            touched(|recipe| recipe.lessons[0].optimizer.batch += 1),
            ["1/sft"]
        );
        assert_eq!(
            touched(|recipe| recipe.lessons[1].optimizer.batch += 1),
            ["1/gigpo", "2/gigpo", "3/gigpo", "4/gigpo"]
        );
        assert_eq!(
            touched(|recipe| recipe.collect.temperature = 0.5),
            ["1/rollouts", "2/rollouts", "3/rollouts", "4/rollouts"]
        );
        assert_eq!(
            touched(|recipe| recipe.demonstrations.slips = 0.5),
            ["demonstrations"]
        );
    }

    /// Two students, one after the other; the second lesson reads what was shown beside the first, the third beside both.
    #[test]
    fn students_are_guided_before_the_lessons_that_read_it() {
        let mut recipe = compare();
        let fresh = recipe.lessons[0].clone();
        let data = vec![Data::Demonstrations, Data::Guided];
        let again = |name: &str| LessonRecipe {
            name: name.into(),
            data: data.clone(),
            ..fresh.clone()
        };
        recipe
            .lessons
            .splice(1..1, [again("second"), again("third")]);
        let guided = |student: &str| GuidedRecipe {
            student: student.into(),
            games: 4,
            repetitions: 1,
            temperature: 0.5,
        };
        recipe.guided = vec![guided("second"), guided("sft")];
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
                "guided-sft",
                "1/second",
                "guided-second",
                "1/third",
                "1/rollouts"
            ]
        );
        recipe.lessons[2].from = Start::Lesson("second".into());
        let starts: Vec<Option<String>> = (1..4).map(|lesson| start(&recipe, lesson, 3)).collect();
        assert_eq!(
            starts,
            [None, Some("1/second".into()), Some("2/gigpo".into())]
        );
        recipe.collect.policy = "third".into();
        recipe.check().expect("it can be followed");
        let reads = |lesson| read(&recipe, lesson, 1).into_iter().collect::<Vec<_>>();
        assert_eq!(reads(0), ["demonstrations"]);
        assert_eq!(reads(1), ["demonstrations", "guided-sft"]);
        assert_eq!(reads(2), ["demonstrations", "guided-second", "guided-sft"]);
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
        let text = refused(&|recipe| recipe.guided.clear());
        assert!(
            text.starts_with("lesson \"second\": nobody was guided before it\nhint: "),
            "{text}"
        );
        assert!(
            refused(&|recipe| recipe.guided[0].student = "gigpo".into())
                .contains("no lesson \"gigpo\" is learned before")
        );
        assert!(
            refused(&|recipe| recipe.guided[0].student = "sft".into())
                .contains("stands there twice")
        );
        for start in ["third", "gigpo", "nobody"] {
            let text = refused(&|recipe| recipe.lessons[1].from = Start::Lesson(start.into()));
            assert!(
                text.starts_with(&format!(
                    "lesson \"second\": it cannot start from \"{start}\"\nhint: "
                )),
                "{text}"
            );
        }
        let of_rollouts = |recipe: &mut Recipe| recipe.lessons[2].data.push(Data::Rollouts);
        assert!(
            refused(&of_rollouts).contains("learned before the first rollouts, so it has none")
        );
    }

    #[test]
    fn a_lesson_depends_on_the_iterations_that_it_reads() {
        let mut recipe = compare();
        recipe.lessons[1].data = vec![Data::ChosenRollouts {
            last: 2,
            won_per_game: 0,
            prefer: Prefer::Shortest,
            lost: Lost::Kept,
        }];
        let mut outcomes = outcomes(&recipe);
        let lesson = Step::Lesson {
            iteration: 3,
            lesson: 1,
        };
        let before = lesson.inputs(&recipe, &outcomes).expect("all is there");
        outcomes.remove("1/rollouts");
        assert_eq!(lesson.inputs(&recipe, &outcomes), Ok(before));
        outcomes.remove("2/rollouts");
        assert_eq!(lesson.inputs(&recipe, &outcomes), Err("2/rollouts".into()));
    }
}
