use super::*;
use agent::model::decoder::Precision;
use agent::text::tokenizer::NumberTokens;

#[test]
fn the_built_in_recipe_is_valid() {
    assert_eq!(Recipe::quickstart().check(), Ok(()));
}

#[test]
fn the_shrunk_recipe_is_valid() {
    let mut quick = Recipe::quickstart();
    quick.shrink();
    assert_eq!(quick.check(), Ok(()));
    assert!(
        quick
            .jobs
            .iter()
            .all(|job| job.data.contains(&DataSource::Demonstrations))
    );
}

#[test]
fn a_written_recipe_is_read_back_equal() {
    let recipe = Recipe::quickstart();
    let text = toml::to_string(&recipe).expect("writes");
    assert_eq!(toml::from_str::<Recipe>(&text).expect("reads"), recipe);
}

#[test]
fn the_precision_is_always_written() {
    let mut recipe = Recipe::quickstart();
    assert!(
        recipe
            .jobs
            .iter()
            .all(|job| job.precision == Precision::F32)
    );
    recipe.jobs[1].precision = Precision::Bf16;
    let text = toml::to_string(&recipe).expect("writes");
    assert_eq!(
        (
            text.matches("precision = \"f32\"").count(),
            text.matches("precision = \"bf16\"").count()
        ),
        (2, 1)
    );
}

/// Replaces one text of the quickstart recipe and returns the error.
#[track_caller]
fn refused(from: &str, to: &str) -> String {
    let text = include_str!("../../../recipes/quickstart.toml");
    assert!(text.contains(from), "{from} is not in the recipe");
    match toml::from_str::<Recipe>(&text.replacen(from, to, 1)) {
        Err(error) => error.to_string(),
        Ok(recipe) => recipe.check().expect_err("refused"),
    }
}

fn toml_files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|of| of == "toml"))
        .collect()
}

/// Every recipe in the folder is valid, and each job with a file of its own equals the job of that name
/// in compare.toml.
#[test]
fn the_recipes_of_the_repository_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    for path in toml_files(&folder) {
        let recipe = Recipe::open(&path).expect("reads");
        assert_eq!(path.file_stem(), Some(recipe.name.as_ref()));
    }
    let compared = Recipe::open(&folder.join("compare.toml")).expect("reads");
    let mut kinds: Vec<&str> = Vec::new();
    for path in toml_files(&folder.join("jobs")) {
        let job = open_job(&path).expect("reads");
        assert_eq!(path.file_stem(), Some(job.name.as_ref()));
        assert!(compared.jobs.contains(&job), "{}", job.name);
        kinds.push(job.algorithm.kind());
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "dpo",
            "dqo",
            "dro",
            "gigpo",
            "grpo",
            "kto",
            "oreo",
            "rejection_sampling",
            "sft"
        ]
    );
}

/// The recipes for real ALFWorld: those for more seeds and for the loop have fewer jobs than the first
/// and are otherwise equal.
#[test]
fn the_recipes_for_real_alfworld_agree() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../results/alfworld-plain");
    let [mut every, seeds, looped] = ["recipe.toml", "seeds.toml", "loop.toml"]
        .map(|name| Recipe::open(&folder.join(name)).expect("reads"));
    every
        .jobs
        .retain(|job| !["rejection-sampling", "dpo", "oreo-token"].contains(&job.name.as_str()));
    assert_eq!(seeds, every);
    assert_eq!(
        looped,
        Recipe {
            iterations: 3,
            ..every
        }
    );
}

/// A recipe whose results are stored can still be run.
#[test]
fn every_recipe_of_the_results_is_read() {
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("../results");
    let folders = std::fs::read_dir(&results).expect("results/").flatten();
    let files = folders.flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten());
    let mut read = 0;
    for path in files.flatten().map(|file| file.path()) {
        let is_toml = path
            .extension()
            .is_some_and(|extension| extension == "toml");
        if is_toml
            && std::fs::read_to_string(&path)
                .expect("text")
                .contains("[games]")
        {
            if let Err(error) = Recipe::open(&path) {
                panic!("{}: {error}", path.display());
            }
            read += 1;
        }
    }
    assert!(read >= 5, "{read} recipes");
}

