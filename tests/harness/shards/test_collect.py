"""Shards without databases, and the collection of their results: the numbers of one run, each cell once."""

import dataclasses
import json
import shutil

import pytest

from backbones import BACKBONES
from backbones.text import BertSettings, TextSettings
from harness.collect import main as collect
from harness.files import load_json
from harness.matrix import Cell
from harness.shards.stored import read_cell
from harness.study.unlogged import write_sums
from harness.tracking.artifacts import CONFIG_FILE, RESULT_FILE
from harness.tracking.tracker import Tracker
from methods import METHODS
from tests.support.drivers.driving import CELLS, assert_each_cell_once, run


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A var_dir in which both shards of the matrix ended."""
    var = tmp_path_factory.mktemp("sharded")
    for number in (1, 2):
        assert run(var, f"shard={number}/2") == 0
    return var


@pytest.fixture
def var(var_dir, sharded):
    """A store without runs, beside the results of two shards."""
    shutil.copytree(sharded / "shards", var_dir / "shards")
    return var_dir


def results(var):
    return sorted(path for path in (var / "shards" / "s").iterdir() if path.is_dir())


def collected(var, *more, status=0):
    assert collect([f"var_dir={var}", "study=s", *more]) == status


def change(folder, name, make):
    """Change a JSON file of a result, with checksums that fit."""
    path = folder / name
    path.write_text(json.dumps(make(json.loads(path.read_text()))))
    (folder / "SHA256SUMS").unlink()
    write_sums(folder)


def test_shards_touch_no_database(sharded):
    assert {path.name for path in sharded.iterdir()} <= {"shards", "cache"}
    assert len(results(sharded)) == CELLS
    assert len(list((sharded / "shards" / "s").glob("request-*.json"))) == 1


def test_collected_results_are_those_of_one_run(var, finished_study, capsys):
    collected(var)
    assert f"Logged {CELLS} cells of study 's'; 0 were logged before." in capsys.readouterr().out
    assert_each_cell_once(var, finished_study)
    collected(var)
    assert f"Logged 0 cells of study 's'; {CELLS} were logged before." in capsys.readouterr().out
    assert run(var) == 0
    assert f"All {CELLS} cells of study 's' are done." in capsys.readouterr().out
    assert len(list(Tracker(None, var, "s", create=False).runs())) == CELLS


def test_a_shard_trains_what_it_lacks_alone(sharded, tmp_path, monkeypatch, capsys):
    shutil.copytree(sharded, tmp_path / "var")
    [lost, *_] = results(tmp_path / "var")
    shutil.rmtree(lost)
    assert run(tmp_path / "var", "shard=1/1") == 0
    assert f"{CELLS} of the {CELLS} cells of shard 1/1 of study 's' have a result." in capsys.readouterr().out
    assert lost.is_dir()
    monkeypatch.setattr("harness.launchers.job.train", None)
    assert run(tmp_path / "var", "shard=2/3") == 0


def test_what_is_missing_is_said(var, capsys):
    """That a later start trains it is shown with the spoilt results below."""
    for folder in results(var)[3:]:
        shutil.rmtree(folder)
    collected(var)
    said = capsys.readouterr().out
    assert f"{CELLS - 3} of the {CELLS} cells of its last request have no result yet" in said
    assert "shard=" not in said


def test_results_of_several_folders_count_once(var, sharded, finished_study, tmp_path):
    """Both a copied var_dir and the folder of results can be given."""
    copy = tmp_path / "copy"
    shutil.copytree(sharded / "shards" / "s", copy)
    for folder in sorted(path for path in copy.iterdir() if path.is_dir())[:5]:
        shutil.rmtree(folder)
    collected(var, f"from={copy}", f"from={sharded}")
    assert_each_cell_once(var, finished_study)
    assert len(results(sharded)) == CELLS, "files stay where they are"


def half_written(folder):
    shutil.copytree(folder, folder.with_name(f"{folder.name}.0123.tmp"))
    shutil.rmtree(folder)


def damaged(folder):
    with (folder / RESULT_FILE).open("a") as file:
        file.write(" ")


def of_another_cell(folder):
    change(folder, CONFIG_FILE, lambda cell: {**cell, "seed": 7})


def of_an_unknown_method(folder):
    change(folder, CONFIG_FILE, lambda cell: {**cell, "method": "unheard"})


def of_a_hostile_metric(folder):
    change(folder, RESULT_FILE, lambda result: {**result, "scores": {"test": {"a\nb": 1.0}}})


def of_a_text_for_a_number(folder):
    change(folder, RESULT_FILE, lambda result: {**result, "cell": {"wall_s": "1"}})


def of_an_unknown_status(folder):
    change(folder, RESULT_FILE, lambda result: {**result, "status": "paused"})


SPOILT = (damaged, of_another_cell, of_an_unknown_method, of_a_hostile_metric, of_a_text_for_a_number,
          of_an_unknown_status)  # fmt: skip


def test_spoilt_results_are_left_out_with_a_sentence(var, finished_study, capsys):
    folders = results(var)
    half_written(folders[-1])
    for spoil, folder in zip(SPOILT, folders, strict=False):
        spoil(folder)
    collected(var, status=1)
    said = capsys.readouterr().out
    assert said.count("is no whole result (") == len(SPOILT)
    for folder in folders[: len(SPOILT)]:
        assert f"{str(folder)!r} is no whole result (" in said
    assert f"Logged {CELLS - len(SPOILT) - 1} cells" in said
    assert run(var) == 0
    assert_each_cell_once(var, finished_study)


def test_tags_of_a_file_do_not_replace_those_of_its_cell(var, finished_study):
    for folder in results(var):
        change(folder, "waiting.json", lambda w: {**w, "tags": {**w["tags"], "kind": "study", "seed": "9"}})
        more = {"cell_id": "x", "outcome": "failed", "mlflow.user": "nobody"}
        change(folder, RESULT_FILE, lambda r, more=more: {**r, "environment": {**r["environment"], **more}})
    collected(var)
    assert_each_cell_once(var, finished_study)
    for stored in Tracker(None, var, "s", create=False).runs():
        assert stored.tags["seed"] in ("1111", "1112")


def test_a_training_that_diverged_is_logged_and_counted(var, capsys):
    folder, *rest = results(var)
    for other in rest[2:]:
        shutil.rmtree(other)
    change(folder, RESULT_FILE, lambda r: {**r, "status": "diverged", "reason": "loss is NaN in epoch 1"})
    collected(var)
    said = capsys.readouterr().out
    assert "Logged 2 cells of study 's'; 0 were logged before; 1 diverged." in said
    assert list(Tracker(None, var, "s", create=False).diverged()) == [folder.name]


def test_a_cell_that_no_request_asks_for_is_left_out(var, capsys):
    [request] = (var / "shards" / "s").glob("request-*.json")
    stored = json.loads(request.read_text())
    cells = {row[0] for row in stored["rows"][:3]}
    stored["rows"] = stored["rows"][1:]
    request.write_text(json.dumps(stored))
    for folder in results(var):
        if folder.name not in cells:
            shutil.rmtree(folder)
    collected(var, status=1)
    said = capsys.readouterr().out
    assert said.count("No request in ") == 1
    assert "Logged 2 cells" in said


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"datasets": {}, "code": {}}', '{"datasets": {"a": 1}}', '{"x": 1}']
)
def test_a_spoilt_request_is_left_out_with_its_results(content, var, capsys):
    [request] = (var / "shards" / "s").glob("request-*.json")
    request.write_text(content)
    collected(var, status=1)
    said = capsys.readouterr().out
    assert f"{str(request)!r} is no request of a shard (" in said
    assert "Logged 0 cells" in said


def test_bad_requests_get_one_sentence(var, tmp_path, capsys):
    for arguments, words in (
        (["study=s", f"from={tmp_path / 'nowhere'}"], "There are no results of shards in '"),
        (["study=other"], "as in from=DIR."),
        ([], "give study=NAME"),
        (["study=s", "shard=1/2"], "Unknown setting 'shard'"),
    ):
        assert collect([f"var_dir={var}", *arguments]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    assert run(var, "shard=5/4") == 2
    assert "shard='5/4' is not allowed" in capsys.readouterr().err


@pytest.mark.parametrize("text", [TextSettings(), BertSettings("bert", "0123", True, 2e-5, 0.0)])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("method", METHODS)
def test_a_cell_is_rebuilt_from_its_json(backbone, method, text):
    settings = BACKBONES[backbone].Settings(), METHODS[method].Settings()
    cell = Cell("x", "mosi", 3.0, "f", backbone, settings[0], method, settings[1], 1, text, (0.0, 0.5), 0.1)
    assert read_cell(load_json(json.dumps(dataclasses.asdict(cell)))) == cell
