"""Benchmarks: the arithmetic they rest on, each of them in its reduced form, and the page they make."""

import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infra.bench.breakdown import by_module
from infra.bench.cases import ALL, HOT, ROOM, Case
from infra.bench.catalog import BENCHES, run_bench
from infra.bench.children import ChildError, run_freshet
from infra.bench.machine import machine, software
from infra.bench.page import headlines, page, read_results, with_headlines, write_page
from infra.bench.result import (
    Result,
    Row,
    at_least,
    at_most,
    compared,
    exactly,
    read_result,
    timed,
    write_result,
)
from infra.bench.room import Room
from infra.bench.timing import Estimate, Spent, interleave, mean, percentile, ratio, spend
from infra.errors import InputError
from model.config import ModelConfig
from model.cost import extend_flop, full_flop, kv_bytes

ROOT = Path(__file__).parents[2]
REDUCED = ("extend", "history", "state", "reload", "scoring", "replay", "scale")


def result(**changes: object) -> Result:
    """Return a result with a row that freshet wins, one it loses and one gate of each kind."""
    made = Result(
        name="extend",
        what="Something measured.",
        date="2026-01-02T03:04:05Z",
        quick=False,
        machine=machine(),
        versions=software(),
        settings={"events": 1_000, "catalogues": [5, 20]},
        rows=[
            timed("N = 1,280, 1 user", "one-event extend", [Spent(0.5, 1.0), Spent(0.7, 1.2)]),
            compared(
                "N = 1,280, 1 user", "time: forward over extend", Estimate(140.0, 120.0, 160.0)
            ),
            compared("by history length", "forward over extend", Estimate(0.9, 0.8, 1.1), at=20),
        ],
        gates=[at_least("fast enough", 2.0, 3.0), exactly("exact", 0.5, 0.5)],
        remarks=["Read it so."],
    )
    return replace(made, **changes)


def test_works_take_turns_and_are_prepared_anew_every_time():
    done = []

    def work(name: str):
        def prepare():
            done.append(f"prepare {name}")
            return lambda: done.append(name)

        return prepare

    spent = interleave({"a": work("a"), "b": work("b")}, repetitions=2, warm_up=1)
    turns = [name for name in done if not name.startswith("prepare")]
    assert turns == ["a", "b", "b", "a", "a", "b"]
    assert done.count("prepare a") == 3
    assert {name: len(found) for name, found in spent.items()} == {"a": 2, "b": 2}


def test_time_is_that_of_the_work():
    short, long = (spend(lambda n=n: sum(range(n))) for n in (10, 3_000_000))
    assert 0 <= short.cpu_s < long.cpu_s
    assert (long / 4).wall_s == pytest.approx(long.wall_s / 4)


def test_a_ratio_lies_in_its_interval_and_steady_pairs_make_it_narrow():
    steady = ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (steady.value, steady.low, steady.high) == pytest.approx((2.0, 2.0, 2.0))
    noisy = ratio([2.0, 9.0, 1.0, 4.0], [1.0, 2.0, 3.0, 1.0])
    assert noisy.low < noisy.value < noisy.high
    assert ratio([2.0, 9.0], [1.0, 2.0]) == ratio([2.0, 9.0], [1.0, 2.0])


def test_no_interval_from_one_repetition():
    with pytest.raises(ValueError, match="take 2 pairs"):
        ratio([1.0], [1.0])
    with pytest.raises(ValueError, match="make no interval"):
        mean([3.0])


def test_flop_and_bytes_are_those_of_the_published_table():
    config = ModelConfig(n_layers=4, d_model=64, n_tokens=4, segment_len=64, window=32)
    assert full_flop(config, 1_280) / 1e9 == pytest.approx(1.05, abs=0.005)
    assert extend_flop(config, 18, 128) / 1e6 == pytest.approx(0.37, abs=0.005)
    assert extend_flop(config, 10_000, 128) == extend_flop(config, 32, 128)
    assert kv_bytes(config, 4) == 4 * 1024


def test_gates_say_what_was_found_and_the_quick_form_judges_no_times():
    assert not at_least("a", 2, 3).ok
    assert at_most("a", 2, 3).limit == "<= 3"
    slow, wrong = at_least("a", 2, 3), exactly("b", 1, 2)
    assert result(gates=[slow, wrong]).missed == [slow, wrong]
    assert result(gates=[slow, wrong], quick=True).missed == [wrong]


def test_a_result_is_read_as_it_was_written(tmp_path):
    made = result()
    path = write_result(tmp_path / "new", made)
    assert path == tmp_path / "new" / "extend.json"
    assert read_result(path) == made
    plain = json.loads(path.read_text())
    assert plain["machine"]["cores"] >= 1
    assert {"python", "torch", "duckdb", "numpy", "pyarrow", "freshet"} <= set(plain["versions"])


def test_a_file_that_is_no_result_is_refused(tmp_path):
    (tmp_path / "extend.json").write_text('{"name": 1}')
    with pytest.raises(InputError, match="no benchmark's result"):
        read_result(tmp_path / "extend.json")
    with pytest.raises(InputError, match="no results there"):
        read_results(tmp_path / "none")


def test_the_breakdown_adds_up_and_names_the_module_that_called_the_library():
    shares = by_module(lambda: mean(range(2_000)))
    assert sum(shares.values()) == pytest.approx(1.0)
    assert max(shares, key=shares.__getitem__) == "infra/bench/timing"


