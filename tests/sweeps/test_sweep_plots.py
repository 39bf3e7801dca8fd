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
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from plotly.offline import get_plotlyjs

from sweeps.pictures import log_ticks
from sweeps.plots import _facts, draw
from tests.support.paths import ROOT

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
    code = f"from tests.sweeps.test_sweep_plots import *; draw(mixed(), Path({str(tmp_path)!r}), HOSTILE)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    for file in drawn(mixed)[0]:
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_contour_plot_keeps_to_the_most_important_parameters(drawn):
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    varied = ["alpha", "attention", "delta", "heads", "layers", "lr"]
    importance = get_param_importances(mixed(), evaluator=FanovaImportanceEvaluator(seed=0), params=varied)
    numeric = [name for name in varied if name != "attention"]  # of texts and None
    best = sorted(sorted(numeric, key=lambda name: -importance[name])[:4])
    assert best != sorted(sorted(varied, key=lambda name: -importance[name])[:4])
    assert _facts(mixed()).numeric == numeric
    assert _facts(mixed()).varied == varied
    assert _facts(mixed()).parameters == sorted([*varied, "fixed"])
    assert "delta" in best
    sentence = f"The contour plot shows 4 of 6 parameters: {', '.join(best)}."
    assert drawn(mixed)[1].text["p"][-1] == sentence
    assert not any("contour plot shows" in text for text in drawn(two_parameters)[1].text["p"])


@pytest.mark.parametrize("others", [["batch", "tokens"], [None, 1, 2], [False, True]])
def test_a_contour_is_drawn_over_numbers_alone(others, tmp_path):
    study, other = optuna.create_study(), CategoricalDistribution(others)
    for i in range(8):
        trial = study.ask({"heads": CategoricalDistribution([1, 2, 4]), "other": other})
        study.tell(trial, float(i))
    page = Page(draw(study, tmp_path, "t")[-1].read_text("utf-8"))
    reason = "it takes two parameters that have several values each, all of them numbers"
    assert f"The contour plot is left out: {reason}." in page.text["p"]


def interrupted():
    """Trials 1 and 4 lost their drivers, 2 was complete and is tried again, 3 is its second try; 5 failed."""
    study = optuna.create_study()
    ends = [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    for number, state in enumerate([*ends, TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]):
        trial = study.ask({"a": FloatDistribution(0, 1), "b": FloatDistribution(0, 1)})
        trial.report(0.5, 0)
        if number == 3:
            trial.set_user_attr("retry_of", 2)
        if state == TrialState.FAIL:
            trial.set_user_attr("why", "failed" if number == 5 else "lost")
        study.tell(trial, 100.0 + number if state == TrialState.COMPLETE else None, state)
    return study


def test_trials_that_were_lost_or_tried_again_are_no_results(tmp_path):
    study = interrupted()
    facts = _facts(study)
    assert [trial.number for trial in facts.trials] == [0, 3]
    assert [trial.value for trial in facts.trials] == [100.0, 103.0]
    assert [trial.number for trial in facts.study.trials if trial.intermediate_values] == [0, 3, 5]
    assert facts.curves == 2
    page = Page(draw(study, tmp_path, "t")[-1].read_text("utf-8"))
    assert page.text["p"][0] == "3 trials (2 complete, 1 fail); of objective, the lower the better."
    note = "Not shown: 3 trials that were interrupted and tried again; the numbers are missing."
    assert page.text["p"].count(note) == 1
    assert not any("Not shown" in text for text in Page(_page_of(failed(), tmp_path)).text["p"])


def _page_of(study, folder):
    return draw(study, folder, "t")[-1].read_text("utf-8")


@pytest.fixture
def figures(monkeypatch):
    """What the figures hold when they are saved, by name."""
    found, save = {}, Figure.savefig

    def recorded(figure, path, **options):
        save(figure, path, **options)
        texts = [
            (axis.get_scale(), [label.get_text() for label in axis.get_majorticklabels()], axis)
            for axes in figure.axes
            for axis in (axes.xaxis, axes.yaxis)
        ]
        legends = [axes.get_legend() is not None for axes in figure.axes]
        labels = [axes.get_xlabel() for axes in figure.axes]
        found[Path(path).stem] = (figure.get_suptitle(), texts, legends, labels)

    monkeypatch.setattr(Figure, "savefig", recorded)
    return found


def test_pictures_have_the_title_and_few_plain_ticks(figures, tmp_path):
    title = "Sweep all of $5: TFN on MOSI " + "synthetic stand-in data " * 5
    draw(mixed(), tmp_path, title)
    assert list(figures) == list(NAMES)
    for shown, axes, _, _ in figures.values():
        lines = shown.replace(r"\$", "$").split("\n")
        assert " ".join(lines).startswith(title.strip())
        assert len(lines) > 1 or len(lines[0]) < 12 * 20
        for scale, texts, axis in axes:
            if scale == "log":
                assert 2 <= len(axis.get_majorticklocs()) <= 5
                assert len(axis.get_minorticklocs()) == 0
                assert not any("$" in text for text in texts)
    assert sum(scale == "log" for scale, _, _ in figures["slice"][1]) == 2


@pytest.mark.parametrize(("trials", "legend"), [(12, True), (13, False)])
def test_curves_are_over_epochs_and_have_a_legend_for_few_trials(trials, legend, figures, tmp_path):
    study = optuna.create_study()
    for number in range(trials + 1):
        trial = study.ask({"a": FloatDistribution(0, 1)})
        for epoch in (1, 2):
            trial.report(1.0, epoch)
        if number:
            study.tell(trial, 1.0)
        else:
            study.tell(trial, state=TrialState.FAIL)
    page = Page(_page_of(study, tmp_path))
    assert figures["curves"][2:] == ([legend], ["epoch"])
    script = next(script for script in page.text["script"][1:] if '"curves"' in script)
    assert '"text":"epoch"' in script
    assert ('"showlegend":true' in script, '"showlegend":false' in script) == (legend, not legend)


def test_choices_stand_in_the_order_of_the_space_on_parallel_axes(figures, tmp_path):
    study, choices = optuna.create_study(), [None, 2, 16, 4]
    for choice in (4, 16, None, 2):
        study.enqueue_trial({"size": choice})
        trial = study.ask({"size": CategoricalDistribution(choices)})
        study.tell(trial, float(choice or 0))
    page = _page_of(study, tmp_path)
    assert ["None", "2", "16", "4"] in [texts for _, texts, _ in figures["parallel"][1]]
    assert [page.rindex(f'"text":"{text}"') for text in choices] == sorted(
        page.rindex(f'"text":"{text}"') for text in choices
    )


@given(st.floats(-6, 5), st.floats(0.2, 8))
def test_ticks_of_logarithms_are_few_round_and_between_the_ends(start, decades):
    low, high = 10**start, 10 ** (start + decades)
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 5
    assert ticks == sorted(set(ticks))
    assert low <= ticks[0] < ticks[-1] <= high
    assert all(float(f"{tick:g}") == pytest.approx(tick, rel=1e-9) for tick in ticks)


def test_importance_says_what_it_does_not_say(drawn):
    sentence = (
        "Importance says what the values vary with, noise included; it does not say that a setting is better."
    )
    assert drawn(two_parameters)[1].text["p"].count(sentence) == 1
    assert sentence not in drawn(one_parameter)[1].text["p"]


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
