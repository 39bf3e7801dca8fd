"""Plots of studies of every kind: what is drawn, what is left out and why, and that nothing is random."""

import html
import logging
import os
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import optuna
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from plotly.offline import get_plotlyjs

from sweeps.plots import _facts, draw

TESTS = Path(__file__).parent
NAMES = ("history", "importance", "slice", "contour", "parallel", "curves")
HOSTILE = "</title><script>alert(\"1\")</script><img src=http://x/y> & 'delta' ü"
OBJECTIVE = "loss $a_1$ <b>&"
ONE_VALUE = "it takes two parameters that have several values each"
CONSTANT = "all complete trials have the same value"
NO_CURVES = "no trial reported any"
NONE_COMPLETE = "no trial is complete"


def grid(values, direction="minimize", objective=lambda p: sum(p.values())):
    """A study with one complete trial for each of these parameters."""
    study = optuna.create_study(direction=direction)
    study.set_user_attr("objective", OBJECTIVE)
    for parameters in values:
        study.enqueue_trial(parameters)
        trial = study.ask({name: FloatDistribution(0, 1) for name in parameters})
        study.tell(trial, objective(parameters))
    return study


def one_parameter():
    return grid([{"delta": i / 10} for i in range(10)], objective=lambda p: (p["delta"] - 0.4) ** 2)


def two_parameters():
    points = (0.1, 0.5, 0.9)
    return grid([{"xi1": a, "xi2": b} for a in points for b in points], "maximize")


def mixed():
    """TPE over every type; one trial each of the first ones has failed, is running or waits."""
    sampler = optuna.samplers.TPESampler(seed=1, n_startup_trials=5)
    study = optuna.create_study(sampler=sampler)
    study.set_user_attr("objective", OBJECTIVE)
    space = {
        "lr": FloatDistribution(1e-5, 1e-1, log=True),
        "heads": CategoricalDistribution([1, 2, 4, 8]),
        "attention": CategoricalDistribution(["tokens", "batch", None]),
        "delta": FloatDistribution(0, 0.9),
        "layers": IntDistribution(1, 5),
        "alpha": FloatDistribution(0.1, 8, log=True),
        "fixed": CategoricalDistribution([3]),
    }
    for i in range(16):
        trial = study.ask(space)
        delta, off = trial.params["delta"], trial.params["attention"] is None
        for epoch in range(3):
            trial.report(delta**2 + 1 / (epoch + 1), epoch)
        if i in (0, 7):
            study.tell(trial, state=TrialState.FAIL)
        elif i % 5 == 4:
            study.tell(trial, state=TrialState.PRUNED)
        elif i != 2:
            study.tell(trial, (delta - 0.4) ** 2 + 0.1 * off)
    study.enqueue_trial({"delta": 0.3})
    return study


def constant():
    """Flat but for rounding."""
    return grid(
        [{"a": i / 5, "b": (i * i % 5) / 5} for i in range(5)], objective=lambda p: 0.1 + 1e-17 * p["a"]
    )


def nearly_constant():
    return grid([{"a": i / 5, "b": (i * i % 5) / 5} for i in range(5)], objective=lambda p: 1 + 1e-6 * p["a"])


def single():
    return grid([{"a": 0.3, "b": 0.4}])


def empty():
    return optuna.create_study()


def failed():
    study = optuna.create_study()
    study.tell(study.ask({"a": FloatDistribution(0, 1)}), state=TrialState.FAIL)
    return study


def pruned():
    study = optuna.create_study()
    trial = study.ask({"a": FloatDistribution(0, 1)})
    trial.report(1.0, 0)
    study.tell(trial, state=TrialState.PRUNED)
    return study


def infinite():
    study = grid([{"a": 0.3, "b": 0.4}, {"a": 0.5, "b": 0.6}], objective=lambda p: p["a"])
    study.tell(study.ask({name: FloatDistribution(0, 1) for name in "ab"}), float("inf"))
    return study


def infinite_alone():
    return grid([{"a": 0.3}], objective=lambda p: float("-inf"))


def no_parameters():
    return grid([{}, {}], objective=lambda p: 1.0)


