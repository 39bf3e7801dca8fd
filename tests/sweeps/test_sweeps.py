"""Whole sweeps: command -> trials -> MLflow, resumed, refused, beside a benchmark, tuned."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from harness.matrix import readable_settings
from harness.tracking.tracker import Tracker
from methods import METHODS
from reports import export
from sweeps.run import main
from tests.support.builders import make_batch, make_sizes, small_backbone
from tests.support.driving import exported
from tests.support.driving import run as benchmark
from tests.support.sweeping import optuna_study, sweep, trials_of, values_of

PLAIN = ("backbones=[tfn]", "occlusion.ratios=[0,0.5]", "report=false")
DELTAS = [round(0.1 * i, 1) for i in range(10)]


def copy_of(var, to):
    shutil.copytree(var, to)
    return to


@pytest.fixture(scope="module")
def finished(new_var):
    """A finished sweep of delta, trained inline."""
    var = new_var()
    assert sweep(var, "report=true") == 0
    return var


def test_every_point_of_the_grid_is_one_trial(finished):
    trials = trials_of(finished)
    assert [json.loads(p) for p in trials["params"]] == [{"delta": delta} for delta in DELTAS]
    assert set(trials["state"]) == {"complete"}
    assert trials["kind"].eq("trial").all()
    assert [t.params for t in optuna_study(finished).trials] == [{"delta": delta} for delta in DELTAS]
    assert [t.value for t in optuna_study(finished).trials] == list(trials["metrics/objective"])
    assert trials["default"].tolist() == [str(delta == 0.2).lower() for delta in DELTAS]


def test_a_trial_is_the_mean_of_its_cells(finished):
    tracker = Tracker(None, finished, "s", create=False)
    cells = tracker.complete()
    for _, trial in trials_of(finished).iterrows():
        runs = [cells[c] for c in json.loads(trial["cells"]).values()]
        assert len(runs) == 2
        for name in ("valid/loss", "test/mae", "test_r0.50/mae"):
            mean = (runs[0].metrics[name] + runs[1].metrics[name]) / 2
            assert trial[f"metrics/{name}"] == pytest.approx(mean, rel=1e-12)
        assert trial["metrics/objective"] == trial["metrics/valid/loss"]
        assert all(run.tags["sweep"] == "delta" for run in runs)


def test_the_sampler_never_sees_the_test_split(finished):
    for trial in optuna_study(finished).trials:
        assert "test" not in json.dumps({**trial.user_attrs, **trial.system_attrs})


def test_a_second_call_trains_nothing(finished, monkeypatch):
    before = values_of(finished)
    monkeypatch.setattr("harness.train.loop.train", None)
    assert sweep(finished) == 0
    assert values_of(finished) == before


def test_cells_of_a_sweep_stay_out_of_the_main_numbers(finished, tmp_path, capsys):
    var = copy_of(finished, tmp_path / "var")
    frame, _ = exported(var)
    assert frame.empty
    out = tmp_path / "delta.csv"
    assert export.main([f"var_dir={var}", "study=s", "sweep=delta", f"out={out}"]) == 0
    assert out.read_text().count("\n") > 20 * 9
    capsys.readouterr()


def test_the_benchmark_takes_over_what_a_sweep_trained_and_the_other_way_round(
    finished, tmp_path, monkeypatch
):
    var = copy_of(finished, tmp_path / "var")
    monkeypatch.setattr("harness.train.loop.train", None)  # nothing is left to train
    assert benchmark(var, "methods=[ms_mix,'ms_mix{delta:0.4}']", *PLAIN) == 0
    frame, _ = exported(var)
    assert frame["cell_id"].nunique() == 4
    tags = [run.tags.get("sweep") for run in Tracker(None, var, "s", create=False).runs()]
    assert (tags.count("delta"), tags.count(None)) == (16, 4)
    assert sweep(var) == 0
    again, _ = exported(var)
    assert again["cell_id"].nunique() == 4


def test_processes_give_the_same_values(finished, tmp_path, new_var):
    var = new_var(tmp_path / "var")
    assert sweep(var, "jobs=2", "report=false", launcher="processes") == 0
    assert values_of(var) == values_of(finished)


def test_what_a_sweep_leaves_for_people(finished):
    tables = finished / "reports" / "s" / "tables"
    text = (tables / "sweep_delta.md").read_text()
    assert "synthetic stand-in data" in text
    assert "delta on tfn" in text
    plots = finished / "reports" / "s" / "sweeps" / "delta" / "tfn-synthetic_mosi"
    assert [path.name for path in plots.iterdir()] == ["plots.html"]
    tracker = Tracker(None, finished, "s", create=False)
    [study] = list(tracker.runs("tags.kind = 'study'"))
    stored = [f.path for f in tracker.client.list_artifacts(study.run_id, "sweeps/delta/tfn-synthetic_mosi")]
    assert stored == ["sweeps/delta/tfn-synthetic_mosi/plots.html"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.max_epochs=3", "train.max_epochs=2 (now 3)"),
        ("dataset.synthetic_mosi.seed=1", "cell.fingerprint="),
    ],
)
def test_another_request_under_the_same_name_is_refused(finished, capsys, setting, words):
    assert sweep(finished, setting) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "sweep.name=NAME" in error
    assert error.count("\n") == 1


def test_a_new_name_begins_a_new_sweep(finished, tmp_path):
    var = copy_of(finished, tmp_path / "var")
    assert sweep(var, "sweep.name=.of mine", "sweep.objective=mae", "report=false") == 0
    trials = trials_of(var)
    assert trials["sweep"].value_counts().to_dict() == {"delta": 10, ".of mine": 10}
    assert len(exported(var)[0]) == 0
    assert len(list(Tracker(None, var, "s", create=False).runs())) == 20, "the cells are the same"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Give what to sweep, param="),
        (["param=dleta"], "Did you mean 'delta'?"),
        (["tune=powmx"], "Did you mean 'powmix'?"),
        (["param=delta", "tune=none"], "one of the two"),
        (["param=delta", "sweep.objective=los"], "Did you mean 'loss'?"),
        (["param=delta", "sweep.objective=acc3"], "metric of synthetic_mosi"),
        (["tune=none", "sweep.trials=0"], "sweep.trials must be at least 1"),
        (["param=delta", "sweep.retries=-1"], "sweep.retries must be at least 0"),
        (["param=all", "sweep.prune_at=[1.5]"], "shares of the epochs in (0, 1)"),
        (["param=delta", "sweep.name="], "sweep.name='' is no name for a sweep"),
        (["param=delta", "sweep.name=a\nb"], "is no name for a sweep"),
        (["param=delta", "methods=[none]"], "methods has no effect on the sweep 'delta'"),
        (["param=delta", "sweep.trials=5"], "sweep.trials has no effect"),
        (["param=delta", "occlusion.protocols=[train]"], "occlusion.protocols has no effect"),
        (["tune=none", "tuned=var/tuned"], "leave out tuned=DIR"),
        (["param=mine.yaml"], "mine.yaml"),
        (["param=delta", "sweep.storage=mysql://u:secret@host/db"], "sweep storage"),
        (["param=delta", "backbones=[tfm]"], "Did you mean 'tfn'?"),
        (["param=delta", "sweep.storage=postgresql://u:secret@127.0.0.1:9/d"], "storage 'postgresql://127.0"),
    ],
)
def test_bad_requests_get_one_sentence(tmp_path, capsys, arguments, said):
    assert main([*arguments, f"var_dir={tmp_path / 'var'}"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert "secret" not in error


def test_pruning_leaves_the_rest_as_it_is(var_dir, tmp_path, new_var):
    """The trials that go on have the numbers that they have without pauses."""
    settings = ["train.max_epochs=8", "sweep.trials=12", "report=false"]
    assert sweep(var_dir, *settings, "sweep.prune_at=[0.25,0.5]", param="all") == 0
    trials = trials_of(var_dir)
    assert set(trials["state"]) == {"complete", "pruned"}
    study = optuna_study(var_dir, "s/all/tfn/synthetic_mosi", "all")
    by_number = {t.number: t for t in study.trials}
    cells = Tracker(None, var_dir, "s", create=False).complete()
    for _, trial in trials.iterrows():
        ids = json.loads(trial["cells"]).values()
        assert all(c in cells for c in ids) == (trial["state"] == "complete")
        assert max(by_number[int(trial["trial"])].intermediate_values, default=2) in (2, 4)
    assert not list((var_dir / "checkpoints").rglob("*.npz"))
    # Trained at one go, as the sweep without pruning does, those that went on have the same numbers.
    other = new_var(tmp_path / "plain")
    plain = trials_of(var_dir).query("state == 'complete'").drop_duplicates("params")
    variants = ["'ms_mix" + readable_settings(json.loads(params)) + "'" for params in plain["params"]]
    assert benchmark(other, f"methods=[{','.join(variants)}]", *PLAIN, "train.max_epochs=8") == 0
    whole = Tracker(None, other, "s", create=False).complete()
    for cell_id, run in whole.items():
        numbers = {k: v for k, v in run.metrics.items() if not k.startswith(("cell/", "epoch/epoch_s"))}
        assert numbers == {k: cells[cell_id].metrics[k] for k in numbers}
    assert len(whole) == 2 * len(plain)


def test_tuned_settings_are_written_and_used(var_dir):
    settings = ["sweep.trials=4", "report=false", "tune=none"]
    assert sweep(var_dir, *settings, param=None) == 0
    file = var_dir / "tuned" / "none" / "tfn" / "synthetic_mosi.yaml"
    assert file.exists()
    best = trials_of(var_dir).sort_values("metrics/objective").iloc[0]
    assert benchmark(var_dir, "methods=[none]", *PLAIN, f"tuned={var_dir / 'tuned'}") == 0
    tracker = Tracker(None, var_dir, "s", create=False)
    mine = {run.tags["cell_id"] for run in tracker.runs() if "sweep" not in run.tags}
    assert mine == set(json.loads(best["cells"]).values())
    assert all("tuned" in run.tags for run in tracker.runs() if run.tags["cell_id"] in mine)


@pytest.mark.parametrize("name", ["tfn", "lmf", "misa", "glomo"])
def test_heads_cannot_matter_over_one_token(name):
    """A softmax over one token is 1 whatever the query and key: the heads' values are joined as they are.

    So the attention is the value projection, the same for any number of heads, and no gradient reaches the
    query and key weights.
    """
    sizes = make_sizes()
    backbone = small_backbone(name, sizes)
    latents = backbone.encode(backbone.embed(make_batch(sizes, 6)))
    assert all(values.ndim == 2 for values in latents.values.values()), "one token per modality"
    intensities = []
    for heads in (1, 2, 4, 8):
        torch.manual_seed(0)
        settings = METHODS["ms_mix"].Settings(heads=heads, attention="tokens")
        intensities.append(METHODS["ms_mix"](settings, backbone.latent_widths, 3.0).intensities(latents))
    for modality, first in intensities[0].items():
        assert all(torch.equal(first, others[modality]) for others in intensities[1:])


def test_the_sweep_of_heads_is_exactly_flat_over_one_token_and_not_over_the_batch(var_dir):
    assert sweep(var_dir, "report=false", param="heads") == 0
    trials = trials_of(var_dir)
    params = [json.loads(p) for p in trials["params"]]
    for column in ("metrics/objective", "metrics/test/mae", "metrics/test_r0.50/corr"):
        tokens = {v for v, p in zip(trials[column], params, strict=True) if p["attention"] == "tokens"}
        batch = {v for v, p in zip(trials[column], params, strict=True) if p["attention"] == "batch"}
        assert len(tokens) == 1
        assert len(batch) > 1


def test_a_wrong_name_is_answered_without_the_heavy_packages(tmp_path):
    """They take seconds to import."""
    code = (
        "import sys; from sweeps.run import main; "
        f"assert main(['param=dleta', 'var_dir={tmp_path}']) == 2; "
        "print(sorted({'mlflow', 'optuna', 'pandas', 'matplotlib', 'plotly'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
