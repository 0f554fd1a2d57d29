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
            "beta = 0.1",
            "beta = 0.1, discount = 1.5",
            "discount = 1.5 must be above 0, at most 1",
        ),
        (
            "level = \"turn\"",
            "level = \"token\", discount = 0.95",
            "γ counts turns, so oreo supports it at level = \"turn\" only",
        ),
        (
            "level = \"turn\"",
            "level = \"response\", discount = 0.95",
            "γ counts turns, so oreo supports it at level = \"turn\" only",
        ),
        (
            "level = \"turn\"",
            "level = \"response\", normalise = \"batch\"",
            "every episode is one action",
        ),
        (
            "beta = 0.1",
            "beta = 0.1, normalise = \"turns\"",
            "unknown variant `turns`",
        ),
        (
            "beta = 0.1",
            "beta = 0.1, log_ratio_clip = 0.0",
            "log_ratio_clip = 0 must be above 0",
        ),
        (
            "beta = 0.1",
            "beta = 0.1, path_length = 0",
            "path_length = 0 must be above 0",
        ),
        (
            "beta = 0.1",
            "beta = 0.1, imitation_coef = -0.1",
            "imitation_coef = -0.1 must be 0 or more",
        ),
        (
            "batch = 16",
            "batch = 16, value_gradient_clip = -1.0",
            "value_gradient_clip = -1 must be above 0",
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
            "batch = ",
            "kind = \"lion\", batch = ",
            "unknown variant `lion`",
        ),
        (
            "sft.toml",
            "optimizer = { ",
            "lora = { rank = 4, alpha = 8.0 }\noptimizer = { kind = \"muon\", ",
            "kind = \"muon\" and lora exclude each other",
        ),
        (
            "sft.toml",
            "optimizer",
            "short_first = 1.0\noptimizer",
            "short_first = 1 must be in [0, 1)",
        ),
        (
            "rejection-sampling.toml",
            "optimizer",
            "short_first = 0.25\noptimizer",
            "short_first: rejection_sampling must read episodes without regard to length",
        ),
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
            "sft.toml",
            "batch = ",
            "value_gradient_clip = 10.0, batch = ",
            "sft has no value network",
        ),
        (
            "dpo.toml",
            "batch = ",
            "policy_warmup = 10, batch = ",
            "dpo has no updates in which only a value network learns",
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

/// OREO's optional keys are read, and a job without them is written without them, so that the hash of
/// its stage stays.
#[test]
fn optional_keys_of_oreo_are_written_only_if_they_are_set() {
    let published = "name = \"job\"\nfrom = \"collector\"\ndata = [\"rollouts\"]\n[algorithm]\n\
                     kind = \"oreo\"\nlevel = \"turn\"\nbeta = 0.1\nalpha = 0.0\n\
                     value_learning_rate = 1e-3\ncritic_only_share = 0.1\n";
    let extended = format!(
        "{published}discount = 0.95\nnormalise = \"batch\"\nlog_ratio_clip = 1.0\npath_length = 4\n\
         imitation_coef = 0.1\n[optimizer]\nvalue_gradient_clip = 10.0\npolicy_warmup = 20\n"
    );
    let keys = [
        "discount",
        "normalise",
        "log_ratio_clip",
        "path_length",
        "imitation_coef",
        "value_gradient_clip",
        "policy_warmup",
    ];
    for (text, is_written) in [(published, false), (&extended, true)] {
        let job: TrainConfig = toml::from_str(text).expect("reads");
        job.check().expect("is valid");
        let written = toml::to_string(&job).expect("writes");
        for key in keys {
            assert_eq!(written.contains(key), is_written, "{key} in {written}");
        }
        assert_eq!(
            job.extensions().len(),
            if is_written { keys.len() } else { 0 }
        );
        assert_eq!(toml::from_str::<TrainConfig>(&written), Ok(job));
    }
    let named = [
        "discount = 0.95",
        "normalise = \"batch\"",
        "log_ratio_clip = 1.0",
        "path_length = 4",
        "imitation_coef = 0.1",
        "optimizer.value_gradient_clip = 10.0",
        "optimizer.policy_warmup = 20",
        "critic.head_only = 0.1",
    ];
    let critic = format!("{extended}[critic]\nhead_only = 0.1\n");
    let job: TrainConfig = toml::from_str(&critic).expect("reads");
    assert_eq!(job.extensions(), named);
    let explicit = format!("{published}discount = 1.0\nnormalise = \"trajectory\"\n");
    assert_eq!(
        toml::from_str::<TrainConfig>(&explicit),
        toml::from_str::<TrainConfig>(published)
    );
}

/// The keys of the schedule and the optimizer are read, named and written only if they are set.
#[test]
fn muon_and_short_episodes_are_named_as_extensions() {
    let plain = "name = \"sft\"\nfrom = \"fresh\"\ndata = [\"demonstrations\"]\n";
    let algorithm = "[algorithm]\nkind = \"sft\"\ntargets = \"transcript\"\n";
    let set = format!("{plain}short_first = 0.25\n{algorithm}[optimizer]\nkind = \"muon\"\n");
    for (text, named) in [
        (format!("{plain}{algorithm}"), vec![]),
        (set, vec!["optimizer.kind = \"muon\"", "short_first = 0.25"]),
    ] {
        let job: TrainConfig = toml::from_str(&text).expect("reads");
        job.check().expect("is valid");
        assert_eq!(job.extensions(), named);
        let written = toml::to_string(&job).expect("writes");
        assert_eq!(written.contains("short_first"), !named.is_empty());
        assert_eq!(written.contains("muon"), !named.is_empty());
        assert_eq!(toml::from_str::<TrainConfig>(&written), Ok(job));
    }
}

/// What is refused of the table `critic`.
#[test]
fn a_form_of_the_value_network_that_is_not_supported_is_refused() {
    for (critic, expected) in [
        ("head = 0.1", "unknown field `head`"),
        ("init = \"other\"", "unknown variant `other`"),
        (
            "head_only = 1.5",
            "critic: head_only = 1.5 must be in [0, 1]",
        ),
        (
            "head_only = nan",
            "critic: head_only = NaN must be in [0, 1]",
        ),
        (
            "next_observation_coef = -1.0",
            "critic: next_observation_coef = -1 must be 0 or more",
        ),
        (
            "advantage_head = true, value_loss = \"hl_gauss\"",
            "advantage_head and value_loss = \"hl_gauss\" exclude each other",
        ),
    ] {
        let table = format!("critic = {{ {critic} }}\noptimizer");
        let error = refused_job("oreo-turn.toml", "optimizer", &table);
        assert!(error.contains(expected), "{error}");
    }
    for (file, critic, expected) in [
        (
            "oreo-token.toml",
            "advantage_head = true",
            "critic: advantage_head needs level = \"turn\"",
        ),
        (
            "oreo-response.toml",
            "value_loss = \"hl_gauss\"",
            "critic: value_loss = \"hl_gauss\" needs level = \"turn\" or \"token\"",
        ),
        (
            "dqo.toml",
            "head_only = 0.1",
            "critic: only oreo has this table, and the algorithm is dqo",
        ),
    ] {
        let table = format!("critic = {{ {critic} }}\noptimizer");
        let error = refused_job(file, "optimizer", &table);
        assert!(error.contains(expected), "{error}");
    }
}

/// Default keys are not written, so that the inputs of old stages keep their hashes.
#[test]
fn only_the_keys_of_the_value_network_that_are_set_are_written() {
    let text = include_str!("../../../recipes/jobs/oreo-turn.toml");
    let plain: TrainConfig = toml::from_str(text).expect("reads");
    assert_eq!(plain.critic, CriticConfig::default());
    assert!(plain.critic.settings().is_empty());
    assert!(
        !toml::to_string(&plain)
            .expect("writes")
            .contains("[critic]")
    );
    let table = "critic = { init = \"critic\", head_only = 0.1, advantage_head = true }\noptimizer";
    let changed: TrainConfig =
        toml::from_str(&text.replacen("optimizer", table, 1)).expect("reads");
    assert_eq!(
        changed.critic.settings(),
        [
            "critic.init = \"critic\"",
            "critic.head_only = 0.1",
            "critic.advantage_head = true"
        ]
    );
    let written = toml::to_string(&changed).expect("writes");
    assert_eq!(
        toml::from_str::<TrainConfig>(&written).expect("reads"),
        changed
    );
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
        init: CriticInit::Policy,
        head_only: 0.0,
        advantage_head: false,
        value_loss: ValueLoss::Mse,
        next_observation_coef: 0.0,
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
        (
            BRANCHES,
            "ranking = \"listwise\"",
            sft,
            "only oreo has this table",
        ),
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