STUDIES = {
    one_parameter: {"importance": ONE_VALUE, "contour": ONE_VALUE, "curves": NO_CURVES},
    two_parameters: {"curves": NO_CURVES},
    mixed: {},
    constant: {"importance": CONSTANT, "contour": CONSTANT, "curves": NO_CURVES},
    nearly_constant: {"curves": NO_CURVES},
    single: {"importance": ONE_VALUE, "contour": ONE_VALUE, "curves": NO_CURVES},
    empty: {**dict.fromkeys(NAMES, NONE_COMPLETE), "curves": NO_CURVES},
    failed: {**dict.fromkeys(NAMES, NONE_COMPLETE), "curves": NO_CURVES},
    pruned: dict.fromkeys(NAMES[:-1], NONE_COMPLETE),
    infinite: {"curves": NO_CURVES},
    infinite_alone: {**dict.fromkeys(NAMES, NONE_COMPLETE), "curves": NO_CURVES},
    no_parameters: {
        **dict.fromkeys(("slice", "parallel"), "the trials have no parameters"),
        **dict.fromkeys(("importance", "contour"), ONE_VALUE),
        "curves": NO_CURVES,
    },
}
HEADINGS = {
    "history": "The optimization history",
    "importance": "The parameters' importance",
    "slice": "The slice plot",
    "contour": "The contour plot",
    "parallel": "The parallel coordinate plot",
    "curves": "The plot of intermediate values",
}


class Page(HTMLParser):
    """What a browser would find: tags with attributes, ids, and the text of each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.inside = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.inside.append(tag)
            self.text.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag

    def handle_data(self, data):
        if self.inside:
            self.text[self.inside[-1]][-1] += data


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Each study, drawn once: its files and its page."""
    known = {}

    def of(make):
        if make not in known:
            folder = tmp_path_factory.mktemp(make.__name__)
            known[make] = (draw(make(), folder, HOSTILE), Page((folder / "plots.html").read_text("utf-8")))
        return known[make]

    return of


each_study = pytest.mark.parametrize("make", STUDIES, ids=lambda make: make.__name__)


@each_study
def test_what_is_drawn_and_what_is_left_out_and_why(make, drawn):
    files, page = drawn(make)
    names = [name for name in NAMES if name not in STUDIES[make]]
    assert [path.name for path in files] == [*(f"{name}.png" for name in names), "plots.html"]
    assert sorted(files[-1].parent.iterdir()) == sorted(files)
    assert [attrs["id"] for _, attrs in page.tags if "id" in attrs] == names
    sentences = [f"{HEADINGS[name]} is left out: {reason}." for name, reason in STUDIES[make].items()]
    left_out = [text for text in page.text["p"] if "is left out" in text]
    assert sorted(left_out) == sorted(sentences)


@each_study
def test_every_picture_shows_something(make, drawn):
    for path in drawn(make)[0][:-1]:
        grey = plt.imread(path)[:, :, :3].mean(2)
        assert len(np.unique(grey)) > 10, path
        assert grey.std() > 0.02, path


@each_study
def test_the_page_is_whole_and_asks_for_nothing(make, drawn):
    files, page = drawn(make)
    text = files[-1].read_text("utf-8")
    assert text.count(get_plotlyjs()) == (len(files) > 1)
    assert len(page.text.get("script", [])) == (len(files) if len(files) > 1 else 0)
    assert not {"src", "href", "srcset", "data", "action"} & {
        name for _, attrs in page.tags for name in attrs
    }
    assert not {"link", "iframe", "object", "img"} & {tag for tag, _ in page.tags}
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv"))
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    assert text.index("Content-Security-Policy") < text.find("<script") or len(files) == 1


@each_study
def test_any_title_is_text(make, drawn):
    page = drawn(make)[1]
    assert page.text["title"] == page.text["h1"] == [HOSTILE]
    assert not any("alert(" in script for script in page.text.get("script", [])[1:])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (empty, "The study has no trials yet."),
        (failed, "1 trial (1 fail); of objective, the lower the better."),
        (two_parameters, f"9 trials (9 complete); of {OBJECTIVE}, the higher the better."),
        (
            mixed,
            "17 trials (10 complete, 2 fail, 3 pruned, 1 running, 1 waiting); "
            f"of {OBJECTIVE}, the lower the better.",
        ),
    ],
)
def test_the_page_says_what_the_study_holds(make, sentence, drawn):
    assert drawn(make)[1].text["p"][0] == sentence


