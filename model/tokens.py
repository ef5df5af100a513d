"""Segment tokens over any backbone: the masked pass of training.

The same weights serve three calls: ``TokenModel.forward`` runs whole windows under the segment
mask, ``model.engine`` compresses one segment at a time and extends cached users event by event.
All three build rows with ``TokenModel.embed`` and run the layers with ``run_layers``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from model.backbone import Backbone, KeyValues, Meta, Projected, Scene, dtype_of
from model.backbones import build_backbone
from model.config import ModelConfig
from model.errors import ShapeError
from model.items import ItemTable, Vocabulary
from model.segments import PAD, REQUEST, TOKEN, Block, Layout

TABLE_WEIGHT_DECAY = 0.01
RECENCY_LR_SCALE = 20.0

Keys = Callable[[int, Projected], tuple[KeyValues, KeyValues]]
"""Given a layer and its projected rows: the keys of the own segment and of earlier tokens."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows ``start..start + S * M`` of a pass, S segments with M rows, and what they read."""

    start: int
    shape: tuple[int, int]
    prepared: Any
    keys: Keys


def run_layers(backbone: Backbone[Any], x: Tensor, parts: list[Part]) -> Tensor:
    """Push rows through all layers.

    Args:
        backbone: The layers.
        x: [R, d] embedded rows; the parts cover them in order.
        parts: Which rows read which keys.

    Returns:
        [R, d] hidden rows.
    """
    for layer in range(backbone.kv.n_layers):
        projected = backbone.project(layer, x)
        reads = []
        for part in parts:
            n_segments, n_rows = part.shape
            q = projected.q[part.start : part.start + n_segments * n_rows]
            own, token = part.keys(layer, projected)
            read = backbone.attend(layer, q.view(n_segments, n_rows, -1), own, token, part.prepared)
            reads.append(read.reshape(n_segments * n_rows, -1))
        read = reads[0] if len(reads) == 1 else torch.cat(reads)
        x = backbone.update(layer, x, projected, read)
    return backbone.finish(x)


