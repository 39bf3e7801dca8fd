"""What flows through a backbone: a `Batch` of clips, and the `Latents` between its steps, which methods mix.

Sequences are left-aligned and padded with zeros to a fixed length ``T_m``; ``lengths`` says how many leading
steps are valid (at least 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

MODALITIES = ("text", "audio", "vision")


@dataclass(frozen=True)
class Batch:
    """Some clips on the training device.

    Shape:
        features[m]: (B, T_m, D_m) float32. lengths[m]: (B,) int64. labels: (B,) float32.
        tokens: (B, 3, T_text) int64 or None.
        dropped[m]: (B, T_m) bool, steps that occlusion removed; an absent modality lost nothing.
        dropped["tokens"]: (B, T_text) bool, tokens that occlusion replaced.
    """

    features: Mapping[str, Tensor]
    lengths: Mapping[str, Tensor]
    labels: Tensor
    tokens: Tensor | None = None
    dropped: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


def valid_steps(lengths: Tensor, steps: int) -> Tensor:
    """Mask of valid steps. Shape: lengths (B,) -> (B, steps) bool."""
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


@dataclass(frozen=True)
class Latents:
    """One tensor per modality (or one under the key "fused"), the examples in rows.

    Shape:
        values[m]: (B, D_m), or (B, T_m, D_m), which is zero from ``lengths[m]`` on.
        lengths[m]: (B,) int64; absent for vectors and for a fixed number of tokens, all valid.
        kept[m]: (B, T_m) bool, the valid steps that occlusion left; absent where nothing was occluded.
        auxiliary: scalar, a loss of the encoder on these examples, or None.
    """

    values: Mapping[str, Tensor]
    lengths: Mapping[str, Tensor] = field(default_factory=dict)
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    auxiliary: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def valid(self, modality: str) -> Tensor | None:
        """Mask (B, T_m) of the valid steps, or None where all are valid."""
        if modality not in self.lengths:
            return None
        return valid_steps(self.lengths[modality], self.values[modality].shape[1])

    def vectors(self) -> dict[str, Tensor]:
        """One vector per example: as it is, a masked mean over time, or fixed tokens flattened. (B, D)."""
        out = {}
        for modality, values in self.values.items():
            if modality in self.lengths:
                # Steps beyond the length are zero, so the sum needs no mask.
                values = values.sum(1) / self.lengths[modality][:, None]
            out[modality] = values.flatten(1)
        return out


def concatenate(first: Latents, second: Latents) -> Latents:
    """Stack the examples of two `Latents` of the same kind; the auxiliary loss is the first one's."""

    def stack(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {m: torch.cat([a[m], b[m]]) for m in a}

    return Latents(
        stack(first.values, second.values),
        stack(first.lengths, second.lengths),
        stack(first.kept, second.kept),
        first.auxiliary,
    )
