"""Hashes of the code that computed a result, and the behaviour of a study when they change."""

import json

import pandas as pd
import pytest

import harness.code
from backbones import BACKBONES
from harness.code import code_hash, code_tags, modules
from harness.study.description import CODE_FILE
from harness.tracking.codes import changes, of_one_code, one_per_cell, shown_sentences
from harness.tracking.reader import Run
from harness.tracking.tracker import Tracker
from harness.train.result import Result
from methods import METHODS
from reports.export import main as export
from reports.runs.frame import load_frame
from reports.runs.study_runs import StudyRuns
from sweeps.run import main as sweep
from tests.support.cells import make_cell
from tests.support.drivers.driving import run

FIRST = "from __future__ import annotations"
CLASSES = {**METHODS, **BACKBONES}
STUDY = ("backbones=[lmf]", "methods=[none,mixup]", "occlusion.ratios=[0]")


@pytest.fixture(scope="module")
def hashes():
    """Return the hash of the current code of every class."""
    return {name: code_hash(cls) for name, cls in CLASSES.items()}


@pytest.fixture
def edit(monkeypatch):
    """Return a function that replaces a text in a module's source as the program reads it."""
    texts, read = {}, harness.code.source

    def clear():
        harness.code._tree.cache_clear()
        harness.code._code_hash.cache_clear()

    def edit(module, old, new):
        text = texts.get(module, read(module))
        assert old in text
        texts[module] = text.replace(old, new)
        clear()

    monkeypatch.setattr(harness.code, "source", lambda module: texts.get(module) or read(module))
    yield edit
    clear()


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("class MixupSettings", "# A comment.\nclass MixupSettings", True),
        ('"""mixup: convex', '"""Other words: convex', True),
        ("weights = pair_weights(", "weights = pair_weights(\n            ", True),
        ("alpha: float = 1.0", "alpha: float = 2.0", False),
        ("n if self.settings.per_sample else 1", "1 if self.settings.per_sample else n", False),
    ],
    ids=["comment", "docstring", "format", "constant", "order"],
)
def test_the_hash_follows_what_is_computed(edit, old, new, same):
    before = code_hash(METHODS["mixup"])
    edit("methods.mixup", old, new)
    assert (code_hash(METHODS["mixup"]) == before) == same


@pytest.mark.parametrize(
    ("module", "changed"),
    [
        ("methods.mixup", {"mixup"}),
        ("methods.multimix", {"multimix", "powmix"}),
        ("methods.base", set(METHODS)),
        ("backbones.transformer", {"mult", "glomo"}),
        ("backbones.base", set(BACKBONES)),
    ],
)
def test_the_hash_follows_imports(hashes, edit, module, changed):
    edit(module, FIRST, f"{FIRST}\n\nX = 1")
    assert {name for name, cls in CLASSES.items() if code_hash(cls) != hashes[name]} == changed


def test_every_class_is_hashed_with_its_base():
    assert all("methods.base" in modules(cls.__module__) for cls in METHODS.values())
    assert all("backbones.base" in modules(cls.__module__) for cls in BACKBONES.values())
    assert len({code_hash(cls) for cls in (*METHODS.values(), *BACKBONES.values())}) == len(CLASSES)


@pytest.fixture
def trained(monkeypatch):
    """The cells trained so far, in order, with repetitions."""
    cells = []

    def train(cell, *rest):
        cells.append(cell)
        score = float(len([c for c in cells if c == cell]))
        return Result("complete", {"valid": {"loss": score}, "test": {"mae": score}})

    monkeypatch.setattr("harness.launchers.job.train", train)
    return cells


