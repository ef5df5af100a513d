"""Settings: a TOML file, then environment variables, then flags; each layer's own config, composed.

Sections are the configs of the layers below (`Settings`). A key is written `section.key`: in TOML a table,
in the environment `FRESHET_SECTION__KEY`, on the command line `--set section.key=value`. Values from the
environment and from flags are read as TOML (`3`, `true`, `["a"]`), anything else as text; `none` is no value.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import date, datetime, time
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin, get_type_hints

import msgspec

from infra.errors import SettingsError
from model.config import ModelConfig
from model.errors import ConfigError
from model.training.options import TrainOptions
from stream.config import (
    FileConfig,
    FormatsConfig,
    LiveConfig,
    PipelineConfig,
    RefreshConfig,
    ServingConfig,
    StreamConfig,
)
from stream.kafka.config import SECRETS, KafkaConfig

ENV_PREFIX = "FRESHET_"
CONFIG_VARIABLE = "FRESHET_CONFIG"
RESERVED_VARIABLES = frozenset({
    CONFIG_VARIABLE, "FRESHET_INTEGRATION", "FRESHET_FAULT", "FRESHET_FAULT_TRACE",
    "FRESHET_REQUIRE", "FRESHET_BOOTSTRAP", "FRESHET_KAFKA_LIBS",
})  # fmt: skip
DEFAULT_FILE = Path("freshet.toml")

MASK = "***"

Path_ = tuple[str, ...]

_SECRETS = frozenset(("kafka", name) for name in SECRETS)


_PIPELINE = PipelineConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseConfig:
    """What DuckDB may use, and when its files are tidied.

    Attributes:
        memory_limit: of DuckDB, such as "1GB"; the model's memory comes on top.
        threads: of DuckDB.
        rotate_rows: new interactions that are moved into a sorted run at once.
        max_runs: sorted runs that are merged into one.
        checkpoint_bytes: size of the write-ahead log from which on it is moved into the file after a rotation; a larger
            log takes longer to open after a crash.
        slate_log: newest slates kept in the table `slates`; 0 keeps none.
    """

    memory_limit: str = "1GB"
    threads: int = 1
    rotate_rows: int = _PIPELINE.rotate_rows
    max_runs: int = _PIPELINE.max_runs
    checkpoint_bytes: int = _PIPELINE.checkpoint_bytes
    slate_log: int = _PIPELINE.slate_log


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings: one section per layer config."""

    database: DatabaseConfig = field(default_factory=DatabaseConfig)
    log: FileConfig = field(default_factory=FileConfig)
    items: FileConfig = field(default_factory=lambda: FileConfig(kind="item"))
    formats: FormatsConfig = field(default_factory=FormatsConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)
    refresh: RefreshConfig = field(default_factory=RefreshConfig)
    kafka: KafkaConfig = field(default_factory=KafkaConfig)
    live: LiveConfig = field(default_factory=LiveConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainOptions = field(default_factory=TrainOptions)


@dataclass(frozen=True, slots=True)
class Override:
    """One value given by a flag: dotted key, value, and the flag's name."""

    key: str
    value: object
    flag: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings and where every value that is not a default comes from (dotted key -> origin)."""

    settings: Settings
    origins: Mapping[str, str]

    def is_set(self, key: str) -> bool:
        """Return whether the key, or a key below it, was given anywhere."""
        return any(known == key or known.startswith(f"{key}.") for known in self.origins)

    def rows(self) -> list[tuple[str, object, str]]:
        """Return (key, value, origin) for every setting, in the order of the sections; secrets are masked."""
        return [
            (".".join(path), MASK if path in _SECRETS and value else value, self._origin(path))
            for path, value in _leaves(asdict(self.settings))
        ]

    def _origin(self, path: Path_) -> str:
        # A table given as a whole (event types) covers its keys' defaults only where it names them.
        return self.origins.get(".".join(path), "default")


def load(
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str],
    overrides: Sequence[Override] = (),
) -> Loaded:
    """Return the settings from file, environment and flags, later ones winning.

    Without `config_file` the file is the one that FRESHET_CONFIG names, else `freshet.toml` here if it exists.

    Raises:
        SettingsError: a file can not be read, a key is unknown, or a value has the wrong type.
    """
    values: dict[Path_, object] = {}
    origins: dict[Path_, str] = {}
    for path, value, origin in _layers(config_file, environ, overrides):
        _check_known(path, value, origin)
        values[path] = _plain(value)
        origins[path] = origin
    settings = _convert(_tree(values), origins)
    return Loaded(settings, {".".join(path): origin for path, origin in origins.items()})


def parse_value(text: str) -> object:
    """Return a value typed in a variable or a flag: read as TOML, anything else is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def closest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known name, else an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _layers(
    config_file: Path | None, environ: Mapping[str, str], overrides: Sequence[Override]
) -> Iterator[tuple[Path_, object, str]]:
    named = environ.get(CONFIG_VARIABLE)
    file = config_file or (Path(named) if named else None)
    if file is None and DEFAULT_FILE.exists():
        file = DEFAULT_FILE
    if file is not None:
        yield from ((path, value, str(file)) for path, value in _leaves(_read_toml(file)))
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and name not in RESERVED_VARIABLES:
            path = tuple(name.removeprefix(ENV_PREFIX).lower().split("__"))
            text = environ[name]
            # A password is never read as TOML: it may look like a number.
            yield path, text if path in _SECRETS else parse_value(text), name
    for item in overrides:
        yield tuple(item.key.split(".")), item.value, item.flag


def _read_toml(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise SettingsError(f"{file}: no such configuration file; check --config") from err
    except OSError as err:
        raise SettingsError(f"{file}: {err.strerror}; check the file's permissions") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise SettingsError(f"{file}: not valid TOML: {err}; correct that place") from err


def _plain(value: object) -> object:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return None if value == "none" else value


def _leaves(tree: Mapping[str, object], above: Path_ = ()) -> Iterator[tuple[Path_, object]]:
    for key, value in tree.items():
        path = (*above, str(key))
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, path)
        else:
            yield path, value


def _check_known(path: Path_, value: object, origin: str) -> None:
    kind: object = Settings
    for depth, key in enumerate(path):
        table, kind = kind, None
        if isinstance(table, type) and is_dataclass(table):
            known = get_type_hints(table)
            kind = known.get(key)
            names = [".".join((*path[:depth], name)) for name in known]
        elif get_origin(table) is dict:
            kind = get_args(table)[1]
            continue
        else:
            names = []
        if kind is None:
            here = ".".join(path[: depth + 1])
            hint = closest(here, names) or "; `freshet config show` lists all keys"
            raise SettingsError(f"{origin}: unknown key {here!r}{hint}")
        kind = _without_none(kind)
    if isinstance(kind, type) and is_dataclass(kind) and value != {}:
        raise SettingsError(f"{origin}: {'.'.join(path)} is a table; set a key below it")


def _without_none(kind: object) -> object:
    if get_origin(kind) in {Union, UnionType}:
        options = [option for option in get_args(kind) if option is not type(None)]
        return options[0] if len(options) == 1 else kind
    return kind


def _tree(values: Mapping[Path_, object]) -> dict[str, object]:
    tree: dict[str, object] = {}
    for path, value in values.items():
        node = tree
        for key in path[:-1]:
            below = node.setdefault(key, {})
            if not isinstance(below, dict):  # a table given as a whole; single keys win over it
                below = node[key] = {}
            node = below
        node[path[-1]] = value
    return tree


def _convert(tree: dict[str, object], origins: Mapping[Path_, str]) -> Settings:
    try:
        return msgspec.convert(tree, Settings, strict=True)
    except ConfigError as err:
        raise SettingsError(f"{err}; `freshet config show model` prints the values in use") from err
    except msgspec.ValidationError as err:
        text, _, where = str(err).partition(" - at `$")
        key = re.sub(r"\[.*?\]", "", where.rstrip("`")).strip(".")
        path = tuple(key.split(".")) if key else ()
        given = [f"{origin}: " for known, origin in origins.items() if known[: len(path)] == path]
        raise SettingsError(
            f"{given[-1] if given else ''}{key or 'settings'}: {text}; `freshet config show` prints the values in use"
        ) from err
