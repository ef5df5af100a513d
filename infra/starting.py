"""A starting file of settings: what a check proposes, with its reasons, as TOML."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from infra.errors import InputError
from stream.check.proposals import Proposal, readable

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def starting_toml(proposals: Sequence[Proposal], checked: Iterable[str]) -> str:
    """Return proposals as a file of settings that `freshet replay --config` takes.

    Args:
        proposals: dotted keys with values and reasons.
        checked: the log's files, named in the first lines.
    """
    lines = [f"# Settings that fit {', '.join(checked)}, by `freshet check`."]
    lines += [
        "# `freshet config show` lists all settings; `docs/reference.md` says what they mean."
    ]
    tables: dict[tuple[str, ...], list[Proposal]] = {}
    for one in proposals:
        tables.setdefault(_path(one.key)[:-1], []).append(one)
    for path, rows in sorted(tables.items(), key=lambda pair: _place(pair[0])):
        lines += ["", f"[{'.'.join(_key(part) for part in path)}]"]
        lines += _rows(rows)
    return "\n".join(lines) + "\n"


def _rows(rows: Sequence[Proposal]) -> Iterator[str]:
    reason = ""
    for one in rows:
        if one.reason != reason:
            reason = one.reason
            yield f"# {_plain(reason)}"
        name = _path(one.key)[-1]
        spans = name.endswith("_ms") and isinstance(one.value, int) and one.value > 0
        unit = f"  # {readable(one.value)}" if spans else ""  # type: ignore[arg-type]  # an int
        yield f"{_key(name)} = {_value(one.value)}{unit}"


def check_writable(path: Path, *, force: bool) -> None:
    """Refuse to overwrite a file, and a folder that is not there.

    Raises:
        InputError: naming the file and the flag.
    """
    if path.exists() and not force:
        raise InputError(f"{path}: exists already; give another path, or --force to overwrite it")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder for the settings; create it first")


def _path(key: str) -> tuple[str, ...]:
    """Return the parts of a dotted key; the name of an event type may hold dots itself."""
    parts = key.split(".")
    if parts[:2] == ["stream", "event_types"]:
        return ("stream", "event_types", ".".join(parts[2:-1]), parts[-1])
    return tuple(parts)


def _place(path: tuple[str, ...]) -> tuple[int, int]:
    """Return where a table stands: sections in the order of a log's way, subtables after their table."""
    order = ("log", "stream", "refresh", "serving", "model")
    return order.index(path[0]), len(path)


def _key(part: str) -> str:
    return part if _BARE.fullmatch(part) else _value(part)


def _value(value: object) -> str:
    # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
