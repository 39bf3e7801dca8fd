"""Statistics of an epoch's mixed examples, computed on the device and copied to the host once per epoch."""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from torch import Tensor

from backbones.batch import Latents
from methods.base import Mixed

QUANTILES = {"q10": 0.1, "q50": 0.5, "q90": 0.9}


class Diagnostics:
    """Statistics of the mixed examples of one epoch, from its steps (`watch`) to one number each (`values`).

    - ``mix_opposite_rate``: share of the pairs of members (of nonzero weight) with labels of opposite signs.
    - ``mix_lambda_{modality|label}_{q10|q50|q90}``: quantiles of the weight of a mixture's first member (its
      mean over features, if each feature has a weight).
    - ``mix_label_spread``: standard deviation of the mixed labels, divided by that of the clean labels.
    - ``mix_distance``: mean distance of mixed latents to their nearest clean latent in the batch, divided by
      the median of this distance among clean latents; mean over modalities, first mixed batch of the epoch.
    - ``mix_{name}``: mean over steps of the method's own diagnostics (`Mixed.diagnostics`).
    """

    def __init__(self) -> None:
        self._rows: dict[str, list[Tensor]] = defaultdict(list)
        self._clean: list[Tensor] = []
        self._steps: dict[str, list[Tensor]] = defaultdict(list)

    @torch.no_grad()
    def watch(self, mixed: Mixed, latents: Latents, labels: Tensor) -> None:
        """Record a step: its n mixed examples, and the B clean ones from which they were mixed."""
        rows = {f"lambda_{m}": w[:, 0].flatten(1).mean(1) if w.ndim > 2 else w[:, 0]
                for m, w in mixed.weights.items()}  # fmt: skip
        rows["lambda_label"] = mixed.label_weights[:, 0]
        rows["label"] = mixed.labels
        rows["opposite"] = opposite_share(labels[mixed.indices], mixed.label_weights != 0)
        counted = torch.ones_like(mixed.labels, dtype=torch.bool)
        rows["counted"] = counted if mixed.counted is None else mixed.counted
        for name, row in rows.items():
            self._rows[name].append(row.detach())
        self._clean.append(labels)
        for name, value in mixed.diagnostics.items():
            self._steps[name].append(value.detach())
        if "distance" not in self._steps and len(mixed):
            self._steps["distance"].append(relative_distance(mixed.latents, latents, rows["counted"]))

    def values(self) -> dict[str, float]:
        """Return the epoch's statistics by name; this waits for the device."""
        numbers = {f"mix_{name}": float(torch.stack(v).double().mean()) for name, v in self._steps.items()}
        rows = {name: torch.cat(parts).float().cpu() for name, parts in self._rows.items()}
        if not rows or not rows["counted"].any():
            return numbers
        counted = rows.pop("counted").bool()
        label, opposite = rows.pop("label")[counted], rows.pop("opposite")[counted]
        for name, row in rows.items():
            # A method that draws its layer has weights of some modalities only in some steps.
            weights = row[counted] if len(row) == len(counted) else row
            quantiles = torch.quantile(weights, torch.tensor(list(QUANTILES.values()))).tolist()
            numbers |= {f"mix_{name}_{key}": q for key, q in zip(QUANTILES, quantiles, strict=True)}
        spread = torch.cat(self._clean).float().cpu().std(correction=0)
        numbers["mix_opposite_rate"] = float(opposite.mean())
        numbers["mix_label_spread"] = float(label.std(correction=0) / spread) if spread > 0 else math.nan
        return numbers


def opposite_share(labels: Tensor, present: Tensor) -> Tensor:
    """Return the share of pairs of present members with opposite signs. Shape: (n, k), (n, k) -> (n,)."""
    positive, negative = ((labels > 0) & present).sum(1), ((labels < 0) & present).sum(1)
    members = present.sum(1)
    return positive * negative / (members * (members - 1) / 2).clamp_min(1)


def relative_distance(mixed: Latents, clean: Latents, counted: Tensor) -> Tensor:
    """Return the mean nearest distance of mixed to clean vectors, divided by the median among clean vectors.

    The result is a scalar, averaged over modalities and over the rows where ``counted``, (n,) bool, is True.
    It is NaN if no row counts, or if the median is undefined or 0 (fewer than two, or equal clean examples).
    """
    ratios, vectors = [], clean.vectors()
    for m, x in mixed.vectors().items():
        z = vectors[m].float()
        nearest = (_distances(x.float(), z).amin(1) * counted).sum() / counted.sum()
        between = _distances(z, z).fill_diagonal_(torch.inf).amin(1).median()
        ratios.append(torch.where(between.isfinite() & (between > 0), nearest / between, torch.nan))
    return torch.stack(ratios).mean()


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # cdist's default matmul path loses precision far from the origin.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
