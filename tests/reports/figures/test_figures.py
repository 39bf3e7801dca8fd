"""Figures 4 to 11: their numbers against slow loops, and that no study breaks or changes a drawing."""

import json
import math
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy.stats import t, ttest_1samp

from harness.metrics import DIRECTION
from reports import commands
from reports.figures import curves, forest, kinds, mechanism, occlusion, radar, sweeps
from reports.figures import ranks as ranking
from reports.figures.parts import style
from reports.page.report import place
from reports.stats.comparison import clean
from tests.support.studies import empty_study, make_study

FIGURES = [module.FIGURE for module in (sweeps, occlusion, radar, ranking, forest, mechanism, kinds, curves)]
each_figure = pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
TWO = ("synthetic_mosi", "synthetic_sims")

pytestmark = pytest.mark.filterwarnings("error")


@cache
def small(**changes):
    options = dict(datasets=TWO, backbones=("tfn", "misa"), seeds=3, ablation=False, samples=False)
    return make_study(**options | changes)


def with_holes(study, share=0.2, seed=3):
    """Without a share of the cells, and of the numbers of the trials."""
    generator = np.random.default_rng(seed)
    cells = sorted(set(study.frame["cell_id"]))
    kept = {cell for cell in cells if generator.random() > share}
    trials = study.trials.sample(frac=1 - share, random_state=seed).sort_index()
    lost = trials["params"].isin(sorted(set(trials["params"]))[::7])
    trials = trials.assign(state=np.where(lost, "failed", trials["state"]))
    trials.loc[lost, ["objective_value", "value"]] = math.nan
    return replace(study, frame=study.frame[study.frame["cell_id"].isin(kept)], trials=trials)


def undefined(study):
    """Without a defined correlation, and with some other numbers undefined."""
    frame, trials = study.frame.copy(), study.trials.copy()
    frame.loc[(frame["metric"] == "corr") | (frame.index % 7 == 0), "value"] = math.nan
    trials.loc[trials["trial"] == 1, ["value", "objective_value"]] = math.nan
    return replace(study, frame=frame, trials=trials)


