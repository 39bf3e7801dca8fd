"""What the tests of whole sweeps share: a small one, and a look at what it left in MLflow and Optuna."""

import json

import optuna
import pandas as pd

from harness.tracking.tracker import Tracker
from sweeps.run import main
from sweeps.storage import open_storage
from tests.support.driving import MATRIX

# The benchmark's small matrix, on one backbone of it; methods and protocols are the sweep's.
SMALL = [s for s in MATRIX if not s.startswith(("methods", "backbones", "seeds", "occlusion"))]
SMALL += ["backbones=[tfn]", "seeds=[1111,1112]", "occlusion.ratios=[0,0.5]"]
PROGRAM = ("-m", "sweeps.run")


def sweep(var, *more, param="delta", launcher="inline", study="s"):
    """Run a sweep in this process; returns the exit status."""
    asked = [f"param={param}"] if param else []
    return main([*asked, f"var_dir={var}", f"study={study}", f"launcher={launcher}", *SMALL, *more])


def trials_of(var, study="s", uri=None):
    """A row per trial: its tags, and its numbers under metrics/..."""
    runs = Tracker(uri, var, study, create=False).trials()
    rows = [{**r.tags, **{f"metrics/{k}": v for k, v in r.metrics.items()}, "run_id": r.run_id} for r in runs]
    return pd.DataFrame(rows)


def values_of(var, study="s", uri=None):
    """The parameters of each trial with its objective and test error, in an order of their own."""
    rows = trials_of(var, study, uri).to_dict("records")
    return sorted((r["params"], r["metrics/objective"], r["metrics/test/mae"]) for r in rows)


def optuna_study(var, name="s/delta/tfn/synthetic_mosi", sweep="delta", uri=None):
    """The study as Optuna keeps it."""
    study = name.partition("/")[0]
    storage = open_storage(uri, var / "optuna" / study / f"{sweep}.journal")
    return optuna.load_study(study_name=name, storage=storage)


def assert_each_trial_once(var, reference, uri=None, storage=None):
    """The same settings with the same numbers as in a sweep that nothing disturbed, each once."""
    assert values_of(var, uri=uri) == values_of(reference)
    tracker = Tracker(uri, var, "s", create=False)
    cells = [r.tags["cell_id"] for r in tracker.runs()]
    asked = [c for t in tracker.trials() for c in json.loads(t.tags["cells"]).values()]
    assert sorted(cells) == sorted(asked)
    assert len(set(cells)) == len(cells)
    assert not list(tracker.runs("attributes.status = 'RUNNING'"))
    study = optuna_study(var, uri=storage)
    states = [t.state.name for t in study.trials]
    assert states.count("COMPLETE") == len(tracker.trials())
    assert set(states) <= {"COMPLETE", "FAIL"}
    lost = [t.user_attrs["why"] for t in study.trials if t.state.name == "FAIL"]
    assert set(lost) <= {"lost"}