/// If a key of the model has its default, a recipe is written and hashed as before the key existed.
#[test]
fn keys_of_the_model_are_written_only_if_they_are_not_the_default() {
    let quickstart = Recipe::quickstart();
    let text = toml::to_string(&quickstart).expect("writes");
    let keys = [
        "numbers",
        "goal_match",
        "ngram_embedding",
        "convolution",
        "initial_exponent",
        "initial_heads",
    ];
    let written = keys.map(|key| text.contains(key));
    assert_eq!(written, [true, true, false, true, false, false], "{text}");
    assert_eq!(toml::from_str::<Recipe>(&text).expect("reads"), quickstart);
    let plain = Recipe {
        model: ModelRecipe {
            numbers: NumberTokens::Whole,
            goal_match: false,
            convolution: None,
            ..quickstart.model.clone()
        },
        ..quickstart
    };
    let text = toml::to_string(&plain).expect("writes");
    assert!(!keys.iter().any(|key| text.contains(key)), "{text}");
    assert_eq!(toml::from_str::<Recipe>(&text).expect("reads"), plain);
    let mut initial = plain;
    initial.model.initial_exponent = 0.8;
    initial.model.initial_heads = true;
    assert_eq!(initial.check(), Ok(()));
    let text = toml::to_string(&initial).expect("writes");
    assert_eq!(toml::from_str::<Recipe>(&text).expect("reads"), initial);
}

#[test]
fn additions_that_a_decoder_cannot_have_are_refused() {
    for (from, to, expected) in [
        ("\"digits\"", "\"joined\"", "unknown variant `joined`"),
        (
            "\"digits\"",
            "\"whole\"",
            "goal_match needs numbers = \"digits\"",
        ),
        (
            "width = 4",
            "width = 1",
            "width is 1, and must be from 2 to 16",
        ),
        ("\"mlp_input\"", "\"attention_input\"", "different places"),
        ("\"mlp_input\"", "\"output\"", "unknown variant `output`"),
        (
            "goal_match = true",
            "goal_match = true\nngram_embedding = [2, 1]",
            "ascending orders from 1 to 4",
        ),
        (
            "goal_match = true",
            "goal_match = true\ninitial_exponent = 0.0",
            "initial_exponent = 0 must be above 0, at most 1.5",
        ),
        (
            "goal_match = true",
            "goal_match = true\ninitial_exponent = nan",
            "initial_exponent = NaN must be above 0",
        ),
        (
            "goal_match = true",
            "goal_match = true\ninitial_heads = true",
            "initial_heads: it needs the plain Llama layout",
        ),
    ] {
        let error = refused(from, to);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn selected_rollouts_are_a_table_under_the_new_and_the_old_name() {
    let mut recipe = Recipe::quickstart();
    for name in ["selected_rollouts", "chosen_rollouts"] {
        let text = format!(
            "data = [\"demonstrations\", {{ {name} = {{ last = 2, won_per_game = 3, prefer = \"random\" }} }}]"
        );
        let table: toml::Table = text.parse().expect("TOML");
        recipe.jobs[1].data = table["data"].clone().try_into().expect("sources");
        let expected = DataSource::SelectedRollouts {
            last: 2,
            won_per_game: 3,
            prefer: Prefer::Random,
            lost: Lost::Kept,
        };
        assert_eq!(recipe.jobs[1].data, [DataSource::Demonstrations, expected]);
    }
    let written = toml::to_string(&recipe).expect("writes");
    assert_eq!(toml::from_str::<Recipe>(&written).expect("reads"), recipe);
    assert_eq!(recipe.check(), Ok(()));
}

#[test]
fn invalid_selections_of_rollouts_are_refused() {
    for (table, expected) in [
        ("{ last = 2, most = 3 }", "unexpected keys in table: most"),
        ("{ prefer = \"longest\" }", "unknown variant `longest`"),
        ("{}", "selected_rollouts: set last, won_per_game or lost"),
    ] {
        let error = refused(
            "data = [\"rollouts\"]",
            &format!("data = [{{ selected_rollouts = {table} }}]"),
        );
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_key_is_accepted_only_if_it_has_a_meaning() {
    for (from, to, expected) in [
        ("kind = \"sft\"", "kind = \"sft\"\nbeta = 0.1", "beta"),
        ("iterations = 1", "iterations = 1\nbudget = 3", "budget"),
        ("iterations = 1", "iterations = \"one\"", "invalid type"),
        (
            "from = \"fresh\"",
            "from = \"fresh\"\nprecision = \"f16\"",
            "unknown variant `f16`",
        ),
        (
            "policy = \"sft\"",
            "policy = \"gpt\"",
            "there is no job \"gpt\"",
        ),
        (
            "policy = \"sft\"",
            "policy = \"sft\"\nmin_p = 2.0",
            "collect.min_p is 2: it must be between 0 and 1",
        ),
        ("heads = 4", "heads = 5", "heads"),
        (
            "name = \"rejection-sampling\"",
            "name = \"eval\"",
            "the name is taken",
        ),
    ] {
        let error = refused(from, to);
        assert!(error.contains(expected), "{error}");
    }
}
