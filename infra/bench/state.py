"""What a user's tokens weigh, in memory, on the way and on disk, and what one compression costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from infra.bench.models import (
    random_cache,
    random_chain,
    random_engine,
    random_rows,
    random_slots,
    shipped_shape,
)
from infra.bench.result import Findings, Gate, Row, compared, exactly, timed
from infra.bench.timing import cpu, interleave, ratio
from model.cost import kv_bytes
from model.engine import SegmentJob
from model.reference import item_vectors, masked_pass
from model.segments import build_layout
from storage.database import Database
from storage.groups import to_table
from storage.records import HistoryKey
from storage.tokens import GroupRow, put_groups
from stream.clock import DAY_MS, from_ms

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from infra.bench.room import Room
    from infra.bench.timing import Work
    from model.engine import Engine, TokenBlock

_ITEMS = 5_000
_BATCHES = (1, 16, 64)
_CHUNK_USERS = 512


def run(room: Room) -> Findings:
    """Measure bytes of state against the full keys and values, bytes of rows and files, and compression."""
    config = shipped_shape()
    engine = random_engine(room.folder, config, _ITEMS)
    window = config.window or 1
    chain = random_chain(engine, window + 8)
    gates: list[Gate] = []
    rows = _payload(engine, chain, gates)
    room.note("file")
    rows += _stored(engine, chain[: min(8, window)], room)
    rows += [
        Row(
            part="recents in memory, by rows",
            what="keys, values and metadata",
            value=random_cache(engine, [], recents).nbytes / 1024,
            unit="KiB",
            at=recents,
        )
        for recents in (64, 128, 256)
    ]
    room.note("compression")
    rows += _compression(engine, chain, room)
    return Findings(
        settings={
            "layers": config.n_layers,
            "width of keys": config.d_kv,
            "tokens per group": config.n_tokens,
            "segment": config.segment_len,
            "window": window,
            "state dtype": config.state_dtype,
        },
        rows=rows,
        gates=gates,
        remarks=[
            "Serving compresses segments one by one, so that a group's bytes do not depend on what"
            " else is due; the batched pass is the masked pass of training over first segments.",
            "Row bytes are those of the row as written, with positions, provenance, checksum and the"
            " output vectors for SQL beside the payload; file bytes are what the file grows by.",
        ],
    )


def _payload(engine: Engine, chain: list[TokenBlock], gates: list[Gate]) -> list[Row]:
    """Bytes of keys and values: stored per segment, and read per event as the history grows."""
    config, part = engine.config, "keys and values"
    n, window = config.segment_len, config.window or 1
    group, full = chain[0].kv.nbytes, kv_bytes(config, config.segment_len)
    wanted = config.n_tokens / n
    gates.append(
        exactly("payload of a segment over its full keys and values, K / n", group / full, wanted)
    )
    rows = [
        Row(part=part, what="one token group", value=group, unit="bytes"),
        Row(part=part, what="its segment in full, same dtype", value=full, unit="bytes"),
        Row(part=part, what="tokens over full", value=group / full, unit="share"),
    ]
    read = {}
    for groups in (1, window // 2, window, len(chain)):
        tokens = engine.new_cache(chain[:groups]).n_tokens
        read[groups] = tokens // config.n_tokens * group
        rows.append(
            Row(part="read per event, by groups stored", what="keys and values", value=read[groups] / 1024, unit="KiB", at=groups)
        )  # fmt: skip
    gates += [
        exactly(
            f"read at {window} groups over the full history of {window * n}, K / n",
            read[window] / kv_bytes(config, window * n),
            wanted,
        ),
        exactly(
            "read past the window over read at the window", read[len(chain)] / read[window], 1.0
        ),
    ]
    return rows


def _stored(engine: Engine, chain: list[TokenBlock], room: Room) -> list[Row]:
    """Bytes of the row that is written, and of the file that holds many of them."""
    users = room.size(4_000, 200)
    part = "one group, stored"
    before, path = 0, room.folder / "groups.duckdb"
    row_bytes = 0.0
    with Database.open(path, now=from_ms(DAY_MS)) as db:
        db.checkpoint()
        before = _size(path)
        for start in range(0, users, _CHUNK_USERS):
            chunk = range(start, min(users, start + _CHUNK_USERS))
            groups = [_group(engine, user, block) for user in chunk for block in chain]
            row_bytes = to_table(groups[: len(chain)]).nbytes / len(chain)
            with db.transaction() as tx:
                put_groups(tx, groups)
        db.checkpoint()
    payload = chain[0].kv.nbytes
    grown = (_size(path) - before) / (users * len(chain))
    return [
        Row(part=part, what="payload", value=payload, unit="bytes"),
        Row(part=part, what="row with provenance", value=row_bytes, unit="bytes"),
        Row(part=part, what="file", value=grown, unit="bytes"),
        Row(part=part, what="file over payload", value=grown / payload, unit="x"),
        Row(part=part, what="groups in the file", value=users * len(chain), unit="groups"),
    ]


def _size(path: Path) -> int:
    return path.stat().st_size


def _group(engine: Engine, user: int, block: TokenBlock) -> GroupRow:
    """A group of a user as refresh stores it; its bytes differ from user to user as real ones do."""
    config, n = engine.config, engine.config.segment_len
    first, last = block.segment * n, (block.segment + 1) * n - 1
    noise = np.random.default_rng((user, block.segment)).standard_normal(block.kv.shape)
    outputs = block.outputs + noise[0, 0].astype(np.float32)
    return GroupRow(
        user_idx=user,
        model_version=engine.version,
        segment=block.segment,
        kv=(block.kv + noise).astype(block.kv.dtype).tobytes(),
        k=config.n_tokens,
        layers=config.n_layers,
        d_kv=config.d_kv,
        dtype=config.state_dtype,
        first=_key(block.time_ms - DAY_MS, user * 1_000 + first),
        last=_key(block.time_ms, user * 1_000 + last),
        n_items=n,
        first_off=user * 1_000 + first,
        last_off=user * 1_000 + last,
        device="cpu",
        compute_dtype=config.compute_dtype,
        run_id=1,
        outputs=outputs,
        created_at_ms=DAY_MS,
    )


def _key(h_ts_ms: int, off: int) -> HistoryKey:
    return HistoryKey(h_ts_ms=h_ts_ms, h_seq=0, h_part=0, h_off=off, displaced=False, off=off)


def _compression(engine: Engine, chain: list[TokenBlock], room: Room) -> list[Row]:
    part, n = "one segment compressed", engine.config.segment_len
    window = engine.config.window or 1
    jobs = {
        "first segment, one by one": SegmentJob(0, [], random_rows(engine, n)),
        "full window of groups before it, one by one": SegmentJob(
            window, chain[:window], random_rows(engine, n, first=window * n)
        ),
    }
    works: dict[str, Callable[[], Work]] = {name: _alone(engine, job) for name, job in jobs.items()}
    works |= {
        f"first segment, masked pass, batch of {size}": _batched(engine, size) for size in _BATCHES
    }
    spent = interleave(works, repetitions=room.size(30, 3), warm_up=2)
    sizes = dict(zip(works, (1, 1, *_BATCHES), strict=True))
    rows = [timed(part, name, found, each=sizes[name]) for name, found in spent.items()]
    names = list(works)
    largest = [seconds / _BATCHES[-1] for seconds in cpu(spent[names[-1]])]
    gain = ratio(largest, cpu(spent[names[0]]))
    return [*rows, compared(part, f"batch of {_BATCHES[-1]} over one by one", gain)]


def _alone(engine: Engine, job: SegmentJob) -> Callable[[], Work]:
    return lambda: lambda: engine.compress([job])


def _batched(engine: Engine, size: int) -> Callable[[], Work]:
    n = engine.config.segment_len
    users = [random_slots(engine, n, closed=(n,), seed=seed) for seed in range(size)]
    layout, vectors = build_layout(users, engine.config), item_vectors(engine)
    return lambda: lambda: masked_pass(engine, layout, vectors)
