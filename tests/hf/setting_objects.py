"""Objects that a configuration may hold, with more or less besides their attributes."""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, ClassVar

from transformers import LlamaConfig, PretrainedConfig


class Plain:
    """Equal to itself alone."""


class OwnDict(Plain, dict[str, int]):
    pass


class OwnList(Plain, list[int]):
    pass


class InSlot(Plain):
    __slots__ = ("x",)

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return type(other) is InSlot and self.x == other.x

    __hash__ = None  # type: ignore[assignment]


@dataclasses.dataclass
class OverSlot:
    __slots__ = ("a",)
    a: int


@dataclasses.dataclass
class UnderDict(OverSlot):
    b: int


@dataclasses.dataclass
class Simple:
    a: int


class OwnFields(Simple):
    """A property in the place of a field."""

    kept: ClassVar[dict[int, int]] = {}
    a = property(lambda self: self.kept[vars(self)["at"]])

    def __init__(self, a: int) -> None:
        vars(self)["at"] = len(self.kept)
        self.kept[len(self.kept)] = a

    def __deepcopy__(self, memo: object) -> "OwnFields":
        return OwnFields(self.a)


class Holder(list[int], enum.Enum):  # type: ignore[misc]
    ONE = ([1],)

    def __deepcopy__(self, memo: object) -> Any:
        return list(self)


def sets_slot(kept: Any, number: int) -> None:
    kept.a = number


# Objects that keep something besides their attributes, and what changes it.
KEEPERS: dict[str, tuple[Callable[[], Any], Callable[[Any, int], Any]]] = {
    "a dictionary": (lambda: OwnDict(k=1), lambda kept, number: kept.update(k=number)),
    "a list": (lambda: OwnList([1]), lambda kept, number: kept.__setitem__(0, number)),
    "a slot": (lambda: InSlot(1), lambda kept, number: setattr(kept, "x", number)),
    "a base's slot": (lambda: UnderDict(1, 2), sets_slot),
    "a property": (
        lambda: OwnFields(1),
        lambda kept, number: kept.kept.update({vars(kept)["at"]: number}),
    ),
    "an enumeration's list": (lambda: Holder.ONE, lambda kept, number: kept.append(number)),
}
# Of classes that those are derived from, or of which nothing is to be seen but attributes.
RECORDS: tuple[Callable[[], Any], ...] = (Plain, lambda: Simple(1), PretrainedConfig, LlamaConfig)
