"""What every backbone must satisfy; subclass it and name the backbone."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.engine import Engine, SegmentJob
from model.segments import ITEM, PAD, REQUEST, TOKEN, Layout, UserSlots, build_layout
from model.tokens import TokenModel
from tests.model.support import (
    Shape,
    compress_all,
    dense_hidden,
    dense_slots,
    property_test,
    rows_of,
    scores,
    serve,
    shapes,
    tiny_config,
    tiny_engine,
    tiny_model,
    window,
)

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
WINDOWS = (None, 1, 2, 32)
LAYERS = (1, 2, 4, 8)
dtypes = st.sampled_from(["float32", "float64"])
seeds = st.integers(0, 2**16)
CHAIN = Shape(closed=[3, 4, 2, 3, 3], recents=4, chunks=[2])
"""Five closed segments and an open one, each of its rows an item of its own."""


def chain(n_rows: int = 46, rng_seed: int = 7) -> UserSlots:
    slots = window(CHAIN, np.random.default_rng(rng_seed), n_rows)
    slots.item_row[:] = 1 + np.arange(len(slots.item_row))
    return slots


class BackboneContract:
    backbone: ClassVar[str]

    @pytest.mark.parametrize("n_layers", LAYERS)
    @pytest.mark.parametrize("span", WINDOWS)
    @property_test(5)
    @given(users=st.lists(shapes, min_size=1, max_size=4), dtype=dtypes, seed=seeds)
    def test_compress_and_extend_score_as_one_masked_forward(
        self, span: int | None, n_layers: int, users: list[Shape], dtype: str, seed: int
    ) -> None:
        engine = tiny_engine(
            seed, backbone=self.backbone, window=span, n_layers=n_layers, compute_dtype=dtype
        )
        rng = np.random.default_rng(seed)
        windows = [window(shape, rng) for shape in users]
        with torch.no_grad():
            layout = build_layout(windows, engine.config)
            whole = engine.model(layout)
        recents, asked, _ = serve(engine, windows, [shape.chunks for shape in users])
        for user, slots in enumerate(windows):
            mine = (layout.user == user) & (layout.segment == len(slots.closed))
            for kind, served in ((ITEM, recents[user]), (REQUEST, asked[user : user + 1])):
                rows = np.flatnonzero(mine & (layout.kind == kind))
                expected = scores(engine, whole[torch.from_numpy(rows)])
                difference = (scores(engine, served) - expected).abs()
                assert difference.numel() == 0 or difference.max() <= TOLERANCE[dtype]

    @property_test(12)
    @given(
        users=st.lists(shapes, min_size=1, max_size=3),
        span=st.sampled_from(WINDOWS),
        seed=seeds,
    )
    def test_masked_forward_equals_plain_attention_under_the_written_rule(
        self, users: list[Shape], span: int | None, seed: int
    ) -> None:
        config = tiny_config(
            backbone=self.backbone, window=span, n_layers=3, n_kv_heads=1, compute_dtype="float64"
        )
        model = tiny_model(config, seed)
        rng = np.random.default_rng(seed)
        windows = [window(shape, rng) for shape in users]
        layout = build_layout(windows, config)
        with torch.no_grad():
            whole = model(layout)
            for user, slots in enumerate(windows):
                dense, expected = dense_hidden(model, slots)
                for kind in (ITEM, TOKEN, REQUEST):
                    mine = np.flatnonzero((layout.user == user) & (layout.kind == kind))
                    mine = mine[np.lexsort((layout.source[mine], layout.segment[mine]))]
                    rows = np.flatnonzero(dense.kind == kind)
                    rows = rows[np.lexsort((dense.source[rows], dense.segment[rows]))]
                    found = whole[torch.from_numpy(mine)]
                    torch.testing.assert_close(
                        found, expected[torch.from_numpy(rows)], rtol=0, atol=1e-10
                    )

    @pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
    @property_test(6)
    @given(users=st.lists(shapes, min_size=2, max_size=6), seed=seeds)
    def test_a_user_scores_the_same_alone_and_in_any_batch(
        self, dtype: str, tolerance: float, users: list[Shape], seed: int
    ) -> None:
        engine = tiny_engine(seed, backbone=self.backbone, compute_dtype=dtype)
        rng = np.random.default_rng(seed)
        windows = [window(shape, rng) for shape in users]
        chunks = [shape.chunks for shape in users]
        rows, asked, _ = serve(engine, windows, chunks)
        alone, asked_alone, _ = serve(engine, windows[:1], chunks[:1])
        together = torch.cat([rows[0], asked[:1]])
        difference = scores(engine, together) - scores(engine, torch.cat([alone[0], asked_alone]))
        assert difference.abs().max() <= tolerance
        with torch.no_grad():
            batch, single = (
                build_layout(windows, engine.config),
                build_layout(windows[:1], engine.config),
            )
            kept = np.flatnonzero((batch.user == 0) & (batch.kind == REQUEST))
            in_batch = engine.model(batch)[torch.from_numpy(kept)]
            by_itself = engine.model(single)[torch.from_numpy(single.rows_of(REQUEST))]
        assert (scores(engine, in_batch) - scores(engine, by_itself)).abs().max() <= tolerance

    @pytest.mark.parametrize("span", [None, 1, 2])
    @pytest.mark.parametrize("n_layers", [1, 2, 3])
    def test_no_row_depends_on_a_slot_it_may_not_read(
        self, span: int | None, n_layers: int
    ) -> None:
        config = tiny_config(backbone=self.backbone, window=span, n_layers=n_layers)
        model = tiny_model(config, seed=n_layers)
        slots = chain()
        layout = build_layout([slots], config)
        allowed = _allowed_items(slots, config.n_tokens, span, n_layers)
        for row in np.flatnonzero(layout.kind != PAD):
            key = (int(layout.kind[row]), int(layout.segment[row]), int(layout.source[row]))
            gradient = _gradient_by_item(model, layout, int(row))
            outside = np.setdiff1d(np.arange(len(slots.item_row)), sorted(allowed[key]))
            assert (gradient[1 + outside] == 0).all(), key
            inside = np.array(sorted(allowed[key]), dtype=np.int64)
            assert (gradient[1 + inside].abs().sum(-1) > 0).all(), key

    @pytest.mark.parametrize(("span", "n_layers"), [(1, 1), (1, 2), (1, 4), (2, 2), (2, 3), (3, 2)])
    def test_memory_reaches_window_times_layers_minus_one_segments(
        self, span: int, n_layers: int
    ) -> None:
        config = tiny_config(backbone=self.backbone, window=span, n_layers=n_layers)
        slots = window(Shape([2] * 8, 2, [1]), np.random.default_rng(1))
        slots.item_row[:] = 1 + np.arange(len(slots.item_row))
        layout = build_layout([slots], config)
        row = int(layout.rows_of(REQUEST)[0])
        gradient = _gradient_by_item(tiny_model(config), layout, row)
        by_segment = gradient[1 : 1 + 16].abs().reshape(8, -1).sum(-1)
        reached = span * (n_layers - 1)
        assert (by_segment[: 8 - reached] == 0).all()
        assert (by_segment[8 - reached :] > 0).all()

    def test_a_changed_item_leaves_every_row_that_may_not_see_it_bit_for_bit(self) -> None:
        config = tiny_config(backbone=self.backbone, window=2, n_layers=2)
        model, slots = tiny_model(config), chain()
        layout = build_layout([slots], config)
        with torch.no_grad():
            before = model(layout)
        for changed in range(len(slots.item_row)):
            other = chain()
            other.item_row[changed], other.type_row[changed] = 45, 2 - other.type_row[changed]
            with torch.no_grad():
                after = model(build_layout([other], config))
            allowed = _allowed_items(slots, config.n_tokens, 2, 2)
            for row in np.flatnonzero(layout.kind != PAD):
                key = (int(layout.kind[row]), int(layout.segment[row]), int(layout.source[row]))
                same = torch.equal(before[row], after[row])
                assert same == (changed not in allowed[key]), (changed, key)

    def test_requests_change_no_other_row(self) -> None:
        config = tiny_config(backbone=self.backbone)
        model, slots = tiny_model(config), chain()
        layout = build_layout([slots], config)
        later = chain()
        later.request_time_ms[:] += 10**9
        with torch.no_grad():
            before, after = model(layout), model(build_layout([later], config))
        kept = torch.from_numpy(np.flatnonzero(layout.kind != REQUEST))
        assert torch.equal(before[kept], after[kept])

    def test_rows_without_any_key_and_padding_are_finite(self) -> None:
        config = tiny_config(backbone=self.backbone)
        model = tiny_model(config)
        rng = np.random.default_rng(0)
        empty = window(Shape([], 0, [1]), rng)
        wide = window(Shape([8, 1], 9, [1]), rng)
        model.train()
        layout = build_layout([empty, wide, window(Shape([1], 0, [1]), rng)], config)
        hidden = model(layout)
        assert torch.isfinite(hidden).all()
        hidden.square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name

    def test_cold_users_score_finite_numbers(self) -> None:
        engine = tiny_engine(backbone=self.backbone)
        nothing, one = engine.new_cache([]), engine.new_cache([])
        unknown = engine.item_rows(["never seen", "item 3"])
        slots = window(Shape([6], 2, [1]), np.random.default_rng(0))
        slots.item_row[:2] = unknown
        only_tokens = engine.new_cache(compress_all(engine, slots))
        hidden = engine.extend([nothing, one], [rows_of(slots, 0, 0), rows_of(slots, 0, 1)])
        assert [len(rows) for rows in hidden] == [0, 1]
        asked = engine.request([nothing, one, only_tokens], slots.request_time_ms.repeat(3))
        for rows in (*hidden, asked):
            assert torch.isfinite(scores(engine, rows)).all()

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_token_bytes_are_the_same_beside_random_neighbours(self, dtype: str) -> None:
        engine = tiny_engine(
            backbone=self.backbone, compute_dtype=dtype, d_model=48, n_heads=4, segment_len=64
        )
        rng = np.random.default_rng(3)
        chains = [window(Shape([64] * k, 64, [1]), rng) for k in (0, 1, 3)]
        jobs = [_next_job(engine, slots) for slots in chains]
        for job in jobs:
            alone = engine.compress([job])[0]
            for slot in range(5):
                picks = rng.integers(0, len(jobs), 5)
                beside = [jobs[pick] for pick in picks]
                beside[slot] = job
                block = engine.compress(beside)[slot]
                assert block.kv.tobytes() == alone.kv.tobytes()
                assert block.outputs.tobytes() == alone.outputs.tobytes()

    def test_half_precision_state_keeps_scores_and_the_top_ten(self) -> None:
        shape = Shape([6] * 5, 7, [3])
        slots = window(shape, np.random.default_rng(5))
        exact = tiny_engine(9, backbone=self.backbone, state_dtype="float32")
        half = tiny_engine(9, backbone=self.backbone, state_dtype="float16")
        found = scores(half, serve(half, [slots], [shape.chunks])[1])[0]
        expected = scores(exact, serve(exact, [slots], [shape.chunks])[1])[0]
        assert (found - expected).abs().max() <= 5e-3
        tops = [set(values.topk(10).indices.tolist()) for values in (found, expected)]
        assert len(tops[0] & tops[1]) >= 9


def _next_job(engine: Engine, slots: UserSlots) -> SegmentJob:
    first = int(slots.closed.sum())
    groups = compress_all(engine, slots)
    return SegmentJob(len(groups), groups, rows_of(slots, first, first + 64))


def _gradient_by_item(model: TokenModel, layout: Layout, row: int) -> Tensor:
    """d output row / d item vector, [item rows, d]; each item of the window has its own row."""
    vectors = model.items.vectors().detach().requires_grad_()
    out = model(layout, vectors)[row]
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(row))
    (gradient,) = torch.autograd.grad((out * weights).sum(), vectors)
    return gradient


def _allowed_items(
    slots: UserSlots, n_tokens: int, span: int | None, n_layers: int
) -> dict[tuple[int, int, int], set[int]]:
    """For each slot the items that can reach it in so many layers, by the written rule."""
    dense = dense_slots(slots, n_tokens)
    step = (dense.own | dense.earlier(span) | np.eye(len(dense.kind), dtype=bool)).astype(int)
    reach = np.linalg.matrix_power(step, n_layers) > 0
    items = dense.kind == ITEM
    return {
        (int(dense.kind[row]), int(dense.segment[row]), int(dense.source[row])): set(
            dense.source[items & reach[row]].tolist()
        )
        for row in range(len(dense.kind))
    }
