"""Statistics of the mixed examples of an epoch, computed on the device and read once at its end."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from backbones.batch import Latents
from methods.base import Mixed

QUANTILES = {"q10": 0.1, "q50": 0.5, "q90": 0.9}


class Diagnostics:
    """Collects the mixed examples of an epoch's steps; `values` gives one number of each kind for the epoch.

    - ``mix_opposite_rate``: share of the pairs of members (of positive weight) with labels of opposite signs.
    - ``mix_lambda_{modality|label}_{q10|q50|q90}``: quantiles of the weight of a mixture's first member (the
      mean over features, where they have weights of their own).
    - ``mix_label_spread``: standard deviation of the mixed labels over that of the clean ones.
    - ``mix_distance``: mean distance of mixed latents to the nearest clean one of their batch, over the
      median of that distance between clean ones; in the epoch's first mixed batch, the mean over modalities.
    - ``mix_{name}``: the mean over steps of what the method itself reports (`Mixed.diagnostics`).
    """

    def __init__(self) -> None:
        self._rows: dict[str, list[Tensor]] = defaultdict(list)
        self._clean: list[Tensor] = []
        self._steps: dict[str, list[Tensor]] = defaultdict(list)

    @torch.no_grad()
    def watch(self, mixed: Mixed, latents: Latents, labels: Tensor) -> None:
        """Take note of a step: its n mixed examples and the B clean ones that they were made from."""
        rows = {f"lambda_{m}": w[:, 0].flatten(1).mean(1) if w.ndim > 2 else w[:, 0]
                for m, w in mixed.weights.items()}  # fmt: skip
        rows["lambda_label"] = mixed.label_weights[:, 0]
        rows["label"] = mixed.labels
        rows["opposite"] = opposite_share(labels[mixed.indices], mixed.label_weights > 0)
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
        """The epoch's numbers; waits for the device."""
        numbers = {f"mix_{name}": float(torch.stack(v).double().mean()) for name, v in self._steps.items()}
        rows = {name: torch.cat(parts).float().cpu() for name, parts in self._rows.items()}
        if not rows or not rows["counted"].any():
            return numbers
        counted = rows.pop("counted").bool()
        label, opposite = rows.pop("label")[counted], rows.pop("opposite")[counted]
        for name, row in rows.items():
            # A method that draws its layer knows some modalities in some steps only.
            chosen = row[counted] if len(row) == len(counted) else row
            quantiles = torch.quantile(chosen, torch.tensor(list(QUANTILES.values()))).tolist()
            numbers |= {f"mix_{name}_{key}": q for key, q in zip(QUANTILES, quantiles, strict=True)}
        spread = torch.cat(self._clean).float().cpu().std(correction=0)
        numbers["mix_opposite_rate"] = float(opposite.mean())
        numbers["mix_label_spread"] = float(label.std(correction=0) / spread) if spread > 0 else float("nan")
        return numbers


def opposite_share(labels: Tensor, present: Tensor) -> Tensor:
    """Share of the pairs of present members with labels of opposite signs. Shape: (n, k), (n, k) -> (n,)."""
    positive, negative = ((labels > 0) & present).sum(1), ((labels < 0) & present).sum(1)
    members = present.sum(1)
    return positive * negative / (members * (members - 1) / 2).clamp_min(1)


def relative_distance(mixed: Latents, clean: Latents, counted: Tensor) -> Tensor:
    """Mean nearest distance of mixed to clean vectors over the median one between clean ones; a scalar.

    The mean over modalities, of the rows that count, (n,) bool; NaN where there are none, or where fewer than
    two clean examples, or equal ones, give no scale.
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
