"""What a database is bound to: settings that decide its tokens and verdicts, and the model versions it has seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from storage import models
from storage.database import get_meta, set_meta
from stream.errors import ConfigError

if TYPE_CHECKING:
    from datetime import datetime

    from model.engine import Engine
    from storage.database import Database
    from stream.config import PipelineConfig


def bind(db: Database, engine: Engine | None, config: PipelineConfig, now: datetime) -> None:
    """Write the deciding settings into a new database, compare them with an old one's; register the model version.

    Raises:
        ConfigError: a setting differs from what the database was built with, or the model cannot serve it.
    """
    wanted = _settings(config)
    stored = {name: get_meta(db, name) for name in wanted}
    for name, value in wanted.items():
        if stored[name] is not None and stored[name] != value:
            raise ConfigError(
                f"{db.path}: was built with {name} = {stored[name]}, the configuration says {value}; "
                "set it back, or replay the log into a new database"
            )
    if engine is not None:
        _check_model(engine, config)
    with db.transaction() as tx:
        for name, value in wanted.items():
            if stored[name] is None:
                set_meta(tx, name, value)
        if engine is not None:
            models.register(
                tx,
                version=engine.version,
                digest=engine.version,
                config=engine.config.to_dict(),
                trained_through_ms=engine.trained_through_ms,
                path="",
                at=now,
            )


def _settings(config: PipelineConfig) -> dict[str, str]:
    types = {
        name: msgspec.to_builtins(rule) for name, rule in sorted(config.stream.event_types.items())
    }
    return {
        "segment_len": str(config.refresh.segment_len),
        "r_min": str(config.refresh.r_min),
        "lateness_ms": str(config.stream.lateness_ms),
        "visit_gap_ms": str(config.stream.visit_gap_ms),
        "max_ahead_ms": str(config.stream.max_ahead_ms),
        "max_jump_ms": str(config.stream.max_jump_ms),
        "event_types": msgspec.json.encode(types).decode(),
        "unlisted": config.stream.unlisted,
    }


def _check_model(engine: Engine, config: PipelineConfig) -> None:
    model = engine.config
    pairs = (
        ("refresh.segment_len", config.refresh.segment_len, model.segment_len),
        ("stream.visit_gap_ms", config.stream.visit_gap_ms, model.visit_gap_ms),
    )
    for name, ours, theirs in pairs:
        if ours != theirs:
            raise ConfigError(
                f"model {engine.version} was trained with {name} = {theirs}, the configuration says {ours}; "
                "use the model's value or train another model"
            )
    if config.serving.r_max > model.r_max:
        raise ConfigError(
            f"serving.r_max {config.serving.r_max} is longer than the {model.r_max} recent interactions "
            f"model {engine.version} was trained for; lower it"
        )
    if config.serving.r_max < config.refresh.segment_len + config.refresh.r_min:
        raise ConfigError(
            f"serving.r_max {config.serving.r_max} is below refresh.segment_len + refresh.r_min = "
            f"{config.refresh.segment_len + config.refresh.r_min}; raise it"
        )
