"""Code shared by tests of whole sweeps: a small sweep, and its records in MLflow and Optuna."""

import json

import optuna
import pandas as pd

from harness.tracking.tracker import Tracker
from sweeps.run import main
from sweeps.storage import open_storage
from tests.support.drivers.driving import MATRIX

# The benchmark's small matrix, on one backbone of it; methods and protocols are the sweep's.
SMALL = [s for s in MATRIX if not s.startswith(("methods", "backbones", "seeds", "occlusion"))]
SMALL += ["backbones=[tfn]", "seeds=[1111,1112]", "occlusion.ratios=[0,0.5]"]
PROGRAM = ("-m", "sweeps.run")


def sweep(var, *more, param="delta", launcher="inline"):
    """Run a sweep in this process; returns the exit status."""
    asked = [f"param={param}"] if param else []
    return main([*asked, f"var_dir={var}", "study=s", f"launcher={launcher}", *SMALL, *more])


def trials_of(var, uri=None):
    """A row per trial: its tags, and its numbers under metrics/..."""
    runs = Tracker(uri, var, "s", create=False).trials()
    rows = [{**r.tags, **{f"metrics/{k}": v for k, v in r.metrics.items()}, "run_id": r.run_id} for r in runs]
    return pd.DataFrame(rows)


def values_of(var, uri=None):
    """The parameters of each trial with its objective and test error, in an order of their own."""
    columns = trials_of(var, uri)[["params", "metrics/objective", "metrics/test/mae"]]
    return sorted(columns.itertuples(index=False, name=None))


def optuna_study(var, sweep="delta", uri=None):
    """Return Optuna's study."""
    storage = open_storage(uri, var / "optuna" / "s" / f"{sweep}.journal")
    return optuna.load_study(study_name=f"s/{sweep}/tfn/synthetic_mosi", storage=storage)


def assert_each_trial_once(var, reference, uri=None, storage=None):
    """The same settings with the same numbers as in a sweep that nothing disturbed, each once."""
    assert values_of(var, uri=uri) == values_of(reference)
    tracker = Tracker(uri, var, "s", create=False)
    cells = [r.tags["cell_id"] for r in tracker.runs()]
    asked = [c for t in tracker.trials() for c in json.loads(t.tags["cells"]).values()]
    assert sorted(cells) == sorted(asked)
    assert len(set(cells)) == len(cells)
    assert not list(tracker.runs("attributes.status = 'RUNNING'"))
    trials = optuna_study(var, uri=storage).trials
    states = [t.state.name for t in trials]
    assert states.count("COMPLETE") == len(tracker.trials())
    assert set(states) <= {"COMPLETE", "FAIL"}
    assert {t.user_attrs["why"] for t in trials if t.state.name == "FAIL"} <= {"lost"}