class TokenModel(nn.Module):
    """Item tables, slot vectors and a backbone.

    Args:
        config: The model configuration.
        vocabulary: The known items.
    """

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = vocabulary
        self.items = ItemTable(config, vocabulary)
        n_types = 1 + len(config.event_types)
        self.types = nn.Parameter(torch.randn(n_types, config.d_model) * 0.02)
        self.tokens = nn.Parameter(torch.randn(config.n_tokens, config.d_model) * 0.05)
        self.request = nn.Parameter(torch.randn(1, config.d_model) * 0.05)
        self.layers = cast("nn.Module", build_backbone(config))
        self.to(dtype_of(config.compute_dtype))

    @property
    def backbone(self) -> Backbone[Any]:
        """The layers, as the protocol that they satisfy."""
        return cast("Backbone[Any]", self.layers)

    def embed(self, layout_rows: SlotRows, vectors: Tensor) -> Tensor:
        """Input rows.

        Args:
            layout_rows: Kinds and indices of R slots.
            vectors: [1 + V + n_buckets, d] from ``items.vectors``.

        Returns:
            [R, d]
        """
        n_types = len(self.types)
        table = torch.cat([self.types, self.tokens, self.request])
        known = layout_rows.type_row.clamp(max=n_types - 1)
        slot = torch.where(layout_rows.kind == TOKEN, n_types + layout_rows.source, known)
        slot = torch.where(layout_rows.kind == REQUEST, len(table) - 1, slot)
        x = F.embedding(layout_rows.item_row, vectors) + F.embedding(slot, table)
        x = F.dropout(x, self.config.dropout, self.training)
        return self.backbone.embed(x, layout_rows.position)

    def forward(self, layout: Layout, vectors: Tensor | None = None) -> Tensor:
        """One pass over whole windows under the segment mask.

        Args:
            layout: R rows of a ragged batch.
            vectors: Item vectors of this step; computed without ID dropout if not given.

        Returns:
            [R, d] hidden rows in the order of the layout; padded rows hold finite noise.
        """
        vectors = self.items.vectors() if vectors is None else vectors
        if len(layout.item_row) and layout.item_row.max() >= len(vectors):
            raise ShapeError(
                f"layout: item row {layout.item_row.max()} of {len(vectors)}; use the rows of"
                " this model's vocabulary"
            )
        rows = SlotRows.of(layout)
        parts = [self._part(layout, block) for block in layout.blocks]
        return run_layers(self.backbone, self.embed(rows, vectors), parts)

    def _part(self, layout: Layout, block: Block) -> Part:
        """Scene and keys of one block of segments."""
        shape = (block.n_segments, block.width)
        token_rows = torch.from_numpy(block.token_rows)

        def keys(layer: int, projected: Projected) -> tuple[KeyValues, KeyValues]:
            del layer
            own, token = [], []
            for rows in (projected.k, projected.v):
                block_rows = rows[block.start : block.stop].view(*shape, -1)
                own.append(block_rows[:, : block.n_keys])
                token.append(F.embedding(token_rows, rows))
            return KeyValues(*own), KeyValues(*token)

        return Part(block.start, shape, self.backbone.prepare(_scene(layout, block)), keys)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters for an optimizer: tables, recency weights, the rest.

        Returns:
            Dicts with ``name``, ``params``, ``weight_decay`` and ``lr_scale``; multiply the
            learning rate by ``lr_scale``.
        """
        tables = [self.items.id_rows, self.items.word_rows]
        recency = self.backbone.recency_parameters()
        taken = {id(parameter) for parameter in (*tables, *recency)}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in taken]
        return [
            _group("tables", tables, weight_decay=TABLE_WEIGHT_DECAY),
            _group("recency", recency, lr_scale=RECENCY_LR_SCALE),
            _group("rest", rest),
        ]


def _group(
    name: str, params: list[nn.Parameter], weight_decay: float = 0.0, lr_scale: float = 1.0
) -> dict[str, Any]:
    return {"name": name, "params": params, "weight_decay": weight_decay, "lr_scale": lr_scale}


@dataclass(frozen=True, slots=True)
class SlotRows:
    """What the input vector of each slot depends on, all int64 [R].

    Attributes:
        kind: ITEM, TOKEN, REQUEST or PAD.
        source: Token index where the kind is TOKEN.
        item_row: Row of the item row space, 0 for none.
        type_row: Event type row, 0 for none.
        position: Index inside the segment, -1 for tokens.
    """

    kind: Tensor
    source: Tensor
    item_row: Tensor
    type_row: Tensor
    position: Tensor

    @classmethod
    def of(cls, layout: Layout) -> SlotRows:
        """The rows of a layout."""
        kind = torch.from_numpy(layout.kind.astype(np.int64))
        arrays = (layout.source, layout.item_row, layout.type_row, layout.position)
        return cls(kind, *(torch.from_numpy(array) for array in arrays))


def _scene(layout: Layout, block: Block) -> Scene:
    """Masks and metadata of one block."""
    shape = (block.n_segments, block.width)

    def rows(values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values[block.start : block.stop]).view(shape)

    query = Meta(rows(layout.time_ms), rows(layout.ordinal), rows(layout.position))
    own = Meta(
        *(field[:, : block.n_keys] for field in (query.time_ms, query.ordinal, query.position))
    )
    is_key = torch.from_numpy(layout.kind[block.start : block.stop] != PAD).view(shape)
    slots = torch.arange(block.n_keys)
    own_mask = (slots <= rows(layout.last_key).unsqueeze(-1)) & is_key[:, None, : block.n_keys]
    token = Meta(
        torch.from_numpy(layout.time_ms[block.token_rows]),
        torch.from_numpy(layout.ordinal[block.token_rows]),
        torch.from_numpy(layout.position[block.token_rows]),
    )
    age = torch.from_numpy(block.token_age)
    return Scene(query, own, own_mask, token, age, (age > 0).unsqueeze(1))
