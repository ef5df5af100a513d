"""What the layers cost in floating point operations and bytes, counted from their shapes.

One row through one layer of width d multiplies by the matrices of queries, keys, values and gates
(d x 4d: 8 d^2 operations, a multiplication and an addition each) and by the output matrix (d x d:
2 d^2). Reading n_k keys costs a dot product and a weighted sum per key, 2 d each::

    FLOP(n_q rows, n_k keys each) = L * (10 n_q d^2 + 4 n_q n_k d)

A row inside a causal window reads half of it on average. Normalization, gates and time terms are
left out: they grow with d, not with d^2 or with n_k d.
"""

from __future__ import annotations

from model.config import ModelConfig

__all__ = ["extend_flop", "full_flop", "kv_bytes", "rows_flop"]

_ITEM_BYTES = {"float16": 2, "float32": 4, "float64": 8}


def rows_flop(config: ModelConfig, rows: float, keys: float) -> float:
    """FLOP of some rows that read so many keys each: ``L * (10 n_q d^2 + 4 n_q n_k d)``."""
    d = config.d_model
    return config.n_layers * (10 * rows * d**2 + 4 * rows * keys * d)


def full_flop(config: ModelConfig, history: int) -> float:
    """FLOP of one causal pass over a whole history of N rows: n_q = N, n_k = N / 2."""
    return rows_flop(config, history, history / 2)


def extend_flop(config: ModelConfig, groups: int, recents: int) -> float:
    """FLOP of one new row against m token groups and r recents: n_q = 1, n_k = K m + r.

    Args:
        config: Shapes; at most ``window`` groups are read.
        groups: Token groups of the user.
        recents: Raw rows in the recent window.
    """
    read = groups if config.window is None else min(groups, config.window)
    return rows_flop(config, 1, config.n_tokens * read + recents)


def kv_bytes(config: ModelConfig, rows: int) -> int:
    """Bytes of the keys and values of some rows in the state dtype: ``2 L n d_kv`` numbers."""
    return 2 * config.n_layers * rows * config.d_kv * _ITEM_BYTES[config.state_dtype]
