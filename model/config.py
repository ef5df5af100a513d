"""Model configuration: everything that, with the weights, defines what a version computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import msgspec

from model.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOutConfig:
    """Which parts of the read-out are on.

    Attributes:
        counters: Exact per (user, item) counters over the whole history.
        popularity: Recent popularity windows.
        in_visit: The offset of items already in the current visit.
        calibration: The weights fitted on the newest month.
    """

    counters: bool = True
    popularity: bool = True
    in_visit: bool = True
    calibration: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape and numeric rules of one model version.

    Attributes:
        backbone: Architecture of the layers.
        n_layers: Number of layers.
        n_heads: Query heads.
        n_kv_heads: Key/value heads, a divisor of ``n_heads``; 0 means as many as query heads.
        d_model: Width of item vectors and hidden rows.
        n_tokens: Learned tokens per segment (K).
        segment_len: Interactions per closed segment (n).
        r_min: Newest interactions that always stay raw.
        r_max: Most raw interactions a reader keeps.
        window: Newest token groups a segment reads; None means all of them.
        divisor: Constant divisor of HSTU attention, the same in training and serving.
        dropout: Dropout in training, on the input and before each layer's output projection.
        id_dropout: Share of items per step whose table row is replaced by its bucket row.
        n_buckets: Hash bucket rows for item ids outside the vocabulary.
        n_words: Rows of the hashed word table.
        event_types: Known event types; any other reads row 0.
        event_weights: Weight per event type in counters; empty means 1 for all.
        visit_gap_ms: Longest gap inside a visit when no session id is given (0 = same time).
        state_dtype: Dtype of stored token keys/values.
        compute_dtype: Dtype of all arithmetic.
        readout: Which parts of the read-out are on.
    """

    backbone: Literal["hstu", "sasrec"] = "hstu"
    n_layers: int = 2
    n_heads: int = 2
    n_kv_heads: int = 0
    d_model: int = 64
    n_tokens: int = 4
    segment_len: int = 64
    r_min: int = 64
    r_max: int = 256
    window: int | None = 32
    divisor: float = 64.0
    dropout: float = 0.2
    id_dropout: float = 0.1
    n_buckets: int = 256
    n_words: int = 4096
    event_types: tuple[str, ...] = ()
    event_weights: tuple[float, ...] = ()
    visit_gap_ms: int = 0
    state_dtype: Literal["float16", "float32", "float64"] = "float16"
    compute_dtype: Literal["float32", "float64"] = "float32"
    readout: ReadOutConfig = field(default_factory=ReadOutConfig)

    def __post_init__(self) -> None:
        _check_counts(self)
        if self.d_model % self.n_heads or self.n_heads % self.kv_heads:
            raise ConfigError(
                f"model config: d_model {self.d_model}, n_heads {self.n_heads}, n_kv_heads"
                f" {self.n_kv_heads} do not divide; make n_heads divide d_model and n_kv_heads"
                " divide n_heads"
            )
        if self.event_weights and len(self.event_weights) != len(self.event_types):
            raise ConfigError(
                f"model config: {len(self.event_weights)} event_weights for"
                f" {len(self.event_types)} event_types; give one weight per type or none"
            )
        for name, upper in (("dropout", 1.0), ("id_dropout", 1.0)):
            if not 0.0 <= getattr(self, name) < upper:
                raise ConfigError(
                    f"model config: {name} is {getattr(self, name)}; use a value in [0, 1)"
                )

    @property
    def kv_heads(self) -> int:
        """Key/value heads."""
        return self.n_kv_heads or self.n_heads

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_heads

    @property
    def d_kv(self) -> int:
        """Width of one stored key or value row."""
        return self.kv_heads * self.d_head

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        plain: dict[str, Any] = msgspec.to_builtins(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Read a configuration written by ``to_dict``.

        Raises:
            ConfigError: On an unknown key, a wrong type or a value out of range.
        """
        _refuse_unknown(values, cls, "model config")
        readout = values.get("readout", {})
        if isinstance(readout, Mapping):
            _refuse_unknown(readout, ReadOutConfig, "model config, readout")
        try:
            return msgspec.convert(dict(values), cls)
        except msgspec.ValidationError as error:
            raise ConfigError(f"model config: {error}; correct that value") from error


def _check_counts(config: ModelConfig) -> None:
    names = ("n_layers", "n_heads", "d_model", "n_tokens", "segment_len", "n_buckets", "n_words")
    for name in (*names, "r_max", "divisor", "window"):
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ConfigError(f"model config: {name} is {value}; use a value above 0")
    for name in ("n_kv_heads", "r_min", "visit_gap_ms"):
        if getattr(config, name) < 0:
            raise ConfigError(
                f"model config: {name} is {getattr(config, name)}; use 0 or a value above"
            )


def _refuse_unknown(values: Mapping[str, Any], cls: type, where: str) -> None:
    known = {entry.name for entry in fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(
            f"{where}: unknown key {unknown[0]!r}; known keys are {', '.join(sorted(known))}"
        )
