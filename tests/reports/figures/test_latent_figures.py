"""Figures 1 to 3: their data against loops, the same bytes each time, and studies with pieces missing."""

import dataclasses
import hashlib
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from sklearn.decomposition import PCA

from backbones.batch import MODALITIES
from harness.errors import StoreError
from reports import commands
from reports.figures import batch, latents, tsne
from reports.figures.parts import style
from reports.figures.projection import kl_estimate
from tests.support.paths import ROOT
from tests.support.studies import empty_study, harm, make_samples, make_study, with_samples

FIGURES = (latents.FIGURE, batch.FIGURE, tsne.FIGURE)


def small(**changes):
    """A study of one pair whose runs keep few clips."""
    options = dict(seeds=1, datasets=("synthetic_mosei",), backbones=("misa",), ablation=False, sweeps=False)
    return make_study(**options | {"clips": 16} | changes)


def save(figure, data, folder):
    with style.styled():
        return style.save(figure.draw(data, figure.title, str), Path(folder), figure.name)


def digest(folder):
    """Of the files of all figures; asked for by another process, too."""
    study = small(methods=("none", "ms_mix"))
    methods = dict(zip(study.sampled["run_id"], study.sampled["method"], strict=True))
    study = dataclasses.replace(study, samples=lambda run: make_samples(methods[run], clean=30, batch=9))
    total = hashlib.sha256()
    for figure in FIGURES:
        data = figure.data(study)
        total.update(data.to_csv().encode())
        for path in save(figure, data, folder):
            total.update(path.read_bytes())
    return total.hexdigest()


def drawn(figure, study):
    """Draw what the study holds, which changes neither the data nor pyplot, and return it."""
    data, settings = figure.data(study), dict(plt.rcParams)
    copy = data.copy(deep=True)
    assert figure.caption(data)
    with style.styled():
        drawing = figure.draw(data, figure.title, partial(commands.sweep, study))
        drawing.canvas.draw()
        plt.close(drawing)
    assert plt.get_fignums() == []
    assert dict(plt.rcParams) == settings
    pd.testing.assert_frame_equal(data, copy)
    return data


@pytest.fixture(scope="module")
def study():
    """A study of two pairs and two seeds."""
    places = {"datasets": ("synthetic_mosi", "synthetic_mosei"), "backbones": ("tfn", "misa")}
    return small(seeds=2, ratios=(0.0,), train_ratios=(), clips=48, **places)


def run_of(study, method):
    rows = study.sampled.query("dataset == 'synthetic_mosei' and backbone == 'misa'")
    return rows.set_index("method")["run_id"][method]


@pytest.mark.parametrize(("figure", "runs"), list(zip(FIGURES, (5, 1, 2), strict=True)))
def test_a_whole_study_is_shown_by_the_first_seed_of_one_pair_and_no_other_run_is_loaded(
    figure, runs, study, tmp_path, monkeypatch
):
    load = Mock(side_effect=study.samples)
    data = drawn(figure, dataclasses.replace(study, samples=load))
    assert load.call_count == runs
    assert all("synthetic_mosei-misa" in call.args[0] for call in load.call_args_list)
    places = data[["dataset", "backbone", "seed"]].drop_duplicates().to_numpy().tolist()
    assert places == [["synthetic_mosei", "misa", 1111]]
    assert "seed" in figure.caption(data)
    monkeypatch.setattr(style, "ENDINGS", ("svg",))  # the picture that the page holds
    [path] = save(figure, data, tmp_path)
    assert 0 < path.stat().st_size < 1e6


@pytest.mark.soak  # a slow test compares the bytes of the whole report
def test_the_bytes_are_the_same_in_another_process(tmp_path):
    code = f"import sys; from {__name__} import digest; print(digest(sys.argv[1]))"
    (tmp_path / "other").mkdir()
    call = [sys.executable, "-c", code, str(tmp_path / "other")]
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(call, env=variables, stdout=subprocess.PIPE, text=True) as other:
        mine = digest(tmp_path)
        assert other.communicate(timeout=120)[0].strip() == mine


@pytest.mark.parametrize("module", [latents, batch, tsne])
def test_studies_without_samples(module):
    lost = with_samples(small(), lambda method, arrays: {})
    missing, damaged = (
        dataclasses.replace(lost, samples=Mock(side_effect=error))
        for error in (KeyError, StoreError("damaged"))
    )
    for nothing in (empty_study(), small(samples=False), lost, missing, damaged):
        data = module.FIGURE.data(nothing)
        assert list(data.columns) == list(module.COLUMNS)
        assert data.empty
        assert module.FIGURE.caption(data) == ""