@pytest.mark.slow
@pytest.mark.parametrize("name", REDUCED)
def test_every_benchmark_runs_in_its_reduced_form(name, tmp_path):
    found = run_bench(name, Room(folder=tmp_path, quick=True))
    assert found.rows
    assert len({(row.part, row.what, row.at) for row in found.rows}) == len(found.rows)
    for row in found.rows:
        assert row.low is None or row.low <= row.value <= row.high, row
    wrong = [gate for gate in found.gates if not gate.ok and not gate.timed]
    assert not wrong


def test_a_case_asks_for_users_that_come_again_soon_or_too_late():
    users = Case("half", hits=0.5).users(1_000, 400)
    seen: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for user in users:
        hits += user in seen
        seen[user] = None
        seen.move_to_end(user)
        while len(seen) > ROOM:
            seen.popitem(last=False)
    assert hits == 500 - len({user for user in users if user < HOT})
    assert set(Case("all").users(1_000, 400)) == set(range(ALL))


def test_a_percentile_lies_in_its_interval():
    found = percentile(np.arange(1_000.0), 99)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(989, abs=1)
    same = percentile(np.full(100, 3.0), 50)
    assert (same.low, same.value, same.high) == (3, 3, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, entry in BENCHES.items() if entry.broker])
def test_every_benchmark_beside_a_broker_runs_in_its_reduced_form(name, broker, tmp_path):
    room = Room(folder=tmp_path, quick=True, bootstrap=broker.bootstrap)
    found = run_bench(name, room)
    for row in found.rows:
        assert row.low is None or row.low <= row.value <= row.high, row
    assert found.rows
    assert not [gate for gate in found.gates if not gate.ok and not gate.timed]


def test_a_child_reports_its_own_memory_and_says_why_it_failed(tmp_path):
    arguments = ["generate", "log.parquet", "--users", "20", "--events", "200", "--quiet"]
    ran = run_freshet(arguments, folder=tmp_path)
    assert ran.json["interactions"] == 200
    assert ran.peak_bytes > 20 << 20
    assert ran.cpu_s > 0
    with pytest.raises(ChildError, match=r"freshet status ended with code 3: .*no such database"):
        run_freshet(["status", "--db", "none.duckdb"], folder=tmp_path)


def test_the_command_lists_runs_and_judges(freshet, tmp_path, monkeypatch):
    listed = freshet("bench")
    assert listed.code == 0
    assert all(name in listed.out for name in BENCHES)
    assert set(freshet("bench", "--json").json) == set(BENCHES)
    unknown = freshet("bench", "histroy")
    assert unknown.code == 2
    assert "did you mean 'history'" in unknown.err
    monkeypatch.chdir(tmp_path)
    ran = freshet("bench", "state", "--quick", "--out", "made")
    assert ran.code == 0, ran.err
    assert "K / n" in ran.out
    assert read_result(tmp_path / "made" / "state.json").quick


def test_the_quick_form_overwrites_no_figures(freshet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert freshet("bench", "state", "--quick", "--json").code == 0
    assert not list(tmp_path.iterdir())


def test_the_page_shows_gates_lost_comparisons_and_tables():
    text = page({"extend": result()})
    assert "| MISSED | extend | fast enough | 2 | >= 3 |" in text
    assert "- extend, by history length: forward over extend at 20 is 0.9 (0.8 to 1.1)." in text
    assert "| one-event extend | 600 | 500 to 700 | 1,100 | ms |" in text
    assert "not for claims" not in text
    assert "not for claims" in page({"extend": result(quick=True)})


def test_the_readme_table_is_renewed_between_its_markers(tmp_path):
    folder, readme = tmp_path / "bench", tmp_path / "README.md"
    write_result(folder, result())
    readme.write_text(
        "before\n<!-- figures of freshet bench: start -->\nold\n<!-- figures of freshet bench: end -->\nafter\n"
    )
    write_page(folder, tmp_path / "performance.md", readme)
    text = readme.read_text()
    assert "old" not in text
    assert "| 140 x | 120 to 160 |" in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert (tmp_path / "performance" / "growth.svg").exists()
    assert with_headlines("no markers", read_results(folder)) == "no markers"


def test_an_unknown_row_makes_no_headline():
    assert "forward" not in headlines({"extend": result(rows=[Row(part="x", what="y", value=1)])})


def test_the_published_results_are_whole_and_the_page_is_theirs(tmp_path):
    results = read_results(ROOT / "bench")
    assert not [name for name, one in results.items() if one.quick or one.name != name]
    assert {path.stem for path in (ROOT / "bench").glob("*.json")} == set(results)
    write_page(ROOT / "bench", tmp_path / "performance.md")
    published = ROOT / "docs" / "performance.md"
    hint = "run `freshet bench --page`"
    assert published.read_text() == (tmp_path / "performance.md").read_text(), hint
    picture = Path("performance") / "growth.svg"
    assert (ROOT / "docs" / picture).read_text() == (tmp_path / picture).read_text(), hint


def test_the_readme_quotes_the_published_results():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<!-- figures of freshet bench: start -->" in text
    assert text == with_headlines(text, read_results(ROOT / "bench")), "run `freshet bench --page`"