def test_an_edited_method_is_not_reported_with_old_numbers(edit, trained, var_dir, capsys):
    def study(*more, seeds="1111,1112", name="s"):
        before = len(trained)
        assert run(var_dir, *STUDY, f"seeds=[{seeds}]", *more, study=name) == 0
        return [(cell.method, cell.seed) for cell in trained[before:]], capsys.readouterr().out

    def rows():
        frame = load_frame(StudyRuns(Tracker(None, var_dir, "s", create=False)))
        scores = frame[(frame["metric"] == "mae") & (frame["method"] == "mixup")]
        return dict(zip(scores["seed"], scores["value"], strict=True))

    assert len(study()[0]) == 4
    edit("methods.mixup", "alpha: float = 1.0", "alpha: float = 2.0")
    cells, said = study()
    assert not cells
    assert "trained: mixup (2 cells). They count as done; retry=changed trains them anew." in said
    assert rows() == {1111: 1, 1112: 1}
    # Terminal, report and export show only the seed of the new code.
    assert study(seeds="1111,1112,1113")[0] == [("none", 1113), ("mixup", 1113)]
    assert rows() == {1113: 1}
    file = var_dir / "numbers.csv"
    assert export([f"var_dir={var_dir}", "study=s", f"out={file}"]) == 0
    numbers = pd.read_csv(file)
    assert set(numbers["seed"][numbers["method"] == "mixup"]) == {1113}
    said = capsys.readouterr()
    assert "Results of other code are left out: mixup (2 cells)." in said.out + said.err
    # No other study reuses the old numbers.
    assert study(name="other")[0] == [("mixup", 1111), ("mixup", 1112)]
    assert study("retry=changed", seeds="1111,1112,1113")[0] == []
    assert rows() == {1111: 2, 1112: 2, 1113: 1}
    # Undoing the edit restores the old results.
    edit("methods.mixup", "alpha: float = 2.0", "alpha: float = 1.0")
    assert study()[0] == []
    assert rows() == {1111: 1, 1112: 1}


def test_cells_of_changed_code_are_trained_anew_once(edit, trained, var_dir):
    assert run(var_dir, *STUDY) == 0
    edit("backbones.lmf", FIRST, f"{FIRST}\n\nX = 1")
    for count in (8, 8):
        assert run(var_dir, *STUDY, "retry=changed") == 0
        assert len(trained) == count
    stored = json.loads(Tracker(None, var_dir, "s", create=False).study_file(CODE_FILE))
    texts = [
        stored["texts"][code["modules"]["backbones.lmf"]]
        for code in stored["code"].values()
        if code["name"] == "lmf"
    ]
    assert sorted("X = 1" in text for text in texts) == [False, True]


def test_a_sweep_does_not_mix_codes(edit, trained, var_dir, capsys):
    sweep_of = (
        "param=delta", f"var_dir={var_dir}", "study=s", "launcher=inline", "datasets=[synthetic_mosi]",
        "dataset.synthetic_mosi.clips=60", "backbones=[lmf]", "seeds=[1111]", "report=false",
    )  # fmt: skip
    assert sweep(sweep_of) == 0
    count = len(trained)
    edit(
        "methods.ms_mix", "from __future__ import annotations", "from __future__ import annotations\n\nX = 1"
    )
    assert sweep(sweep_of) == 2
    assert (
        "The code of ms_mix or lmf changed since sweep 's/delta/lmf/synthetic_mosi' was begun"
        in capsys.readouterr().err
    )
    assert sweep([*sweep_of, "sweep.name=again"]) == 0
    assert len(trained) == 2 * count


def runs_of(*codes, cell="c"):
    tags = code_tags(make_cell("mixup", "lmf"))
    return [
        Run(str(k), "1", {"cell_id": cell, "method": "mixup", "backbone": "lmf", **tags, **code}, {})
        for k, code in enumerate(codes)
    ]


OLD, OLDER, NOW, NONE = (
    {"method_code": "a"},
    {"method_code": "b"},
    {},
    {"method_code": "", "backbone_code": ""},
)


@pytest.mark.parametrize(
    ("codes", "one", "shown"),
    [
        ([NOW, NOW], "0", "01"),
        ([OLD, NOW], "1", "1"),
        ([NOW, OLD], "0", "0"),
        ([OLDER, OLD, OLD], "1", "12"),
        ([OLD, OLDER, OLD], "2", "02"),
        ([NONE, OLD], "0", "01"),
        ([OLD, NONE], "1", "01"),
    ],
)
def test_this_programs_code_is_shown_else_the_last(codes, one, shown):
    runs = runs_of(*codes)
    assert one_per_cell(runs)["c"].run_id == one
    assert "".join(run.run_id for run in of_one_code(runs)) == shown
    assert bool(shown_sentences(runs)) == any(changes(run.tags) for run in runs)


def test_code_of_an_unknown_method_is_no_change():
    (run,) = runs_of({"method": "gone", "method_code": "x"})
    assert changes(run.tags) == []
