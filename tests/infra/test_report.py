"""The report and the tables say what the figures say."""

from __future__ import annotations

import base64
import re
import sys

import numpy as np
import pytest

from infra.errors import MissingExtraError
from infra.figures import interval, number, scope, sentences, terminal_tables, verdict
from infra.gates import above_singles, low_gate, same_sign, shipped_gates
from infra.report import Story, write_report
from model.ranking import METRICS, Estimate
from stream.evaluate import Evaluation
from stream.evaluation.counted import MIX
from stream.evaluation.figures import Bucket, Difference, Figure, ProtocolFigures
from stream.evaluation.production import RECENTS, SWAPPED, TOKENS
from stream.evaluation.targets import Cuts

DAY_MS = 86_400_000
DECAYED = "most frequent, decay 365 d"


def estimate(value, half=0.004, targets=900):
    return Estimate(
        value=value, low=value - half, high=value + half, target_count=targets, user_count=300
    )


def parts(value, half=0.004):
    metrics = {metric: estimate(value, half) for metric in METRICS}
    return {"everything": metrics, "novel": dict(metrics), "cold": dict(metrics)}


def protocol(name, gain=0.02):
    values = {
        "popularity, 30 d": (0.1, "baseline"),
        DECAYED: (0.29, "baseline"),
        MIX: (0.32, "baseline"),
        TOKENS.name: (0.32 + gain, "ours"),
        RECENTS.name: (0.319 + gain, "ours"),
        SWAPPED.name: (0.31 + gain, "ours"),
    }
    methods = {method: estimate(value) for method, (value, _) in values.items()}
    buckets = tuple(
        Bucket(label=label, user_count=120, target_count=700, methods=methods)
        for label in ("0 to 127", "128 to 255", "256+")
    )
    pairs = [
        (TOKENS.name, MIX, gain),
        (TOKENS.name, RECENTS.name, 0.002),
        (TOKENS.name, SWAPPED.name, 0.01),
    ]
    return ProtocolFigures(
        protocol=name,
        split="test",
        user_count=300,
        state_count=800,
        target_count=9000,
        novel_share=0.46,
        cold_share=0.13,
        missed_share=0.002,
        figures=tuple(
            Figure(method=method, kind=kind, **parts(value))
            for method, (value, kind) in values.items()
        ),
        differences=tuple(
            Difference(method=one, reference=other, **parts(value)) for one, other, value in pairs
        ),
        by_history=buckets,
        by_age=buckets[:2],
        mix_weights={"log count": -0.5},
    )


def evaluation(gain=0.02, **changes):
    values = {
        "model_versions": ("0123456789abcdef",),
        "trained_through_ms": 9 * DAY_MS,
        "cuts": Cuts(train_end=5 * DAY_MS, validation_end=10 * DAY_MS, test_end=20 * DAY_MS),
        "leaking": False,
        "full_history_rows": 512,
        "protocols": (protocol("next_visit", gain), protocol("next_line", gain)),
        "after_visit": protocol("after_visit", gain),
    }
    return Evaluation(**(values | changes))


STORY = Story(
    title="User 12345, in words",
    intro="900 interactions.",
    tokens=[
        ("2011-01-02 to 2011-02-03", "64 interactions, 90 d old", ["RED BOX (0.71)", "A & B <C>"])
    ],
    recents=["PINK CANDLE (2011-11-01)"],
    slate=[(1, "JUMBO BAG", 3.21, "had 4 times"), (2, "TEA CUP", 2.5, "new to the user")],
    reason="Asked at 2011-12-01T10:00:00Z: personal.",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(
        path,
        evaluation(),
        title="A shop",
        source="A log.",
        story=STORY,
        timings=[("replay", "3 s")],
    )
    return path.read_text()


def test_numbers_have_four_digits_and_no_leading_zero():
    assert [number(0.1107), number(-0.0024), number(1.0), number(np.nan)] == [
        ".1107",
        "-.0024",
        "1.0000",
        "-",
    ]
    assert [number(0.002, signed=True), number(-0.00001, signed=True)] == ["+.0020", "+.0000"]
    assert interval(estimate(0.32)) == ".3200 [.3160 .3240]"


def test_a_difference_is_sure_only_if_its_interval_leaves_zero_out():
    made = [Difference(method="a", reference="b", **parts(value)) for value in (0.01, 0.001, -0.01)]
    assert [verdict(one) for one in made] == ["better", "no sure difference", "worse"]


def test_the_report_is_one_file_with_its_pictures_inside(page):
    pictures = re.findall(r'src="(data:[^;]+);base64,([^"]+)"', page)
    assert len(pictures) == 3 * 3
    assert all(kind == "data:image/svg+xml" for kind, _ in pictures)
    assert all(base64.b64decode(data).startswith(b"<?xml") for _, data in pictures)
    assert not re.search(r'(src|href)="https?:', page)


def test_the_report_shows_every_figure_and_escapes_words(page):
    for text in (
        ".3400 [.3360 .3440]",
        "RED BOX (0.71)",
        "A &amp; B &lt;C&gt;",
        "had 4 times",
        "Next visit",
        "0123456789abcdef",
    ):
        assert text in page
    assert "{{" not in page


def test_the_same_figures_give_the_same_file(page, tmp_path):
    path = tmp_path / "again.html"
    write_report(
        path,
        evaluation(),
        title="A shop",
        source="A log.",
        story=STORY,
        timings=[("replay", "3 s")],
    )
    assert path.read_text() == page


def test_leakage_is_stamped(page, tmp_path):
    path = tmp_path / "leaking.html"
    write_report(path, evaluation(leaking=True), title="x", source="y")
    assert "fitted on" in path.read_text()
    assert 'class="stamp"' in path.read_text()
    assert 'class="stamp"' not in page


def test_without_the_extra_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'freshet\[report\]'"):
        write_report(tmp_path / "x.html", evaluation(), title="x", source="y")


def test_terminal_tables_hold_a_row_per_method():
    tables = list(terminal_tables(evaluation()))
    assert [made.row_count for made in tables] == [6, 3, 6, 3, 6]
    assert "0.2% not listed" in scope(protocol("next_visit"))


def test_sentences_name_what_the_tokens_add():
    said = sentences(evaluation())
    assert any("another user's tokens, R@50 +.0100" in text and "better" in text for text in said)
    assert any("without its tokens" in text and "no sure difference" in text for text in said)


def test_gates_hold_and_fail_by_the_lower_bound():
    visit = protocol("next_visit")
    assert low_gate(visit, MIX, "recall@50", 0.0).ok
    assert not low_gate(protocol("next_visit", gain=0.003), MIX, "recall@50", 0.0).ok
    assert above_singles(visit).ok
    assert all(one.ok for one in shipped_gates(evaluation()))


def test_the_earlier_period_must_agree_in_sign():
    assert all(one.ok for one in same_sign(evaluation(), evaluation(gain=0.001)))
    assert not any(one.ok for one in same_sign(evaluation(), evaluation(gain=-0.001)))
