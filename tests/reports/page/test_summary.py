"""The sentences of the summary, and the table of each method against the baseline."""

import dataclasses
import io
import re

import numpy as np
import pandas as pd
import pytest

from reports.page import summary
from reports.page.report import all_tables
from reports.stats.ranking import ranks
from reports.tables.table import to_latex
from tests.support.scores import STILL, VIDEOS
from tests.support.studies import make_study

SIX = ("tfn", "lmf", "mult", "misa", "almt", "glomo")


def gains(study, method, gain, spread=0.001):
    """The study with this gain of a method in MAE over none, for every backbone and seed."""
    frame = study.frame.copy()
    keys = ["dataset", "backbone", "seed", "occlusion_protocol", "occlusion_ratio", "split"]
    none = frame[(frame["method"] == "none") & (frame["metric"] == "mae")].set_index(keys)["value"]
    rows = (frame["method"] == method) & (frame["metric"] == "mae") & (frame["split"] == "test")
    noise = np.random.default_rng(len(method)).normal(0, spread, rows.sum())
    frame.loc[rows, "value"] = none.loc[list(map(tuple, frame.loc[rows, keys].values))].array - gain + noise
    return dataclasses.replace(study, frame=frame)


def small(seeds, *methods):
    """A study of six backbones on clean data alone."""
    return make_study(seeds, ("synthetic_mosi",), SIX, methods, (0.0,), (), False, False, False)


def comparison_table(study):
    """The table of each method against none."""
    return summary.comparison_tables(study, summary.compare_methods(study))[0]


def said_of(study):
    """The sentences of the summary as one text."""
    return " ".join(summary.sentences(study, summary.compare_methods(study)))


@pytest.mark.parametrize(("gain", "word"), [(0.3, "better"), (-0.3, "worse")])
def test_each_method_has_a_sentence_with_one_verdict(gain, word):
    study = gains(small(3, "none", "mixup", "powmix"), "mixup", gain)
    said = said_of(gains(study, "powmix", 0.0, spread=0.05))
    assert f"synthetic MOSI, test MAE: Mixup is {word} than none: {gain:+.3f} ({gain:+.3f} to" in said
    assert "Undecided against none: PowMix " in said, "after the verdict on mixup"
    assert "6 backbones, 3 seeds, 60 clips of 10 videos" in said
    table = comparison_table(study)
    [row] = [
        r for group in table.parts[0].groups for r in group if r[1].text == "Mixup" and r[2].text == "MAE"
    ]
    assert row[6].text == word
    assert [value.text for value in row[10:14]] == (
        ["6", "0", "0", "0"] if gain > 0 else ["0", "6", "0", "0"]
    )


def test_a_margin_calls_methods_equal_and_another_baseline_has_its_own_sentences_and_table():
    study = gains(small(3, "none", "mixup", "powmix"), "mixup", 0.005)
    study = gains(study, "powmix", 0.3)
    study = dataclasses.replace(study, margins={"mae": 0.02}, baselines=("none", "mixup"))
    said = said_of(study)
    assert "Mixup and none are equal within 0.02: +0.005 (" in said
    assert re.search(r"synthetic MOSI, test MAE: PowMix is better than Mixup: \+0\.29\d \(", said)
    assert "none and Mixup are equal within 0.02: -0.005 (" in said
    tables = summary.comparison_tables(study, summary.compare_methods(study))
    assert [table.name for table in tables] == ["comparison", "comparison_mixup"]
    assert tables[1].title.startswith("Each method against Mixup")
    names = [{row[1].text for group in table.parts[0].groups for row in group} for table in tables]
    assert names == [{"Mixup", "PowMix"}, {"none", "PowMix"}]
    columns = pd.read_csv(io.StringIO(tables[0].csv)).columns
    assert {"low_seeds", "high_seeds", "low", "high", "verdict"} <= set(columns)


class ShakenClips(type(STILL)):
    """Clips of which the videos move every score, whatever the seed."""

    def moves(self, scores, metric):
        signs = np.where(scores["method"] == "none", 0.0, 1.0)
        return [sign * np.linspace(-0.1, 0.1, VIDEOS) for sign in signs]


def test_videos_can_undo_what_seeds_show_and_then_no_number_of_seeds_decides():
    study = gains(small(3, "none", "mixup"), "mixup", 0.1)
    assert "Mixup is better than none" in said_of(study)
    shaken = dataclasses.replace(study, clips=ShakenClips())
    said = said_of(shaken)
    assert "synthetic MOSI, test MAE: undecided against none: Mixup +0.100 (-0." in said
    assert "With 80% probability this study finds gains of " in said
    assert "With any number of seeds these 60 clips of 10 videos show no gains below " in said
    [row] = [r for group in comparison_table(shaken).parts[0].groups for r in group if r[2].text == "MAE"]
    assert row[4].text.startswith("-0.")
    assert row[5].text.startswith("+0.")
    unknown = said_of(dataclasses.replace(study, clips=None))
    assert "undecided against none: Mixup +0.100. A verdict needs the predictions of all runs" in unknown


def few_strata(study, method, backbones):
    """The study with a method on some backbones alone."""
    kept = (study.frame["method"] != method) | study.frame["backbone"].isin(backbones)
    return dataclasses.replace(study, frame=study.frame[kept])


