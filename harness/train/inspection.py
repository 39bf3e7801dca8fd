"""Latents of a trained network for figures, and mechanism checks of its method.

Both read the best weights after training and change nothing, so that no metric of a cell depends on them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backbones.base import Backbone
from backbones.batch import MODALITIES, Batch, Latents
from harness.matrix import Cell
from harness.train.seeds import generator_for
from harness.train.splits import EVALUATION_BATCH, ResidentSplit, Splits
from harness.train.state import TrainingState
from harness.train.step import mix_batch, step_losses
from methods.base import Draw, Method

SAMPLE = 512


@dataclass(frozen=True)
class Inspection:
    """Options of `inspect`; sample: store latents; truth: ground truth of the test split (`Clips.truth`).

    weights: also keep the best weights, see `harness.train.weights`.
    """

    sample: bool = False
    truth: Mapping[str, np.ndarray] | None = None
    weights: bool = False


def inspect(
    cell: Cell, training: TrainingState, splits: Splits, inspection: Inspection
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """Inspect a trained network in eval mode; return samples by name, and the scores "mechanism", if any."""
    backbone, method = training.backbone.eval(), training.method.eval()
    samples, scores = {}, {}
    if inspection.sample:
        samples = sample_latents(cell, backbone, method, splits.resident["train"])
    if inspection.truth is not None:
        scores = mechanism(backbone, method, splits.resident["test"], inspection.truth)
    return samples, {"mechanism": scores} if scores else {}


def sample_latents(
    cell: Cell, backbone: Backbone, method: Method, split: ResidentSplit
) -> dict[str, np.ndarray]:
    """Return clean and mixed latents of at most 512 training clips each, and one batch with explanations.

    Shape: clean_{modality} and mixed_{modality} (n, D) float16, as vectors; clean_labels, mixed_labels (n,);
    batch_{name}: of the first batch, see `Method.explain`; batch_losses: total, task, mixed, penalty and
    auxiliary.
    """
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    order = generator_for(cell.seed, "sample").permutation(len(split))[:SAMPLE]
    size = backbone.settings.batch_size
    for step, start in enumerate(range(0, len(order), size)):
        index = order[start : start + size]
        for name, array in _sampled_batch(cell, backbone, method, split, step, index):
            parts[name].append(array)
    return {name: _small(np.concatenate(arrays)) for name, arrays in parts.items()}


def _sampled_batch(
    cell: Cell, backbone: Backbone, method: Method, split: ResidentSplit, step: int, index: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the names and arrays of one batch of the sample."""
    batch = split.take(index)
    with torch.no_grad():
        inputs = backbone.embed(batch)
        latents = backbone.encode(inputs)
    yield from _rows("clean", latents, batch.labels)
    draw = method.draw(generator_for(cell.seed, "sample", step), split.labels_on_host[index])
    if draw is None:
        return
    if step == 0:
        yield from _explained(backbone, method, batch, latents, draw)
    if draw.layer < 2:
        mixed = mix_batch(backbone, method, (inputs, latents)[draw.layer], batch.labels, draw)
        with torch.no_grad():
            latents = backbone.encode(mixed.latents) if draw.layer == 0 else mixed.latents
        yield from _rows("mixed", latents, mixed.labels, mixed.counted)


def _rows(
    kind: str, latents: Latents, labels: Tensor, counted: Tensor | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and array of each modality's vectors and of the labels, for the rows that count."""
    for name, rows in [*latents.vectors().items(), ("labels", labels)]:
        rows = rows if counted is None else rows[counted]
        yield f"{kind}_{name}", rows.detach().float().cpu().numpy()


def _explained(
    backbone: Backbone, method: Method, batch: Batch, latents: Latents, draw: Draw
) -> Iterator[tuple[str, np.ndarray]]:
    arrays = {k: torch.from_numpy(a).to(batch.labels.device) for k, a in draw.arrays.items()}
    with torch.no_grad():
        explained = method.explain(latents, batch.labels, arrays)
        if explained:
            explained = {**explained, "losses": torch.stack(step_losses(backbone, method, batch, draw))}
    for name, x in explained.items():
        yield f"batch_{name}", x.detach().cpu().numpy()


def _small(array: np.ndarray) -> np.ndarray:
    """Convert floats to float16, clipped to its range."""
    if array.dtype.kind != "f":
        return array
    most = float(np.finfo(np.float16).max)
    return np.clip(array, -most, most).astype(np.float16)


@torch.inference_mode()
def mechanism(
    backbone: Backbone, method: Method, split: ResidentSplit, truth: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Correlate intensities |I^m| with the ground truth of the synthetic clips over the test split.

    Per modality: ``intensity_{m}_truth``, correlation with a^m |u^m|; ``intensity_{m}_label``, with |y|;
    ``intensity_{m}_partial``, with a^m given |y|, on which SAL's target does not depend. Undefined
    correlations are left out; the result is empty for methods without intensities.
    """
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for index in np.array_split(np.arange(len(split)), -(-len(split) // EVALUATION_BATCH)):
        latents = backbone.encode(backbone.embed(split.take(index)))
        for m, values in method.intensities(latents).items():
            parts[m].append(values)
    scores = {}
    label = np.abs(split.labels_on_host.astype(float))
    for m, tensors in parts.items():
        intensity = torch.cat(tensors).abs().double().cpu().numpy()
        a, u = (truth[key][:, MODALITIES.index(m)].astype(float) for key in ("a", "u"))
        scores[f"intensity_{m}_truth"] = correlation(intensity, a * np.abs(u))
        scores[f"intensity_{m}_label"] = correlation(intensity, label)
        scores[f"intensity_{m}_partial"] = correlation(without(intensity, label), without(a, label))
    return {name: value for name, value in scores.items() if np.isfinite(value)}


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return Pearson's correlation; NaN if either array is constant. Shape: (N,), (N,) -> scalar."""
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 1e-12 * len(x) else math.nan


def without(x: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the residuals of x's linear regression on another variable. Shape: (N,), (N,) -> (N,)."""
    design = np.stack([np.ones_like(other), other], 1)
    return x - design @ np.linalg.lstsq(design, x, rcond=None)[0]
