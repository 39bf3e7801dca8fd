"""Unusual feature files, end to end: each is trained on or refused in one sentence; no score is invented."""

import contextlib
import math
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from backbones import BACKBONES
from harness.benchmark import main as benchmark
from harness.config.compose import load_benchmark
from harness.data.__main__ import main as data
from harness.data.store import load_dataset
from harness.errors import UserError
from harness.plan import make_plan
from harness.train.loop import Diverged, train
from methods import METHODS
from reports.export import main as export
from tests.support.awkward import REFUSED, TRAINED, write

HUGE = {"1e30"}  # training may diverge on these, and says where
# MISA's recurrent layers are as wide as their input: 4,000,000,000 weights here.
TOO_WIDE = {("vision 10,000 wide", "misa")}
# After reading, these files equal valid ones.
FORMS = {"labels (N, 1)", "labels whole", "labels a list", "labels objects", "no time axis", "further keys"}
FORMS |= {"features whole", "tokens", "tokens masked", "ids numbers", "ids bytes", "ids hostile", "one video"}


def settings(var, path):
    every = [f"backbones=[{','.join(BACKBONES)}]", f"methods=[{','.join(METHODS)}]"]
    place = [f"var_dir={var}", "datasets=[mine]", f"dataset.mine.path={path}"]
    return [*place, *every, "profile=quick", "seeds=[1]", "train.max_epochs=1", "occlusion.ratios=[0,0.5,1]"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Compose the configuration once, because that takes longer than training here."""
    return load_benchmark(settings(tmp_path_factory.mktemp("var"), "x"))


def assert_honest(result):
    """Every score is a number, or undefined with its reason."""
    for key, scores in result.scores.items():
        for name, value in scores.items():
            undefined = f"{key}/{name}" in result.undefined
            assert math.isnan(value) if undefined else math.isfinite(value), (key, name, value)
    for values in result.predictions.values.values():
        assert np.isfinite(values).all()


@pytest.mark.parametrize("count", [1, pytest.param(len(BACKBONES), marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", TRAINED)
def test_it_is_trained_on(name, count, config, tmp_path, capsys, monkeypatch):
    """Backbones and methods take turns and train without warnings; one pair if only the format is unusual."""
    monkeypatch.setattr("harness.train.networks.memory_bytes", lambda device: 16e9)
    path = write(TRAINED[name](), tmp_path)
    assert data(["check", str(path)]) == 0
    assert re.search(r"^train +\d+ ", capsys.readouterr().out, re.MULTILINE)
    turn, backbones = list(TRAINED).index(name), list(BACKBONES)
    pairs = {b: list(METHODS)[(turn + i) % len(METHODS)] for i, b in enumerate(backbones)}
    config.dataset.mine.path, config.methods = str(path), list(set(pairs.values()))
    count = 1 if name in FORMS else count
    config.backbones = [backbones[(turn + i) % len(backbones)] for i in range(count)]
    plan = make_plan(config)
    dataset = load_dataset(plan.datasets["mine"].folder)
    cells = [cell for cell in plan.cells if cell.method == pairs[cell.backbone]]
    assert len(cells) == len(config.backbones)
    for cell in cells:
        if (name, cell.backbone) in TOO_WIDE:
            with pytest.raises(UserError, match=r"80\.\d GB of memory, but there are only 16\.0 GB"):
                train(cell, dataset, torch.device("cpu"))
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with contextlib.suppress(Diverged) if name in HUGE else contextlib.nullcontext():
                assert_honest(train(cell, dataset, torch.device("cpu")))


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_sentence(name, config, tmp_path, capsys):
    make, reason = REFUSED[name]
    config.dataset.mine.path = str(write(make(), tmp_path))
    assert data(["check", config.dataset.mine.path]) == 2
    out, said = capsys.readouterr()
    assert reason in said
    assert re.fullmatch(r"[^\x00-\x1f]+\n", said)
    assert out == ""
    with pytest.raises(UserError) as caught:
        make_plan(config)
    typed = said.replace("--label-", "dataset.mine.label_").replace("--valid_", "dataset.mine.valid_")
    assert f"{caught.value}\n" == typed


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["labels zero", *(pytest.param(n, marks=pytest.mark.soak) for n in ("1 clip in each", "1e30"))]
)
def test_it_is_reported(name, var_dir, tmp_path, capfd):
    """Test all methods, occluded in testing and training; undefined scores are NaN in export and report."""
    path = write(TRAINED[name](), tmp_path)
    more = ["study=s", "launcher=inline", "backbones=[lmf,misa]", "occlusion.protocols=[test,train]"]
    assert benchmark([*settings(var_dir, path), *more]) == (1 if name in HUGE else 0)
    out, predictions = tmp_path / "out.csv", tmp_path / "clips.parquet"
    assert export([f"var_dir={var_dir}", "study=s", f"out={out}", f"predictions={predictions}"]) == 0
    said = "".join(capfd.readouterr())
    assert "Traceback" not in said
    assert "Warning" not in said
    frame, clips = pd.read_csv(out), pd.read_parquet(predictions)
    lost = frame[~np.isfinite(frame["value"])]
    assert set(lost["metric"]) <= {"corr", "acc2_non0", "f1_non0"}
    assert np.isfinite(clips["prediction"]).all()
    assert clips.groupby("cell_id")["id"].nunique().eq(len(TRAINED[name]()["test"]["id"])).all()
    page = (var_dir / "reports" / "s" / "index.html").read_text(encoding="utf-8")
    cells = re.findall(r'<td class="n"[^>]*>(.*?)</td>', page)
    assert cells
    assert not [cell for cell in cells if re.search(r"\b(nan|inf|NaN)\b", cell)]
