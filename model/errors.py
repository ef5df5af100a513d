"""Errors of the model package.

    ModelError
    ├── ConfigError       a model configuration that can not be built
    ├── ShapeError        arrays that do not fit together or lie out of range
    ├── StateError        token state that does not belong to this model
    ├── CheckpointError   a checkpoint that is missing, damaged or of another kind
    └── TrainingError     a log or options that training can not use

Each message is one line and names what is wrong, where, and what to do.
"""

from __future__ import annotations


class ModelError(Exception):
    """Anything the model package refuses to do."""


class ConfigError(ModelError):
    """A model configuration with unknown keys or values out of range."""


class ShapeError(ModelError):
    """Arrays whose lengths, shapes or index ranges do not fit."""


class StateError(ModelError):
    """Token state whose shape, dtype or numbers do not fit this model."""


class CheckpointError(ModelError):
    """A checkpoint that is missing, truncated, altered or made for another vocabulary."""


class TrainingError(ModelError):
    """A log without what training needs, or a training state of another run."""
