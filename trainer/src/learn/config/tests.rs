use super::*;

/// Opens a job's recipe in which one text is replaced, and returns the error.
#[track_caller]
fn refused_job(file: &str, from: &str, to: &str) -> String {
    let jobs = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/jobs");
    let text = std::fs::read_to_string(jobs.join(file)).expect("a recipe");
    assert!(text.contains(from), "{from} is not in {file}");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("job.toml");
    std::fs::write(&path, text.replacen(from, to, 1)).expect("writes");
    let error = open_job(&path).expect_err("refused").to_string();
    assert!(
        error.starts_with(&path.display().to_string()),
        "{error} does not name the file"
    );
    error
}

#[test]
fn a_job_with_an_invalid_key_is_refused_and_the_error_names_the_key() {
    for (from, to, expected) in [
        ("beta = 0.1, ", "", "missing field `beta`"),
        (
            "beta = 0.1",
            "beta = \"0.1\"",
            "invalid type: string \"0.1\", expected f64",
        ),
        ("beta = 0.1", "beta = 0.0", "beta = 0 must be above 0"),
        (
            "beta = 0.1",
            "beta = 0.1, gamma = 1",
            "unknown field `gamma`",
        ),
        (
            "level = \"turn\"",
            "level = \"word\"",
            "unknown variant `word`",
        ),
        (
            "critic_only_share = 0.15",
            "critic_only_share = 1.5",
            "critic_only_share = 1.5 must be in [0, 1]",
        ),
        (
            "batch = 16",
            "batch = 0",
            "batch, and epochs or updates, must be above 0",
        ),
        (
            "learning_rate = 1e-4",
            "learning_rate = nan",
            "learning_rate = NaN must be 0 or more",
        ),
        (
            "\"collector\"",
            "\"fresh\"",
            "trained before the first rollouts, so it cannot read rollouts",
        ),
        (
            "optimizer",
            "reference = \"cached\"\noptimizer",
            "the exact KL needs the live reference",
        ),
        (
            "optimizer",
            "early_stopping = { share = 1.0, every = 5, patience = 2 }\noptimizer",
            "early_stopping: share must be in (0, 1)",
        ),
        (
            "optimizer",
            "receptacle_dropout = 0.5\noptimizer",
            "receptacle_dropout: oreo must read observations as they were played",
        ),
        (
            "optimizer = { ",
            "lora = { rank = 4, alpha = 8.0 }\noptimizer = { last_layers = 1, ",
            "lora and last_layers exclude each other",
        ),
    ] {
        let error = refused_job("oreo-turn.toml", from, to);
        assert!(error.contains(expected), "{error}");
    }
    for (file, from, to, expected) in [
        (
            "sft.toml",
            "optimizer",
            "receptacle_dropout = 1.5\noptimizer",
            "receptacle_dropout must be in (0, 1]",
        ),
        (
            "dqo.toml",
            "\"turn\"",
            "\"response\"",
            "dqo supports turn and token",
        ),
        (
            "dqo.toml",
            "lambda = 0.95",
            "lambda = 1.5",
            "lambda = 1.5 must be in [0, 1]",
        ),
        (
            "gigpo.toml",
            "discount = 0.95",
            "discount = 0.0",
            "discount = 0 must be above 0",
        ),
        (
            "kto.toml",
            "optimizer",
            "reference = \"cached\"\noptimizer",
            "kto evaluates the reference on pairs",
        ),
        (
            "rejection-sampling.toml",
            "optimizer",
            "reference = \"cached\"\noptimizer",
            "rejection_sampling has no reference",
        ),
    ] {
        let error = refused_job(file, from, to);
        assert!(error.contains(expected), "{error}");
    }
}

/// The keys of earlier versions: each is read as its new name.
#[test]
fn old_key_names_are_read() {
    let old = "name = \"more\"\nfrom = { lesson = \"sft\" }\nthinned = 0.8\n\
               data = [\"demonstrations\", \"guided\", { chosen_rollouts = { last = 2 } }]\n\
               optimizer = { activations = \"recomputed\" }\n\
               algorithm = { kind = \"oreo\", level = \"turn\", beta = 0.1, alpha = 0.0, \
               value_learning_rate = 1e-3, value_warmup = 0.15 }\n";
    let new = old
        .replace("lesson =", "job =")
        .replace("thinned", "receptacle_dropout")
        .replace("guided", "dagger")
        .replace("chosen_rollouts", "selected_rollouts")
        .replace("recomputed", "checkpointed")
        .replace("value_warmup", "critic_only_share");
    assert_eq!(
        toml::from_str::<TrainConfig>(old).expect("old names are read"),
        toml::from_str::<TrainConfig>(&new).expect("new names are read")
    );
    assert_eq!(
        toml::to_string(&toml::from_str::<TrainConfig>(old).expect("reads"))
            .expect("writes")
            .matches("dagger")
            .count(),
        1,
        "new names are written"
    );
}

