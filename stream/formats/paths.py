"""Paths into nested records: `user.id`, `eventList[].itemId`, `fields[name=title].value`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from stream.errors import ConfigError
from stream.sources.record_columns import Bad

_STEP = re.compile(
    r'(?P<dot>\.?)(?:"(?P<quoted>[^"]+)"|(?P<key>[^.\[\]"]+))'
    r"|\[(?:(?P<by>[^=\]]+)=(?P<value>[^\]]*))?\]"
)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of an object."""

    name: str


@dataclass(frozen=True, slots=True)
class Only:
    """The element of a list of one."""


@dataclass(frozen=True, slots=True)
class Pick:
    """The first element of a list of objects whose key `by` has a value."""

    by: str
    value: str


Step: TypeAlias = Key | Only | Pick


@dataclass(frozen=True, slots=True)
class Path:
    """A compiled path.

    Attributes:
        text: as it was written.
        steps: keys, `[]` for a list that must hold one element, `[name=x]` for the element of a
            list whose key `name` is "x".
    """

    text: str
    steps: tuple[Step, ...]


def compile_path(text: str) -> Path:
    """Return a path; keys with dots or brackets stand in double quotes.

    Raises:
        ConfigError: it is no path.
    """
    steps: list[Step] = []
    at = 0
    while at < len(text):
        found = _STEP.match(text, at)
        wanted_dot = bool(steps)
        key = found and (found["quoted"] or found["key"])
        if found is None or (key and bool(found["dot"]) != wanted_dot) or not (key or steps):
            raise ConfigError(
                f"{text!r} is no path; write keys with dots, such as user.id or list[].item"
            )
        if key:
            steps.append(Key(key))
        else:
            steps.append(Pick(found["by"], found["value"]) if found["by"] else Only())
        at = found.end()
    if not steps:
        raise ConfigError("an empty path; name a key of the record")
    return Path(text, tuple(steps))


def value_at(tree: object, path: Path) -> object:
    """Return what a record holds at a path: None where there is nothing, `Bad` where it has another shape."""
    node = tree
    for at, step in enumerate(path.steps):
        if node is None:
            return None
        if isinstance(step, Key):
            if not isinstance(node, dict):
                return _mismatch("object", node, path, at)
            node = node.get(step.name)
        elif not isinstance(node, list):
            return _mismatch("array", node, path, at)
        elif isinstance(step, Pick):
            node = _picked(node, step)
        elif len(node) == 1:
            node = node[0]
        else:
            text = f"holds {len(node)} interactions where one record is one"
            return Bad("not_single", f"{text} - at `{_place(path, at)}`")
    return node


def _picked(nodes: list[object], step: Pick) -> object:
    named = (node for node in nodes if isinstance(node, dict) and node.get(step.by) == step.value)
    return next(named, None)


def _mismatch(wanted: str, node: object, path: Path, at: int) -> Bad:
    got = type_name(node)
    return Bad("bad_type", f"Expected `{wanted}`, got `{got}` - at `{_place(path, at)}`")


def _place(path: Path, steps: int) -> str:
    """Return the place after so many steps, as messages write it."""
    place = "$"
    for step in path.steps[:steps]:
        place += (
            f".{step.name}"
            if isinstance(step, Key)
            else "[0]"
            if isinstance(step, Only)
            else "[...]"
        )
    return place


def type_name(value: object) -> str:
    """Return what a JSON person calls the type of a value."""
    names = {dict: "object", list: "array", type(None): "null"}
    return names.get(type(value), type(value).__name__)
