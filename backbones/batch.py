"""Data passed through a backbone: a `Batch` of clips, and the `Latents` between its steps, which methods mix.

Sequences are left-aligned and zero-padded to a fixed length ``T_m``; ``lengths`` holds the number of valid
leading steps (at least 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

MODALITIES = ("text", "audio", "vision")


@dataclass(frozen=True)
class Batch:
    """A batch of clips on the training device.

    Shape:
        features[m]: (B, T_m, D_m) float32. lengths[m]: (B,) int64. labels: (B,) float32.
        tokens: (B, 3, T_text) int64 (ids, attention mask, segment ids) or None.
        dropped[m]: (B, T_m) bool, steps removed by occlusion; absent if there are none.
        dropped["tokens"]: (B, T_text) bool, tokens replaced by occlusion.
    """

    features: Mapping[str, Tensor]
    lengths: Mapping[str, Tensor]
    labels: Tensor
    tokens: Tensor | None = None
    dropped: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


def valid_steps(lengths: Tensor, steps: int) -> Tensor:
    """Return the mask of valid steps. Shape: lengths (B,) -> (B, steps) bool."""
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


@dataclass(frozen=True)
class Latents:
    """One tensor per modality (or one under the key "fused") with one row per example.

    Shape:
        values[m]: (B, D_m), or (B, T_m, D_m), zero in padded steps.
        lengths[m]: (B,) int64; absent for vectors, and for a fixed number of tokens, which are all valid.
        kept[m]: (B, T_m) bool, valid steps that occlusion did not remove; absent without occlusion.
        auxiliary: scalar, loss of the encoder on these examples, or None.
    """

    values: Mapping[str, Tensor]
    lengths: Mapping[str, Tensor] = field(default_factory=dict)
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    auxiliary: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def valid(self, modality: str) -> Tensor | None:
        """Return the mask (B, T_m) of valid steps; None if all steps are valid."""
        if modality not in self.lengths:
            return None
        return valid_steps(self.lengths[modality], self.values[modality].shape[1])

    def vectors(self) -> dict[str, Tensor]:
        """Return one vector per example, (B, D): masked mean over time, flattened tokens, or unchanged."""
        out = {}
        for modality, values in self.values.items():
            if modality in self.lengths:
                # Padded steps are zero, so the sum needs no mask.
                values = values.sum(1) / self.lengths[modality][:, None]
            out[modality] = values.flatten(1)
        return out


def concatenate(first: Latents, second: Latents) -> Latents:
    """Concatenate the examples of two `Latents` of the same kind; keep the first auxiliary loss."""

    def stack(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {m: torch.cat([a[m], b[m]]) for m in a}

    return Latents(
        stack(first.values, second.values),
        stack(first.lengths, second.lengths),
        stack(first.kept, second.kept),
        first.auxiliary,
    )
