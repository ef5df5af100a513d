"""Checkpoints: one safetensors file that is all a version needs.

The file holds the weights (``model.*``), the read-out (``readout.*``), the vocabulary with the
word rows of its texts (``vocabulary.*``), and as metadata the configuration, the time of the
newest event that anything was fitted on, and a sha256 over all of it. The first 16 hex digits of
that digest are the model version; a file whose content does not match its digest is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from model.config import ModelConfig
from model.errors import CheckpointError, ConfigError, ModelError
from model.items import Vocabulary
from model.tokens import TokenModel

FORMAT = "freshet-1"
_META_KEYS = ("format", "config", "trained_through_ms", "extra", "digest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        config: The model configuration.
        vocabulary: The items the version knows.
        model_state: State dict of the ``TokenModel``.
        readout_state: State dict of the read-out; empty if there is none.
        trained_through_ms: Newest event time that anything was fitted on.
        digest: sha256 over the content, 64 hex digits.
        extra: Whatever the trainer recorded (JSON values).
    """

    config: ModelConfig
    vocabulary: Vocabulary
    model_state: dict[str, Tensor]
    readout_state: dict[str, Tensor]
    trained_through_ms: int
    digest: str
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """The model version: the first 16 hex digits of the digest."""
        return self.digest[:16]

    def build_model(self) -> TokenModel:
        """The model with these weights, in evaluation mode.

        Raises:
            CheckpointError: If the weights do not fit the configuration and vocabulary.
        """
        model = TokenModel(self.config, self.vocabulary)
        load_state(model, self.model_state, what=f"checkpoint {self.version}")
        return model.eval()


def load_state(module: nn.Module, state: Mapping[str, Tensor], *, what: str) -> None:
    """Load a state dict; names or shapes that do not fit are one line of ``CheckpointError``."""
    expected = module.state_dict()
    wrong = sorted(set(expected) ^ set(state))
    wrong += [
        name for name in expected if name not in wrong and expected[name].shape != state[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{what}: tensor {wrong[0]} does not fit its configuration and vocabulary;"
            " use the checkpoint as the trainer wrote it"
        )
    module.load_state_dict(dict(state))


def save_checkpoint(
    path: Path,
    *,
    model: TokenModel,
    readout: nn.Module | None,
    trained_through_ms: int,
    extra: Mapping[str, Any] | None = None,
) -> str:
    """Write a checkpoint; a crash leaves either the old file or the new one.

    Args:
        path: File to write, by custom ``*.safetensors``.
        model: The model.
        readout: The read-out module, if any.
        trained_through_ms: Newest event time that anything was fitted on, calibration and early
            stopping included.
        extra: JSON values to keep with it.

    Returns:
        The model version, 16 hex digits.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    if readout is not None:
        tensors |= {f"readout.{name}": value for name, value in readout.state_dict().items()}
    tensors |= _vocabulary_tensors(model.vocabulary)
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {
        "format": FORMAT,
        "config": _json(model.config.to_dict()),
        "trained_through_ms": str(trained_through_ms),
        "extra": _json(dict(extra or {})),
    }
    metadata["digest"] = _digest(tensors, metadata)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    with partial.open("wb") as file:
        file.write(save(tensors, metadata))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)
    return metadata["digest"][:16]


def load_checkpoint(path: Path, *, vocabulary: Sequence[str] | None = None) -> Checkpoint:
    """Read a checkpoint and verify its digest.

    Args:
        path: The file.
        vocabulary: Item ids the caller relies on; another list is refused.

    Raises:
        CheckpointError: If the file is missing, truncated, altered, of another format, or made
            for another vocabulary.
    """
    tensors, metadata = _read(Path(path))
    if metadata["digest"] != _digest(tensors, metadata):
        raise CheckpointError(
            f"checkpoint {path}: content does not match its digest; copy the file again"
        )
    try:
        config = ModelConfig.from_dict(json.loads(metadata["config"]))
        items = _vocabulary(tensors, config)
    except (ConfigError, ValueError, KeyError, ModelError) as error:
        raise CheckpointError(
            f"checkpoint {path}: not readable by this release ({error}); train it anew"
        ) from error
    if vocabulary is not None and tuple(vocabulary) != items.item_ids:
        raise CheckpointError(
            f"checkpoint {path}: made for another vocabulary ({len(items)} items, not the"
            f" {len(vocabulary)} given); use the checkpoint of this catalogue or train it anew"
        )
    return Checkpoint(
        config=config,
        vocabulary=items,
        model_state=_with_prefix(tensors, "model."),
        readout_state=_with_prefix(tensors, "readout."),
        trained_through_ms=int(metadata["trained_through_ms"]),
        digest=metadata["digest"],
        extra=json.loads(metadata["extra"]),
    )


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file of our format."""
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path}: no such file; train one or correct the path")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"checkpoint {path}: damaged or not a safetensors file ({reason}); copy it again"
        ) from error
    missing = [key for key in _META_KEYS if key not in metadata]
    if missing or metadata["format"] != FORMAT:
        found = metadata.get("format", f"no {missing[0]}" if missing else "")
        raise CheckpointError(
            f"checkpoint {path}: not of format {FORMAT} ({found}); use a file that this release's"
            " trainer wrote"
        )
    return tensors, metadata


def _vocabulary_tensors(vocabulary: Vocabulary) -> dict[str, Tensor]:
    ids = _json(list(vocabulary.item_ids)).encode("ascii")
    return {
        "vocabulary.ids": torch.from_numpy(np.frombuffer(ids, np.uint8).copy()),
        "vocabulary.word_ptr": torch.from_numpy(vocabulary.word_ptr),
        "vocabulary.words": torch.from_numpy(vocabulary.words.astype(np.int32)),
    }


def _vocabulary(tensors: Mapping[str, Tensor], config: ModelConfig) -> Vocabulary:
    ids = json.loads(tensors["vocabulary.ids"].numpy().tobytes())
    pointer = tensors["vocabulary.word_ptr"].numpy()
    words = tensors["vocabulary.words"].numpy().astype(np.int64)
    return Vocabulary(tuple(ids), pointer, words, config.n_buckets)


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 over tensors (name, dtype, shape, bytes) and metadata, in a fixed order."""
    digest = sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        if value.numel():
            digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    for key in sorted(set(_META_KEYS) - {"digest"}):
        digest.update(f"{key} {metadata[key]}\n".encode())
    return digest.hexdigest()


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
