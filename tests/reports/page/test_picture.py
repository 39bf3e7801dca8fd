"""The picture of gains: every number is at its place on the axis, and no row is lost."""

import dataclasses
import itertools
import math

import pytest

from reports.page import summary
from reports.page.html import Report, page
from reports.page.picture import EDGE, NAMES, WIDTH, pictures
from reports.stats.comparison import clean, paired
from tests.reports.page.test_summary import gains, small
from tests.support.browser import Reader
from tests.support.studies import make_study


def drawn(study):
    return pictures(study, summary.compare_methods(study))


@pytest.fixture(scope="module")
def study():
    return gains(gains(small(3, "none", "mixup", "powmix"), "mixup", 0.3), "powmix", 0.0, spread=0.2)


def value_at(picture, x):
    """The gain at a place, by the picture's ticks."""
    (x0, text0), *_, (x1, text1) = picture.ticks
    low, high = float(text0), float(text1)
    return low + (x - x0) / (x1 - x0) * (high - low)


def test_a_gain_its_intervals_and_its_seeds_are_at_their_places(study):
    table = summary.compare_methods(study)
    pairs = {metric: paired(clean(study.scores()), metric) for metric in ("mae", "corr")}
    for picture in drawn(study):
        names = {"Mixup": "mixup", "PowMix": "powmix"}
        assert [mark.name for mark in picture.marks] == list(names)
        for mark in picture.marks:
            rows = table[(table["metric"] == picture.metric) & (table["method"] == names[mark.name])]
            [row] = rows.to_dict("records")
            step = abs(value_at(picture, 101) - value_at(picture, 100))
            near = lambda value, step=step: pytest.approx(value, abs=0.2 * step + 1e-9)  # noqa: E731
            assert value_at(picture, mark.x) == near(row["gain"])
            assert [value_at(picture, x) for x in mark.thick] == [
                near(row[n]) for n in ("low_seeds", "high_seeds")
            ]
            mine = pairs[picture.metric].query("method == @row['method']").groupby("seed")["gain"].mean()
            assert sorted(value_at(picture, x) for x in mark.dots) == [near(g) for g in sorted(mine)]
            assert row["verdict"] == mark.verdict
            assert mark.verdict in mark.said
            assert f"{row['n']} pairs: 3 seeds, 6 backbones." in mark.said
        assert value_at(picture, picture.zero) == pytest.approx(0, abs=1e-3)


def test_everything_is_inside_and_rows_do_not_touch():
    for picture in drawn(make_study(2, samples=False, sweeps=False, ablation=False)):
        xs = [x for m in picture.marks for x in (m.x, *m.dots, *(m.thin or ()), *(m.thick or ()))]
        assert all(NAMES <= x <= WIDTH - EDGE for x in xs)
        ys = [mark.y for mark in picture.marks]
        assert all(b - a >= 14 for a, b in itertools.pairwise(ys))
        assert 0 < ys[0] < ys[-1] < picture.height
        assert len(picture.marks) == 3 * 4
        assert 3 <= len(picture.ticks) <= 12


def test_gains_that_are_all_0_are_drawn_at_0():
    """Methods that change no score, such as those of a study without training steps."""
    same = gains(small(2, "none", "mixup"), "mixup", 0.0, spread=0.0)
    [picture] = [picture for picture in drawn(same) if picture.metric == "mae"]
    assert [mark.x for mark in picture.marks] == [picture.zero]
    assert {x for mark in picture.marks for x in mark.dots} == {picture.zero}
    assert "0" in {text for _, text in picture.ticks}


def test_without_uncertainty_only_points_are_drawn():
    for picture in drawn(small(1, "none", "mixup")):
        [mark] = picture.marks
        assert (mark.thin, mark.thick) == (None, None)
        assert len(mark.dots) == 1
    assert drawn(small(2, "none")) == []


def test_the_page_draws_each_row_once_and_says_its_numbers(study):
    shown = dataclasses.replace(Report("t", "s"), pictures=drawn(study))
    text = page(shown)
    read = Reader(text)
    marks = [a for _, a, _ in read.all("a") if "mark" in a.get("class", "").split()]
    assert [m["class"] for m in marks[:2]] == ["mark better", "mark undecided"]
    assert all(m["href"].startswith("http://127.0.0.1:5000/") for m in marks)
    assert marks[0]["aria-label"].startswith("Mixup on synthetic MOSI: gain in MAE +0.3")
    assert len(marks) == 4
    assert "nan" not in text.partition("<svg")[2].lower()
    assert not any(math.isnan(mark.x) for picture in shown.pictures for mark in picture.marks)
