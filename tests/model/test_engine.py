from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from model.engine import Engine, Rows, SegmentJob, TokenBlock
from model.errors import ShapeError, StateError
from model.segments import REQUEST, UserSlots, build_layout
from tests.model.support import (
    BACKBONES,
    START_MS,
    Shape,
    compress_all,
    keys_held,
    rows_of,
    serve,
    tiny_config,
    tiny_engine,
    tiny_model,
    window,
)

LATER = np.array([START_MS + 2 * 10**10])


def user(closed: list[int], recents: int, seed: int = 0) -> UserSlots:
    return window(Shape(closed, recents, [1]), np.random.default_rng(seed))


@pytest.fixture(params=BACKBONES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return tiny_engine(backbone=request.param, state_dtype="float32")


def test_a_request_leaves_no_trace(engine: Engine) -> None:
    slots = user([6, 6], 6)
    caches = [engine.new_cache(compress_all(engine, slots)) for _ in range(2)]
    for cache in caches:
        engine.extend([cache], [rows_of(slots, 12, 15)])
    before = (caches[0].length, caches[0].nbytes, keys_held(engine, caches[0]))
    first = engine.request(caches[:1], LATER)
    assert (caches[0].length, caches[0].nbytes) == before[:2]
    assert torch.equal(keys_held(engine, caches[0]), before[2])
    assert torch.equal(engine.request(caches[:1], LATER), first)
    asked, not_asked = (engine.extend([cache], [rows_of(slots, 15, 18)])[0] for cache in caches)
    assert torch.equal(asked, not_asked)


def test_a_request_depends_on_its_time(engine: Engine) -> None:
    slots = user([6, 6], 3)  # a softmax over the tokens of one time would not see it
    cache = engine.new_cache(compress_all(engine, slots))
    soon, late = engine.request([cache, cache], np.array([START_MS + 10**10, START_MS + 10**11]))
    assert not torch.equal(soon, late)


def test_no_new_rows_change_nothing(engine: Engine) -> None:
    slots = user([6], 4)
    cache = engine.new_cache(compress_all(engine, slots))
    engine.extend([cache], [rows_of(slots, 6, 8)])
    before = keys_held(engine, cache)
    (hidden,) = engine.extend([cache], [rows_of(slots, 8, 8)])
    assert hidden.shape == (0, engine.config.d_model)
    assert torch.equal(keys_held(engine, cache), before)


def test_only_the_newest_window_of_groups_is_read() -> None:
    engine = tiny_engine(window=2)
    slots = user([6, 6, 6, 6], 3)
    blocks = compress_all(engine, slots)
    wide, narrow = engine.new_cache(blocks), engine.new_cache(blocks[-2:])
    assert wide.n_tokens == narrow.n_tokens == 2 * engine.config.n_tokens
    assert torch.equal(engine.request([wide], LATER), engine.request([narrow], LATER))


@pytest.mark.parametrize("hidden", [1, 2, 9])
def test_groups_not_yet_visible_equal_hidden_groups_in_training(
    engine: Engine, hidden: int
) -> None:
    slots = user([6, 6, 6], 5)
    blocks = compress_all(engine, slots)
    cache = engine.new_cache(blocks[: max(0, 3 - hidden)])
    engine.extend([cache], [rows_of(slots, 18, 23)])
    layout = build_layout([replace(slots, hide_newest=hidden)], engine.config)
    with torch.no_grad():
        expected = engine.model(layout)[torch.from_numpy(layout.rows_of(REQUEST))]
    torch.testing.assert_close(engine.request([cache], slots.request_time_ms), expected)


def test_large_ragged_batches_equal_single_users(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.extend._MAX_PAIRS", 60)
    windows = [user([6] * (seed % 3), seed % 5, seed) for seed in range(12)]
    chunks = [[1 + seed % 3, 2] for seed in range(12)]
    rows, asked, _ = serve(engine, windows, chunks)
    for index, slots in enumerate(windows):
        alone, asked_alone, _ = serve(engine, [slots], [[9]])
        torch.testing.assert_close(rows[index], alone[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(asked[index : index + 1], asked_alone, atol=1e-5, rtol=1e-5)


def test_an_empty_batch_is_answered(engine: Engine) -> None:
    assert engine.extend([], []) == []
    assert engine.compress([]) == []
    assert engine.request([], np.zeros(0, np.int64)).shape == (0, engine.config.d_model)


def test_memory_grows_by_pages_and_counts_itself(engine: Engine) -> None:
    slots = user([], 40)
    cache = engine.new_cache([])
    sizes = []
    for first in range(40):
        engine.extend([cache], [rows_of(slots, first, first + 1)])
        sizes.append(cache.nbytes)
    assert cache.length == 40
    config = engine.config
    row = 2 * config.n_layers * config.d_kv * 4 + 6 * 8
    assert sorted(set(sizes)) == [16 * row, 32 * row, 48 * row]
    assert engine.arena.used_nbytes == cache.nbytes


def test_a_dropped_cache_gives_its_pages_to_the_next_user(engine: Engine) -> None:
    slots = user([6, 6], 20)
    blocks = compress_all(engine, slots)
    fresh = engine.new_cache(blocks)
    (expected,) = engine.extend([fresh], [rows_of(slots, 12, 32)])
    used, pages = engine.arena.used_nbytes, engine.arena.n_pages
    del fresh
    assert engine.arena.used_nbytes == 0
    for _ in range(5):
        again = engine.new_cache(blocks)
        assert torch.equal(engine.extend([again], [rows_of(slots, 12, 32)])[0], expected)
        assert (engine.arena.used_nbytes, engine.arena.n_pages) == (used, pages)


@pytest.mark.parametrize("window", [None, 1, 2, 3])
def test_a_swapped_cache_is_the_one_built_from_all_groups(window: int | None) -> None:
    engine = tiny_engine(window=window, state_dtype="float32")
    slots = [user([6, 6, 6, 6], 5), user([6, 6, 6], 9, seed=1)]
    blocks = [compress_all(engine, one) for one in slots]
    for old, end in ((1, 3), (0, 2), (2, 3)):
        caches = [engine.new_cache(own[:old]) for own in blocks]
        engine.extend(caches, [rows_of(one, 6 * old, 23) for one in slots])
        used = engine.arena.used_nbytes
        first = [own[end - 1].ordinal + 1 for own in blocks]
        swapped = engine.swap(caches, [own[old:end] for own in blocks], first)
        for (cache, hidden), own, one in zip(swapped, blocks, slots, strict=True):
            whole = engine.new_cache(own[:end])
            (expected,) = engine.extend([whole], [rows_of(one, 6 * end, 23)])
            torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-5)
            assert (cache.n_tokens, cache.length) == (whole.n_tokens, whole.length)
            assert cache.next_ordinal == whole.next_ordinal
            asked = [engine.request([each], LATER) for each in (cache, whole)]
            torch.testing.assert_close(*asked, atol=1e-5, rtol=1e-5)
        del swapped, cache, whole
        assert engine.arena.used_nbytes == used


def test_a_growing_arena_keeps_what_it_holds(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.arena._FIRST_NBYTES", 0)  # growing by its full size takes gigabytes
    slots = user([6], 10)
    blocks = compress_all(engine, slots)
    caches = [engine.new_cache(blocks) for _ in range(2)]
    engine.extend(caches, [rows_of(slots, 6, 10)] * 2)
    before = keys_held(engine, caches[0])
    pages = engine.arena.n_pages
    engine.arena.give(engine.arena.take(4 * pages))
    assert engine.arena.n_pages > pages
    assert torch.equal(keys_held(engine, caches[0]), before)
    asked = engine.request(caches, np.repeat(LATER, 2))
    torch.testing.assert_close(asked[0], asked[1])


def test_a_group_records_what_it_covers(engine: Engine) -> None:
    slots = user([6, 5], 0)
    blocks = compress_all(engine, slots)
    config = engine.config
    assert [block.segment for block in blocks] == [0, 1]
    assert blocks[1].time_ms == slots.time_ms[10]
    assert blocks[1].ordinal == slots.ordinal[10]
    assert blocks[1].kv.shape == (config.n_layers, 2, config.n_tokens, config.d_kv)
    assert blocks[1].kv.dtype == np.dtype(config.state_dtype)
    assert blocks[1].outputs.shape == (config.n_tokens, config.d_model)
    assert blocks[1].outputs.dtype == np.float32


def test_token_bytes_do_not_depend_on_torch_threads() -> None:
    engine = tiny_engine(segment_len=64, d_model=32)
    slots = user([64], 0)
    before = torch.get_num_threads()
    alone = compress_all(engine, slots)[0]
    try:
        torch.set_num_threads(2)
        again = compress_all(engine, slots)[0]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert alone.kv.tobytes() == again.kv.tobytes()


def test_the_state_dtype_is_what_later_segments_read() -> None:
    half, single = (
        Engine.from_model(tiny_model(tiny_config(state_dtype=dtype)))
        for dtype in ("float16", "float32")
    )
    slots = user([6, 6], 0)
    first = compress_all(half, slots)[0]
    rounded = TokenBlock(
        0, first.kv.astype(np.float32), first.time_ms, first.ordinal, first.outputs
    )
    job = rows_of(slots, 6, 12)
    expected = single.compress([SegmentJob(1, [rounded], job)])[0]
    found = half.compress([SegmentJob(1, [first], job)])[0]
    assert found.kv.tobytes() == expected.kv.astype(np.float16).tobytes()


def test_missing_or_foreign_groups_are_refused(engine: Engine) -> None:
    slots = user([6, 6, 6], 0)
    blocks = compress_all(engine, slots)
    job = rows_of(slots, 12, 18)
    for groups in ([], blocks[:1], [blocks[0], blocks[0]], [blocks[1], blocks[0]]):
        with pytest.raises(StateError, match="segments in order"):
            engine.compress([SegmentJob(2, groups, job)])
    foreign = TokenBlock(0, blocks[0].kv[:1], 0, 0, blocks[0].outputs)
    with pytest.raises(StateError, match="read groups of its own version"):
        engine.new_cache([foreign])
    with pytest.raises(StateError, match="oldest first"):
        engine.new_cache([blocks[1], blocks[0]])


def test_numbers_beyond_the_state_dtype_are_refused() -> None:
    model = tiny_model(tiny_config())
    with torch.no_grad():
        model.tokens *= 1e3
        model.layers.get_parameter("project_in.0").mul_(1e5)
    engine = Engine.from_model(model)
    with pytest.raises(StateError, match="exceed float16"):
        compress_all(engine, user([6], 0))


def test_wrong_calls_are_refused_and_change_no_cache(engine: Engine) -> None:
    slots = user([], 4)
    good = rows_of(slots, 0, 2)
    caches = [engine.new_cache([]), engine.new_cache([])]
    outside = Rows(good.item_row + 900, good.type_row, good.time_ms, good.ordinal)
    calls = [
        (caches, [good], "one list of rows per cache"),
        ([caches[0], caches[0]], [good, good], "each cache once"),
        (caches, [good, outside], "lie outside"),
    ]
    for given_caches, rows, message in calls:
        with pytest.raises(ShapeError, match=message):
            engine.extend(given_caches, rows)
    with pytest.raises(ShapeError, match="2 caches"):
        engine.request(caches, LATER)
    with pytest.raises(ShapeError, match="no interactions"):
        engine.compress([SegmentJob(0, [], rows_of(slots, 0, 0))])
    with pytest.raises(ShapeError, match="differ in length"):
        Rows(good.item_row, good.type_row, good.time_ms, good.ordinal[:1])
    assert [cache.length for cache in caches] == [0, 0]


def test_candidates_read_frozen_text_if_known_and_given_text_if_not() -> None:
    engine = tiny_engine()
    plain = engine.candidate_vectors(["item 1", "new", "newer"])
    texted = engine.candidate_vectors(["item 1", "new", "newer"], ["blue lamp", "Red 1 box", None])
    assert torch.equal(plain[0], texted[0])
    assert not torch.equal(plain[1], texted[1])
    assert torch.equal(plain[2], texted[2])
    torch.testing.assert_close(texted.norm(dim=-1), torch.ones(3))
    model = engine.model
    row = torch.from_numpy(engine.item_rows(["new"]))
    words = model.items.text_vector([])
    assert torch.equal(normalize(model.items.vectors()[row] + words, dim=-1), plain[1:2])
    with pytest.raises(ShapeError, match="1 texts for 2 ids"):
        engine.candidate_vectors(["a", "b"], ["x"])


def test_types_and_known_share() -> None:
    engine = tiny_engine()
    assert engine.type_rows(["buy", "view", "return"]).tolist() == [2, 1, 0]
    assert engine.known_share(["item 1", "item 2", "x", "y"]) == 0.5
    assert engine.known_share([]) == 1.0
    assert engine.version == "unsaved"
    assert len(engine.vocabulary) == 40
