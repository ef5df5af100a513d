"""What the shipped recipe has to reach on the shipped log, as checks on an evaluation's figures."""

from collections.abc import Iterator
from dataclasses import dataclass

from infra.figures import interval, number
from model.ranking import METRICS
from stream.evaluate import Evaluation
from stream.evaluation.counted import MIX
from stream.evaluation.figures import ProtocolFigures
from stream.evaluation.production import RECENTS, SWAPPED, TOKENS

DECAYED = "most frequent, decay 365 d"
# Published figures of the baselines on the test targets of the shipped log, whole catalogue.
REFERENCE = (
    ("next_visit", "popularity, 30 d", "recall@10", 0.0427),
    ("next_visit", DECAYED, "recall@10", 0.0998),
    ("next_visit", DECAYED, "recall@50", 0.2960),
    ("next_visit", MIX, "recall@10", 0.1109),
    ("next_visit", MIX, "recall@50", 0.3195),
    ("next_visit", MIX, "ndcg@10", 0.0546),
    ("next_line", "Markov, last 3 lines", "recall@10", 0.2535),
    ("next_line", MIX, "recall@10", 0.2949),
    ("next_line", MIX, "recall@50", 0.4710),
    ("next_line", MIX, "ndcg@10", 0.1930),
)
REFERENCE_MARGIN = 0.005  # line R@50 of the mix may pass it upward: a harder bar
TRAINING_CPU_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One requirement and whether it holds."""

    name: str
    found: str
    wanted: str
    ok: bool


def low_gate(
    figures: ProtocolFigures, other: str, metric: str, least: float, *, name: str = ""
) -> Gate:
    """Return whether tokens minus `other` has its lower bound above `least`."""
    estimate = figures.difference(TOKENS.name, other).everything[metric]
    place = figures.protocol.replace("_", " ")
    return Gate(
        name=f"{name or place}: tokens - {other}, {metric}",
        found=interval(estimate, signed=True),
        wanted=f"lower bound > {number(least, signed=True)}",
        ok=estimate.low > least,
    )


def shipped_gates(evaluation: Evaluation) -> Iterator[Gate]:
    """Yield the requirements on the shipped model in the test period."""
    visit, line = evaluation.protocol("next_visit"), evaluation.protocol("next_line")
    yield low_gate(visit, MIX, "recall@50", 0.0)
    yield low_gate(visit, MIX, "recall@10", -0.002)
    yield low_gate(visit, MIX, "ndcg@10", -0.002)
    yield low_gate(line, MIX, "recall@50", 0.0)
    yield low_gate(line, MIX, "recall@10", -0.005)
    yield low_gate(visit, RECENTS.name, "recall@50", -0.003)
    yield above_singles(visit)


def plain_gates(evaluation: Evaluation) -> Iterator[Gate]:
    """Yield the requirements on the model without counters: here the tokens carry the history."""
    visit = evaluation.protocol("next_visit")
    yield low_gate(visit, RECENTS.name, "recall@50", 0.0, name="plain model, next visit")
    yield low_gate(visit, SWAPPED.name, "recall@50", 0.0, name="plain model, next visit")


def above_singles(figures: ProtocolFigures) -> Gate:
    """Return whether production's figures pass those of every baseline but the mix."""
    ours = figures.figure(TOKENS.name).everything
    best = {
        metric: max(
            (one.everything[metric].value, one.method)
            for one in figures.figures
            if one.kind == "baseline" and one.method != MIX
        )
        for metric in METRICS[:3]
    }
    return Gate(
        name=f"{figures.protocol.replace('_', ' ')}: above every single baseline",
        found=", ".join(f"{metric} {number(ours[metric].value)}" for metric in best),
        wanted=", ".join(f"> {number(value)} ({name})" for value, name in best.values()),
        ok=all(ours[metric].value > value for metric, (value, _) in best.items()),
    )


def same_sign(main: Evaluation, earlier: Evaluation) -> Iterator[Gate]:
    """Yield whether the gain over the mix has one sign in both periods."""
    for figures in main.protocols:
        pair = TOKENS.name, MIX
        one = figures.difference(*pair).everything["recall@50"]
        other = earlier.protocol(figures.protocol).difference(*pair).everything["recall@50"]
        yield Gate(
            name=f"{figures.protocol.replace('_', ' ')}: tokens - mix, three months earlier",
            found=interval(other, signed=True),
            wanted=f"the sign of {number(one.value, signed=True)}",
            ok=one.value * other.value > 0,
        )


def reference_gates(evaluation: Evaluation) -> Iterator[Gate]:
    """Yield whether the baselines give their published figures (whole catalogue as candidates)."""
    for protocol, method, metric, published in REFERENCE:
        for figures in evaluation.protocols:
            if figures.protocol != protocol:
                continue
            value = figures.figure(method).everything[metric].value
            low, high = published - REFERENCE_MARGIN, published + REFERENCE_MARGIN
            above_is_fine = (protocol, method, metric) == ("next_line", MIX, "recall@50")
            yield Gate(
                name=f"{protocol.replace('_', ' ')}: {method}, {metric}",
                found=number(value),
                wanted=f"{number(published)} within {number(REFERENCE_MARGIN)}"
                + (" or above" if above_is_fine else ""),
                ok=low <= value and (value <= high or above_is_fine),
            )


def training_gate(cpu_s: list[float]) -> Gate:
    """Return whether every training took at most ten CPU minutes."""
    worst = max(cpu_s, default=0.0)
    return Gate(
        name="training, CPU seconds of the slowest seed",
        found=f"{worst:.0f}",
        wanted=f"<= {TRAINING_CPU_S:.0f}",
        ok=worst <= TRAINING_CPU_S,
    )
