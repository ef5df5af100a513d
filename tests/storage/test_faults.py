"""Points at which a process may be made to die."""

import re
from pathlib import Path

import pytest

from storage import faults

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hooked():
    """Install a hook that notes what it is called with."""
    seen = []
    faults.install(lambda point, spoil: seen.append((point, spoil)))
    yield seen
    faults.install(None)


def test_without_a_hook_a_point_does_nothing_and_spoils_nothing():
    spoiled = []
    faults.reach("sink.line", lambda: spoiled.append(1))
    assert not spoiled


def test_a_hook_is_called_with_the_point_and_what_would_be_left_half_done(hooked):
    def spoil():
        return None

    faults.reach("tick.groups")
    faults.reach("sink.line", spoil)
    assert hooked == [("tick.groups", None), ("sink.line", spoil)]


def test_every_point_is_listed_once_and_stands_in_the_code_once():
    named = []
    for package in ("storage", "stream", "model", "infra"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name != "faults.py":
                named += re.findall(r'reach\(\s*"([^"]+)"', path.read_text(encoding="utf-8"))
    assert sorted(named) == sorted(faults.POINTS)
