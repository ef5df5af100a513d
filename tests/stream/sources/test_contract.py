"""Every source against the contract, and the contract against planted faults."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stream.config import FileConfig
from stream.events import Partition
from stream.sources.file import FileSource
from stream.sources.memory import MemorySource
from tests.contracts import source_contract as contract
from tests.contracts.faulty_source import FAULTS, Fault, FaultySource
from tests.contracts.source_logs import (
    Case,
    expected,
    file_case,
    jsonl_bytes,
    make_records,
    with_blanks,
    write,
)

if TYPE_CHECKING:
    from pathlib import Path

FILES = (
    "log.jsonl",
    "log.jsonl.gz",
    "log.jsonl.zst",
    "log.csv",
    "log.csv.gz",
    "log.csv.zst",
    "log.parquet",
)


class TestSingleFile(contract.SourceContract):
    @pytest.fixture(params=FILES)
    def case(self, tmp_path: Path, request: pytest.FixtureRequest) -> Case:
        path = tmp_path / request.param
        records = make_records(120)
        lines = records if path.suffix == ".parquet" else with_blanks(records)
        return file_case(path, lines, lambda: FileSource(path))


class TestGlob(contract.SourceContract):
    """Three files whose times overlap are one partition, one after another."""

    @pytest.fixture(params=["jsonl", "jsonl.zst", "parquet", "csv", "csv.gz"])
    def case(self, tmp_path: Path, request: pytest.FixtureRequest) -> Case:
        log: list[str | None] = []
        for number in range(3):
            start = 1_700_000_000_000 + number * 500
            records = make_records(20 + number, tag=f"f{number}-", start=start)
            write(tmp_path / f"part-{number}.{request.param}", records)
            log += expected(records)
        pattern, config = tmp_path / f"part-*.{request.param}", FileConfig(topic="log")
        return Case(lambda: FileSource(pattern, config), {Partition("log", 0): log})


class TestManyFiles(contract.SourceContract):
    """Small files of every kind, empty ones and blank lines among them."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> Case:
        log: list[str | None] = []
        for number in range(34):
            suffix = ("jsonl", "csv", "parquet", "jsonl.gz")[number % 4]
            records = make_records(0 if number % 8 == 5 else 3, tag=f"f{number}-")
            lines = [*records[:1], None, *records[1:]] if number % 4 == 0 else records
            write(tmp_path / f"{number:02}.{suffix}", lines)
            log += expected(lines)
        config = FileConfig(topic="many")
        return Case(lambda: FileSource(tmp_path, config), {Partition("many", 0): log})


class TestMemory(contract.SourceContract):
    @pytest.fixture
    def case(self) -> Case:
        return memory_case()


def memory_case() -> Case:
    """Records dealt to two partitions."""
    parts = (Partition("memory", 0), Partition("memory", 3))
    records = make_records(90)
    lines = [(parts[i % 3 == 0], jsonl_bytes([r]).strip()) for i, r in enumerate(records)]
    log = {
        part: expected([r for (p, _), r in zip(lines, records, strict=True) if p == part])
        for part in parts
    }
    return Case(lambda: MemorySource(lines, ended=True), log)


# Which invariant each fault breaks; others may fail too.
BREAKS: dict[Fault, str] = {
    "drop": "no_record_is_lost",
    "drop_with_its_range": "ranges_touch",
    "repeat_row": "no_record_is_repeated",
    "repeat_batch": "no_record_is_repeated",
    "reorder": "order_within_a_partition_is_kept",
    "reorder_by_batch_size": "delivery_order_does_not_depend_on_the_batch_size",
    "swap_contents": "every_record_stands_at_its_position",
    "silent_reset": "seek_resumes_exactly",
    "reset_in_the_middle": "ranges_touch",
    "reset_others": "seek_leaves_other_partitions_where_they_are",
    "accept_any_seek": "seek_past_the_end_is_refused",
    "ignore_seek_when_reading": "seek_in_the_middle_of_reading_is_obeyed",
    "too_many": "poll_never_exceeds_the_maximum",
    "never_ends": "exhausted_is_final",
    "goes_on_after_the_end": "exhausted_is_final",
    "lose_dead_letter": "no_record_is_lost",
    "shift_dead_letter": "positions_of_bad_records_are_kept",
    "range_too_short": "ranges_cover_their_records",
    "other_columns": "batches_have_the_canonical_columns",
    "hide_partition": "partitions_are_those_of_the_log",
    "commit_moves": "commit_changes_nothing",
    "close_once": "close_can_be_repeated",
}


def failing_checks(case: Case) -> set[str]:
    failed = set()
    for check in contract.CHECKS:
        try:
            check(case)
        except AssertionError:
            failed.add(check.__name__)
    return failed


@pytest.mark.parametrize("fault", FAULTS)
def test_the_contract_notices_the_planted_fault(fault: Fault) -> None:
    good = memory_case()
    broken = Case(lambda: FaultySource(good.open, fault), good.log)
    assert BREAKS[fault] in failing_checks(broken)


def test_the_contract_finds_nothing_without_a_fault() -> None:
    good = memory_case()
    assert failing_checks(Case(lambda: FaultySource(good.open, "none"), good.log)) == set()  # type: ignore[arg-type]


def test_every_check_is_broken_by_some_fault() -> None:
    unbroken = {check.__name__ for check in contract.CHECKS} - set(BREAKS.values())
    assert unbroken == {"seek_to_an_unknown_partition_is_refused"}  # accept_any_seek breaks it too
