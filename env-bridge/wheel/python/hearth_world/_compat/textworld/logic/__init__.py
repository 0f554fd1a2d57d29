"""Facts: propositions over named objects."""

from functools import total_ordering


@total_ordering
class _Named:
    """Something that is compared and hashed by its name and its rest. `_rest` names the attribute of the rest."""

    __slots__ = ("name", "_hash")

    def _key(self):
        return self.name, getattr(self, self._rest)

    def __eq__(self, other):
        return self._key() == other._key() if isinstance(other, type(self)) else NotImplemented

    def __hash__(self):
        return self._hash

    def __lt__(self, other):
        return self._key() < other._key() if isinstance(other, type(self)) else NotImplemented


class Variable(_Named):
    """An object with its type."""

    __slots__ = ("type",)
    _rest = "type"

    def __init__(self, name, type=None):
        self.name = name
        self.type = name if type is None else type
        self._hash = hash(self._key())

    def __str__(self):
        return self.name if self.type == self.name else f"{self.name}: {self.type}"

    def __repr__(self):
        return f"Variable({self.name!r}, {self.type!r})"

    def serialize(self):
        return {"name": self.name, "type": self.type}

    @classmethod
    def deserialize(cls, data):
        return cls(data["name"], data["type"])


class Proposition(_Named):
    """A predicate with its objects. The prefix `not_` stands for a fact that a command made false."""

    __slots__ = ("arguments",)
    _rest = "arguments"

    def __init__(self, name, arguments=[]):
        self.name = name
        self.arguments = tuple(arguments)
        self._hash = hash(self._key())

    @property
    def names(self):
        return tuple(argument.name for argument in self.arguments)

    @property
    def types(self):
        return tuple(argument.type for argument in self.arguments)

    def __str__(self):
        return f"{self.name}({', '.join(map(str, self.arguments))})"

    def __repr__(self):
        return f"Proposition({self.name!r}, {self.arguments!r})"

    def serialize(self):
        return {"name": self.name, "arguments": [argument.serialize() for argument in self.arguments]}

    @classmethod
    def deserialize(cls, data):
        return cls(data["name"], [Variable.deserialize(argument) for argument in data["arguments"]])

    @property
    def is_negation(self):
        return self.name.startswith("not_")

    def negate(self):
        name = self.name.split("not_", 1)[1] if self.is_negation else "not_" + self.name
        return Proposition(name, self.arguments)