def test_a_method_does_not_win_by_the_backbones_that_it_lacks():
    """powmix gains 0.3 on one backbone, mixup 0.1 on all six."""
    study = small(3, "none", "mixup", "powmix")
    said = said_of(few_strata(gains(gains(study, "mixup", 0.1), "powmix", 0.3), "powmix", SIX[:1]))
    assert "test MAE: Mixup is better than none: +0.100" in said
    assert "PowMix (on only 1 backbone) is better than none: +0.3" in said


def test_holm_counts_what_is_tested():
    """On one backbone there is no test; on six p is 0.031 or more, times the methods that have one."""
    study = small(3, "none", "mixup", "manifold_mixup", "powmix")
    for method in ("mixup", "manifold_mixup", "powmix"):
        study = gains(study, method, 0.3)
    for lacking in ((), ("mixup",), ("mixup", "powmix")):
        fewer = study
        for method in lacking:
            fewer = few_strata(fewer, method, SIX[:1])
        found = summary.compare_methods(fewer)
        holm = found[(found["metric"] == "mae") & (found["method"] == "manifold_mixup")]["p_holm"].item()
        assert holm == pytest.approx(2 / 2**6 * (3 - len(lacking)))


@pytest.mark.parametrize(("seeds", "told"), [(1, False), (2, True)])
def test_the_summary_says_how_often_a_run_beats_one_of_the_baseline(seeds, told):
    """Counted by hand: pairs of runs of the same backbone and data set."""
    study = gains(small(seeds, "none", "mixup"), "mixup", 0.0, spread=0.05)
    said = said_of(study)
    rows = study.scores().query("metric == 'mae' and split == 'test'")
    pairs = rows[rows["method"] == "mixup"].merge(rows[rows["method"] == "none"], on=["dataset", "backbone"])
    chance = (pairs["value_x"] < pairs["value_y"]).mean()
    assert (f"too narrow for few seeds): Mixup {chance:.2f} (" in said) == told


def test_noise_and_few_seeds_claim_nothing():
    study = small(5, "none", "mixup", "powmix")
    said = said_of(gains(gains(study, "mixup", 0.0, spread=0.05), "powmix", 0.0, spread=0.05))
    assert "undecided against none: " in said
    assert " is better" not in said
    assert re.search(r"Intervals half as wide take \d+ seeds\.", said)
    for seeds, words in ((1, "1 seed decides nothing"), (2, "2 seeds decide nothing")):
        study = gains(small(seeds, "none", "mixup"), "mixup", 0.3)
        said = said_of(study)
        assert f"{words}: a verdict needs three." in said
        assert " is better" not in said
    study = gains(small(5, "none", "mixup", "powmix"), "powmix", 0.0, spread=0.05)
    lost = (study.frame["method"] == "mixup") & (study.frame["seed"] > 1112)
    said = said_of(dataclasses.replace(study, frame=study.frame[~lost]))
    assert "Mixup has 2 seeds: a verdict needs three. With 80% probability" in said
    study = small(1, "none", "mixup")
    rows = [row for group in comparison_table(study).parts[0].groups for row in group]
    assert all(value.text == "–" for row in rows for value in (row[4], row[5], *row[7:10]))
    assert {row[6].text for row in rows} == {"undecided"}


def test_without_a_rival_there_is_nothing_to_compare():
    for methods in ((), ("none",), ("mixup",)):
        study = small(2, *methods)
        found = summary.compare_methods(study)
        assert found.empty
        assert "nothing to compare" in summary.sentences(study, found)[0]
        assert "nothing to compare" in comparison_table(study).notes[0]


def test_the_baseline_is_ranked_whatever_is_missing():
    scores = small(3, "none", "mixup", "powmix").frame.query("split == 'test'")
    lost = scores[(scores["method"] != "none") | (scores["backbone"] == "tfn")]
    assert "none" in ranks(lost, "mae").methods


def test_data_on_another_scale_have_a_table_of_their_own():
    study = make_study(2, ("synthetic_mosi", "likert"), ("tfn",), samples=False, sweeps=False)
    tables = {table.name: table for table in all_tables(study, summary.compare_methods(study))}
    [part] = tables["other_scales"].parts
    heads = [column.title for column in part.columns]
    assert heads[4:] == ["MAE ↓", "RMSE ↓", "Corr ↑", "Spearman ↑", "CCC ↑", "R² ↑"]
    for name, datasets in (("other_scales", {"likert"}), ("table2_mosi_mosei", {"synthetic MOSI"})):
        rows = [row for part in tables[name].parts for group in part.groups for row in group]
        assert {row[0].text for row in rows} == datasets
    alone = make_study(2, ("synthetic_mosi",), ("tfn",), samples=False, sweeps=False)
    assert not any(t.name == "other_scales" for t in all_tables(alone, summary.compare_methods(alone)))


def test_latex_has_no_sign_that_it_cannot_set():
    study = make_study(3, ("synthetic_mosi", "likert"), ("tfn", "misa"), samples=False, sweeps=False)
    study = gains(study, "mixup", 0.4)
    texts = [to_latex(table) for table in all_tables(study, summary.compare_methods(study))]
    assert any("$^{+}$" in text for text in texts)
    assert any(r"$\times$" in text for text in texts)
    assert all(text.isascii() for text in texts)
    assert not any("{Table 2: " in text for text in texts), "LaTeX numbers tables itself"
