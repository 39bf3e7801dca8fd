"""Real clips: the published settings reach what a plain implementation of the same model reaches."""

import pandas as pd
import pytest

from backbones import BACKBONES
from harness.benchmark import main as benchmark
from methods import METHODS
from reports.export import main as export
from tests.support.paths import SHARED

DATA = SHARED / "data"
MEDIAN_MAE = 1.46  # of predicting the training split's median for the 2,199 clips

# What a core can train in a minute; GLoMo learns slowly at its published rate.
BOUNDED = {
    "tfn": ["train.max_epochs=3"],
    "mult": ["train.max_epochs=3"],
    "misa": ["train.max_epochs=12"],
    "almt": ["train.max_epochs=15"],
    "glomo": ["train.max_epochs=8", "backbone.glomo.learning_rate=0.0005"],
}
LONG = {"almt", "glomo", "misa", "mult"}


def numbers(var_dir, file, *settings):
    """All numbers of a study on one of the files."""
    if not DATA.exists():
        pytest.skip("the real clips (../shared/data) are not here")
    data = ["datasets=[real]", f"dataset.real.path={DATA / file}", "dataset.real.label_scale=3"]
    data += ["dataset.real.metrics=mosi", "study=real", f"var_dir={var_dir}"]
    assert benchmark([*data, "report=false", *settings]) == 0
    out = var_dir / "out.csv"
    assert export([f"var_dir={var_dir}", "study=real", f"out={out}"]) == 0
    return pd.read_csv(out)


@pytest.mark.slow
def test_lmf_without_mixing_on_2199_clips(var_dir):
    """A missing modality (vision is all zeros), no NaN anywhere, and the floor."""
    frame = numbers(var_dir, "mosi_text_audio.pkl", "backbones=[lmf]", "methods=[none]", "seeds=[1111]")
    assert frame["value"].notna().all()
    test = frame[frame["split"] == "test"].groupby("metric")["value"].mean()
    assert test["corr"] >= 0.65
    assert test["mae"] <= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    [pytest.param(b, marks=[pytest.mark.soak] * (b in LONG)) for b in sorted(set(BACKBONES) - {"lmf"})],
)
def test_every_backbone_learns_from_2199_clips(var_dir, backbone):
    """Within a few epochs it is far from the training median."""
    settings = [f"backbones=[{backbone}]", "methods=[none]", "seeds=[1111]", "launcher=inline"]
    bounds = BOUNDED.get(backbone, ["train.max_epochs=6"])
    frame = numbers(var_dir, "mosi_text_audio.pkl", *settings, *bounds)
    test = frame[frame["split"] == "test"].set_index("metric")["value"]
    assert test["mae"] < MEDIAN_MAE - 0.25
    assert test["corr"] > 0.4


@pytest.mark.slow
@pytest.mark.parametrize(("methods", "backbones"), [(METHODS, ["lmf"]), (["ms_mix"], BACKBONES)])
def test_every_method_and_every_backbone_runs_on_752_clips(var_dir, methods, backbones):
    names = [f"methods=[{','.join(methods)}]", f"backbones=[{','.join(backbones)}]", "seeds=[1111]"]
    frame = numbers(var_dir, "mosi_752_trimodal.pkl", *names, "train.max_epochs=1", "train.max_batches=3")
    mae = frame[(frame["split"] == "test") & (frame["metric"] == "mae")]
    assert len(mae) == len(methods) * len(backbones)
    # MulT has made a single step by then (it sums gradients over 8 batches): 1.2 to 5.1, by the seed.
    assert mae["value"].between(0, 6).all()
    assert mae.loc[mae["backbone"] != "mult", "value"].between(0, 3).all()
