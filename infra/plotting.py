"""matplotlib with the house's look, imported when a picture is drawn."""

from __future__ import annotations

from typing import Any

from infra.errors import MissingExtraError

INK = "#1c2330"


def pyplot() -> Any:  # noqa: ANN401 - matplotlib has no types of its own here
    """Return matplotlib.pyplot, set up to draw files that are the same for the same figures.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415
    except ImportError as err:
        raise missing(err) from err
    mpl.use("Agg")
    mpl.rcParams |= {
        "font.size": 9,
        "axes.edgecolor": "#c4cad4",
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "svg.hashsalt": "freshet",  # the same figures give the same file
    }
    from matplotlib import pyplot  # noqa: PLC0415

    return pyplot


def missing(err: ImportError) -> MissingExtraError:
    """Return the error that says how to install what reports and pictures need."""
    return MissingExtraError(
        f"pictures and pages need {err.name}: pip install 'freshet[report]', or leave --report or --page out"
    )
