"""Names of objects."""

import random
from collections import Counter

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
