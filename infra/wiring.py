"""The composition root: builds sources, engines and pipelines from settings. Nothing else does."""

import atexit
import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import msgspec

from infra.databases import creating, reading
from infra.errors import InputError, MismatchError
from infra.logs import open_items, open_log
from infra.settings import Loaded
from infra.workers import WorkerCompressor
from model.config import ModelConfig
from model.engine import Engine
from storage import positions
from storage.database import Database
from storage.identities import Identities
from storage.models import active
from stream.clock import Clock, WallClock
from stream.config import EventType, PipelineConfig, StreamConfig
from stream.inspect import Inspector
from stream.journals import PastEntry, past_entries, read_journal
from stream.pipeline import Pipeline, TickSource
from stream.sinks import Sink
from stream.sinks.jsonl import JsonlSink
from stream.sources import Source
from stream.sources.bounded import BoundedSource
from stream.sources.file import FileSource
from stream.sources.fingerprints import Fingerprint
from stream.sources.recorded import RecordedSource

MODEL_PATH_KEY = "model_path"
"""Where the database's checkpoint was last; `--model` names another place."""
FILES_KEY = "log_files"
"""Meta key, per topic: what the files were like that the database's positions count in."""
LIBRARIES = ("duckdb", "torch", "pyarrow", "numpy")
_YOUNG_OBJECTS = 50_000
"""New containers before the collector looks at them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPlan:
    """What a replay reads and writes.

    Attributes:
        log: file, folder or glob.
        db_path: database, created if there is none.
        model_path: checkpoint; None stores events without tokens.
        items_path: item file, or None.
        slates_path: JSON lines of slates, or None.
        until_ms: the log ends where event time reaches this.
        score: whether scored events yield slates.
        worker: compress in a spawned process instead of this one; the tokens are the same.
        journal_path: database or exported journal of the run to repeat; None ticks by event time.
    """

    log: str
    db_path: Path
    model_path: Path | None = None
    items_path: str | None = None
    slates_path: Path | None = None
    until_ms: int | None = None
    score: bool = True
    worker: bool = False
    journal_path: Path | None = None


def versions() -> dict[str, str]:
    """Return the versions of the libraries whose numbers matter."""
    return {name: version(name) for name in LIBRARIES}


def load_engine(path: Path) -> Engine:
    """Return the model of a checkpoint, on one thread.

    Raises:
        InputError: there is no such file.
        CheckpointError: the file is damaged or of another kind.
    """
    if not path.exists():
        raise InputError(f"{path}: no such checkpoint; `freshet train` makes one")
    engine = Engine.load(path, threads=1)
    _collect_seldom()
    return engine


def _collect_seldom() -> None:
    """Spare the garbage collector what stays, and what goes by itself: slates and states are in no cycles.

    Model and libraries are not walked again, and a collection waits for many new objects: at Python's threshold it takes
    three hundredths of a replay with slates, and finds nothing.
    """
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])
    atexit.register(gc.unfreeze)  # until the end, where libraries count what was not taken down


def engine_of(
    db: Database, model_path: Path | None, *, load: Callable[[Path], Engine] = load_engine
) -> Engine | None:
    """Return the engine of the database's active version.

    Args:
        db: the database.
        model_path: where the checkpoint is now; None where it was last.
        load: what reads it.

    Raises:
        MismatchError: the checkpoint is gone, or is not the version whose tokens the database holds.
    """
    row = active(db)
    if row is None:
        return None if model_path is None else load(model_path)
    path = checkpoint_of(db, model_path)
    if path is None or not path.exists():
        raise MismatchError(
            f"{path or db.path}: the checkpoint of version {row.version} is not there;"
            " name it with --model"
        )
    engine = load(path)
    if engine.version != row.version:
        raise MismatchError(
            f"{path} is version {engine.version}, {db.path} holds tokens of {row.version};"
            " use that checkpoint, or replay into a new database"
        )
    return engine


def checkpoint_of(db: Database, model_path: Path | None) -> Path | None:
    """Return where the checkpoint is: as named now, else where it was last."""
    known = db.get_meta(MODEL_PATH_KEY)
    return model_path or (Path(known) if known else None)


def remember_checkpoint(db: Database, model_path: Path) -> None:
    """Note where the checkpoint is, for commands that do not name it."""
    with db.transaction() as tx:
        db.set_meta(tx, MODEL_PATH_KEY, str(model_path.resolve()))


def pipeline_config(
    loaded: Loaded, model: ModelConfig | None, *, score: bool = True
) -> PipelineConfig:
    """Return what a pipeline is told: the settings, and what the model fixes where nothing is set.

    Raises:
        MismatchError: a setting says otherwise than the model.
    """
    settings = loaded.settings
    serving, refresh = settings.serving, settings.refresh
    if model is not None:
        serving = replace(serving, r_max=_fixed(loaded, "serving.r_max", model.r_max))
        refresh = replace(
            refresh,
            segment_len=_fixed(loaded, "refresh.segment_len", model.segment_len),
            r_min=_fixed(loaded, "refresh.r_min", model.r_min),
        )
    return PipelineConfig(
        stream=stream_config(loaded, model),
        serving=serving,
        refresh=refresh,
        score=score,
        rotate_rows=settings.database.rotate_rows,
        checkpoint_bytes=settings.database.checkpoint_bytes,
        max_runs=settings.database.max_runs,
        slate_log=settings.database.slate_log,
        refuse_moved=settings.kafka.shards > 1,
    )


def bound_config(db: Database, loaded: Loaded, config: PipelineConfig) -> PipelineConfig:
    """Return the configuration with what the database was built with where nothing is set.

    Settings that decide tokens and verdicts are stored in the database; asking it anything must not
    need the file of settings it was made with.
    """
    stream: dict[str, object] = {}
    numbers = ("lateness_ms", "visit_gap_ms", "max_ahead_ms", "max_jump_ms")
    for name in (*numbers, "unlisted", "event_types"):
        stored = db.get_meta(name)
        if stored is None or loaded.is_set(f"stream.{name}"):
            continue
        if name == "event_types":
            stream[name] = msgspec.json.decode(stored, type=dict[str, EventType])
        else:
            stream[name] = int(stored) if name in numbers else stored
    refresh = {
        name: int(stored)
        for name in ("segment_len", "r_min")
        if (stored := db.get_meta(name)) is not None and not loaded.is_set(f"refresh.{name}")
    }
    return replace(
        config,
        stream=replace(config.stream, **stream),  # type: ignore[arg-type]  # names checked above
        refresh=replace(config.refresh, **refresh),
    )


def stream_config(loaded: Loaded, model: ModelConfig | None) -> StreamConfig:
    """Return how events are judged; event types and visits are the model's where none are set.

    Raises:
        MismatchError: a setting says otherwise than the model.
    """
    config = loaded.settings.stream
    if model is None:
        return config
    gap = _fixed(loaded, "stream.visit_gap_ms", model.visit_gap_ms)
    config = replace(config, visit_gap_ms=gap)
    weights = model.event_weights or (1.0,) * len(model.event_types)
    trained = dict(zip(model.event_types, weights, strict=True))
    if not loaded.is_set("stream.event_types"):
        types = {name: EventType(weight=weight) for name, weight in trained.items()}
        return replace(config, event_types=types)
    for name, weight in trained.items():
        given = config.event_type(name)
        if given is not None and given.in_history and given.weight != weight:
            raise _contradiction(f"stream.event_types.{name}.weight", given.weight, weight)
    return config


def training_config(loaded: Loaded) -> ModelConfig:
    """Return the model to train: visits and event types as the stream judges them, unless set in [model].

    Raises:
        MismatchError: [model] and [stream] contradict each other.
    """
    model, stream = loaded.settings.model, loaded.settings.stream
    if not loaded.is_set("model.visit_gap_ms"):
        model = replace(model, visit_gap_ms=stream.visit_gap_ms)
    elif loaded.is_set("stream.visit_gap_ms") and model.visit_gap_ms != stream.visit_gap_ms:
        raise _contradiction("stream.visit_gap_ms", stream.visit_gap_ms, model.visit_gap_ms)
    if model.event_types or not stream.event_types:
        return model
    types = {name: kind for name, kind in sorted(stream.event_types.items()) if kind.in_history}
    return replace(
        model,
        event_types=tuple(types),
        event_weights=tuple(kind.weight for kind in types.values()),
    )


@contextmanager
def replaying(
    plan: ReplayPlan, loaded: Loaded, *, clock: Clock | None = None
) -> Iterator[Pipeline]:
    """Open everything a replay needs, and close it at the end; the item file is loaded first.

    Args:
        plan: what is read and written.
        loaded: the settings.
        clock: ingest times are taken from it; by default the system's.
    """
    with ExitStack() as stack:
        engine = None if plan.model_path is None else load_engine(plan.model_path)
        config = pipeline_config(loaded, engine.config if engine else None, score=plan.score)
        files = stack.enter_context(closing(open_log(plan.log, loaded)))
        if isinstance(
            files, FileSource
        ):  # one partition: users of another log have no place in its order
            config = replace(config, refuse_moved=True)
        source: Source = files
        if plan.until_ms is not None:
            source = BoundedSource(source, plan.until_ms)
        ticks: TickSource = "events"
        if plan.journal_path is not None:
            ticks = _journal(plan.journal_path, loaded)
        db = stack.enter_context(creating(plan.db_path, loaded))
        _guard_files(db, files)
        sink: Sink | None = None
        if plan.slates_path is not None:
            sink = stack.enter_context(closing(JsonlSink(plan.slates_path)))
        compressor = None
        if plan.worker and plan.model_path is not None:
            compressor = stack.enter_context(closing(WorkerCompressor(plan.model_path)))
        pipeline = Pipeline(
            db=db,
            identities=Identities.load(db),
            engine=engine,
            compressor=compressor,
            source=source,
            sink=sink,
            config=bound_config(db, loaded, config),
            clock=clock or WallClock(),
            ticks=ticks,
        )
        if plan.model_path is not None:
            remember_checkpoint(db, plan.model_path)
        if plan.items_path is not None:
            with closing(open_items(plan.items_path, loaded)) as items:
                _check_apart(files, items)
                _guard_files(db, items)
                pipeline.load(items)
        yield pipeline


def _journal(path: Path, loaded: Loaded) -> list[PastEntry]:
    """Return the journal of another run: a database of freshet, or JSON lines.

    Raises:
        JournalError: the lines cannot be read.
    """
    if path.suffix == ".jsonl":
        return read_journal(path)
    with reading(path, loaded) as db:
        return list(past_entries(db))


@contextmanager
def asking(
    db_path: Path, model_path: Path | None, loaded: Loaded
) -> Iterator[tuple[Pipeline, Inspector]]:
    """Open an existing database for questions: a pipeline that answers requests, and an inspector."""
    with reading(db_path, loaded) as db:
        pipeline = answering(db, engine_of(db, model_path), Identities.load(db), loaded)
        yield pipeline, Inspector(db, pipeline.engine, pipeline.identities)


def answering(
    db: Database, engine: Engine | None, identities: Identities, loaded: Loaded
) -> Pipeline:
    """Return a pipeline over an open database that answers requests and reads no log."""
    config = pipeline_config(loaded, engine.config if engine else None)
    return Pipeline(
        db=db,
        identities=identities,
        engine=engine,
        config=bound_config(db, loaded, config),
        clock=WallClock(),
    )


def _guard_files(db: Database, source: FileSource | RecordedSource) -> None:
    """Refuse a log whose files are not those that the database's positions count in; remember new ones.

    Raises:
        GapError: a file was replaced, removed or shortened, grew although a later one was read, or
            has a new one before it.
    """
    if isinstance(source, RecordedSource):
        return  # its records carry their positions
    (partition,) = source.partitions()
    key = f"{FILES_KEY}/{partition.topic}"

    def keep(found: list[Fingerprint]) -> None:
        with db.transaction() as tx:
            db.set_meta(tx, key, msgspec.json.encode(found).decode())

    earlier = msgspec.json.decode(db.get_meta(key) or b"[]", type=list[Fingerprint])
    source.guard(
        earlier, positions.next_offsets(db).get((partition.topic, partition.part), 0), keep
    )


def _check_apart(log: Source, items: Source) -> None:
    shared = set(log.partitions()) & set(items.partitions())
    if shared:
        raise InputError(
            f"log and item file are both called {min(shared).topic}; name one with"
            " --set items.topic=items"
        )


def _fixed(loaded: Loaded, key: str, trained: int) -> int:
    """Return what the model was trained with; a setting may repeat it, not contradict it."""
    section, name = key.split(".")
    given: int = getattr(getattr(loaded.settings, section), name)
    if loaded.is_set(key) and given != trained:
        raise _contradiction(key, given, trained)
    return trained


def _contradiction(key: str, given: float, trained: float) -> MismatchError:
    return MismatchError(
        f"{key} is {given}, the model says {trained}; remove the setting or train with it"
    )
