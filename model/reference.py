"""What serving must equal: one masked forward pass over whole windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from model.engine import Engine
from model.segments import REQUEST, UserSlots, build_layout

__all__ = ["masked_requests"]


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
