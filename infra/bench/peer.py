"""RecTools beside freshet: an environment of its own, made on demand, and a process that is timed.

RecTools 0.19 needs NumPy below 2 and freshet NumPy 2: the two can not share one environment. Its
versions are pinned here; only the benchmark uses them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from infra.bench.models import shipped_shape
from infra.bench.timing import Estimate, mean
from infra.errors import InfraError

if TYPE_CHECKING:
    from infra.bench.room import Room

REQUIREMENTS = ("rectools[torch]==0.19.0", "numpy==1.26.4", "pandas==2.3.3", "scipy==1.17.1")
"""The newest RecTools with HSTU, and the newest libraries it accepts; torch is the version freshet runs."""
FOLDER_VARIABLE = "FRESHET_BENCH_PEER"
"""Environment variable: where the environment is, or is made."""
_SCRIPT = Path(__file__).with_name("peer_hstu.py")
_USERS = 200


class PeerUnavailableError(InfraError):
    """The peer's environment can not be made, or its run failed."""


@dataclass(frozen=True, slots=True)
class PeerFigures:
    """Processor seconds per user: asked one by one, and all in one call."""

    one_user: Estimate
    all_users: Estimate


def measure_peer(log: Path, room: Room) -> PeerFigures:
    """Time RecTools' HSTU on a Parquet log.

    Raises:
        PeerUnavailableError: it can not be installed here, or failed.
    """
    room.note("RecTools: its environment")
    python = _environment()
    table = pq.read_table(log, columns=["user_id", "item_id", "ts"])
    data, shape_file = room.folder / "peer.csv", room.folder / "peer.json"
    pa_csv.write_csv(table, data)
    model = shipped_shape()
    shape = {
        "layers": model.n_layers,
        "heads": model.n_heads,
        "width": model.d_model,
        "session": model.r_max,
        "k": 10,
        "users": min(_USERS, len(table["user_id"].unique())),
        "repetitions": 3,
    }
    shape_file.write_text(json.dumps(shape), encoding="utf-8")
    room.note("RecTools: one epoch, then recommendations")
    found = _run([str(python), str(_SCRIPT), str(data), str(shape_file)], room.folder)
    figures = json.loads(found.splitlines()[-1])
    return PeerFigures(mean(figures["one"]), mean(figures["together"]))


def _environment() -> Path:
    """Return the Python of the peer's environment, made if it is not there."""
    given = os.environ.get(FOLDER_VARIABLE)
    folder = Path(given) if given else Path.home() / ".cache" / "freshet" / "bench-rectools"
    python, done = folder / "bin" / "python", folder / ".requirements"
    wanted = "\n".join((*REQUIREMENTS, f"torch=={version('torch').partition('+')[0]}"))
    if done.exists() and done.read_text(encoding="utf-8") == wanted:
        return python
    folder.parent.mkdir(parents=True, exist_ok=True)
    uv = shutil.which("uv")
    if uv:
        _run([uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)])
        _run([uv, "pip", "install", "-q", "--python", str(python), *wanted.split("\n")])
    else:
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run([str(python), "-m", "pip", "install", "-q", *wanted.split("\n")])
    done.write_text(wanted, encoding="utf-8")
    return python


def _run(command: list[str], folder: Path | None = None) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    made = subprocess.run(  # noqa: S603 - our own script, and pinned packages
        command, capture_output=True, text=True, check=False, cwd=folder, env=environment
    )
    if made.returncode:
        last = made.stderr.strip().splitlines()[-1:] or ["no message"]
        raise PeerUnavailableError(f"{Path(command[0]).name} failed: {last[0]}")
    return made.stdout
