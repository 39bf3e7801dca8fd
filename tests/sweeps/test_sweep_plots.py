"""The page of Optuna's plots: what is on it, what is left out and why, and that it loads nothing."""

import html
import re
import warnings

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from plotly.offline import get_plotlyjs

from sweeps.plots import write_plots
from tests.support.browser import Reader

KINDS = ("optimization_history", "param_importances", "slice", "contour", "parallel_coordinate")
PLOTS = [f"plot_{kind}" for kind in (*KINDS, "intermediate_values")]
UNIT = FloatDistribution(0, 1)
HOSTILE = "</title><script>alert(\"1\")</script><img src=http://x/y> & 'delta' ü"
EQUAL = ["The number of trials is too small to compute importances. Parameter importances will be equal."]


def study_of(values, direction="minimize", curves=False, state=None):
    """A study with one trial for each of these parameters, their sum its value; complete without a state."""
    study = optuna.create_study(direction=direction)
    study.set_user_attr("objective", "valid/loss")
    for parameters in values:
        study.enqueue_trial(parameters)
        trial = study.ask(dict.fromkeys(parameters, UNIT))
        if curves:
            trial.report(1.0, 1)
        study.tell(trial, None if state else sum(map(float, parameters.values())), state)
    return study


def hostile_choices():
    choices = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>"]
    study = optuna.create_study()
    for choice in choices * 3:
        study.enqueue_trial({"name": choice, HOSTILE: 0.5})
        trial = study.ask({"name": CategoricalDistribution(choices), HOSTILE: UNIT})
        study.tell(trial, float(len(choice)))
    return study


TWO = [{"xi1": a, "xi2": b} for a in (0.1, 0.5, 0.9) for b in (0.1, 0.5, 0.9)]
STUDIES = {
    "one parameter": (lambda: study_of([{"delta": i / 10} for i in range(10)]), {3, 5}, []),
    "two parameters": (lambda: study_of(TWO, "maximize", curves=True), set(), []),
    "a single trial": (lambda: study_of(TWO[:1]), {5}, EQUAL),
    "hostile choices": (hostile_choices, {5}, []),
    "no trial": (optuna.create_study, {*range(6)}, []),
    "pruned": (lambda: study_of([{"a": 0.5}], curves=True, state=TrialState.PRUNED), {*range(5)}, []),
}


class Page(Reader):
    """The page of a study."""

    def __init__(self, study, path, title="t"):
        write_plots(study, path, title)
        self.raw = path.read_text("utf-8")
        super().__init__(self.raw)
        self.tags = {tag for tag, _, _ in self.found}
        self.ids = [attributes["id"] for _, attributes, _ in self.found if "id" in attributes]
        self.scripts = dict(zip(self.ids, self.all("script")[1:], strict=True))


@pytest.mark.parametrize(("make", "missing", "remarks"), STUDIES.values(), ids=STUDIES)
def test_a_page_has_the_plots_that_optuna_can_draw_and_loads_nothing(make, missing, remarks, tmp_path):
    page = Page(make(), tmp_path / "a" / "plots.html", HOSTILE)
    assert page.ids == [name for number, name in enumerate(PLOTS) if number not in missing]
    left_out = [f"{PLOTS[number]} is left out: Optuna has nothing to draw." for number in sorted(missing)]
    notes = [text for text in page.texts("p") if not text.startswith("Importance estimates")]
    assert sorted(notes) == sorted(left_out + remarks)
    assert page.raw.count('"showSendToCloud": false') == len(page.ids), "no button uploads a plot"
    assert page.raw.count(get_plotlyjs()) == bool(page.ids), "the library is there once"
    assert page.texts("title") == page.texts("h1") == [HOSTILE]
    assert make is hostile_choices or not any("alert(" in text for _, _, text in page.scripts.values())
    loading = {"src", "href", "srcset", "data", "action"}
    assert not loading & {name for _, attributes, _ in page.found for name in attributes}
    allowed = {"html", "head", "meta", "title", "style", "script", "body", "h1", "section", "div", "p"}
    assert page.tags <= allowed
    [policy] = [attributes["content"] for _, attributes, _ in page.found if attributes.get("http-equiv")]
    assert policy.startswith("default-src 'none'; form-action 'none';")
    assert "http" not in policy
    assert page.raw.index("Content-Security-Policy") < page.raw.find("<script") or not page.ids


def test_equal_trials_give_equal_bytes(tmp_path):
    """Equal importances, too, stand in the order of their names, which Optuna takes from their hashes."""
    names = [f"name{number}" for number in range(8)]
    pages = [Page(study_of([dict.fromkeys(names, 0.5)]), tmp_path / number) for number in "12"]
    assert pages[0].raw == pages[1].raw
    shown = re.findall(r"(name\d) \(Float", pages[0].scripts["plot_param_importances"][2])
    assert shown == names[::-1], "from the lowest bar up"


def test_a_plot_that_fails_costs_no_other(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("<first> line.\nsecond line")

    monkeypatch.setattr(optuna.visualization, "plot_intermediate_values", fail)
    page = Page(study_of(TWO, curves=True), tmp_path / "plots.html")
    assert page.ids == PLOTS[:-1]
    assert all("valid" in text for _, _, text in page.scripts.values()), "the objective is on the axes"
    assert "plot_intermediate_values is left out: <first> line." in page.texts("p")
    assert html.escape("<first>") in page.raw
    # An error of the storage is not an error of a plot.
    study = study_of(TWO)
    monkeypatch.setattr(study._storage, "get_all_trials", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_plots(study, tmp_path / "other" / "plots.html", "t")
    assert not (tmp_path / "other").exists()


def test_drawing_changes_neither_the_study_nor_the_surroundings(tmp_path, capsys):
    study, level = study_of(TWO[:2]), optuna.logging.get_verbosity()
    trials, attributes = study.trials, study.user_attrs
    with warnings.catch_warnings(record=True) as messages:
        write_plots(study, tmp_path / "plots.html", "t")
    assert messages == []
    assert "plot" not in capsys.readouterr().err
    assert optuna.logging.get_verbosity() == level
    assert (study.trials, study.user_attrs) == (trials, attributes)
    assert len(study._storage.get_all_studies()) == 1