STUDIES = {
    "holes": lambda: with_holes(small()),
    "mostly holes": lambda: with_holes(small(), share=0.8),
    "two seeds": lambda: small(seeds=2),
    "undefined": lambda: undefined(small()),
    # Figure 4 shows trials, which are the same in all studies from here on.
    "five datasets": lambda: small(datasets=tuple("abcde"), methods=("none", "ms_mix"), seeds=2),
    "one method": lambda: small(methods=("mixup",)),
    "baseline": lambda: small(methods=("none",), datasets=TWO[:1]),
    "no baseline": lambda: small(methods=("mixup", "ms_mix")),
    "ten methods": lambda: small(methods=("none", *"bcdefghi", "ms_mix"), datasets=TWO[:1], seeds=2),
    "zeros": lambda: replace(small(), frame=small().frame.assign(value=0.0)),
}
# Each figure of one study or two and each study in one figure are drawn in the fast tests.
FAST = {((-k - k // len(FIGURES)) % len(FIGURES), k) for k in range(len(STUDIES))}
PAIRS = [
    pytest.param(figure, name, marks=() if (i, k) in FAST else pytest.mark.slow, id=f"{figure.name}-{name}")
    for i, figure in enumerate(FIGURES)
    for k, name in enumerate(STUDIES)
    if figure is not sweeps.FIGURE or k < 4
]


def drawn(figure, study):
    """A figure's data, its caption and the texts in it, drawn and closed."""
    data = figure.data(study)
    assert "dataset" in data.columns
    assert set(data["dataset"]) <= {*study.frame["dataset"], *study.trials["dataset"]}
    if data.empty:
        return data, "", []
    with style.styled():
        drawing = figure.draw(data, figure.title + place(data), partial(commands.sweep, study))
        drawing.draw_without_rendering()
    plt.close(drawing)
    assert plt.get_fignums() == []
    texts = [text.get_text().replace("\n", " ") for text in drawing.findobj(plt.Text)]
    caption = figure.caption(data)
    assert not any(word in caption for word in ("nan", "NaN", "<NA>", "None"))
    return data, caption, texts


@pytest.mark.parametrize(("figure", "name"), PAIRS)
def test_every_study_is_drawn(figure, name):
    drawn(figure, STUDIES[name]())


@each_figure
def test_nothing_to_show_is_empty(figure):
    study = small()
    trials = study.trials.assign(value=math.nan, objective_value=math.nan)
    for nothing in (empty_study(), replace(study, frame=study.frame.assign(value=math.nan), trials=trials)):
        assert figure.data(nothing).empty


@each_figure
def test_the_order_of_rows_changes_no_data(figure):
    study = with_holes(small(datasets=TWO[:1], methods=("none", "mixup", "ms_mix"), seeds=2))
    frame, trials = (rows.sample(frac=1, random_state=1) for rows in (study.frame, study.trials))
    pd.testing.assert_frame_equal(figure.data(study), figure.data(replace(study, frame=frame, trials=trials)))


def test_the_same_data_give_the_same_bytes(tmp_path):
    study, written = small(datasets=TWO[:1], seeds=2), []
    data = occlusion.data(study)
    for _ in range(2):
        with style.styled():
            paths = style.save(
                occlusion.draw(data, "t", partial(commands.sweep, study)), tmp_path, "occlusion"
            )
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
    assert [path.suffix for path in paths] == [".pdf", ".svg", ".png"]
    assert plt.get_fignums() == []


@each_figure
def test_names_stand_as_they_are_and_one_seed_claims_nothing(figure):
    dataset, method = "a_$b$_%&{x}", "my_$mix$_é"
    study = small(
        datasets=(dataset, "größe \\alpha^2 #1"),
        backbones=("$tfn", "l_m_f\\"),
        methods=("none", method, "mi<x>&", "ms_mix"),
        name="a 'study' $x$",
        seeds=1,
    )
    trials = study.trials.assign(dataset=dataset, backbone="$tfn")
    data, caption, texts = drawn(figure, replace(study, trials=trials))
    for name, without in ((dataset, "figure7_ranks"), (method, "figure4_sweeps")):
        assert any(style.plain(name) in text for text in texts) or figure.name == without
    assert style.plain("$") == r"\$", "which would begin mathematics"
    assert data.get(["low", "high"], pd.DataFrame()).isna().all(axis=None)
    assert "o uncertainty can be given" in caption


def block_means(rows):
    """method -> (mean over backbones of means over seeds, n), from blocks that all of the methods have."""
    methods, blocks = sorted(set(rows["method"])), {}
    for row in rows.to_dict("records"):
        if math.isfinite(row["value"]):
            blocks.setdefault((row["backbone"], row["seed"]), {})[row["method"]] = row["value"]
    common = [m for m in methods if 2 * sum(m in block for block in blocks.values()) >= len(blocks)]
    whole = {key: block for key, block in blocks.items() if all(m in block for m in common)}
    summaries = dict.fromkeys(methods, (math.nan, 0))
    for method in common if whole else ():
        per_backbone = {}
        for (backbone, _), block in whole.items():
            per_backbone.setdefault(backbone, []).append(block[method])
        means = [sum(values) / len(values) for values in per_backbone.values()]
        summaries[method] = (sum(means) / len(means), len(whole))
    return summaries


def assert_means(data, expected):
    rows = {row["method"]: (row["mean"], row["n"]) for row in data.to_dict("records")}
    assert len(rows) == len(data)
    assert rows.keys() == expected.keys()
    for method, pair in expected.items():
        assert rows[method] == pytest.approx(pair, nan_ok=True)


def test_occlusion_means_are_those_of_a_loop():
    study = with_holes(small(seeds=4, backbones=("tfn", "misa", "almt")))
    data = occlusion.data(study)
    scores = study.scores()
    scores = scores[scores["metric"] == "mae"]
    assert set(data["protocol"]) == {"test", "train"}
    for (dataset, protocol, ratio), part in data.groupby(["dataset", "protocol", "ratio"]):
        source = "test" if ratio == 0 else protocol
        rows = scores[(scores["dataset"] == dataset) & (scores["occlusion_protocol"] == source)]
        assert_means(part, block_means(rows[rows["occlusion_ratio"] == ratio]))
    assert (data["blocks"] > data["n"]).any()
    assert "Left out: up to" in occlusion.caption(data)


def test_an_occlusion_curve_needs_two_ratios_and_runs_that_all_but_rare_methods_have():
    study = small()
    rare = (study.frame["method"] == "mixup") & (study.frame["seed"] > 1111)
    data = occlusion.data(replace(study, frame=study.frame[~rare]))
    assert (data.loc[data["method"] == "mixup", "n"] == 0).all()
    assert (data.loc[data["method"] != "mixup", "n"] == 6).all()
    said = "Not shown on synthetic MOSI, because most of their trainings are missing: Mixup."
    assert said in occlusion.caption(data)
    # Runs of two environments are no block.
    moved = (study.frame["method"] == "none") & (study.frame["seed"] == 1112)
    frame = study.frame.assign(environment=study.frame["environment"].mask(moved, "GPU"))
    data = occlusion.data(replace(study, frame=frame))
    points = data[data["protocol"] == "test"]
    assert (points["blocks"] == 8).all()
    assert (points["n"] == 4).all()
    # Equal lines are named.
    copy = study.frame[study.frame["method"] == "none"].assign(method="twin", variant="twin", label="twin")
    frame = pd.concat([study.frame, copy.assign(cell_id=copy["cell_id"] + "-twin")])
    caption = occlusion.caption(occlusion.data(replace(study, frame=frame)))
    assert "Exactly equal on synthetic MOSI, so that their lines coincide: none, twin." in caption
    assert occlusion.data(small(ratios=(0.0,), train_ratios=())).empty
    assert set(occlusion.data(small(ratios=(0.0,)))["protocol"]) == {"train"}
    assert set(occlusion.data(small(train_ratios=()))["protocol"]) == {"test"}


def test_losses_are_those_of_a_loop():
    study = with_holes(small(backbones=("tfn", "misa", "almt")))
    data = curves.data(study)
    scores = clean(study.scores())
    runs = scores.drop_duplicates("run_id").to_dict("records")
    losses = {}
    for row in study.curves([run["run_id"] for run in runs]).to_dict("records"):
        losses.setdefault(row["run_id"], []).append(row["valid_loss"])
    for (dataset, loss, method, seed), part in data.groupby(["dataset", "loss", "method", "seed"]):
        assert loss in curves.LOSSES
        assert list(part["epoch"]) == list(range(1, len(part) + 1))
        own = [
            run
            for run in runs
            if (run["dataset"], run["method"]) == (dataset, method) and seed in ("mean", str(run["seed"]))
        ]
        assert len(part) == min(len(losses[run["run_id"]]) for run in own)
        assert set(part["n"]) == {len(own)}
        for epoch, value in zip(part["epoch"], part["value"], strict=True):
            per_backbone = {}
            for run in own:
                per_backbone.setdefault(run["backbone"], []).append(losses[run["run_id"]][epoch - 1])
            assert value == pytest.approx(np.mean([np.mean(values) for values in per_backbone.values()]))
    assert "only their shape can be compared" in curves.caption(data)
    assert "Thin lines: single seeds" in curves.caption(data)
    assert "the first 5 of 6 seeds" in curves.caption(curves.data(small(seeds=6, datasets=TWO[:1])))


def test_a_loss_that_no_run_stores_is_said():
    study = small(datasets=TWO[:1], seeds=2)
    one = replace(study, curves=lambda ids: study.curves(ids).assign(train_task_loss=math.nan))
    data, _, _ = drawn(curves.FIGURE, one)
    assert set(data["loss"]) == {"valid_loss"}
    assert curves.data(replace(study, curves=lambda ids: study.curves([]))).empty


def test_radar_axes_run_from_worst_to_best():
    study = with_holes(small(seeds=4))
    data = radar.data(study)
    scores = clean(study.scores())
    assert set(data.loc[data["dataset"] == TWO[1], "metric"]) == {"acc2", "acc3", "acc5", "f1", "mae", "corr"}
    for (dataset, metric), part in data.groupby(["dataset", "metric"]):
        found = block_means(scores[(scores["dataset"] == dataset) & (scores["metric"] == metric)])
        assert_means(part, found)
        values = {m: DIRECTION[metric] * mean for m, (mean, n) in found.items() if n}
        worst, best = min(values.values()), max(values.values())
        for method, scaled in zip(part["method"], part["scaled"], strict=True):
            if method in values:
                expected = 0.25 + 0.75 * (values[method] - worst) / (best - worst)
                assert scaled == pytest.approx(expected)


def test_forest_gains_are_paired_differences():
    study = with_holes(small(seeds=4))
    data = forest.data(study)
    values = {
        (*place, r["method"], r["seed"]): r["value"]
        for r in clean(study.scores()).to_dict("records")
        for place in [(r["dataset"], r["backbone"], r["metric"])]
    }
    for row in data[data["row"] != forest.ALL].to_dict("records"):
        place = (row["dataset"], row["row"], row["metric"])
        gains = [
            DIRECTION[row["metric"]] * (value - values[*place, "none", key[-1]])
            for key, value in values.items()
            if key[:-1] == (*place, row["method"]) and (*place, "none", key[-1]) in values
        ]
        assert row["n"] == len(gains)
        assert row["gain"] == pytest.approx(np.mean(gains))
        if len(gains) > 1:
            interval = ttest_1samp(gains, 0).confidence_interval()
            assert (row["low"], row["high"]) == pytest.approx(interval)
    for _, part in data.groupby(["dataset", "method", "metric"]):
        pooled, single = part[part["row"] == forest.ALL].iloc[0], part[part["row"] != forest.ALL]
        assert (pooled["gain"], pooled["n"]) == pytest.approx((single["gain"].mean(), single["n"].sum()))
    assert "Left out:" in forest.caption(data)


def test_a_failed_training_does_not_set_the_scale_of_the_forest():
    frame = small().frame.copy()
    frame.loc[frame.index[frame["metric"] == "mae"][7], "value"] = 1e6
    data = forest.data(replace(small(), frame=frame))
    low, high = forest.axis_limits(data[data["metric"] == "mae"])
    assert -50 < low < 0 < high < 50


def test_ranks_and_shares_are_those_of_a_loop_and_a_method_without_rank_is_named():
    methods = ("none", "mixup", "ms_mix")
    study = small(methods=methods)
    data, scores = ranking.data(study), clean(study.scores())
    values = {
        ((r["dataset"], r["backbone"]), r["method"], r["seed"]): r["value"]
        for r in scores[scores["metric"] == "mae"].to_dict("records")
    }
    tasks = sorted({task for task, _, _ in values})
    runs = {(t, m): [v for key, v in values.items() if key[:2] == (t, m)] for t in tasks for m in methods}
    mean = {key: np.mean(part) for key, part in runs.items()}
    for method, rank in data[data["panel"] == "ranks"][["method", "rank"]].itertuples(index=False):
        places = [sum(mean[t, other] < mean[t, method] for other in methods) for t in tasks]
        assert rank == pytest.approx(1 + np.mean(places))
    profile = data[data["panel"] == "profile"]
    assert len(profile) == len(values)
    for row in profile.to_dict("records"):
        task, method = (row["dataset"], row["backbone"]), row["method"]
        assert row["gain"] == pytest.approx(1 - values[task, method, row["seed"]] / mean[task, "none"])
        gains = [1 - np.array(runs[other, method]) / mean[other, "none"] for other in tasks]
        assert row["share"] == pytest.approx(np.mean([np.mean(g >= row["gain"] - 1e-12) for g in gains]))
        assert row["low"] <= row["share"] <= row["high"]
    rare = study.frame["method"] == "mixup"
    rare &= (study.frame["backbone"] != "tfn") | (study.frame["dataset"] != TWO[0])
    data = ranking.data(replace(study, frame=study.frame[~rare]))
    assert "Not ranked, because absent from most blocks: Mixup." in ranking.caption(data)
    assert "mixup" not in set(data.loc[data["panel"] == "profile", "method"])


def test_mechanism_means_are_those_of_a_loop():
    study = with_holes(small(datasets=TWO[:1], ablation=True))
    data = mechanism.data(study)
    assert set(data["panel"]) == {"opposite", "intensity", "lambda"}
    frame = study.frame[study.frame["settings"] == "{}"]
    for (dataset, metric), part in data.groupby(["dataset", "metric"]):
        rows = frame[(frame["dataset"] == dataset) & (frame["metric"] == metric)]
        assert_means(part, block_means(rows[rows["occlusion_protocol"] == "test"]))
    assert set(data.loc[data["panel"] == "intensity", "method"]) == {"ms_mix"}
    assert len(data[data["panel"] == "lambda"]) == 4 * 4 * 3
    real = replace(study, frame=study.frame[study.frame["split"] != "mechanism"])
    said = "(b) is empty: it needs synthetic data"
    assert said in mechanism.caption(mechanism.data(real))


def test_weights_outside_0_to_1_are_drawn_within_the_axes():
    study = small(datasets=TWO[:1])
    far = study.frame["metric"].str.fullmatch("mix_lambda_label_q(10|90)")
    values = study.frame["value"].where(
        ~far, study.frame["metric"].map(lambda name: 9.5 if "90" in name else -2)
    )
    data = mechanism.data(replace(study, frame=study.frame.assign(value=values)))
    drawing = mechanism.FIGURE.draw(data, "", lambda text: text)
    try:
        limits = [ax.get_ylim() for ax in drawing.axes if ax.get_ylabel() == mechanism.LABELS["lambda"]]
    finally:
        plt.close(drawing)
    [(low, high)] = limits
    assert (low, high) == (-2, 9.5)


def test_sweeps_hold_means_and_intervals_of_each_setting():
    study = small()
    data = sweeps.data(study)
    assert dict(data.groupby("sweep").size()) == {"delta": 15, "xi": 27, "alpha": 12, "heads": 12}
    objective = study.trials[(study.trials["split"] == "valid") & (study.trials["metric"] == "loss")]
    trials = [(trial, json.loads(trial["params"])) for trial in objective.to_dict("records")]
    for row in data.to_dict("records"):
        panel = sweeps.PANELS[row["sweep"]]
        values = [
            trial["value"]
            for trial, params in trials
            if (trial["sweep"], params.get(panel.x)) == (row["sweep"], row["x"])
            if not panel.y or params[panel.y] == row["y"]
            if not panel.line or row["line"] == f"attention={params[panel.line]}"
        ]
        assert row["n"] == len(values) == 3
        assert row["mean"] == pytest.approx(np.mean(values))
        half = t.ppf(0.975, 2) * np.std(values, ddof=1) / math.sqrt(3)
        assert (row["low"], row["high"]) == pytest.approx((np.mean(values) - half, np.mean(values) + half))
    caption = sweeps.caption(data)
    assert "(d) with attention=tokens is exactly constant, because attention over one token" in caption
    assert caption.count("is exactly constant") == 1
    data = sweeps.data(small(seeds=2))
    assert data[["low", "high"]].isna().all(axis=None)
    assert "single seeds (too few for an interval)" in sweeps.caption(data)


def test_a_missing_sweep_says_how_to_run_it():
    study = small(name="my study")
    trials = study.trials[study.trials["sweep"].isin(["delta", "tune-mixup"])]
    text = " ".join(drawn(sweeps.FIGURE, replace(study, trials=trials))[2])
    for param in ("xi", "alpha", "heads"):
        assert f"make sweep PARAM={param} STUDY='my study'" in text
    assert "PARAM=delta" not in text


def test_the_pair_with_most_settings_is_shown_and_the_others_named():
    study = small()
    more = study.trials[(study.trials["sweep"] == "delta") & (study.trials["trial"] < 2)]
    alone = study.trials[study.trials["sweep"] == "alpha"].assign(backbone="lmf")
    rest = study.trials[study.trials["sweep"] != "alpha"]
    data = sweeps.data(replace(study, trials=pd.concat([rest, more.assign(backbone="tfn"), alone])))
    shown = data[data["shown"]].groupby("sweep")["backbone"].unique()
    expected = {"alpha": ["lmf"], "delta": ["misa"], "heads": ["misa"], "xi": ["misa"]}
    assert {name: list(backbones) for name, backbones in shown.items()} == expected
    assert "There are also sweeps for TFN on synthetic MOSI" in sweeps.caption(data)


def test_settings_off_the_grid_are_drawn_as_points(monkeypatch):
    monkeypatch.setattr(sweeps, "_MOST", 8)
    study, generator = small(), np.random.default_rng(0)
    trials = study.trials[study.trials["sweep"] == "xi"]
    params = {k: json.dumps({name: generator.random() for name in ("xi1", "xi2")}) for k in trials["params"]}
    data = drawn(sweeps.FIGURE, replace(study, trials=trials.assign(params=trials["params"].map(params))))[0]
    assert data["x"].nunique() == 9


def test_a_long_command_stands_whole_in_a_placeholder(recwarn):
    fill = " ".join(f"backbone.tfn.setting_{k}=0.123456789" for k in range(40))
    with style.styled():
        figure = style.placeholder("Figure 2: MS-Mix", "Nothing is here.", fill)
        figure.canvas.draw()
        [ax] = figure.axes
        [text] = ax.texts
        box, whole = text.get_window_extent(), figure.bbox
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1
        assert " ".join(text.get_text().split()).endswith(fill)
        plt.close(figure)
    assert not recwarn.list
