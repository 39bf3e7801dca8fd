"""Studies for the tests of reports, made of plain frames: whole, with holes, of one seed, or empty."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from itertools import combinations
from zlib import crc32

import numpy as np
import pandas as pd

from backbones.batch import MODALITIES
from harness.config.tuned import tuned_label
from harness.matrix import method_label
from harness.metrics import METRICS
from reports.mlflow_links import LOCAL, Links
from reports.runs.curves import LOSSES, epochs
from reports.runs.frame import SCORES
from reports.runs.study import OUTCOMES, SAMPLE_KEYS, Study
from reports.runs.trials import COLUMNS as TRIAL_COLUMNS
from reports.tables.scores import score_table
from reports.tables.table import Table, to_latex, to_markdown
from tests.support.scores import CLIPS, DrawnErrors

KINDS = {"synthetic_mosi": "mosi", "synthetic_mosei": "mosei", "synthetic_sims": "sims", "likert": "score"}
SYNTHETIC = tuple(name for name in KINDS if name.startswith("synthetic"))
METHODS = ("none", "mixup", "manifold_mixup", "powmix", "ms_mix")
BACKBONES = ("tfn", "misa", "almt")
ENVIRONMENT = "CPU, torch 2.13.0, results version 1"
ABLATION = [dict.fromkeys(off, False) for k in (1, 2, 3) for off in combinations(("sal", "sass", "sig"), k)]


def make_study(
    seeds=3,
    datasets=SYNTHETIC,
    backbones=BACKBONES,
    methods=METHODS,
    ratios=(0.0, 0.3, 0.5),
    train_ratios=(0.3, 0.5),
    ablation=True,
    sweeps=True,
    samples=True,
    name="quick",
    seed=0,
    clips=48,
) -> Study:
    """A whole study; numbers lie around a level of each (backbone, dataset) and a gain of each method."""
    generator = np.random.default_rng(seed)
    rows = []
    for dataset in datasets:
        for b, backbone in enumerate(backbones):
            variants = [(m, {}) for m in methods]
            variants += [("ms_mix", v) for v in ABLATION if ablation and "ms_mix" in methods]
            for k, (method, settings) in enumerate(variants):
                for s in range(seeds):
                    level = 0.5 + 0.05 * b + 0.02 * min(k, len(methods)) - 0.01 * len(settings)
                    rows += _cell_rows(
                        generator, dataset, backbone, method, settings, 1111 + s, level, ratios
                    )
                    for ratio in train_ratios if not settings else ():
                        rows += _train_rows(generator, dataset, backbone, method, 1111 + s, level, ratio)
    frame = pd.DataFrame(rows, columns=list(SCORES))
    keys = ["dataset", "backbone", "method", "settings", "seed"]
    cells = frame.drop_duplicates("cell_id")
    outcomes = [
        dict(zip(OUTCOMES, (f"{r.dataset}/{r.backbone}/{r.method}/seed{r.seed}", "done", "", r.run_id,
                            r.dataset, r.backbone, r.method, r.seed, True), strict=True))
        for r in cells.sort_values(keys).itertuples()
    ]  # fmt: skip
    first = cells[(cells.seed == 1111) & (cells.settings == "{}") & (cells.occlusion_protocol == "test")]
    sampled = first[list(SAMPLE_KEYS)] if samples else first[list(SAMPLE_KEYS)][:0]
    arrays = {r.run_id: make_samples(r.method, len(r.run_id), clips) for r in sampled.itertuples()}
    return Study(
        name,
        frame,
        {d: KINDS.get(d, "mosi") for d in datasets},
        make_trials(seeds) if sweeps else pd.DataFrame(columns=list(TRIAL_COLUMNS)),
        pd.DataFrame(outcomes, columns=list(OUTCOMES)),
        Links(LOCAL, "1"),
        [describe(d) for d in datasets],
        frozenset(d for d in datasets if d.startswith("synthetic_")),
        sampled.reset_index(drop=True),
        arrays.__getitem__,
        {"PyTorch": "2.13.0", "commit": "0" * 40},
        clips=DrawnErrors(),
        curves=make_curves,
    )


def make_curves(run_ids: Sequence[str]) -> pd.DataFrame:
    """Losses that fall over 3 to 5 epochs, a function of the run."""
    curves = {}
    for run_id in run_ids:
        number = crc32(run_id.encode())
        lengths = range(1, 4 + number % 3)
        curves[run_id] = {loss: [(1 + number % 97 / 97) / k for k in lengths] for loss in LOSSES}
    return epochs(curves)


def score_rows(method: str, values: dict[str, Sequence[float]], **given: object) -> list[dict]:
    """Rows of a frame, one per metric and seed; values: of a metric, over the seeds 0, 1, ...

    given: columns that differ from the usual ones.
    """
    base = dict(study="s", dataset="mine", backbone="tfn", method=method, settings="{}", environment="cpu")
    base |= dict(occlusion_protocol="test", occlusion_ratio=0.0, split="test", run_id="r")
    base |= dict.fromkeys(("tuned", "tuned_backbone", "outdated", "superseded"), False) | given
    base |= labels(method, base["settings"], base["tuned"])
    return [
        {"cell_id": f"{base['settings']}{seed}", **base, "metric": metric, "value": value, "seed": seed}
        for metric, over_seeds in values.items()
        for seed, value in enumerate(over_seeds)
    ]


def as_table(numbers: pd.DataFrame, title: str = "t") -> Table:
    """Numbers of `reports.tables.seed_means` as a table of scores."""
    study = dataclasses.replace(empty_study(), synthetic=frozenset(KINDS))
    return score_table(numbers, "t", title, study)


def as_markdown(numbers: pd.DataFrame, title: str = "t") -> str:
    """The same in Markdown."""
    return to_markdown(as_table(numbers, title))


def as_latex(numbers: pd.DataFrame, title: str = "t") -> str:
    """The same in LaTeX."""
    return to_latex(as_table(numbers, title))


def empty_study() -> Study:
    """A study without a single run."""
    return make_study(seeds=0, datasets=(), sweeps=False)


@functools.cache
def labels(method, settings, tuned=False):
    """The columns of a frame that name a method with settings (JSON) as the plan of its cell does."""
    components = ("sass", "sig", "sal") if method == "ms_mix" else ()
    variant = method_label(method, json.loads(settings), components)
    return {"variant": variant, "label": tuned_label(method) if tuned else variant}


def _row(dataset, backbone, method, settings, seed, protocol, ratio, split, metric, value):
    text = json.dumps(settings, sort_keys=True)
    cell = f"{dataset}-{backbone}-{method}-{text}-{seed}-{protocol}{ratio if protocol == 'train' else ''}"
    return {
        **dict(study="quick", dataset=dataset, backbone=backbone, method=method, settings=text, seed=seed),
        **dict(occlusion_protocol=protocol, occlusion_ratio=ratio, split=split, metric=metric, value=value),
        **dict(cell_id=cell, run_id=f"run-{cell}", environment=ENVIRONMENT),
        **dict.fromkeys(("tuned", "tuned_backbone", "outdated", "superseded"), False),
        **labels(method, text),
    }


def _score(generator, metric, level, ratio):
    value = level * (1 - 0.4 * ratio) + generator.normal(0, 0.02)
    return 2 - 2 * value if metric in ("mae", "loss") else value


def _cell_rows(generator, dataset, backbone, method, settings, seed, level, ratios):
    common = (dataset, backbone, method, settings, seed, "test")
    metrics = (*METRICS[KINDS.get(dataset, "mosi")], "loss")
    rows = [_row(*common, r, "test", m, _score(generator, m, level, r)) for r in ratios for m in metrics]
    rows += [_row(*common, 0.0, "valid", m, _score(generator, m, level, 0)) for m in metrics]
    cost = {"parameter_count": 9000, "method_parameter_count": 500 * (method == "ms_mix"), "best_epoch": 7}
    cost |= {"epoch_s": 1 + generator.random(), "train_s": 20.0, "peak_memory_mb": 300 + generator.random()}
    rows += [_row(*common, 0.0, "cell", m, float(v)) for m, v in cost.items()]
    if method == "none":
        return rows
    watched = {"mix_opposite_rate": 0.4 - 0.1 * (method == "ms_mix"), "mix_label_spread": 0.8}
    watched |= {f"mix_lambda_{m}_{q}": v for m in (*MODALITIES, "label")
                for q, v in (("q10", 0.2), ("q50", 0.5), ("q90", 0.8))}  # fmt: skip
    watched["mix_distance"] = 0.9
    rows += [_row(*common, 0.0, "epoch", m, v + generator.normal(0, 0.01)) for m, v in watched.items()]
    if method == "ms_mix" and settings.get("sig", True):
        for m in MODALITIES:
            for what, v in (("truth", 0.5), ("label", 0.4), ("partial", 0.1)):
                value = v + generator.normal(0, 0.05)
                rows.append(_row(*common, 0.0, "mechanism", f"intensity_{m}_{what}", value))
    return rows


def _train_rows(generator, dataset, backbone, method, seed, level, ratio):
    common = (dataset, backbone, method, {}, seed, "train")
    metrics = METRICS[KINDS.get(dataset, "mosi")]
    return [_row(*common, ratio, "test", m, _score(generator, m, level, ratio / 2)) for m in metrics]


def make_samples(method: str, seed: int = 0, clean=96, batch=32) -> dict[str, np.ndarray]:
    """What a run keeps: latents of two clusters, and for ms_mix one batch as it explains it."""
    generator = np.random.default_rng(seed)
    widths = dict(zip(MODALITIES, (16, 8, 8), strict=True))
    labels = generator.uniform(-3, 3, clean).astype(np.float16)
    arrays = {"clean_labels": labels}
    for m, width in widths.items():
        latents = generator.normal(size=(clean, width)) + np.sign(labels)[:, None]
        arrays[f"clean_{m}"] = latents.astype(np.float16)
    if method == "none":
        return arrays
    i, j = generator.integers(0, clean, (2, clean))
    lam = generator.beta(2, 2, clean)
    arrays["mixed_labels"] = (lam * labels[i] + (1 - lam) * labels[j]).astype(np.float16)
    for m in widths:
        rows = arrays[f"clean_{m}"].astype(float)
        arrays[f"mixed_{m}"] = (lam[:, None] * rows[i] + (1 - lam[:, None]) * rows[j]).astype(np.float16)
    if method == "ms_mix":
        batch = min(batch, clean)
        similarity = generator.random((batch, batch))
        arrays["batch_similarity"] = ((similarity + similarity.T) / 2).astype(np.float16)
        arrays["batch_indices"] = generator.integers(0, batch, (batch, 2))
        arrays["batch_labels"] = labels[:batch]
        for m in MODALITIES:
            arrays[f"batch_intensity_{m}"] = generator.uniform(-3, 3, batch).astype(np.float16)
        for m in (*MODALITIES, "label"):
            arrays[f"batch_lambda_{m}"] = generator.random(batch).astype(np.float16)
        arrays["batch_losses"] = np.array([2.0, 1.1, 0.9, 0.3, 0.0], np.float16)
    return arrays


def with_samples(study, change) -> Study:
    """The study with the arrays of each run changed by a function of its method and them."""
    methods = dict(zip(study.sampled["run_id"], study.sampled["method"], strict=True))
    return dataclasses.replace(study, samples=lambda run_id: change(methods[run_id], study.samples(run_id)))


def harm(arrays, how) -> dict[str, np.ndarray]:
    """Latents with NaN and inf ("infinite"), all equal ("constant"), or of one clip ("one")."""
    changed = {name: a.copy() for name, a in arrays.items() if not name.startswith("batch_")}
    if how == "infinite":
        changed["clean_text"][0, 0], changed["clean_audio"][1, 2] = np.nan, np.inf
        changed["clean_labels"][2] = np.nan
        if "mixed_text" in changed:
            changed["mixed_text"][0] = -np.inf
    for name, array in changed.items():
        if how == "constant" and not name.endswith("labels"):
            array[:] = 0.1
        if how == "one":
            changed[name] = array[:1]
    return changed


def make_trials(seeds=2) -> pd.DataFrame:
    """The trials of the sweeps delta, xi, alpha and heads on misa, synthetic_mosi."""
    grid = (0.3, 0.5, 0.7)
    spaces = {
        "delta": [{"delta": d / 10} for d in range(5)],
        "xi": [{"xi1": a, "xi2": b} for a in grid for b in grid],
        "alpha": [{"alpha": a} for a in (0.1, 0.5, 2.0, 8.0)],
        "heads": [{"attention": a, "heads": h} for a in ("tokens", "batch") for h in (1, 4)],
    }
    default = {"delta": 0.2, "xi1": 0.7, "xi2": 0.5, "alpha": 2.0, "attention": "tokens", "heads": 4}
    common = {"dataset": "synthetic_mosi", "backbone": "misa", "method": "ms_mix", "state": "complete"}
    common |= {"reason": "", "objective": "valid/loss", "synthetic": True}
    generator, rows = np.random.default_rng(1), []
    for sweep, settings in spaces.items():
        for number, params in enumerate(settings):
            scores = generator.normal(1.0, 0.05, (seeds, 3))
            if params.get("attention") == "tokens":
                scores = np.ones_like(scores)
            trial = {"sweep": sweep, "trial": number, "params": json.dumps(params, sort_keys=True)}
            trial["default"] = all(default[name] == value for name, value in params.items())
            trial["objective_value"] = float(scores[:, 0].mean()) if seeds else math.nan
            for s in range(seeds):
                for key, value in zip(
                    ("valid/loss", "test/mae", "test/corr"), scores[s].tolist(), strict=True
                ):
                    split, metric = key.split("/")
                    own = {"seed": 1111 + s, "split": split, "metric": metric, "value": value}
                    own["run_id"] = f"{sweep}-{number}-{s}"
                    rows.append({**common, **trial, **own})
    return pd.DataFrame(rows, columns=list(TRIAL_COLUMNS)).astype({"seed": "Int64"})


def describe(dataset: str) -> dict:
    """Return the description of a data set, as `harness.study.description.describe_dataset` gives it."""
    scale = 1.0 if dataset.endswith("sims") else 3.0
    shares = {"label_mean": 0.1, "label_std": scale / 2, "negative": 0.4, "neutral": 0.1, "positive": 0.5}
    lengths = {m: {"median": 10.0, "p95": 15.0} for m in MODALITIES}
    sizes = {"train": 120, "valid": 40, "test": 60}.items()
    return {
        "name": dataset,
        "metrics": KINDS.get(dataset, "mosi"),
        "label_scale": scale,
        "fingerprint": f"{dataset}-fingerprint",
        "source": "synthetic stand-in data, size quick, generator seed 0",
        "synthetic": dataset.startswith("synthetic_"),
        "notes": [],
        "widths": dict(zip(MODALITIES, (32, 8, 12), strict=True)),
        "steps": dict(zip(MODALITIES, (16, 20, 20), strict=True)),
        "splits": {name: {"clips": n, "videos": n // 6, **shares, "lengths": lengths} for name, n in sizes},
        "test_lengths": {name: 5 + k for k, name in enumerate(CLIPS)},
    }
