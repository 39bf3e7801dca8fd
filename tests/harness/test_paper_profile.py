"""The paper profile on a tree of files in MMSA's layout, written by `harness.data synth` at full shapes."""

import pandas as pd
import pytest

from harness.benchmark import main as benchmark
from harness.data.__main__ import main as data
from reports.export import main as export

TREE = {
    "MOSI/Processed/unaligned_50.pkl": "synthetic_mosi",
    "MOSEI/Processed/unaligned_50.pkl": "synthetic_mosei",
    "SIMS/Processed/unaligned_39.pkl": "synthetic_sims",
}


@pytest.mark.slow
def test_it_runs_under_both_protocols(tmp_path, var_dir):
    for path, name in TREE.items():
        file = str(tmp_path / path)
        assert data(["synth", name, "--size", "full", "--clips", "60", "--out", file]) == 0
        assert data(["check", file, "--label-scale", "1" if "SIMS" in path else "3"]) == 0
    given = ["profile=paper", f"data_root={tmp_path}", f"var_dir={var_dir}", "report=false", "seeds=[1111]"]
    given += ["train.max_batches=2", "train.max_epochs=1", "backbones=[lmf]", "methods=[none,ms_mix]"]
    assert benchmark([*given, "occlusion.ratios=[0,0.1,0.9,1]"]) == 0
    assert export([f"var_dir={var_dir}", "study=paper", f"out={tmp_path / 'out.csv'}"]) == 0
    frame = pd.read_csv(tmp_path / "out.csv")
    assert set(frame["dataset"]) == {"mosi", "mosei", "sims"}
    test = frame[frame["split"] == "test"]
    by_protocol = test.groupby("occlusion_protocol")["occlusion_ratio"].agg(lambda r: sorted(set(r)))
    assert by_protocol["test"] == [0, 0.1, 0.9, 1]
    assert by_protocol["train"] == [0.1, 0.3, 0.5, 0.7]
    conditions = ["dataset", "backbone", "method", "occlusion_protocol", "occlusion_ratio"]
    assert len(test[conditions].drop_duplicates()) == 3 * 2 * (4 + 4)
    # At ratio 1 the lengths are left, so predictions need not be constant.
    assert set(frame.loc[frame["value"].isna(), "metric"]) <= {"corr"}