def test_figure1_is_one_projection_of_rows_in_units_of_their_own_network(study):
    data = latents.FIGURE.data(study)
    rows = {}
    for method in ("none", "mixup", "manifold_mixup", "powmix", "ms_mix"):
        arrays = study.samples(run_of(study, method))
        kinds = ("clean", "mixed") if method != "none" else ("clean",)
        x = {k: np.hstack([arrays[f"{k}_{m}"] for m in MODALITIES]).astype(float) for k in kinds}
        rows[method] = {k: (x[k] - x["clean"].mean(0)) / x["clean"].std(0) for k in kinds}
    pca = PCA(5).fit(np.vstack([kinds["clean"] for kinds in rows.values()]))
    signs = [np.sign(axis[np.abs(axis).argmax()]) for axis in pca.components_]
    found = data[data["kind"] == "method"]
    assert list(found["method"]) == list(rows)
    assert list(found["n_clean"]) == [48] * 5
    assert list(found["n_mixed"]) == [0, 48, 48, 48, 48]
    assert set(found["components"]) == {5}
    for (method, kinds), value in zip(rows.items(), found["kl"], strict=True):
        for kind, x in kinds.items():
            points = data[(data["method"] == method) & (data["kind"] == kind)]
            expected = (pca.transform(x) * signs)[:, :2]
            assert points[["x", "y"]].to_numpy() == pytest.approx(expected, rel=1e-5, abs=1e-5)
        if "mixed" in kinds:
            by_hand = kl_estimate(pca.transform(kinds["mixed"]), pca.transform(kinds["clean"]))
            assert value == pytest.approx(by_hand, rel=1e-5)
        else:
            assert np.isnan(value)


def test_each_figure_shows_where_most_of_its_methods_are_sampled():
    wide, narrow = small(backbones=("tfn",)), small(methods=("none", "ms_mix"))
    both = dataclasses.replace(
        wide,
        sampled=pd.concat([narrow.sampled, wide.sampled], ignore_index=True),
        samples=lambda run: (narrow if "misa" in run else wide).samples(run),
    )
    assert set(latents.FIGURE.data(both)["backbone"]) == {"tfn"}
    assert set(batch.FIGURE.data(both)["backbone"]) == {"misa"}
    assert set(tsne.FIGURE.data(both)["backbone"]) == {"tfn"}
    # Where the preferred pair's runs keep nothing that mixes, Figure 3 looks elsewhere.
    study = small(backbones=("misa", "tfn"), methods=("none", "mixup"))
    without = dataclasses.replace(
        study, samples=lambda run: make_samples("mixup" if "tfn" in run else "none")
    )
    assert set(tsne.FIGURE.data(without)["backbone"]) == {"tfn"}


def test_figure1_says_what_is_missing():
    def change(method, arrays):
        partial = {name: a for name, a in arrays.items() if name != "mixed_audio"}
        narrow = arrays | {"clean_text": arrays["clean_text"][:, :3]}
        return {"mixup": {}, "powmix": narrow, "manifold_mixup": partial}.get(method, arrays)

    data = drawn(latents.FIGURE, with_samples(small(), change))
    methods = data[data["kind"] == "method"].set_index("method")
    notes = {"mixup": "no latents kept", "powmix": "latents of another width"}
    shown = {"none", "manifold_mixup", "ms_mix"}
    assert methods["note"].to_dict() == dict.fromkeys(shown, "") | notes
    assert methods.loc["manifold_mixup", "n_mixed"] == 0
    assert set(data[data["kind"] != "method"]["method"]) == shown
    assert "none, Mixup (no latents kept), Manifold Mixup, PowMix" in latents.FIGURE.caption(data)


def test_figure2_is_the_batch_in_the_order_of_labels(study):
    data = batch.FIGURE.data(study)
    arrays = {n: a.astype(float) for n, a in study.samples(run_of(study, "ms_mix")).items() if "batch" in n}
    labels, similarity = arrays["batch_labels"], arrays["batch_similarity"]
    order = sorted(range(len(labels)), key=lambda i: labels[i])
    kinds = dict(list(data.groupby("kind")))
    assert kinds["clip"]["value"].to_numpy() == pytest.approx(labels[order], rel=1e-5)
    assert len(kinds["similarity"]) == len(labels) * (len(labels) - 1) // 2
    wanted = [similarity[order[row.i], order[row.j]] for row in kinds["similarity"].itertuples()]
    assert kinds["similarity"]["value"].tolist() == pytest.approx(wanted, rel=1e-5)
    pairs = [[order[row.i], order[row.j]] for row in kinds["pair"].itertuples()]
    assert pairs == arrays["batch_indices"].tolist()
    wanted = [arrays[f"batch_intensity_{row.name}"][order[row.i]] for row in kinds["intensity"].itertuples()]
    assert kinds["intensity"]["value"].tolist() == pytest.approx(wanted, rel=1e-5)
    for name, rows in kinds["lambda"].groupby("name"):
        assert rows["value"].to_numpy() == pytest.approx(arrays[f"batch_lambda_{name}"], rel=1e-5)
    losses = dict(zip(batch.LOSSES, arrays["batch_losses"], strict=True))
    assert kinds["loss"].set_index("name")["value"].to_dict() == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize(
    "kept",
    ["", "lambda", *(pytest.param(k, marks=pytest.mark.slow) for k in ("indices", "intensity", "losses"))],
)
def test_figure2_of_partial_batches(kept):
    def change(method, arrays):
        needed = ("batch_labels", "batch_similarity")
        return {n: a for n, a in arrays.items() if n in needed or (kept and n.startswith(f"batch_{kept}"))}

    data = drawn(batch.FIGURE, with_samples(small(methods=("ms_mix",)), change))
    names = {"": set(), "indices": {"pair"}, "losses": {"loss"}}.get(kept, {kept})
    assert set(data["kind"]) == {"clip", "similarity"} | names


