"""The games of an ALFWorld configuration, in ALFWorld's order."""

import json
import os
from typing import Any, Callable

TASK_TYPES = {
    1: "pick_and_place_simple",
    2: "look_at_obj_in_light",
    3: "pick_clean_then_place_in_recep",
    4: "pick_heat_then_place_in_recep",
    5: "pick_cool_then_place_in_recep",
    6: "pick_two_obj_and_place",
}

SPLITS = {
    "train": "data_path",
    "eval_in_distribution": "eval_id_data_path",
    "eval_out_of_distribution": "eval_ood_data_path",
}


def data_folder(config: "dict[str, Any]", split: str) -> str:
    """Returns the folder of a split, with variables replaced. Raises `ValueError` for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"train_eval is {split!r} and must be one of {', '.join(SPLITS)}")
    return os.path.expandvars(str(config["dataset"][SPLITS[split]]))


def find_games(config: "dict[str, Any]", split: str, log: "Callable[[str], object]" = lambda text: None) -> "list[str]":
    """Returns the solvable games of a split. They have the order of `os.walk`, or are sorted if `HEARTH_SORTED` is 1."""
    assert len(config["env"]["task_types"]) > 0
    task_types = [TASK_TYPES[number] for number in config["env"]["task_types"] if number in TASK_TYPES]
    walk: "Any" = os.walk(data_folder(config, split), topdown=False)
    if os.environ.get("HEARTH_SORTED") == "1":
        walk = sorted(walk)
    found = []
    for root, _, files in walk:
        if "traj_data.json" not in files:
            continue
        game = os.path.join(root, "game.tw-pddl")
        if "movable" in root or "Sliced" in root:
            log(f"Movable & slice trajs not supported {root}")
            continue
        with open(os.path.join(root, "traj_data.json")) as file:
            task_type = json.load(file)["task_type"]
        if task_type not in task_types:
            log("Skipping task type")
            continue
        if not os.path.exists(game):
            log(f"Skipping missing game! {game}")
            continue
        with open(game) as file:
            data = json.load(file)
        if "solvable" not in data:
            print(f"-> Skipping missing solvable key! {game}")
            continue
        if not data["solvable"]:
            log(f"Skipping known {game}, unsolvable game!")
            continue
        found.append(game)
    return found


def no_games(config: "dict[str, Any]", split: str) -> ValueError:
    """Returns the error for a split without games."""
    return ValueError(
        f"there are no games of split {split} in {data_folder(config, split)}\n"
        "hint: check dataset in the configuration and $ALFWORLD_DATA; `alfworld-download` of the package alfworld "
        "fetches the games"
    )
