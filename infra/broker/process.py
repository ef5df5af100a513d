"""One Apache Kafka broker as a child process, with its data in a directory of one's own."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import msgspec

from infra.broker.certificates import make_certificates
from infra.broker.jars import java, libraries
from infra.broker.properties import HOST, BrokerOptions, broker_properties, listener_ports
from infra.errors import BrokerUnavailableError
from infra.parents import end_with_holders
from stream.kafka.greeting import greet

if TYPE_CHECKING:
    from pathlib import Path

    from infra.broker.certificates import Certificates

READY_S = 120.0
STOP_S = 30.0
_POLL_S = 0.05
_GREETING_S = 5.0
_FORMAT, _SERVER = "kafka.tools.StorageTool", "kafka.Kafka"


class Broker:
    """A broker of one node. It ends when this process does, however that ends.

    Args:
        folder: its data, configuration and log; a folder used before is taken up again.
        options: listeners, logins, memory.

    Attributes:
        folder: as given.
        options: as given.
        ports: port per listener; they stay the same over restarts.

    Raises:
        BrokerUnavailableError: no Java, no jars, or a certificate can not be made.
    """

    def __init__(self, folder: Path, options: BrokerOptions | None = None) -> None:
        self.folder = folder.resolve()
        self.options = options or BrokerOptions()
        self.ports = self._ports()
        self._java = java()
        self._libs = libraries(os.environ)
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._held: int | None = None

    @property
    def bootstrap(self) -> str:
        """Address of the first listener, `127.0.0.1:port`."""
        return self.address(self.options.listeners[0])

    @property
    def holders(self) -> Path:
        """Named pipe: whoever holds it (`infra.parents.hold`) keeps the broker running."""
        return self.folder / "holders"

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._server is not None and self._server.poll() is None

    def address(self, listener: str) -> str:
        """Return the address of one listener."""
        return f"{HOST}:{self.ports[listener]}"

    def certificates(self) -> Certificates:
        """Return the files that clients of the TLS listeners need."""
        return make_certificates(self.folder / "certificates")

    def start(self) -> Self:
        """Start the broker and return when it answers; nothing is done if it runs.

        Raises:
            BrokerUnavailableError: it ended, or did not answer within two minutes.
        """
        if self.running:
            return self
        config = self.folder / "server.properties"
        lines = broker_properties(self.folder, self.options, self.ports)
        config.touch(mode=0o600)  # it may hold passwords
        config.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        if not (self.folder / "data").exists():
            self._format(config)
        with (self.folder / "broker.log").open("ab") as log:
            self._server = subprocess.Popen(  # noqa: S603 - arguments of our own
                self._command(_SERVER, str(config)),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip
        self._guard, self._held = end_with_holders(self._server.pid, self.holders)
        self._await_answer()
        return self

    def stop(self) -> None:
        """End the broker as an operator does (SIGTERM); kill it when that takes longer than half a minute."""
        self._end(patient=True)

    def kill(self) -> None:
        """End the broker as a power cut does (SIGKILL)."""
        self._end(patient=False)

    def restart(self, *, kill: bool = False) -> Self:
        """End the broker and start it again on the same ports and data."""
        self._end(patient=not kill)
        return self.start()

    def leave(self) -> None:
        """Forget the broker without ending it: it goes on while somebody else holds `holders`."""
        self._let_go()
        self._server = self._guard = None

    def __enter__(self) -> Self:
        """Start it."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    def _ports(self) -> dict[str, int]:
        known = self.folder / "ports.json"  # a formatted folder knows its controller by its port
        if known.exists():
            return msgspec.json.decode(known.read_bytes(), type=dict[str, int])
        ports = listener_ports(self.options)
        self.folder.mkdir(parents=True, exist_ok=True)
        known.write_bytes(msgspec.json.encode(ports))
        return ports

    def _end(self, *, patient: bool) -> None:
        if self._server is None:
            return
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
        if patient:
            self._server.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._server.wait(STOP_S)
        self._server.kill()
        self._server.wait()
        self._let_go()
        self._server = self._guard = None

    def _let_go(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _command(self, main: str, *arguments: str) -> list[str]:
        return [
            self._java, f"-Xmx{self.options.heap_mb}m", "-XX:ActiveProcessorCount=2",
            "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
            "-cp", f"{self._libs}/*", main, *arguments,
        ]  # fmt: skip

    def _format(self, config: Path) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        logins = [
            f"SCRAM-SHA-512=[name={name},password={password}]"
            for name, password in self.options.users.items()
        ]
        # joined by =, since one cluster in 64 begins with a hyphen
        arguments = ["format", "--standalone", f"--cluster-id={cluster}", f"--config={config}"]
        for login in logins:
            arguments += ["--add-scram", login]
        done = subprocess.run(  # noqa: S603 - arguments of our own
            self._command(_FORMAT, *arguments), capture_output=True, text=True, check=False
        )
        if done.returncode:
            text = " ".join((done.stderr or done.stdout).split())
            raise BrokerUnavailableError(f"{self.folder}: not formatted: {text[-300:]}")

    def _await_answer(self) -> None:
        deadline = time.monotonic() + READY_S
        waiting = set(self.options.listeners)
        while waiting:
            if not self.running or time.monotonic() > deadline:
                self.kill()
                raise BrokerUnavailableError(
                    f"{self.folder}: the broker did not come up; its reason is in broker.log there"
                )
            waiting -= {name for name in waiting if _answers(self.ports[name], name)}
            if waiting:
                time.sleep(_POLL_S)


def _answers(port: int, listener: str) -> bool:
    try:
        if listener in {"PLAINTEXT", "SASL_PLAINTEXT"}:
            greet(HOST, port, context=None, timeout_s=_GREETING_S)
        else:
            socket.create_connection((HOST, port), timeout=_GREETING_S).close()
    except OSError:
        return False
    return True
