"""Occlusion: random removal of input features, with nested masks that depend on the clip alone.

Every clip, modality and step has its own random number u in [0, 1); a step is dropped if u < ratio. A step
dropped at ratio 0.3 is also dropped at 0.5; masks do not depend on batch size, order, method or cell seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from backbones.batch import MODALITIES, Batch, valid_steps

UNK_ID = 100  # [UNK] in the vocabularies of bert-base-uncased and bert-base-chinese
GRANULARITIES = ("frame", "entry")


def _scramble(x: np.ndarray) -> np.ndarray:
    """Apply the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014) to each uint64 element."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class MaskField:
    """The random numbers u of one split: hashes of (dataset, split, seed, clip id, modality, step).

    Masks for training also hash the epoch, so that every epoch has new masks.
    """

    def __init__(self, dataset: str, split: str, seed: int, ids: np.ndarray):
        def key(clip: str, modality: str) -> int:
            text = json.dumps([dataset, split, seed, str(clip), modality])
            return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

        self.keys = {m: np.array([key(clip, m) for clip in ids], np.uint64) for m in MODALITIES}

    def draw(self, modality: str, index: np.ndarray, shape: tuple[int, ...], epoch: int | None) -> Tensor:
        """Compute u for some clips. Shape: index (B,), ``shape`` = (T,) or (T, D) -> (B, *shape) float32."""
        golden = np.uint64(0x9E3779B97F4A7C15)
        keys = self.keys[modality][index]
        if epoch is not None:
            keys = _scramble(keys + np.full(1, epoch + 1, np.uint64) * golden)
        steps = np.arange(1, np.prod(shape, dtype=int) + 1, dtype=np.uint64) * golden
        bits = _scramble(keys[:, None] + steps) >> np.uint64(40)
        return torch.from_numpy((bits.astype(np.float32) * np.float32(2**-24)).reshape(len(index), *shape))

    def of(
        self, batch: Batch, index: np.ndarray, granularity: str = "frame", epoch: int | None = None
    ) -> dict[str, Tensor]:
        """Compute u on the batch's device: a tensor per modality, and "tokens" if the batch has tokens."""
        field = {}
        for m in MODALITIES:
            shape = tuple(batch.features[m].shape[1:])
            field[m] = self.draw(m, index, shape if granularity == "entry" else shape[:1], epoch)
        if batch.tokens is not None:
            field["tokens"] = self.draw("text", index, (batch.tokens.shape[2],), epoch)
        return {m: u.to(batch.labels.device, non_blocking=True) for m, u in field.items()}


def occlude(batch: Batch, ratio: float, field: Mapping[str, Tensor]) -> Batch:
    """Return the batch without the valid steps (or entries) for which u < ratio.

    Dropped features become 0. Dropped tokens become [UNK] and stay in the attention mask; the first and last
    valid tokens ([CLS] and [SEP]) are never dropped. Padding does not change.

    Shape:
        field[m]: (B, T_m) drops whole steps, (B, T_m, D_m) single entries; field["tokens"]: (B, T_text).
    """
    if ratio == 0:
        return batch
    features, dropped = {}, {}
    for m in MODALITIES:
        values = batch.features[m]
        valid = valid_steps(batch.lengths[m], values.shape[1])
        drop = field[m] < ratio
        if drop.ndim == 2:
            dropped[m] = drop & valid
            features[m] = values.masked_fill(dropped[m][..., None], 0)
        else:
            features[m] = values.masked_fill(drop & valid[..., None], 0)
    tokens = batch.tokens
    if tokens is not None:
        dropped["tokens"] = (field["tokens"] < ratio) & _inner_tokens(tokens)
        ids = tokens[:, 0].masked_fill(dropped["tokens"], UNK_ID)
        tokens = torch.stack([ids, tokens[:, 1], tokens[:, 2]], 1)
    return replace(batch, features=features, dropped=dropped, tokens=tokens)


def _inner_tokens(tokens: Tensor) -> Tensor:
    """Mask the valid tokens except the first and last one. Shape: (B, 3, T) -> (B, T) bool."""
    position = torch.arange(tokens.shape[2], device=tokens.device)
    last = (tokens[:, 1] * position).amax(1)
    return (position > 0) & (position < last[:, None]) & (tokens[:, 1] == 1)
