"""The serving facade: numpy in, torch inside. Knows no users and no storage.

engine = Engine.load(path)
blocks = engine.compress([SegmentJob(0, [], rows)])          # a closed segment -> its tokens
cache = engine.new_cache(blocks)                             # what a user's next row reads
hidden = engine.extend([cache], [newer_rows])[0]             # one hidden row per event
asked = engine.request([cache], np.array([time_ms]))         # "what next, at this time?"
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.arena import Arena
from model.cache import (
    Ints,
    KVCache,
    Rows,
    SegmentJob,
    TokenBlock,
    check_rows,
    following,
    raw_rows,
)
from model.checkpoint import load_checkpoint, load_state
from model.compress import compress
from model.errors import ShapeError
from model.extend import extend, request
from model.items import word_rows
from model.readout import ReadOut
from model.tokens import TokenModel

__all__ = ["Engine", "KVCache", "Rows", "SegmentJob", "TokenBlock"]


class Engine:
    """One model version, ready to serve.

    Args:
        model: The model; put into evaluation mode.
        readout: The read-out; by default an untrained one.
        version: Model version.
        trained_through_ms: Newest event time that anything was fitted on.

    Attributes:
        config: The model configuration.
        version: Model version, 16 hex digits for a saved one.
        trained_through_ms: Newest event time that anything was fitted on.
        readout: The read-out.
        vocabulary: External ids of the known items.
        arena: The memory of all caches this engine made.
    """

    def __init__(
        self,
        model: TokenModel,
        readout: ReadOut | None = None,
        *,
        version: str = "unsaved",
        trained_through_ms: int = 0,
    ) -> None:
        self._model = model.eval()
        self.config = model.config
        self.version = version
        self.trained_through_ms = trained_through_ms
        readout = readout or ReadOut(self.config)
        self.readout = readout.to(model.tokens.dtype).eval()
        self.vocabulary = model.vocabulary.item_ids
        self._types = {name: index + 1 for index, name in enumerate(self.config.event_types)}
        with torch.inference_mode():
            self.arena = Arena(model.config)
            self._vectors = model.items.vectors()

    @classmethod
    def load(cls, path: Path, *, threads: int | None = 1) -> Engine:
        """Load a checkpoint.

        Args:
            path: The checkpoint file.
            threads: torch threads of this process from now on; None leaves them alone.

        Raises:
            CheckpointError: If the file is missing, damaged or of another kind.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        saved = load_checkpoint(path)
        readout = ReadOut(saved.config)
        if saved.readout_state:
            load_state(readout, saved.readout_state, what=f"checkpoint {path}, read-out")
        return cls(
            saved.build_model(),
            readout,
            version=saved.version,
            trained_through_ms=saved.trained_through_ms,
        )

    @classmethod
    def from_model(
        cls,
        model: TokenModel,
        *,
        readout: ReadOut | None = None,
        version: str = "unsaved",
        trained_through_ms: int = 0,
    ) -> Engine:
        """An engine around a model in memory; see the class for the arguments."""
        return cls(model, readout, version=version, trained_through_ms=trained_through_ms)

    @property
    def model(self) -> TokenModel:
        """The model behind this engine, in evaluation mode."""
        return self._model

    def item_rows(self, item_ids: Sequence[str]) -> Ints:
        """Item rows int64 [N] of external ids; unknown ids read a hash bucket."""
        return self._model.vocabulary.rows(item_ids)

    def type_rows(self, event_types: Sequence[str]) -> Ints:
        """Event type rows int64 [N]; types outside the configuration read row 0."""
        known = self._types
        rows = (known.get(name, 0) for name in event_types)
        return np.fromiter(rows, dtype=np.int64, count=len(event_types))

    def known_share(self, item_ids: Sequence[str]) -> float:
        """Share of the given ids that the vocabulary holds; 1 for no ids."""
        known = sum(item in self._model.vocabulary for item in item_ids)
        return known / len(item_ids) if item_ids else 1.0

    @torch.inference_mode()
    def candidate_vectors(
        self, item_ids: Sequence[str], texts: Sequence[str | None] | None = None
    ) -> Tensor:
        """Normalized vectors [N, d] of items to score.

        Args:
            item_ids: External ids.
            texts: Text per item or None; read only for ids the version does not know.

        Raises:
            ShapeError: If there is not one text per id.
        """
        texts = [None] * len(item_ids) if texts is None else texts
        if len(texts) != len(item_ids):
            raise ShapeError(
                f"candidates: {len(texts)} texts for {len(item_ids)} ids; pass one each"
            )
        vectors = self._vectors[torch.from_numpy(self.item_rows(item_ids))]
        for index, (item, text) in enumerate(zip(item_ids, texts, strict=True)):
            if text and item not in self._model.vocabulary:
                words = word_rows(text, self.config.n_words)
                vectors[index] += self._model.items.text_vector(words)
        return F.normalize(vectors, dim=-1)

    @torch.inference_mode()
    def compress(self, jobs: Sequence[SegmentJob]) -> list[TokenBlock]:
        """Token groups of closed segments, in the order of the jobs.

        Args:
            jobs: Segments, each with the groups before it; so two segments of one user go into
                two calls, oldest first.

        Raises:
            ShapeError: If a segment is empty or an item row is out of range.
            StateError: If groups are missing or do not fit.
        """
        check_rows([job.rows for job in jobs], len(self._vectors))
        return compress(self._model, self._vectors, jobs)

    @torch.inference_mode()
    def new_cache(self, groups: Sequence[TokenBlock]) -> KVCache:
        """A cache that reads the given groups, oldest first, and no raw rows yet.

        Raises:
            StateError: If a group does not fit this model.
        """
        return KVCache(self.arena, self.config, groups)

    @torch.inference_mode()
    def swap(
        self,
        caches: Sequence[KVCache],
        groups: Sequence[Sequence[TokenBlock]],
        first: Sequence[int],
    ) -> list[tuple[KVCache, Tensor]]:
        """What takes the place of caches once their oldest raw rows are compressed, or left out.

        Args:
            caches: One cache per user; they do not change.
            groups: The token groups, per user, that follow those the cache reads, oldest first.
            first: Ordinal, per user, of the oldest raw row that stays.

        Returns:
            Per user a cache that reads old and new groups and the raw rows that stay, and the
            hidden rows [r, d] of those.
        """
        news, rows = self.restart(caches, groups, first)
        hidden = extend(self._model, self._vectors, self.arena, news, rows)
        return list(zip(news, hidden, strict=True))

    @torch.inference_mode()
    def restart(
        self,
        caches: Sequence[KVCache],
        groups: Sequence[Sequence[TokenBlock]],
        first: Sequence[int],
    ) -> tuple[list[KVCache], list[Rows]]:
        """The caches of `swap` before they hold a raw row, and the rows that stay, to be pushed into them."""
        if not caches:
            return [], []
        return following(caches, self.config, groups), raw_rows(caches, first)

    @torch.inference_mode()
    def extend(self, caches: Sequence[KVCache], rows: Sequence[Rows]) -> list[Tensor]:
        """Push m_i >= 0 new rows per user; keys and values are added to the caches.

        Args:
            caches: One cache per user, each at most once.
            rows: New rows per user, following what the cache holds.

        Returns:
            Hidden rows [m_i, d] per user.

        Raises:
            ShapeError: If the lists differ in length, a cache repeats, or an item row is out of
                range; no cache is changed then.
        """
        if len(caches) != len(rows) or len({id(cache) for cache in caches}) != len(caches):
            raise ShapeError("extend: pass one list of rows per cache and each cache once")
        check_rows(rows, len(self._vectors))
        return extend(self._model, self._vectors, self.arena, caches, rows)

    @torch.inference_mode()
    def request(self, caches: Sequence[KVCache], times_ms: Ints) -> Tensor:
        """Hidden request rows [B, d], one per cache at the given times; caches do not change.

        Raises:
            ShapeError: If there is not one time per cache.
        """
        if len(times_ms) != len(caches):
            raise ShapeError(f"request: {len(times_ms)} times for {len(caches)} caches")
        return request(self._model, self._vectors, self.arena, caches, times_ms)
