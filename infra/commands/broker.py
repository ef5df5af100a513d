"""`freshet broker`: a real Kafka of one's own, until it is interrupted."""

import signal
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import click

from infra.broker.process import Broker
from infra.broker.properties import SECURE, BrokerOptions

USERS = {"freshet": "freshet-secret"}


@click.command("broker")
@click.option("--port", type=click.IntRange(0, 65535), default=9092, show_default=True,
              help="Port of the listener without security; 0 takes a free one.")  # fmt: skip
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False),
              help="Keep its data here, for the next start (default: forget it).")  # fmt: skip
@click.option("--secure", is_flag=True, help="Listeners with logins and TLS too.")
def command(port: int, folder: Path | None, secure: bool) -> None:
    """Start an Apache Kafka broker of one node and run it until Ctrl-C.

    Needs Java 17 or newer. Maven fetches the jars once into a cache outside this folder;
    FRESHET_KAFKA_LIBS names a folder that holds them already. Topics are not made on demand:
    `freshet topics create` makes them.
    """
    options = BrokerOptions(port=port)
    if secure:
        options = BrokerOptions(port=port, listeners=SECURE, users=USERS)
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="freshet-broker")))
        broker = stack.enter_context(Broker(folder, options))
        for name in options.listeners:
            click.echo(f"{name:<15} {broker.address(name)}")
        if secure:
            files = broker.certificates()
            for login, password in USERS.items():
                click.echo(f"login           {login} / {password} (PLAIN, SCRAM-SHA-512)")
            click.echo(f"authority       {files.authority}")
            click.echo(f"client          {files.client_certificate}, {files.client_key}")
        click.echo("running; Ctrl-C ends it")
        _wait_for_signal()


def _wait_for_signal() -> None:
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    asked.wait()
