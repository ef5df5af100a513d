"""Folders of trials: gone after a good one, there after a bad one."""

from pathlib import Path

import pytest

from infra.workfolder import work_folder


def test_a_temporary_folder_goes_when_nothing_was_wrong(capsys):
    with work_folder("torture", None) as work:
        (work.path / "x").touch()
        work.keep = False
    assert not work.path.exists()
    assert capsys.readouterr().err == ""


def test_what_a_trial_left_stays_when_it_says_so_and_when_it_breaks(
    tmp_path: Path, capsys, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with work_folder("torture", None) as work:
        pass
    assert work.path.parent == tmp_path
    assert str(work.path) in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="broken"), work_folder("torture", None) as other:
        raise RuntimeError("broken")
    assert other.path.exists()
    assert other.path != work.path


def test_a_given_folder_is_emptied_first(tmp_path: Path):
    (tmp_path / "torture").mkdir()
    (tmp_path / "torture" / "old").touch()
    with work_folder("torture", tmp_path) as work:
        assert list(work.path.iterdir()) == []
    assert work.path == tmp_path / "torture"
