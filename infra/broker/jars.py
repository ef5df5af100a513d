"""The broker's jars: fetched once by Maven into a folder outside the checkout."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

KAFKA_VERSION = "4.1.1"
LIBS_VARIABLE = "FRESHET_KAFKA_LIBS"
"""Environment variable: a folder that holds the jars, used instead of the cache."""
_FETCH_S = 600


def java() -> str:
    """Return the path of `java`.

    Raises:
        BrokerUnavailableError: there is none.
    """
    found = shutil.which("java")
    if found is None:
        raise BrokerUnavailableError("java is not installed; Kafka 4 needs Java 17 or newer")
    return found


def libraries(environ: Mapping[str, str]) -> Path:
    """Return the folder of jars, fetched if it is not there yet.

    Raises:
        BrokerUnavailableError: the folder that FRESHET_KAFKA_LIBS names holds no broker, or there is
            no Maven, or it failed.
    """
    given = environ.get(LIBS_VARIABLE)
    if given:
        folder = Path(given)
        if not _complete(folder):
            raise BrokerUnavailableError(
                f"{folder}: holds no kafka_2.13-*.jar; correct {LIBS_VARIABLE} or unset it"
            )
        return folder
    folder = _cache(environ) / f"kafka-{KAFKA_VERSION}"
    if _complete(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test workers fetch once
        if not _complete(folder):
            _fetch(folder)
    return folder


def _cache(environ: Mapping[str, str]) -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "freshet"
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "freshet"


def _complete(folder: Path) -> bool:
    return any(folder.glob("kafka_2.13-*.jar"))


def _fetch(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise BrokerUnavailableError(
            f"no jars in {folder} and Maven is not installed; install it, or set {LIBS_VARIABLE}"
        )
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    with resources.as_file(resources.files("infra.broker") / "pom.xml") as pom:
        command = [
            maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies",
            "-DincludeScope=runtime", f"-DoutputDirectory={partial}",
        ]  # fmt: skip
        try:
            done = subprocess.run(  # noqa: S603 - arguments of our own
                command, capture_output=True, text=True, timeout=_FETCH_S, check=False
            )
        except subprocess.TimeoutExpired as err:
            shutil.rmtree(partial, ignore_errors=True)
            raise BrokerUnavailableError(
                f"Maven did not fetch the jars within {_FETCH_S} s; check the network"
            ) from err
    if done.returncode or not _complete(partial):
        shutil.rmtree(partial, ignore_errors=True)
        lines = [line for line in done.stdout.splitlines() if "ERROR" in line] or ["no message"]
        raise BrokerUnavailableError(f"Maven could not fetch the jars: {lines[0]}")
    partial.rename(folder)
