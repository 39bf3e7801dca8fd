"""Variants of backbones through training, shards, export and report."""

import json

import harness
from harness.benchmark import main as benchmark
from harness.collect import main as collect
from sweeps.run import main as sweep

VARIANT = "lmf{learning_rate:0.01}"
CELLS = {"methods": ["none", "mixup"], "backbones": ["lmf", VARIANT], "datasets": ["synthetic_mosi"]}
CELLS |= {"seeds": [1, 2], "dataset.synthetic_mosi.clips": 60, "train.max_epochs": 1, "launcher": "inline"}


def test_a_variant_has_its_own_name_in_export_and_report(var_dir):
    frame = harness.run(**CELLS, var_dir=var_dir, study="s")
    assert set(frame["backbone"]) == {"lmf", VARIANT}
    assert frame.groupby("backbone")["cell_id"].nunique().tolist() == [4, 4]
    rates = {json.loads(text)["backbone_settings"]["learning_rate"] for text in frame["resolved"]}
    assert 0.01 in rates
    assert len(rates) == 2
    folder = var_dir / "reports" / "s"
    assert "LMF{learning_rate:0.01}" in (folder / "index.html").read_text()
    # From the stored study file, the same cells come again.
    again = harness.run(folder / "study.yaml", var_dir=var_dir, launcher="inline", report=False)
    assert set(again["cell_id"]) == set(frame["cell_id"])


def test_a_variant_is_trained_in_shards(var_dir):
    given = [f"var_dir={var_dir}", "study=t", "methods=[none]", f"backbones=[{VARIANT}]", "seeds=[1]"]
    given += ["datasets=[synthetic_mosi]", "dataset.synthetic_mosi.clips=60", "train.max_epochs=1"]
    assert benchmark([*given, "launcher=inline", "shard=1/1"]) == 0
    assert collect([f"var_dir={var_dir}", "study=t"]) == 0


def test_a_sweep_takes_no_variant(var_dir, capsys):
    assert sweep([f"var_dir={var_dir}", "param=delta", f"backbones=[{VARIANT}]"]) == 2
    assert "A sweep takes backbones without settings" in capsys.readouterr().err
