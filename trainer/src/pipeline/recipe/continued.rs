//! The optional stages that continue rollouts: branches and rescues. Their names, and the checks of their tables
//! and of the jobs that read them.

use crate::learn::config::{DataSource, TrainConfig};
use crate::measure::branch::BranchRecipe;
use crate::measure::rescue::RescueRecipe;

/// Name of the branches of an iteration.
pub(in crate::pipeline) const BRANCHES: &str = "branches";
/// Name of the rescues of an iteration.
pub(in crate::pipeline) const RESCUES: &str = "rescues";

/// Checks the tables `[branch]` and `[rescue]`.
///
/// # Errors
/// A text that names the key.
pub(super) fn check_tables(
    branch: Option<&BranchRecipe>,
    rescue: Option<&RescueRecipe>,
) -> Result<(), String> {
    if let Some(branch) = branch {
        branch
            .check()
            .map_err(|reason| format!("branch: {reason}"))?;
    }
    if let Some(rescue) = rescue {
        rescue
            .check()
            .map_err(|reason| format!("rescue: {reason}"))?;
    }
    Ok(())
}

/// Checks that the recipe plays what a job reads, and that the job's name is free. `has_branch` and `has_rescue`
/// are whether the recipe has the tables.
///
/// # Errors
/// A text that names the job.
pub(super) fn check_job(
    job: &TrainConfig,
    has_branch: bool,
    has_rescue: bool,
) -> Result<(), String> {
    for (source, table, name, has_table) in [
        (DataSource::Branches, "branch", BRANCHES, has_branch),
        (DataSource::Rescues, "rescue", RESCUES, has_rescue),
    ] {
        if !has_table && job.data.contains(&source) {
            return Err(format!(
                "job {:?}: data contains {name:?}, but the recipe plays none\n\
                 hint: add a table [{table}]; an empty one has the defaults",
                job.name
            ));
        }
        if has_table && job.name == name {
            return Err(format!(
                "job {name:?}: the name is taken by the {name} of an iteration"
            ));
        }
    }
    Ok(())
}

/// Returns the sources of a job that these stages play.
pub(super) fn sources(job: &TrainConfig) -> Vec<DataSource> {
    let of_stages = [DataSource::Branches, DataSource::Rescues];
    let read = of_stages
        .into_iter()
        .filter(|source| job.data.contains(source));
    read.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::recipe::{Ranking, Recipe};

    /// An empty table has the defaults. If there is no table, the recipe is written as before it existed.
    #[test]
    fn the_tables_are_optional() {
        let text = include_str!("../../../recipes/quickstart.toml");
        let recipe = Recipe::quickstart();
        assert_eq!((&recipe.branch, &recipe.rescue), (&None, &None));
        let written = toml::to_string(&recipe).expect("writes");
        assert!(!written.contains("branch") && !written.contains("rescue"));
        let with = format!("{text}\n[branch]\nrollouts = 8\n\n[rescue]\n");
        let with: Recipe = toml::from_str(&with).expect("reads");
        let expected = BranchRecipe {
            rollouts: 8,
            ..BranchRecipe::default()
        };
        assert_eq!(with.branch, Some(expected));
        assert_eq!(with.rescue, Some(RescueRecipe::default()));
        let written = toml::to_string(&with).expect("writes");
        assert_eq!(toml::from_str::<Recipe>(&written).expect("reads"), with);
        for table in ["branch", "rescue"] {
            let error = toml::from_str::<Recipe>(&format!("{text}\n[{table}]\nmost = 8\n"))
                .expect_err("an unknown key");
            assert!(error.to_string().contains("most"), "{error}");
        }
    }

    /// Of the quickstart's jobs, the first imitates and is trained once, the second reads rollouts and imitates.
    #[test]
    fn a_job_that_reads_what_no_stage_plays_is_refused() {
        let of = |change: fn(&mut Recipe)| {
            let mut recipe = Recipe::quickstart();
            change(&mut recipe);
            recipe.check()
        };
        let error = of(|recipe| {
            let job = recipe.job_index("oreo").expect("the quickstart has OREO");
            recipe.jobs[job].data.push(DataSource::Branches);
            recipe.jobs[job].critic.ranking = Some(Ranking::Advantage);
        })
        .expect_err("refused");
        assert!(
            error.contains(
                "data contains \"branches\", but the recipe plays none\nhint: add a table [branch]"
            ),
            "{error}"
        );
        let error =
            of(|recipe| recipe.jobs[1].data.push(DataSource::Rescues)).expect_err("refused");
        assert!(error.contains("[rescue]"), "{error}");
        let error = of(|recipe| {
            recipe.branch = Some(BranchRecipe {
                candidates: 1,
                ..BranchRecipe::default()
            });
        });
        assert!(error.is_err_and(|text| text.starts_with("branch: candidates")));
        let error = of(|recipe| {
            recipe.rescue = Some(RescueRecipe {
                stride: 0,
                ..RescueRecipe::default()
            });
        });
        assert!(error.is_err_and(|text| text.starts_with("rescue: ")));
        let error = of(|recipe| {
            recipe.rescue = Some(RescueRecipe::default());
            recipe.jobs[1].name = RESCUES.into();
        });
        assert!(error.is_err_and(|text| text.contains("the name is taken by the rescues")));
        let mut shrunk = Recipe::quickstart();
        shrunk.rescue = Some(RescueRecipe::default());
        let reader = &mut shrunk.jobs[1];
        assert_eq!(reader.algorithm.kind(), "rejection_sampling");
        reader.data.push(DataSource::Rescues);
        assert_eq!(shrunk.check(), Ok(()));
        shrunk.shrink();
        assert_eq!(shrunk.check(), Ok(()));
        assert!(shrunk.jobs[1].data.contains(&DataSource::Rescues));
        let of_once = &mut shrunk.jobs[0].data;
        of_once.push(DataSource::Rescues);
        assert!(
            shrunk
                .check()
                .is_err_and(|text| text.contains("cannot read rollouts"))
        );
    }

    /// A value that is fitted to episodes which were selected by their outcome is biased.
    #[test]
    fn only_imitation_reads_rescues() {
        let text = include_str!("../../../recipes/compare.toml");
        let mut recipe: Recipe = toml::from_str(text).expect("a recipe of the repository");
        recipe.rescue = Some(RescueRecipe::default());
        let oreo = recipe
            .jobs
            .iter_mut()
            .find(|job| job.algorithm.kind() == "oreo")
            .expect("it has one");
        oreo.data.push(DataSource::Rescues);
        let error = recipe.check().expect_err("refused");
        assert!(error.contains("oreo must not read \"rescues\""), "{error}");
    }
}
