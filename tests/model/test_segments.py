from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import ShapeError
from model.segments import ITEM, PAD, REQUEST, TOKEN, Layout, UserSlots, build_layout
from tests.model.support import Shape, dense_slots, property_test, shapes, tiny_config, window

Slot = tuple[int, int, int]


def slots_of(n: int, lengths: list[int], **changes: object) -> UserSlots:
    values = {
        "item_row": np.arange(1, n + 1),
        "type_row": np.ones(n, np.int64),
        "time_ms": 1000 * np.arange(n),
        "ordinal": np.arange(n),
        "closed": np.array(lengths, np.int64),
    }
    return UserSlots(**(values | changes))  # type: ignore[arg-type]


def seen_by_row(layout: Layout) -> dict[tuple[int, Slot], set[Slot]]:
    """For each row the slots it reads, taken from the padded blocks alone."""

    def name(row: int) -> Slot:
        return int(layout.kind[row]), int(layout.segment[row]), int(layout.source[row])

    seen = {}
    for block in layout.blocks:
        for index in range(block.n_segments):
            first = block.start + index * block.width
            keys = [first + j for j in range(block.n_keys) if layout.kind[first + j] != PAD]
            tokens = block.token_rows[index][block.token_age[index] > 0].tolist()
            for row in range(first, first + block.width):
                if layout.kind[row] != PAD:
                    own = {name(key) for key in keys if key - first <= layout.last_key[row]}
                    seen[int(layout.user[row]), name(row)] = own | {name(t) for t in tokens}
    return seen


@property_test(60)
@given(
    users=st.lists(shapes, min_size=1, max_size=4),
    span=st.sampled_from([None, 1, 2, 32]),
    seed=st.integers(0, 999),
)
def test_each_slot_reads_exactly_what_the_rule_says(
    users: list[Shape], span: int | None, seed: int
) -> None:
    config = tiny_config(window=span)
    rng = np.random.default_rng(seed)
    windows = [window(shape, rng) for shape in users]
    seen = seen_by_row(build_layout(windows, config))
    count = 0
    for user, slots in enumerate(windows):
        dense = dense_slots(slots, config.n_tokens)
        names = list(
            zip(dense.kind.tolist(), dense.segment.tolist(), dense.source.tolist(), strict=True)
        )
        reads = dense.own | dense.earlier(span)
        for row, name in enumerate(names):
            assert seen[user, name] == {names[key] for key in np.flatnonzero(reads[row])}
            count += 1
    assert count == len(seen)


def test_every_item_token_and_request_has_one_row() -> None:
    config = tiny_config()
    slots = slots_of(
        14, [3, 6], request_time_ms=np.array([5000, 9000]), request_at=np.array([5, 9])
    )
    layout = build_layout([slots, slots_of(2, [])], config)
    items = layout.rows_of(ITEM)
    assert sorted(zip(layout.user[items], layout.source[items], strict=True)) == [
        *((0, i) for i in range(14)),
        (1, 0),
        (1, 1),
    ]
    assert len(layout.rows_of(TOKEN)) == 2 * config.n_tokens
    assert layout.source[layout.rows_of(REQUEST)].tolist() == [0, 1]
    assert layout.item_row[items].tolist() == (layout.source[items] + 1).tolist()


def test_a_request_belongs_to_the_segment_of_the_item_before_it() -> None:
    at = np.array([0, 1, 3, 4, 9, 10])
    slots = slots_of(12, [3, 6], request_time_ms=1000 * at, request_at=at)
    layout = build_layout([slots], tiny_config())
    rows = layout.rows_of(REQUEST)
    rows = rows[np.argsort(layout.source[rows])]
    assert layout.segment[rows].tolist() == [0, 0, 0, 1, 1, 2]
    assert layout.last_key[rows].tolist() == [-1, 0, 2, 0, 5, 0]
    assert layout.ordinal[rows].tolist() == [0, 1, 3, 4, 9, 10]


def test_tokens_stand_at_the_time_and_ordinal_of_the_last_item() -> None:
    layout = build_layout([slots_of(5, [3])], tiny_config())
    tokens = layout.rows_of(TOKEN)
    assert set(layout.time_ms[tokens].tolist()) == {2000}
    assert set(layout.ordinal[tokens].tolist()) == {2}


@pytest.mark.parametrize(("hidden", "ages"), [(0, [3, 2, 1]), (1, [2, 1]), (99, [])])
def test_hidden_groups_are_missing_from_the_open_segment_only(hidden: int, ages: list[int]) -> None:
    config = tiny_config(n_tokens=1)
    layout = build_layout([slots_of(13, [4, 4, 4], hide_newest=hidden)], config)
    found = {}
    for block in layout.blocks:
        for index in range(block.n_segments):
            segment = int(layout.segment[block.start + index * block.width])
            age = block.token_age[index]
            found[segment] = age[age > 0].tolist()
    assert found == {0: [], 1: [1], 2: [2, 1], 3: ages}


def test_segments_of_similar_width_share_a_block() -> None:
    layout = build_layout([slots_of(120, [6] * 10), slots_of(6, [])], tiny_config())
    assert [block.n_segments for block in layout.blocks] == [1, 11]
    assert layout.blocks[0].n_keys == 60
    assert layout.n_rows == 60 + 11 * 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ordinal": np.arange(3)}, "differ in length"),
        ({"closed": np.array([3, 3])}, "do not fit"),
        ({"closed": np.array([0, 3])}, "do not fit"),
        ({"request_at": np.array([1])}, "differ in length"),
        ({"request_at": np.array([6]), "request_time_ms": np.array([1])}, "outside 0..5"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        slots_of(5, [], **changes)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ShapeError, match="no items"):
        build_layout([slots_of(0, [])], tiny_config())
