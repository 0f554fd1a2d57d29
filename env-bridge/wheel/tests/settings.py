"""A configuration of ALFWorld, for the scripts and tests of this folder."""


def config(folder, games, limit, randomise, method):
    return {
        "dataset": {
            "data_path": f"{folder}/train",
            "eval_id_data_path": f"{folder}/valid_seen",
            "eval_ood_data_path": f"{folder}/valid_unseen",
            "num_train_games": games,
            "num_eval_games": games,
        },
        "env": {
            "type": "AlfredTWEnv",
            "task_types": [1, 2, 3, 4, 5, 6],
            "domain_randomization": randomise,
            "expert_type": "handcoded",
            "goal_desc_human_anns_prob": 0,
        },
        "general": {"training_method": method},
        "rl": {"training": {"max_nb_steps_per_episode": limit}},
        "dagger": {"training": {"max_nb_steps_per_episode": limit}},
    }
