"""Real clips: the published settings reach what a plain implementation of the same model reaches."""

from pathlib import Path

import pandas as pd
import pytest

from harness.benchmark import main as benchmark
from reports.export import main as export

CLIPS = Path(__file__).parents[2] / "shared" / "data" / "mosi_text_audio.pkl"


@pytest.mark.slow
def test_lmf_without_mixing_on_2199_clips(var_dir):
    """A missing modality (vision is all zeros), no NaN anywhere, and the floor of the two seeds' mean."""
    if not CLIPS.exists():
        pytest.skip("the real clips (../shared/data) are not here")
    data = ["datasets=[real]", f"dataset.real.path={CLIPS}", "dataset.real.label_scale=3"]
    cells = ["dataset.real.metrics=mosi", "backbones=[lmf]", "methods=[none]", "seeds=[1111,1112]"]
    assert benchmark([*data, *cells, "study=real", f"var_dir={var_dir}"]) == 0
    out = var_dir / "out.csv"
    assert export([f"var_dir={var_dir}", "study=real", f"out={out}"]) == 0
    frame = pd.read_csv(out)
    assert frame["value"].notna().all()
    test = frame[frame["split"] == "test"].groupby("metric")["value"].mean()
    assert test["corr"] >= 0.65
    assert test["mae"] <= 0.95
