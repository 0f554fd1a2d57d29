//! The first stage of a run: the suite of games.

use super::context::RunContext;
use super::waiting::wait_for_leader;
use crate::error::TrainerError;
use crate::pipeline::manifest::{Claimed, StageOutput};
use crate::pipeline::practice;
use crate::pipeline::recipe::GamesRecipe;
use crate::pipeline::stages::{Stage, StageOutputs};
use scenarios::household::{self, GenerateOptions};
use scenarios::{Suite, TextVersion};

/// Opens the suite, and generates its games if the recipe asks for generated games. Adds the stage's output to
/// `outputs`.
///
/// # Errors
/// If the games cannot be read or generated, or are not those that the run began with.
pub(super) fn prepare_suite(
    context: RunContext<'_>,
    outputs: &mut StageOutputs,
) -> Result<Suite, TrainerError> {
    let RunContext {
        recipe,
        out,
        reporter,
        options,
    } = context;
    let stage = Stage::Games;
    let paths = stage.paths(recipe, out);
    let inputs = stage
        .inputs(recipe, outputs)
        .expect("the first stage depends on no other");
    if !options.shard.leads() {
        wait_for_leader(&paths, &inputs, options, reporter, |_| Ok(()))?;
    }
    let suite = match &recipe.games {
        GamesRecipe::Folder { path, .. } => Suite::open(path)?,
        GamesRecipe::Household { .. } => household_games(context)?,
    };
    say_faults(context, &suite);
    let output = StageOutput {
        suite: Some(suite.hash()),
        ..StageOutput::default()
    };
    if options.shard.leads() {
        check_games(context, &suite)?;
        if let GamesRecipe::Household { .. } = recipe.games {
            suite.write_manifest(out.join("suite.jsonl"))?; // a manifest in this folder cannot name games elsewhere
        }
        if let Claimed::Begun(mut manifest) =
            paths.claim(inputs, options.code, &|text| context.say(text))?
        {
            manifest.expected = suite.tasks.len();
            paths.finish(manifest, output.clone(), &[])?;
        }
    }
    outputs.insert(stage, output);
    Ok(suite)
}

/// Opens the practice suites of the recipe. If there are any, records the hash over them in `outputs`.
///
/// # Errors
/// If a suite cannot be read or has no `train` games, or if a game is in two suites.
pub(super) fn open_practice(
    context: RunContext<'_>,
    suite: &Suite,
    outputs: &mut StageOutputs,
) -> Result<Vec<Suite>, TrainerError> {
    let opened = practice::open(&context.recipe.games)?;
    for suite in &opened {
        say_faults(context, suite);
    }
    practice::check(suite, &opened)?;
    outputs.entry(Stage::Games).or_default().practice = practice::hash(&opened);
    Ok(opened)
}

fn say_faults(context: RunContext<'_>, suite: &Suite) {
    for fault in &suite.faults {
        context.say(&format!(
            "left out: {}: {}",
            fault.path.display(),
            fault.reason
        ));
    }
    if !suite.faults.is_empty() {
        context.say(&format!(
            "{} games of {} are left out",
            suite.faults.len(),
            suite.name
        ));
    }
}

fn household_games(context: RunContext<'_>) -> Result<Suite, TrainerError> {
    let GamesRecipe::Household {
        size,
        train,
        valid_train,
        seen,
        unseen,
        ..
    } = context.recipe.games
    else {
        return Err(TrainerError::Data("the recipe generates no games".into()));
    };
    let folder = context.out.join("games");
    if folder.join("suite.jsonl").exists() {
        return Ok(Suite::open(&folder)?);
    }
    crate::learn::checkpoint::remove(&folder)?; // games of a killed process; the same seed generates them again
    let bar = context.reporter.stage("generate games");
    let suite = household::generate(
        &folder,
        &GenerateOptions {
            seed: context.recipe.seed,
            size: size.into(),
            train,
            valid_train,
            seen,
            unseen,
            text: TextVersion::V2_1_3,
        },
    )?;
    bar.finish_with_message(format!("{} games", suite.tasks.len()));
    Ok(suite)
}

/// Returns an error if the games are not those that the run began with.
fn check_games(context: RunContext<'_>, suite: &Suite) -> Result<(), TrainerError> {
    let path = context.out.join("run.json");
    if !path.exists() {
        return Ok(());
    }
    let text = std::fs::read_to_string(&path).map_err(TrainerError::file(&path))?;
    let before: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| TrainerError::content(&path, e))?;
    if before["suite"] == suite.hash().as_str() {
        return Ok(());
    }
    let reason = "the games are not those that this run began with\nhint: choose another --out, or restore those games";
    Err(TrainerError::content(&path, reason))
}
