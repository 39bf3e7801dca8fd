"""The sentences of the summary, and the table of each method against the baseline."""

import dataclasses

import numpy as np
import pytest

from reports.page import summary
from reports.page.report import all_tables
from reports.stats.ranking import ranks
from reports.tables.table import to_latex
from tests.support.studies import make_study

SIX = ("tfn", "lmf", "mult", "misa", "almt", "glomo")


def gains(study, method, gain, spread=0.001):
    """The study with this gain of a method in MAE over none, for every backbone and seed."""
    frame = study.frame.copy()
    keys = ["dataset", "backbone", "seed", "occlusion_protocol", "occlusion_ratio", "split"]
    none = frame[(frame["method"] == "none") & (frame["metric"] == "mae")].set_index(keys)["value"]
    rows = (frame["method"] == method) & (frame["metric"] == "mae") & (frame["split"] == "test")
    noise = np.random.default_rng(0).normal(0, spread, rows.sum())
    frame.loc[rows, "value"] = none.loc[list(map(tuple, frame.loc[rows, keys].values))].array - gain + noise
    return dataclasses.replace(study, frame=frame)


def small(seeds, *methods):
    """A study of six backbones on clean data alone."""
    return make_study(seeds, ("synthetic_mosi",), SIX, methods, (0.0,), (), False, False, False)


def said_of(study):
    """The sentences of the summary as one text."""
    return " ".join(summary.sentences(study, summary.compare_methods(study)))


@pytest.mark.parametrize(
    ("gain", "wanted"),
    [
        (0.3, ["mixup has the largest mean gain in test MAE over none", "also by Wilcoxon's",
               "better on 6, worse on 0"]),
        (-0.3, ["no method has a lower mean test MAE than none; mixup comes closest",
                "worse beyond the noise", "better on 0, worse on 6"]),
    ],
)  # fmt: skip
def test_the_summary_says_what_is_outside_the_noise(gain, wanted):
    said = said_of(gains(small(3, "none", "mixup"), "mixup", gain))
    assert all(text in said for text in [*wanted, "6 backbones, 3 seeds"])
    assert ("outside the noise, also" in said) == (gain > 0)


def few_strata(study, method, backbones):
    """The study with a method on some backbones alone."""
    kept = (study.frame["method"] != method) | study.frame["backbone"].isin(backbones)
    return dataclasses.replace(study, frame=study.frame[kept])


def test_a_method_does_not_win_by_the_backbones_that_it_lacks():
    """powmix gains 0.3 on one backbone, mixup 0.1 on all six."""
    study = small(3, "none", "mixup", "powmix")
    said = said_of(few_strata(gains(gains(study, "mixup", 0.1), "powmix", 0.3), "powmix", SIX[:1]))
    assert "mixup has the largest mean gain in test MAE over none (+0.100" in said
    assert "Also better beyond the noise: powmix (on only 1 backbone)" in said


def test_the_summary_counts_for_holm_what_is_tested():
    """On one backbone there is no test; on six p is 0.031 or more, times the methods that have one."""
    study = small(3, "none", "mixup", "manifold_mixup", "powmix")
    for method in ("mixup", "manifold_mixup", "powmix"):
        study = gains(study, method, 0.3)
    for lacking, wanted in (
        ((), "(6 backbones are too few for Holm's correction for 3 methods)"),
        (("mixup",), "(6 backbones are too few for Holm's correction for 2 methods)"),
        (("mixup", "powmix"), ", also by Wilcoxon's test over backbones (p = 0.031)"),
    ):
        fewer = study
        for method in lacking:
            fewer = few_strata(fewer, method, SIX[:1])
        found = summary.compare_methods(fewer)
        assert wanted in said_of(fewer)
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
    assert (f"too narrow for few seeds): mixup {chance:.2f} (" in said) == told


def test_noise_and_one_seed_claim_nothing():
    study = small(5, "none", "mixup", "powmix")
    said = said_of(gains(gains(study, "mixup", 0.0, spread=0.05), "powmix", 0.0, spread=0.05))
    assert "inside the noise" in said
    assert "outside the noise" not in said
    study = small(1, "none", "mixup")
    assert "with one seed no uncertainty can be given" in said_of(study)
    assert "outside" not in said_of(study)
    table = summary.comparison_table(study, summary.compare_methods(study))
    assert all(value.text == "–" for group in table.parts[0].groups for row in group for value in row[4:10])


@pytest.mark.parametrize(("clips", "wanted"), [(1, "only 1 clip:"), (49, "only 49 clips:"), (50, "")])
def test_the_summary_warns_of_a_small_test_split(clips, wanted):
    study = make_study(3, ("synthetic_mosi", "synthetic_sims"), SIX, ("none", "mixup"), (0.0,), sweeps=False)
    for entry in study.datasets:
        if entry["name"] == "synthetic_mosi":
            entry["splits"]["test"]["clips"] = clips
    small, large, *_ = summary.sentences(study, summary.compare_methods(study))
    assert small.startswith("synthetic_mosi: ")
    assert ("test split has" in small) == bool(wanted)
    assert wanted in small
    assert "test split has" not in large


def test_without_a_rival_there_is_nothing_to_compare():
    for methods in ((), ("none",), ("mixup",)):
        study = small(2, *methods)
        found = summary.compare_methods(study)
        assert found.empty
        assert "nothing to compare" in summary.sentences(study, found)[0]
        assert "nothing to compare" in summary.comparison_table(study, found).notes[0]


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
    for name, datasets in (("other_scales", {"likert"}), ("table2_mosi_mosei", {"synthetic_mosi"})):
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