def test_figure2_of_damaged_batches():
    def change(method, arrays):
        indices, similarity = arrays["batch_indices"].copy(), arrays["batch_similarity"].copy()
        indices[0], indices[1], similarity[3, 4] = (0, 99), (-1, 2), np.nan
        constant = {f"batch_intensity_{m}": np.ones(32, np.float16) for m in MODALITIES}
        return arrays | constant | {"batch_indices": indices, "batch_similarity": similarity}

    study = small(methods=("ms_mix",), clips=32)
    data = drawn(batch.FIGURE, with_samples(study, change))
    assert (data["kind"] == "pair").sum() == 30
    for wrong in ({"batch_similarity": np.ones((3, 3))}, {"batch_labels": np.full(32, np.nan)}):
        damaged = with_samples(study, lambda m, a, wrong=wrong: a | wrong)
        assert batch.FIGURE.data(damaged).empty


def test_figure2_prefers_ms_mix_itself_to_a_variant():
    study = small(methods=("ms_mix",))
    variant = study.sampled.assign(method="ms_mix{tuned}", run_id="other")
    sampled = pd.concat([variant, study.sampled], ignore_index=True)
    both = dataclasses.replace(study, sampled=sampled, samples=lambda run: make_samples("ms_mix"))
    assert set(batch.FIGURE.data(both)["method"]) == {"ms_mix"}
    alone = dataclasses.replace(both, sampled=variant)
    assert set(batch.FIGURE.data(alone)["method"]) == {"ms_mix{tuned}"}
    ablated = dataclasses.replace(both, sampled=variant.assign(method="ms_mix[sass]"))
    assert batch.FIGURE.data(ablated).empty


def test_figure3_shows_ms_mix_and_powmix_with_their_labels(study):
    data = tsne.FIGURE.data(study)
    assert list(dict.fromkeys(data["method"])) == ["ms_mix", "powmix"]
    for method, rows in data.groupby("method"):
        arrays = study.samples(run_of(study, method))
        expected = np.concatenate([arrays["clean_labels"], arrays["mixed_labels"]]).astype(float)
        assert rows["label"].to_numpy() == pytest.approx(expected, rel=1e-5)
        assert rows["kind"].tolist() == ["clean"] * 48 + ["mixed"] * 48
    assert set(data["perplexity"]) == {30}
    assert np.isfinite(data[["x", "y"]].to_numpy()).all()


@pytest.mark.parametrize(
    ("methods", "shown"),
    [
        (("none", "mixup", "manifold_mixup", "powmix"), ["powmix", "mixup"]),
        (("none", "my_$x^2$_mix", "b$ad_" + "long" * 15), ["b$ad_" + "long" * 15, "my_$x^2$_mix"]),
    ],
)
def test_other_methods_and_hostile_names(methods, shown):
    study = small(methods=methods, backbones=("$a$",), clips=12)
    data = drawn(tsne.FIGURE, study)
    assert list(dict.fromkeys(data["method"])) == shown
    assert set(data["perplexity"]) == {round(23 / 3, 5)}
    for figure, found in ((tsne.FIGURE, data), (latents.FIGURE, drawn(latents.FIGURE, study))):
        assert "$a$" in figure.caption(found), "names are no mathematics"


@pytest.mark.parametrize(("how", "clips"), [("infinite", 13), ("constant", 16), ("one", 1)])
def test_harmed_latents(how, clips):
    study = small(methods=("none", "powmix", "ms_mix"))
    study = with_samples(study, lambda method, arrays: harm(arrays, how))
    data = drawn(latents.FIGURE, study)
    methods = data[data["kind"] == "method"]
    points = data[data["kind"] != "method"]
    assert np.isfinite(points[["x", "y", "label"]].to_numpy()).all()
    assert methods["n_clean"].tolist() == [clips] * 3
    assert methods["kl"].isna().all() == (how != "infinite")
    if how == "one":
        assert tsne.FIGURE.data(study).empty
        return
    embedded = drawn(tsne.FIGURE, study)
    assert np.isfinite(embedded[["x", "y"]].to_numpy()).all()
    if how == "constant":
        assert not points[["x", "y"]].to_numpy().any()
        assert not embedded[["x", "y"]].to_numpy().any()
