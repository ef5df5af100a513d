from __future__ import annotations

import os
import resource
import signal
from typing import TYPE_CHECKING

import pytest

from storage import faults
from stream.errors import SinkError, SinkFullError
from stream.sinks.jsonl import JsonlSink, read_slates
from stream.slates import SlateLines, encode_slate
from tests.contracts.sink_contract import slate

if TYPE_CHECKING:
    from pathlib import Path

LINES = b"".join(encode_slate(slate(n)) + b"\n" for n in range(4))


def test_a_torn_last_line_is_cut_wherever_it_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "slates.jsonl"
    line = len(LINES) // 4
    for size in sorted({0, 1, 5, 6, 7, 50, *range(len(LINES) - line, len(LINES) + 1, 23)}):
        path.write_bytes(LINES[:size])
        whole = LINES[:size].count(b"\n")
        assert list(read_slates(path)) == [slate(n) for n in range(whole)]
        sink = JsonlSink(path)
        sink.write(SlateLines([slate(7)]))
        sink.close()
        assert list(read_slates(path)) == [*(slate(n) for n in range(whole)), slate(7)]


@pytest.mark.parametrize("content", [b"hello", b"hello\n", b'{"id":5}\n', b"user_id,ts\nu,5\n"])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(SinkError, match="something else than slates"):
        JsonlSink(path)
    assert path.read_bytes() == content


def test_two_sinks_cannot_write_one_file(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "slates.jsonl")
    with pytest.raises(SinkError, match="another process writes it"):
        JsonlSink(tmp_path / "slates.jsonl")
    sink.close()
    JsonlSink(tmp_path / "slates.jsonl").close()


def test_a_path_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="cannot be opened"):
        JsonlSink(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SinkError, match="cannot be opened"):
        JsonlSink(tmp_path / "file" / "slates.jsonl")


def test_a_write_that_fails_half_way_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "slates.jsonl"
    sink = JsonlSink(path)
    sink.write(SlateLines([slate(0)]))
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, old[1]))
        with pytest.raises(SinkFullError, match="not written") as caught:
            sink.write(SlateLines([slate(1), slate(2)]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.retry_after_s is not None
    assert path.read_bytes() == encode_slate(slate(0)) + b"\n"
    sink.write(SlateLines([slate(1), slate(2)]))
    sink.close()
    assert list(read_slates(path)) == [slate(0), slate(1), slate(2)]


def test_a_death_in_mid_line_leaves_whole_lines_and_half_a_one(tmp_path: Path) -> None:
    path = tmp_path / "slates.jsonl"
    sink = JsonlSink(path)

    def die(point: str, spoil: faults.Spoil | None) -> None:
        assert spoil is not None
        spoil()
        raise KeyboardInterrupt(point)

    faults.install(die)
    try:
        with pytest.raises(KeyboardInterrupt, match=r"sink\.line"):
            sink.write(SlateLines([slate(n) for n in range(4)]))
    finally:
        faults.install(None)
        sink.close()
    left = path.read_bytes()
    assert LINES.startswith(left)
    assert left.count(b"\n") == 3
    assert not left.endswith(b"\n")
    JsonlSink(path).close()
    assert path.read_bytes() == left[: left.rfind(b"\n") + 1]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "slates.jsonl"
    path.write_bytes(LINES + b"{}\n" + LINES)
    with pytest.raises(SinkError, match=r"slates\.jsonl:5: not a slate"):
        list(read_slates(path))


def test_the_file_is_synced_before_write_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = JsonlSink(tmp_path / "slates.jsonl")
    sizes: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        sizes.append(os.fstat(fd).st_size)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    sink.write(SlateLines([slate(n) for n in range(4)]))
    assert sizes == [len(LINES)]
