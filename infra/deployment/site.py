"""What a deployment is made of, and the command lines that drive it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from infra.broker.properties import free_ports

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

INTERACTIONS, ITEMS, SLATES = "freshet.interactions", "freshet.items", "freshet.recommendations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One shard's service: its database, its broker, its settings.

    Attributes:
        db: the database.
        bootstrap: the broker.
        model: checkpoint.
        port: of the health pages.
        settings: further settings, as `--set` takes them.
    """

    db: Path
    bootstrap: str
    model: Path
    port: int
    settings: Mapping[str, object] = field(default_factory=dict)

    def with_settings(self, **settings: object) -> Site:
        """Return the same with settings added; `kafka__shard` stands for `kafka.shard`."""
        more = {name.replace("__", "."): value for name, value in settings.items()}
        return replace(self, settings={**self.settings, **more})

    def topics(self, partitions: int) -> list[str]:
        """Return the command line that makes the topics."""
        return self._with_settings("topics", "create", "--partitions", str(partitions))

    def run(self, *more: str) -> list[str]:
        """Return the command line of the service; a log not read before is read from its beginning."""
        names = ["--db", str(self.db), "--model", str(self.model), "--from", "earliest"]
        return self._with_settings("run", *names, *more)

    def produce(self, *what: str) -> list[str]:
        """Return the command line that sends a log or items."""
        return self._with_settings("produce", *what)

    def lag(self) -> list[str]:
        """Return the command line that says how far the log is read."""
        return self._with_settings("lag", "--db", str(self.db))

    def export(self, out: Path) -> list[str]:
        """Return the command line that writes all records of the log to a file."""
        return self._with_settings("export-log", "--out", str(out), "--quiet")

    def replay(self, log: Path, db: Path, *more: str) -> list[str]:
        """Return the command line that replays an exported log into another database."""
        names = ["--db", str(db), "--model", str(self.model), "--quiet"]
        return self._with_settings("replay", str(log), *names, *more)

    def _with_settings(self, *argv: str) -> list[str]:
        settings = {
            "kafka.bootstrap_servers": self.bootstrap,
            "live.http_port": self.port,
            **self.settings,
        }
        line = list(argv)
        for key, value in settings.items():
            line += ["--set", f"{key}={value}"]
        return line


def free_port() -> int:
    """Return a port that nothing listened on a moment ago."""
    return free_ports(["pages"])["pages"]
