"""A certificate authority of one's own, a broker's certificate and a client's, made by openssl."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

_DAYS = "3650"
_NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files of one authority.

    Attributes:
        authority: its certificate, which clients and broker trust.
        keystore: the broker's key (PKCS#8), certificate and authority in one file.
        client_certificate: of a client that proves who it is, CN=client.
        client_key: its key.
        stranger: certificate of another authority, that vouches for nobody here.
    """

    authority: Path
    keystore: Path
    client_certificate: Path
    client_key: Path
    stranger: Path


def make_certificates(folder: Path) -> Certificates:
    """Make the files in `folder`, or return them if they are there.

    Raises:
        BrokerUnavailableError: openssl is not installed or failed.
    """
    made = Certificates(
        authority=folder / "authority.pem",
        keystore=folder / "broker.pem",
        client_certificate=folder / "client.pem",
        client_key=folder / "client.key",
        stranger=folder / "stranger.pem",
    )
    if made.keystore.exists():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("authority", "stranger"):
        _openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", _DAYS, "-subj", f"/CN={name}",
            "-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem"),
        )  # fmt: skip
    _signed(folder, "client")
    _signed(folder, "server")
    parts = [folder / "server.key", folder / "server.pem", made.authority]
    made.keystore.write_bytes(b"".join(part.read_bytes() for part in parts))
    return made


def encrypted_key(key: Path, out: Path, password: str) -> None:
    """Write a key that is encrypted with a password.

    Raises:
        BrokerUnavailableError: as `make_certificates`.
    """
    passed = f"pass:{password}"
    _openssl("pkey", "-in", str(key), "-aes256", "-passout", passed, "-out", str(out))


def _signed(folder: Path, name: str) -> None:
    _openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", _DAYS, "-subj", f"/CN={name}",
        "-addext", _NAMES, "-addext", "basicConstraints=critical,CA:FALSE",
        "-CA", str(folder / "authority.pem"), "-CAkey", str(folder / "authority.key"),
        "-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem"),
    )  # fmt: skip


def _openssl(*arguments: str) -> None:
    found = shutil.which("openssl")
    if found is None:
        raise BrokerUnavailableError("openssl is not installed; listeners with TLS need it")
    done = subprocess.run(  # noqa: S603 - arguments of our own
        [found, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BrokerUnavailableError(f"openssl failed: {' '.join(done.stderr.split())}")
