"""Every sink against the contract, and the contract against planted faults."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Literal, get_args

import msgspec
import pytest

from stream.errors import SinkError
from stream.sinks.jsonl import JsonlSink, read_slates
from stream.sinks.memory import MemorySink
from stream.slates import SlateLines, decode_slate
from tests.contracts import sink_contract as contract

if TYPE_CHECKING:
    from pathlib import Path

    from stream.slates import Slate


def jsonl_case(path: Path) -> contract.SinkCase:
    def stored() -> list[Slate]:
        return list(read_slates(path)) if path.exists() else []

    return contract.SinkCase(lambda: JsonlSink(path), stored, outlives=True)


class TestJsonl(contract.SinkContract):
    @pytest.fixture
    def case(self, tmp_path: Path) -> contract.SinkCase:
        return jsonl_case(tmp_path / "out" / "slates.jsonl")


class TestMemory(contract.SinkContract):
    @pytest.fixture
    def case(self) -> contract.SinkCase:
        sink = MemorySink()
        return contract.SinkCase(lambda: sink, lambda: sink.slates, outlives=False)


Fault = Literal["buffers", "reverses", "drops", "starts_over", "writes_on", "pads", "escapes"]
BREAKS: dict[Fault, str] = {
    "buffers": "slates_are_durable_when_write_returns",
    "reverses": "order_is_kept",
    "pads": "an_empty_batch_changes_nothing",
    "drops": "order_is_kept",
    "escapes": "every_character_comes_back",
    "starts_over": "reopening_goes_on_after_what_is_there",
    "writes_on": "a_closed_sink_refuses",
}


class FaultySink:
    """A JSONL sink that breaks one promise."""

    def __init__(self, path: Path, fault: Fault) -> None:
        self._fault = fault
        self._waiting = SlateLines()
        if fault == "starts_over":
            path.unlink(missing_ok=True)
        self._sink = JsonlSink(path)

    def write(self, slates: SlateLines) -> None:
        given = list(map(decode_slate, slates.lines()))
        match self._fault:
            case "buffers":
                self._waiting.add(given)
            case "reverses":
                self._put(given[::-1])
            case "drops":
                self._put(given[:2])
            case "pads":
                self._put(given or [contract.slate(99)])
            case "escapes":
                self._put([msgspec.structs.replace(s, user_id=s.user_id.strip()) for s in given])
            case "writes_on":
                with suppress(SinkError):
                    self._sink.write(slates)
            case _:
                self._sink.write(slates)

    def _put(self, slates: list[Slate]) -> None:
        self._sink.write(SlateLines(slates))

    def close(self) -> None:
        if self._waiting and self._fault == "buffers":
            self._sink.write(self._waiting)
            self._waiting = SlateLines()
        self._sink.close()


@pytest.mark.parametrize("fault", get_args(Fault))
def test_the_contract_notices_the_planted_fault(tmp_path: Path, fault: Fault) -> None:
    failed = set()
    for check in contract.CHECKS:
        path = tmp_path / check.__name__
        case = contract.SinkCase(
            lambda path=path: FaultySink(path, fault), jsonl_case(path).stored, outlives=True
        )
        try:
            check(case)
        except AssertionError:
            failed.add(check.__name__)
    assert BREAKS[fault] in failed


def test_every_check_is_broken_by_some_fault() -> None:
    assert {check.__name__ for check in contract.CHECKS} == set(BREAKS.values())
