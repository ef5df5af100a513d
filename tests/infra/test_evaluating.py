"""`freshet evaluate` on a log that is no shop: three event types, distinct times, no baskets."""

import json

import pytest

from model.checkpoint import load_checkpoint, save_checkpoint
from model.readout import ReadOut

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def arguments(made):
    times = [json.loads(line)["ts"] for line in made.log.read_text().splitlines() if '"ts"' in line]
    times = sorted(at for at in times if isinstance(at, int))
    cuts = [times[int(len(times) * share)] for share in (0.6, 0.75)]
    return [
        "evaluate", made.log, "--items", made.items, "--config", made.config, "--min-events", 8,
        "--train-end", cuts[0], "--validation-end", cuts[1], "--quiet",
    ]  # fmt: skip


def test_any_log_is_measured_and_reported(made, arguments, freshet, tmp_path):
    report = tmp_path / "report.html"
    done = freshet(*arguments, "--model", made.model, "--report", report, "--json")
    assert done.code == 0, done.err
    found = done.json["evaluation"]
    assert [one["protocol"] for one in found["protocols"]] == ["next_visit", "next_line"]
    methods = {one["method"] for one in found["protocols"][0]["figures"]}
    assert {"tokens + recents", "recents only", "another user's tokens", "mix, tuned"} <= methods
    assert not found["leaking"]
    assert "tokens + recents" in report.read_text()


def test_tables_show_methods_differences_and_conditions(made, arguments, freshet):
    done = freshet(*arguments, "--model", made.model, "--max-states", 20)
    assert done.code == 0, done.err
    for text in (
        "Next visit",
        "Next line",
        "mix, tuned",
        "difference, paired",
        "test period",
        "full history",
    ):
        assert text in done.out


def test_events_the_model_was_fitted_on_are_refused_with_their_own_code(
    made, arguments, freshet, tmp_path
):
    known = load_checkpoint(made.model)
    readout = ReadOut(known.config)
    readout.load_state_dict(known.readout_state)
    late = tmp_path / "late.safetensors"
    through = 4_000_000_000_000
    save_checkpoint(late, model=known.build_model(), readout=readout, trained_through_ms=through)
    done = freshet(*arguments, "--model", late)
    assert done.code == 8
    assert "fitted on events through" in done.err
    assert done.err.count("\n") == 1
    stamped = freshet(*arguments, "--model", late, "--allow-leakage", "--max-states", 10)
    assert stamped.code == 0
    assert "LEAKAGE" in stamped.out


def test_nobody_with_enough_history_is_one_line(made, arguments, freshet):
    done = freshet(*arguments, "--model", made.model, "--min-events", 99_999)
    assert done.code == 3
    assert "no user with at least 99999 events" in done.err
