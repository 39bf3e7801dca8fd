"""Whole sweeps: command -> trials -> MLflow, resumed, refused, beside a benchmark, tuned."""

import json
import shutil
import subprocess
import sys

import pytest

from harness.matrix import readable_settings
from harness.tracking.tracker import Tracker
from sweeps.run import main
from tests.support.drivers.driving import exported
from tests.support.drivers.driving import run as benchmark
from tests.support.drivers.sweeping import optuna_study, sweep, trials_of, values_of

PLAIN = ("backbones=[tfn]", "occlusion.ratios=[0,0.5]", "report=false")
DELTAS = [0.0, 0.2, 0.4]


def sweep_grid(var, name, settings, *more):
    """Run a sweep of a grid smaller than the published one of that name; returns the exit status."""
    space = var / f"{name}.yaml"
    space.write_text(f"method: ms_mix\nsampler: grid\nsettings: {settings}\n")
    return sweep(var, *more, param=space)


def sweep_delta(var, *more):
    return sweep_grid(var, "delta", {"delta": DELTAS}, *more)


@pytest.fixture(scope="module")
def finished(new_var):
    """A finished sweep of delta with its report, of which no figures are drawn."""
    var = new_var()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reports.page.report.FIGURES", ())
        assert sweep_delta(var, "report=true") == 0
    return var


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of it, to be written into."""
    return shutil.copytree(finished, tmp_path / "var")


def tracker_of(var):
    return Tracker(None, var, "s", create=False)


def test_every_point_of_the_grid_is_one_trial_the_mean_of_its_cells_and_is_reported(finished):
    trials, inner, cells = trials_of(finished), optuna_study(finished).trials, tracker_of(finished).complete()
    assert [json.loads(p) for p in trials["params"]] == [{"delta": delta} for delta in DELTAS]
    assert [t.params for t in inner] == [{"delta": delta} for delta in DELTAS]
    assert [t.value for t in inner] == list(trials["metrics/objective"]) == list(trials["metrics/valid/loss"])
    assert not [t for t in inner if "test" in json.dumps({**t.user_attrs, **t.system_attrs})], "kept from it"
    assert trials["default"].tolist() == [str(delta == 0.2).lower() for delta in DELTAS]
    assert (set(trials["state"]), set(trials["kind"])) == ({"complete"}, {"trial"})
    for _, trial in trials.iterrows():
        first, second = (cells[c] for c in json.loads(trial["cells"]).values())
        assert first.tags["sweep"] == second.tags["sweep"] == "delta"
        for name in ("valid/loss", "test/mae", "test_r0.50/mae"):
            mean = (first.metrics[name] + second.metrics[name]) / 2
            assert trial[f"metrics/{name}"] == pytest.approx(mean, rel=1e-12)
    text = (finished / "reports" / "s" / "tables" / "sweep_delta.md").read_text()
    assert "synthetic stand-in data" in text
    assert "delta on TFN" in text
    folder = "sweeps/delta/tfn-synthetic_mosi"
    assert [path.name for path in (finished / "reports" / "s" / folder).iterdir()] == ["plots.html"]
    tracker = tracker_of(finished)
    [study] = list(tracker.runs("tags.kind = 'study'"))
    stored = [file.path for file in tracker.client.list_artifacts(study.run_id, folder)]
    assert stored == [f"{folder}/plots.html"]


def test_the_benchmark_takes_over_what_a_sweep_trained_and_the_other_way_round(copy, finished, monkeypatch):
    monkeypatch.setattr("harness.train.loop.train", None)  # nothing is left to train
    assert exported(copy)[0].empty, "cells of a sweep stay out of the main numbers"
    assert benchmark(copy, "methods=[ms_mix,'ms_mix{delta:0.4}']", *PLAIN) == 0
    assert exported(copy)[0]["cell_id"].nunique() == 4
    tags = [run.tags.get("sweep") for run in tracker_of(copy).runs()]
    assert (tags.count("delta"), tags.count(None)) == (2, 4)
    assert sweep_delta(copy, "report=false") == 0
    assert values_of(copy) == values_of(finished)
    assert exported(copy)[0]["cell_id"].nunique() == 4


def test_another_request_is_refused_but_under_a_name_of_its_own(copy, capsys):
    assert sweep_delta(copy, "train.max_epochs=3", "dataset.synthetic_mosi.seed=1") == 2
    error = capsys.readouterr().err
    for words in ("train.max_epochs=2 (now 3)", "cell.fingerprint=", "sweep.name=NAME"):
        assert words in error
    assert error.count("\n") == 1
    assert sweep_delta(copy, "sweep.name=.of mine", "sweep.objective=mae", "report=false") == 0
    assert trials_of(copy)["sweep"].value_counts().to_dict() == {"delta": 3, ".of mine": 3}
    assert exported(copy)[0].empty
    assert len(list(tracker_of(copy).runs())) == 6, "the cells are the same"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Give either param="),
        (["param=dleta"], "Did you mean 'delta'?"),
        (["tune=powmx"], "Did you mean 'powmix'?"),
        (["param=delta", "tune=none"], "Give either param=delta"),
        (["param=delta", "sweep.objective=los"], "Did you mean 'loss'?"),
        (["param=delta", "sweep.objective=acc3"], "metric of synthetic_mosi"),
        (["tune=none", "sweep.trials=0"], "sweep.trials must be at least 1"),
        (["param=delta", "sweep.retries=-1"], "sweep.retries must be at least 0"),
        (["param=all", "sweep.prune_at=[1.5]"], "fractions of the epochs in (0, 1)"),
        (["param=delta", "sweep.name="], "sweep.name='' is not a valid sweep name"),
        (["param=delta", "methods=[none]"], "methods has no effect on the sweep 'delta'"),
        (["param=delta", "sweep.trials=5"], "sweep.trials has no effect"),
        (["param=delta", "occlusion.protocols=[train]"], "occlusion.protocols has no effect"),
        (["tune=none", "tuned=var/tuned"], "remove tuned=DIR"),
        (["param=mine.yaml"], "mine.yaml"),
        (["param=delta", "evaluate.test_curve=true"], "remove evaluate.test_curve=true"),
        (["param=delta", "report.claims=/none.yaml"], "Claims /none.yaml: the file cannot be read"),
    ],
)
def test_bad_requests_get_one_sentence(tmp_path, capsys, arguments, said):
    assert main([*arguments, f"var_dir={tmp_path / 'var'}", "dataset.synthetic_mosi.clips=60"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_pruning_leaves_the_rest_as_it_is(var_dir, tmp_path, new_var):
    """The trials that go on have the numbers that they have without pauses."""
    settings = ["train.max_epochs=4", "sweep.trials=8", "seeds=[1111]", "report=false"]
    assert sweep(var_dir, *settings, "sweep.prune_at=[0.25,0.5]", param="all") == 0
    trials = trials_of(var_dir)
    assert set(trials["state"]) == {"complete", "pruned"}
    inner, cells = optuna_study(var_dir, "all").trials, tracker_of(var_dir).complete()
    for _, trial in trials.iterrows():
        ids = json.loads(trial["cells"]).values()
        assert all(c in cells for c in ids) == (trial["state"] == "complete")
        assert max(inner[int(trial["trial"])].intermediate_values, default=1) in (1, 2)
    assert not list((var_dir / "checkpoints").rglob("*.npz"))
    # Without pauses, as in the sweep without pruning, the surviving trials have the same numbers.
    other = new_var(tmp_path / "plain")
    plain = trials_of(var_dir).query("state == 'complete'").drop_duplicates("params")
    variants = ["'ms_mix" + readable_settings(json.loads(params)) + "'" for params in plain["params"]]
    assert benchmark(other, f"methods=[{','.join(variants)}]", *PLAIN, *settings[::2]) == 0
    whole = tracker_of(other).complete()
    for cell_id, run in whole.items():
        numbers = {k: v for k, v in run.metrics.items() if not k.startswith(("cell/", "epoch/epoch_s"))}
        assert numbers == {k: cells[cell_id].metrics[k] for k in numbers}
    assert len(whole) == len(plain)


def test_tuned_settings_are_written_and_used(var_dir):
    assert sweep(var_dir, "sweep.trials=2", "report=false", "tune=none", param=None) == 0
    assert (var_dir / "tuned" / "none" / "tfn" / "synthetic_mosi.yaml").exists()
    best = trials_of(var_dir).sort_values("metrics/objective").iloc[0]
    assert benchmark(var_dir, "methods=[none]", *PLAIN, f"tuned={var_dir / 'tuned'}") == 0
    tags = [run.tags for run in tracker_of(var_dir).runs() if "sweep" not in run.tags]
    assert {mine["cell_id"] for mine in tags} == set(json.loads(best["cells"]).values())
    assert all("tuned" in mine for mine in tags)


def test_the_sweep_of_heads_is_exactly_flat_over_one_token_and_not_over_the_batch(var_dir):
    settings = {"heads": [1, 4], "attention": ["tokens", "batch"]}
    assert sweep_grid(var_dir, "heads", settings, "report=false", "seeds=[1111]") == 0
    trials = trials_of(var_dir)
    attention = trials["params"].map(lambda params: json.loads(params)["attention"])
    for column in ("metrics/objective", "metrics/test/mae", "metrics/test_r0.50/corr"):
        distinct = trials.groupby(attention)[column].nunique()
        assert distinct["tokens"] == 1
        assert distinct["batch"] > 1


def test_a_wrong_name_is_answered_without_the_heavy_packages(tmp_path):
    code = "import sys; from sweeps.run import main; assert main(sys.argv[1:]) == 2; "
    code += "print(sorted({'mlflow', 'optuna', 'pandas', 'matplotlib', 'plotly'} & set(sys.modules)))"
    command = [sys.executable, "-c", code, "param=dleta", f"var_dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
