"""Use from Python: `harness.run`, and a method in a training loop of one's own."""

import re
import runpy
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import harness
from harness.config.compose import load_benchmark
from harness.config.study_file import arguments_of, expand
from harness.errors import UserError
from reports import export
from reports.runs.frame import EXPORT
from tests.support.paths import ROOT

MARK = "<!-- run by tests/end_to_end/test_python.py -->"
SMALL = {"methods": ["none"], "backbones": ["lmf"], "datasets": ["synthetic_mosi"], "seeds": [1]}
SMALL |= {"launcher": "inline", "report": False, "dataset.synthetic_mosi.clips": 60}


def block_of(page):
    code = re.findall(MARK + r"\n```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert len(code) == 1
    return code[0]


def test_the_frame_is_the_export_and_a_second_call_trains_nothing(var_dir, tmp_path, capsys):
    given = {**SMALL, "seeds": np.array([0, 1]), "train": {"max_epochs": 1}, "var_dir": var_dir, "study": "s"}
    frame = harness.run(**given)
    assert tuple(frame.columns) == EXPORT
    assert frame["seed"].unique().tolist() == [0, 1]
    assert export.main([f"var_dir={var_dir}", "study=s", f"out={tmp_path / 'numbers.csv'}"]) == 0
    stored = pd.read_csv(tmp_path / "numbers.csv")
    pd.testing.assert_frame_equal(frame, stored, check_dtype=False)
    capsys.readouterr()
    pd.testing.assert_frame_equal(harness.run(**given), frame)
    assert "All 2 cells of study 's' are done." in capsys.readouterr().out


def test_the_example_of_the_readme_runs(var_dir, monkeypatch):
    run = harness.run
    small = {**SMALL, "methods": ["none", "mixup"], "var_dir": var_dir}
    monkeypatch.setattr(harness, "run", lambda **given: run(**{**given, **small, "train": {"max_epochs": 1}}))
    scope = {}
    exec(compile(block_of("README.md"), "README.md", "exec"), scope)
    assert set(scope["frame"]["method"]) == {"none", "mixup"}


def test_a_file_of_settings_comes_first(tmp_path):
    (tmp_path / "mine.yaml").write_text("seeds: [5]\nbackbones: [lmf]\n")
    arguments = expand(arguments_of([tmp_path / "mine.yaml"], {"seeds": range(2)}))
    config = load_benchmark(arguments)
    assert (list(config.seeds), list(config.backbones), config.study) == ([0, 1], ["lmf"], "mine")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"tuned": None}, None),
        ({"methods": ("none", {"ms_mix": {"delta": 0.4}})}, ["none", "ms_mix{delta:0.4}"]),
        ({"methods": ["ms_mix[sass]{xi1:0.5}"]}, ["ms_mix[sass]{xi1:0.5}"]),
        ({"compile": True}, True),
        ({"seeds": np.arange(2)}, [0, 1]),
        ({"data_root": Path("a b")}, "a b"),
        ({"study": "näme, 1"}, "näme, 1"),
        ({"method": {"mixup": {"alpha": np.float64(1e-5)}}}, 1e-5),
        ({"method.mixup.alpha": 0.5}, 0.5),
    ],
)
def test_python_values_are_settings(given, expected):
    config = load_benchmark(arguments_of([], given))
    node = (
        config.method.mixup.alpha if "method" in next(iter(given)).split(".") else config[next(iter(given))]
    )
    assert (list(node) if isinstance(expected, list) else node) == expected


@pytest.mark.parametrize(
    ("files", "given", "sentence"),
    [
        ([], {"bakbones": ["lmf"]}, "Did you mean 'backbones'?"),
        ([], {"methods": ["mixip"]}, "Did you mean 'mixup'?"),
        ([], {"train": {"max_epoch": 2}}, "Did you mean 'train.max_epochs'?"),
        ([], {"seeds": object()}, "must be a number, text, list or dict, got a value of 'object'"),
        ([], {"seeds": range(30_000)}, "has more than 65536 characters"),
        (["mine.txt"], {}, "ends in .yaml, got 'mine.txt'"),
        (["missing.yaml"], {}, "'missing.yaml' cannot be read"),
        ([], {"shard": "1/2"}, "leave shard out"),
    ],
)
def test_a_bad_setting_raises_one_sentence(files, given, sentence, var_dir):
    with pytest.raises(UserError, match=re.escape(sentence)) as raised:
        harness.run(*files, var_dir=var_dir, **given)
    assert "\n" not in str(raised.value)


def test_cells_without_a_result_are_a_warning(var_dir):
    given = {**SMALL, "var_dir": var_dir, "train": {"max_epochs": 1}, "backbone.lmf.learning_rate": 1e30}
    with pytest.warns(UserWarning, match="1 of 1 cells of study 'benchmark' have no result"):
        assert len(harness.run(**given)) == 0


def test_the_training_loop_learns():
    scope = runpy.run_path(str(ROOT / "harness" / "conf" / "examples" / "training_loop.py"))
    assert np.mean(scope["losses"][-16:]) < 0.7 * np.mean(scope["losses"][:4])


def test_the_loop_of_the_page_trains():
    torch.manual_seed(0)
    widths = {"text": 16, "audio": 8, "vision": 8}
    linear = torch.nn.Linear(32, 1)
    before = linear.weight.detach().clone()
    scope = {
        "network": lambda inputs: linear(torch.cat(list(inputs.values()), 1))[:, 0],
        "loader": [({m: torch.randn(8, width) for m, width in widths.items()}, torch.randn(8))],
        "optimizer": torch.optim.SGD(linear.parameters(), lr=0.1),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(block_of("methods/README.md"), "methods/README.md", "exec"), scope)
    assert not torch.equal(linear.weight, before)
