"""Names of objects."""

import random
from collections import Counter

from textworld.logic import Proposition, Variable

_SIGNS = (("_bar_", "|"), ("_minus_", "-"), ("_plus_", "+"), ("_dot_", "."), ("_comma_", ","))


class Demangler:
    """Gives the objects of a game names such as `mug 2` in place of their ids.

    The objects of one kind are numbered in the reverse order of their ids, or, if `shuffle` is True, in a random
    order from Python's `random`.
    """

    def __init__(self, obj_dict=None, game_infos=None, shuffle=False):
        self.obj_count = Counter() if obj_dict is None else obj_dict
        self.obj_names = {}
        if not game_infos:
            return
        ids = sorted(info.id for info in game_infos.values())
        if shuffle:
            random.shuffle(ids)
        for id in ids:
            if "_bar_" in id:
                self.obj_count[_kind(id.split("_bar_", 1)[0], id)] += 1
        left = dict(self.obj_count)
        for id in ids:
            text = id
            for mangled, sign in _SIGNS:
                text = text.replace(mangled, sign)
            if "|" not in text:
                self.obj_names[id] = {"name": text, "id": 0}
                continue
            kind = _kind(text.split("|", 1)[0], id)
            self.obj_names[id] = {"name": kind, "id": left[kind]}
            left[kind] -= 1

    def demangle_alfred_name(self, text):
        assert text in self.obj_names
        entry = self.obj_names[text]
        return f"{entry['name']} {entry['id'] if entry['id'] > 0 else ''}"


def _kind(name, id):
    return name + "basin" if "basin" in id else name


def clean_alfred_facts(facts):
    """Returns the facts with names in place of ids, without those of the planner's axioms."""
    demangler = Demangler()
    return [
        Proposition(
            fact.name, [Variable(demangler.demangle_alfred_name(value.name), value.type) for value in fact.arguments]
        )
        for fact in facts
        if not fact.name.startswith("new-axiom@")
    ]


def _needs_alfred(name):
    raise NotImplementedError(
        f"alfworld.agents.utils.misc.{name} makes new games from ALFRED's data, and hearth_world plays finished ones\n"
        "hint: the task is already in game.tw-pddl"
    )


def get_templated_task_desc(traj_data):
    _needs_alfred("get_templated_task_desc")


def get_human_anns_task_desc(traj_data, rng=random):
    _needs_alfred("get_human_anns_task_desc")


def add_task_to_grammar(grammar_str, traj_data, goal_desc_human_anns_prob=0.0, rng=random):
    _needs_alfred("add_task_to_grammar")
