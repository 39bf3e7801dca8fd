"""The paper profile on a tree of files in MMSA's layout, written by `harness.data synth` at full shapes."""

import pandas as pd
import pytest

from harness.benchmark import main as benchmark
from harness.data.__main__ import main as data
from reports.export import main as export

TREE = {
    "MOSI/Processed/unaligned_50.pkl": ["synthetic_mosi"],
    "MOSI/Processed/aligned_50.pkl": ["synthetic_mosi", "--aligned"],
    "MOSEI/Processed/unaligned_50.pkl": ["synthetic_mosei"],
    "MOSEI/Processed/aligned_50.pkl": ["synthetic_mosei", "--aligned"],
    "SIMS/Processed/unaligned_39.pkl": ["synthetic_sims"],
}
SHORT = ["train.max_batches=2", "train.max_epochs=1", "seeds=[1111]", "backbones=[tfn,lmf]"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    for path, arguments in TREE.items():
        assert data(["synth", *arguments, "--size", "full", "--clips", "60", "--out", str(root / path)]) == 0
        scale = "1" if "SIMS" in path else "3"
        assert data(["check", str(root / path), "--label-scale", scale]) == 0
    return root


def run(var, tree, *more):
    arguments = ["profile=paper", f"data_root={tree}", f"var_dir={var}", "report=false", *SHORT, *more]
    assert benchmark(arguments) == 0
    out = var / "out.csv"
    assert export([f"var_dir={var}", "study=paper", f"out={out}"]) == 0
    return pd.read_csv(out)


@pytest.mark.slow
def test_unaligned_under_both_protocols(tree, var_dir):
    ratios = "occlusion.ratios=[0,0.1,0.9,1]"
    frame = run(var_dir, tree, "methods=[none,ms_mix]", ratios)
    assert set(frame["dataset"]) == {"mosi", "mosei", "sims"}
    test = frame[frame["split"] == "test"]
    by_protocol = test.groupby("occlusion_protocol")["occlusion_ratio"].agg(lambda r: sorted(set(r)))
    assert by_protocol["test"] == [0, 0.1, 0.9, 1]
    assert by_protocol["train"] == [0.1, 0.3, 0.5, 0.7]
    conditions = ["dataset", "backbone", "method", "occlusion_protocol", "occlusion_ratio"]
    assert len(test[conditions].drop_duplicates()) == 3 * 2 * 2 * (4 + 4)
    # At ratio 1 the lengths are left, so predictions need not be constant.
    assert set(frame.loc[frame["value"].isna(), "metric"]) <= {"corr"}


@pytest.mark.slow
def test_aligned(tree, var_dir):
    aligned = ["dataset.mosi.aligned=true", "dataset.mosei.aligned=true", "datasets=[mosi,mosei]"]
    frame = run(var_dir, tree, *aligned, "methods=[none,mixup]", "occlusion.protocols=[test]")
    assert frame["cell_id"].nunique() == 8
    assert frame.loc[frame["metric"] == "mae", "value"].notna().all()
