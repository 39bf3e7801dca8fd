"""Advice in error messages is true: after following it, the error is gone.

The commands that a report advises are followed in `tests/reports/test_commands.py`.
"""

import re
import shlex
import subprocess
import sys

import pytest

from harness.checks import check_request
from harness.config.compose import load_benchmark, load_report, load_sweep
from harness.config.tuned import read_tuned
from harness.databases import server_uri
from harness.errors import UserError
from harness.tracking.tracker import Tracker
from sweeps.request import check_request as check_sweep
from sweeps.request import space_of
from sweeps.run import main as sweep
from tests.support.drivers.sweeping import SMALL


def check_benchmark(*arguments):
    check_request(load_benchmark(arguments))


def check_sweeping(*arguments):
    config = load_sweep(arguments)
    check_sweep(config, space_of(config), {argument.partition("=")[0] for argument in arguments})


MINE = "methods=[none]", "device=cpu"
# Invalid argument -> the advice in the message -> the argument to use instead; a list replaces all arguments.
BENCHMARK = {
    "train=3": ("as in train.max_epochs=VALUE", "train.max_epochs=3"),
    "dataset=x": ("as in dataset.mosi.like=VALUE", "dataset.mosi.like=mosi"),
    "max_epochs=3": ("Did you mean 'train.max_epochs'", "train.max_epochs=3"),
    "train.max_epoch=3": ("Did you mean 'train.max_epochs'", "train.max_epochs=3"),
    "profile.x=1": ("as in profile=quick", "profile=quick"),
    "seeds": ("e.g. seeds=[1111,1112]", "seeds=[1111,1112]"),
    "hydra.run=1": ("leave it out", ""),
    "methods=[none": ("write methods=[a,b]", "methods=[none,mixup]"),
    "methods=[none,]": ("write methods=[a,b]", "methods=[none,mixup]"),
    "methods=[ms_mix{delta]}": ("write methods=[a,b]", "methods=[ms_mix,none]"),
    "methods=ms_mix{delta}": (
        "write it like 'ms_mix{delta:0.4,alpha:1}'",
        "methods=ms_mix{delta:0.4,alpha:1}",
    ),
    "methods=ms_mix[sass": ("unmatched bracket", "methods=[ms_mix[sass]]"),
    "methods=mixup[x]": ("write it as 'mixup'", "methods=[mixup]"),
    "methods=[]": ("at least one is needed", "methods=[none]"),
    "datasets=[mine]": ("give dataset.mine.path=FILE", "datasets=[mine] dataset.mine.path=FILE"),
    "datasets=[my.data]": ("dataset.my_data.path=FILE", "datasets=[my_data] dataset.my_data.path=FILE"),
    "datasets=['my data']": ("dataset.my_data.path=FILE", "datasets=[my_data] dataset.my_data.path=FILE"),
    "datasets=[mossi]": ("Did you mean 'mosi'", "datasets=[mosi]"),
    "precision=bf16": ("use precision=fp32", "precision=fp32"),
    "device=mps": ("use device=cpu", "device=cpu"),
    "launcher.address=h:1": ("needs launcher=ray", "launcher=ray launcher.address=h:1"),
    "launcher=ray launcher.gpus_per_cell=1 jobs_per_gpu=1": (
        "give one of them",
        "launcher=ray jobs_per_gpu=1",
    ),
    "matrix=ablation methods=[ms_mix] tuned=x": ("leave out tuned=DIR", "matrix=ablation methods=[ms_mix]"),
    "tuned=": ("as in tuned=var/tuned", "tuned=var/tuned"),
    "var_dir=": ("as in var_dir=var", "var_dir=var"),
    "study=Default": ("use another name", "study=another"),
}
SWEEPS = {
    "": ("Give either param=delta|xi|alpha|heads|all", "param=delta"),
    "param=delta tune=none": ("or tune=METHOD", "tune=none"),
    "param=powmix": ("allowed: all, alpha, delta, heads, xi", "param=all"),
    "param=none.yaml": ("or one of param=delta|xi", "param=delta"),
    "param=delta methods=[none]": ("methods has no effect", "param=delta"),
    "param=delta occlusion.train_ratios=[0.5]": ("train_ratios has no effect", "param=delta"),
    "param=delta matrix=ablation": ("leave out matrix=ablation", "param=delta"),
    "param=delta tuned=x": ("remove tuned=DIR", "param=delta"),
    "param=delta shard=1/2": ("remove shard=", "param=delta"),
}
REPORTS = {
    "var_dir=var": ("give study=NAME", "study=NAME"),
    "study=s uri=x": ("Did you mean 'tracking.uri'", "study=s tracking.uri=x"),
}
KINDS = ((check_benchmark, BENCHMARK), (check_sweeping, SWEEPS), (lambda *a: load_report(a), REPORTS))


@pytest.mark.parametrize(
    ("check", "refused", "words", "typed"),
    [(check, refused, *rest) for check, table in KINDS for refused, rest in table.items()],
)
def test_what_is_advised_is_accepted(check, refused, words, typed):
    always = MINE[1:] if check is check_benchmark else ()
    with pytest.raises(UserError) as error:
        check(*always, *(shlex.split(refused) if "'" not in refused else [refused]))
    assert words in str(error.value)
    check(*always, *typed.split())


def test_a_postgresql_driver_that_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pg8000" else name)
    with pytest.raises(UserError, match=r"write the address as postgresql://\.\.\. for psycopg"):
        server_uri("postgresql+pg8000://host/name")
    assert server_uri("postgresql://host/name").startswith("postgresql+psycopg://host/name")


def test_tuned_settings_are_where_the_sentence_says(var_dir, capsys):
    folder = var_dir / "my settings"
    with pytest.raises(UserError) as error:
        read_tuned(folder)
    [advised] = re.findall("`(.*)`", str(error.value))
    *_, module, method, tuned_dir = shlex.split(advised)
    assert (module, method) == ("sweeps.run", "tune=METHOD")
    few = ["sweep.trials=1", "seeds=[1111]", "launcher=inline", f"var_dir={var_dir}", "study=s"]
    small = [setting for setting in SMALL if not setting.startswith("seeds=")]
    assert sweep(["tune=duplicate", tuned_dir, *small, *few]) == 0
    assert list(read_tuned(folder)) == [("duplicate", "tfn", "synthetic_mosi")]


@pytest.mark.slow
def test_a_deleted_study_is_restored(var_dir):
    tracker = Tracker(None, var_dir, "s")
    tracker.client.delete_experiment(tracker.experiment_id)
    with pytest.raises(
        UserError, match="was deleted in MLflow; use another name, or restore it with: "
    ) as error:
        Tracker(None, var_dir, "s")
    env, variable, _, *rest = shlex.split(str(error.value).partition("with: ")[2])
    subprocess.run([env, variable, sys.executable, *rest], check=True, capture_output=True)
    assert Tracker(None, var_dir, "s").experiment_id == tracker.experiment_id