def test_two_processes_draw_the_same_bytes(drawn, tmp_path):
    code = f"from test_sweep_plots import *; draw(mixed(), Path({str(tmp_path)!r}), HOSTILE)"
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    for file in drawn(mixed)[0]:
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_contour_plot_keeps_to_the_most_important_parameters(drawn):
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    varied = ["alpha", "attention", "delta", "heads", "layers", "lr"]
    importance = get_param_importances(mixed(), evaluator=FanovaImportanceEvaluator(seed=0), params=varied)
    best = sorted(sorted(varied, key=lambda name: -importance[name])[:4])
    assert _facts(mixed()).varied == varied
    assert _facts(mixed()).parameters == sorted([*varied, "fixed"])
    assert "delta" in best
    sentence = f"The contour plot shows 4 of 6 parameters: {', '.join(best)}."
    assert drawn(mixed)[1].text["p"][-1] == sentence
    assert not any("contour plot shows" in text for text in drawn(two_parameters)[1].text["p"])


def test_the_objective_has_its_name_on_the_axes(tmp_path, monkeypatch):
    labels, save = {}, Figure.savefig

    def recorded(figure, path, **options):
        found = [text for axes in figure.axes for text in (axes.get_ylabel(), axes.get_xlabel())]
        texts = [label.get_text() for axes in figure.axes for label in axes.get_xticklabels()]
        legends = [
            text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().texts
        ]
        labels[Path(path).stem] = {*found, *texts, *legends}
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", recorded)
    page = Page(draw(two_parameters(), tmp_path, "t")[-1].read_text("utf-8"))
    shown = OBJECTIVE.replace("$", r"\$")
    assert {name for name, found in labels.items() if shown in found} == set(NAMES[:-1])
    # Plotly takes tags for markup, so its texts are escaped, and stand as such in a script.
    assert [html.escape(OBJECTIVE) in script for script in page.text["script"][1:]] == [True] * 5


def test_all_plots_show_the_trials_as_they_are():
    study = mixed()
    copy = _facts(study).study
    kept = ("number", "state", "params", "values", "intermediate_values", "distributions")
    assert len(study.trials) == 17
    for mine, theirs in zip(copy.trials, study.trials, strict=True):
        assert [getattr(mine, name) for name in kept] == [getattr(theirs, name) for name in kept]
    assert copy.direction == study.direction
    assert _facts(two_parameters()).study.direction == optuna.study.StudyDirection.MAXIMIZE


def test_drawing_changes_neither_the_study_nor_the_surroundings(tmp_path):
    study, before = one_parameter(), dict(matplotlib.rcParams)
    trials, attributes = study.trials, study.user_attrs
    level, own = optuna.logging.get_verbosity(), plt.figure()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            filters = list(warnings.filters)
            draw(study, tmp_path, "t")
            assert warnings.filters == filters
        assert caught == []
        assert plt.get_fignums() == [own.number]
    finally:
        plt.close(own)
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend().lower() == "agg"
    assert optuna.logging.get_verbosity() == level
    assert study.trials == trials
    assert study.user_attrs == attributes
    assert study._storage.get_all_studies()[0].study_name == study.study_name
    assert len(study._storage.get_all_studies()) == 1


def test_what_an_earlier_drawing_left_goes_and_other_files_stay(tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    for name in ("curves.png", "importance.png", "other.png"):
        (folder / name).write_bytes(b"old")
    files = draw(single(), folder, "t")
    assert sorted(path.name for path in folder.iterdir()) == sorted(["other.png", *(p.name for p in files)])


@pytest.mark.parametrize("module", [optuna.visualization.matplotlib, optuna.visualization])
def test_a_plot_that_fails_costs_no_other(module, tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        if module is optuna.visualization.matplotlib:
            plt.figure()
        raise ValueError("<first> line.\nsecond line")

    monkeypatch.setattr(module, "plot_slice", fail)
    with caplog.at_level(logging.INFO, "sweeps.plots"):
        files = draw(one_parameter(), tmp_path, "t")
    assert [path.name for path in files] == ["history.png", "parallel.png", "plots.html"]
    assert not (tmp_path / "slice.png").exists()
    assert plt.get_fignums() == []
    page = Page(files[-1].read_text("utf-8"))
    assert "The slice plot is left out: <first> line." in page.text["p"]
    assert "The slice plot is left out: <first> line." in caplog.messages


def test_a_folder_that_takes_no_file_is_no_plot_that_fails(tmp_path):
    (tmp_path / "history.png").mkdir()
    with pytest.raises(OSError, match=r"history\.png"):
        draw(single(), tmp_path, "t")
