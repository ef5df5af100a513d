"""What serving must equal, and what it is measured against: whole windows in one masked pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.engine import Engine
from model.segments import REQUEST, Layout, UserSlots, build_layout

__all__ = ["item_vectors", "masked_pass", "masked_requests"]


@torch.inference_mode()
def masked_requests(engine: Engine, users: Sequence[UserSlots]) -> NDArray[np.float64]:
    """Return the hidden request rows of some windows, computed in one pass under the segment mask.

    Args:
        engine: The model version.
        users: Windows whose requests are read.

    Returns:
        [Q, d], the requests of the windows in order.

    Raises:
        ShapeError: If the windows do not fit the model.
    """
    layout = build_layout(users, engine.config)
    rows = layout.rows_of(REQUEST)
    order = np.lexsort((layout.source[rows], layout.user[rows]))
    hidden = engine.model(layout)[torch.from_numpy(rows[order])]
    found: NDArray[np.float64] = hidden.double().numpy()
    return found


@torch.inference_mode()
def item_vectors(engine: Engine) -> Tensor:
    """Return the vectors [1 + V + n_buckets, d] that a pass reads, computed once per version."""
    return engine.model.items.vectors()


@torch.inference_mode()
def masked_pass(engine: Engine, layout: Layout, vectors: Tensor) -> Tensor:
    """Return all hidden rows [R, d] of a layout, items, tokens and requests, in one masked pass.

    Args:
        engine: The model version.
        layout: Whole windows.
        vectors: From ``item_vectors``, so that repeated passes do not pay for the item table.

    Raises:
        ShapeError: If an item row is outside the vocabulary.
    """
    hidden: Tensor = engine.model(layout, vectors)
    return hidden
