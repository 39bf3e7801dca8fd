"""The summary of a dataset and its conversion, and what both commands print."""

import pickle

import numpy as np
import pytest

from harness.data.__main__ import main
from harness.data.labels import LabelScale, given_scale
from harness.data.mmsa.reader import LABELS, read_mmsa
from harness.data.summary import summary_lines
from tests.harness.data.layout_files import LAYOUT_NAMES, layout_bytes
from tests.harness.data.test_data_cli import refused
from tests.harness.data.test_mmsa import make_content, make_file, read
from tests.harness.data.test_store import arrays_of


def test_the_summary_describes_every_split():
    content, truth = make_file()
    content["train"][LABELS][:] = [-3, 0, 0, 0, 3]
    content["train"]["vision"][[0, 1]] = 0
    content["train"]["audio"][0, 0, 0] = np.nan
    lines = summary_lines(read(content))
    assert lines[0].split() == ["split", "clips", "videos", "labels", "mean", "std"]
    assert lines[1].split() == ["train", "5", "3", "-3", "to", "3", "0.000", "1.897"]
    audio = sorted(len(sequence) for sequence in truth["train"]["audio"])
    rows = [line.split() for line in lines]
    expected = ["audio", "train", "9", "2", *(str(audio[place]) for place in (0, 2, -1)), "100.0%"]
    assert next(row for row in rows if row[:2] == ["audio", "train"])[:8] == expected
    assert next(row for row in rows if row[:2] == ["vision", "train"])[7] == "60.0%"
    assert lines[-1] == "note: audio held NaN, set to 0 (values: train 1)."
    assert not any("\n" in line for line in lines)


def test_the_histogram_counts_every_label():
    content = make_content()
    content["train"][LABELS][:] = [-3, 0, 0, 0, 3]
    content["valid"][LABELS][:] = [-0.5, -1.5, 2.5]
    content["test"][LABELS][:] = [1, 1.5, 2.0, -2]
    lines = summary_lines(read(content))
    start = next(row for row, line in enumerate(lines) if line.startswith("labels"))
    assert [line.replace("#", "").split() for line in lines[start + 1 : start + 7]] == [
        ["-3", "to", "-2", "1", "0", "0"],
        ["-2", "to", "-1", "0", "1", "1"],
        ["-1", "to", "0", "0", "1", "0"],
        ["0", "to", "1", "3", "0", "0"],
        ["1", "to", "2", "0", "0", "2"],
        ["2", "to", "3", "1", "1", "1"],
    ]
    assert lines[start + 4].split()[3] == "#" * 16
    assert lines[start + 1].split()[3] == "#" * 5


def test_the_summary_counts_no_videos_where_not_every_id_names_one():
    content = make_content()
    content["train"]["id"][4] = "alone"
    content["valid"]["id"] = [3, 4, 5]
    content["test"]["id"] = ["a$_$b$_$1", "a$_$c", "$_$1", "b$_$"]
    rows = [line.split()[:3] for line in summary_lines(read(content))[1:4]]
    assert rows == [["train", "5", "?"], ["valid", "3", "?"], ["test", "4", "3"]]


@pytest.mark.parametrize("name", LAYOUT_NAMES)
def test_a_converted_file_reads_as_the_same_arrays(name, tmp_path, capsys):
    given, out = tmp_path / "given", tmp_path / "new" / "out.pkl"
    given.write_bytes(layout_bytes(name))
    assert main(["convert", str(given), str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{out}: clips: 5 train, 3 valid, 4 test\n")
    assert printed.endswith(f"to train on it: datasets=[mine] dataset.mine.path={out}\n")
    one, other = (read_mmsa(path, LabelScale(3.0)) for path in (given, out))
    expected, arrays = arrays_of(one), arrays_of(other)
    assert {key: array.tobytes() for key, array in arrays.items()} == {
        key: array.tobytes() for key, array in expected.items()
    }
    assert all("is all zeros" in note for note in other.notes)


@pytest.mark.parametrize("in_front", [False, True])
def test_conversion_keeps_tokens_and_the_scale(in_front, tmp_path, capsys):
    content = make_content(in_front=in_front)
    for parts in content.values():
        parts[LABELS] = parts[LABELS] + 10
    (given, out) = (tmp_path / "given", tmp_path / "out")
    given.write_bytes(pickle.dumps(content))
    assert main(["convert", str(given), str(out), "--label-center", "10"]) == 0
    assert capsys.readouterr().out.endswith(f"dataset.mine.path={out} dataset.mine.label_center=10\n")
    one, other = (read_mmsa(path, given_scale(3.0, None, 10.0, "")) for path in (given, out))
    for name, split in one.splits.items():
        assert split.tokens.tobytes() == other.splits[name].tokens.tobytes()
        assert split.labels.tobytes() == other.splits[name].labels.tobytes()
    assert other.notes == ()


def test_conversion_keeps_an_existing_file(tmp_path, capsys):
    given, out = tmp_path / "given", tmp_path / "out"
    given.write_bytes(layout_bytes("mult_mosi"))
    out.write_text("precious")
    assert f"{str(out)!r} exists; choose another name" in refused(capsys, "convert", given, out)
    assert out.read_text() == "precious"
    assert main(["convert", str(given), str(out), "--force"]) == 0
