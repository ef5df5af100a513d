"""The optional dependencies of the live path, asked for only by commands that need them."""

from collections.abc import Iterator
from contextlib import contextmanager

from infra.errors import MissingExtraError

_LIBRARIES = frozenset({
    "kafka",
    "faust",
    "mode",
    "aiokafka",
    "aiohttp",
    "structlog",
    "apscheduler",
    "prometheus_client",
})


@contextmanager
def live_extra() -> Iterator[None]:
    """Explain a missing library of the live path.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] not in _LIBRARIES:
            raise
        raise MissingExtraError(
            f"{err.name} is not installed: pip install 'freshet[live]'"
        ) from err