/// A job of OREO with a table `critic`.
fn with_critic(data: &str, critic: &str, algorithm: &str) -> Result<TrainConfig, String> {
    let text = format!(
        "name = \"ranked\"\nfrom = \"collector\"\ndata = {data}\n{algorithm}\n[critic]\n{critic}"
    );
    let job: TrainConfig = toml::from_str(&text).map_err(|error| error.to_string())?;
    job.check().map(|()| job)
}

const OREO: &str = "algorithm = { kind = \"oreo\", level = \"turn\", beta = 0.1, alpha = 0.0, \
                    value_learning_rate = 1e-3, critic_only_share = 0.15 }";
const BRANCHES: &str = "[\"rollouts\", \"branches\"]";

#[test]
fn the_table_critic_has_defaults_and_is_written_only_if_it_is_set() {
    let job = with_critic(BRANCHES, "ranking = \"bradley_terry\"", OREO).expect("valid");
    let expected = CriticConfig {
        ranking: Some(Ranking::BradleyTerry),
        ranking_coef: 1.0,
        ranking_temperature: 0.1,
        branch_batch: 8,
        policy_branch_coef: 0.0,
    };
    assert_eq!(job.critic, expected);
    let written = toml::to_string(&job).expect("writes");
    assert!(
        written.contains("[critic]\nranking = \"bradley_terry\"\n"),
        "{written}"
    );
    assert!(!written.contains("branch_batch"), "{written}");
    assert_eq!(toml::from_str::<TrainConfig>(&written).expect("reads"), job);
    let plain = with_critic("[\"rollouts\"]", "", OREO).expect("valid");
    assert!(!plain.critic.reads_branches());
    let written = toml::to_string(&plain).expect("writes");
    assert!(!written.contains("critic]"), "{written}");
}

#[test]
fn an_invalid_table_critic_is_refused() {
    let rollouts = "[\"rollouts\"]";
    let sft = "algorithm = { kind = \"sft\", targets = \"actions\" }";
    let cached = format!("reference = \"cached\"\n{OREO}");
    for (data, critic, algorithm, expected) in [
        (
            BRANCHES,
            "ranking = \"pairwise\"",
            OREO,
            "unknown variant `pairwise`",
        ),
        (
            BRANCHES,
            "rank = \"listwise\"",
            OREO,
            "unknown field `rank`",
        ),
        (
            rollouts,
            "ranking = \"listwise\"",
            OREO,
            "add \"branches\" to data",
        ),
        (BRANCHES, "", OREO, "no loss reads them"),
        (BRANCHES, "ranking = \"listwise\"", sft, "only oreo has one"),
        (
            BRANCHES,
            "policy_branch_coef = 1.0",
            &cached,
            "needs the live reference",
        ),
        (
            BRANCHES,
            "policy_branch_coef = -1.0",
            OREO,
            "policy_branch_coef = -1 must be 0 or more",
        ),
        (
            BRANCHES,
            "ranking = \"listwise\"\nranking_temperature = 0.0",
            OREO,
            "ranking_temperature = 0 must be above 0",
        ),
        (
            BRANCHES,
            "ranking = \"listwise\"\nranking_coef = nan",
            OREO,
            "ranking_coef = NaN must be above 0",
        ),
        (
            BRANCHES,
            "ranking = \"listwise\"\nbranch_batch = 0",
            OREO,
            "branch_batch must be above 0",
        ),
        (
            BRANCHES,
            "ranking = \"advantage\"\nranking_temperature = 0.2",
            OREO,
            "ranking_temperature has no effect",
        ),
        (
            BRANCHES,
            "policy_branch_coef = 1.0\nranking_coef = 0.5",
            OREO,
            "ranking_coef has no effect",
        ),
        (
            rollouts,
            "branch_batch = 4",
            OREO,
            "branch_batch has no effect",
        ),
    ] {
        let error = with_critic(data, critic, algorithm).expect_err("refused");
        assert!(error.contains(expected), "{error}");
    }
}
