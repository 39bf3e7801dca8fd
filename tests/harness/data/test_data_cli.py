"""``python -m harness.data``: what it prints, what it writes, and how it refuses."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from harness.data.__main__ import main


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence on standard error of a command that ends with status 2 and prints nothing else."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def test_synth_then_check(tmp_path, capsys):
    file = tmp_path / "new" / "folders" / "data = [1], ü.pkl"
    assert main(["synth", "synthetic_sims", "--out", str(file), "--clips", "40", "--seed", "5"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{file}: synthetic_sims, size quick, seed 5, clips: ")
    assert out.count("\n") == 1
    assert files_below(tmp_path) == ["new/folders/data = [1], ü.pkl"]
    assert main(["check", str(file), "--label-scale", "1"]) == 0
    assert "train" in capsys.readouterr().out


def test_the_options_reach_the_file(tmp_path):
    contents = {}
    for number, options in enumerate(([], [], ["--seed", "1"], ["--size", "full"], ["--aligned"])):
        file = tmp_path / str(number)
        assert main(["synth", "synthetic_mosi", "--clips", "15", "--out", str(file), *options]) == 0
        contents[number] = file.read_bytes()
    assert contents[0] == contents[1] != contents[2]
    for number, text, audio in ((2, 12, 20), (3, 50, 375), (4, 12, 12)):
        data = pickle.loads(contents[number])
        assert sum(len(split["id"]) for split in data.values()) == 15
        assert (data["train"]["text"].shape[1], data["train"]["audio"].shape[1]) == (text, audio)
        assert ("audio_lengths" in data["train"]) == (number != 4)


def test_an_existing_file_is_kept_unless_forced(tmp_path, capsys):
    file = tmp_path / "data.pkl"
    file.write_text("precious")
    assert f"{str(file)!r} exists; choose another name, or overwrite it with --force." in refused(
        capsys, "synth", "synthetic_mosi", "--clips", 12, "--out", file
    )
    assert file.read_text() == "precious"
    assert main(["synth", "synthetic_mosi", "--clips", "12", "--out", str(file), "--force"]) == 0
    assert set(pickle.loads(file.read_bytes())) == {"train", "valid", "test"}


def test_wrong_requests_and_unwritable_places_are_named_and_nothing_is_written(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    for arguments in (["synthetic_simz"], ["synthetic_mosi", "--clips", "3"]):
        assert f"{arguments[-1]}" in refused(capsys, "synth", *arguments, "--out", tmp_path / "data.pkl")
    for place in (tmp_path, tmp_path / "file" / "data.pkl", tmp_path / ("x" * 300)):
        assert str(place) in refused(capsys, "synth", "synthetic_mosi", "--clips", 12, "--out", place)

    monkeypatch.setattr(Path, "open", Mock(side_effect=PermissionError(13, "Permission denied")))
    error = refused(capsys, "synth", "synthetic_mosi", "--clips", 12, "--out", tmp_path / "data.pkl")
    assert "cannot be written: Permission denied." in error
    assert files_below(tmp_path) == ["file"]


def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path, capsys, monkeypatch):
    file = tmp_path / "data.pkl"
    file.write_text("precious")

    class Full:
        def __init__(self, out, protocol):
            out.write(b"half")

        def dump(self, _data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(pickle, "Pickler", Full)
    error = refused(capsys, "synth", "synthetic_mosi", "--clips", 12, "--out", file, "--force")
    assert "No space left" in error
    assert file.read_text() == "precious"
    assert files_below(tmp_path) == ["data.pkl"]


def test_check_refuses_what_cannot_be_used(tmp_path, capsys):
    file = tmp_path / "data.pkl"
    assert main(["synth", "synthetic_mosi", "--clips", "60", "--out", str(file)]) == 0
    capsys.readouterr()
    assert "missing.pkl" in refused(capsys, "check", tmp_path / "missing.pkl")
    refused(capsys, "check", file, "--label-scale", 1)
    (tmp_path / "text.pkl").write_text("hello")
    assert "text.pkl" in refused(capsys, "check", tmp_path / "text.pkl")


def test_usage_errors_end_with_status_2(capsys):
    for arguments in ([], ["chek"], ["check"], ["synth", "synthetic_mosi"], ["check", "a", "b"]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 2
        assert "usage" in capsys.readouterr().err


def test_the_module_runs_as_a_command_and_helps_without_torch(tmp_path):
    run = [sys.executable, "-m", "harness.data"]
    help_text = subprocess.run([*run, "--help"], capture_output=True, text=True, check=True).stdout
    assert "check|synth" in help_text
    command = [*run, "synth", "synthetic_moso", "--out", tmp_path / "x"]
    wrong = subprocess.run(command, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("Unknown synthetic dataset 'synthetic_moso'")
    code = "import harness.data.__main__, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
