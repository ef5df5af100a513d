"""Disks that deny writes: by a mount where that is allowed, else by other means that are undone again."""

import os

import pytest

from infra.deployment.children import Limits
from infra.torture import disks


@pytest.fixture
def unmountable(monkeypatch):
    """A process that may not mount."""
    monkeypatch.setattr(disks.shutil, "which", lambda _name: None)


def test_without_the_right_to_mount_a_size_is_a_limit_of_the_process(unmountable, tmp_path):
    with disks.disk(tmp_path / "d", size=5_000) as small:
        assert not small.mounted
        assert small.limits == Limits(file_bytes=5_000)
        assert "RLIMIT_FSIZE" in small.how
        small.free()
        assert small.limits == Limits()


def test_without_root_a_disk_is_protected_by_modes_until_released(
    unmountable, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    file = tmp_path / "d" / "x"
    with disks.disk(tmp_path / "d") as locked:
        file.write_text("kept")
        locked.protect()
        assert (locked.folder.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o500, 0o400)
    assert (locked.folder.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)


def test_as_root_without_mounts_the_process_gives_up_its_rights(unmountable, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with disks.disk(tmp_path / "d") as locked:
        locked.protect()
        assert locked.limits == Limits(unprivileged=True)
        locked.release()
        assert locked.limits == Limits()
