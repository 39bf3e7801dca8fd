"""Memory-efficient attention over packed or padded sequences, also on the CPU.

`make_layout` chooses the layout. On CUDA, under torch.compile and for small inputs, sequences stay padded,
(B, T, width), and use `F.scaled_dot_product_attention`, whose kernels store no (T, S) matrix. On the CPU, its
kernels do so only without dropout, and they compute padded steps too. There, sequences are packed to their
valid steps, (steps, width), and `ChunkedAttention` processes groups of clips and blocks of queries that fit
the processor's cache. It skips keys beyond the lengths and the band, and its backward pass recomputes weights
and dropout masks.

Shape of queries per head: (B, H, d, T), of keys and values (B, H, d, S): B clips, H heads of width d.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from backbones import cpu
from backbones.batch import valid_steps
from backbones.cpu.dropout import Masks, draw_seed

# Maximum number of weights in a chunk (about the size of a core's cache), and of queries in a block.
CHUNK, BLOCK = 300_000, 128
# Total number of weights below which packing costs more than it saves.
SMALL = 200_000


def make_layout(
    target: Tensor,
    lengths: Tensor | None,
    source: Tensor,
    source_lengths: Tensor | None,
    reach: int | None,
    n_heads: int,
) -> Layout:
    """Choose the layout in which a target (B, T, width) attends to a source (B, S, width) or to itself.

    lengths (B,): valid steps; None: all. reach: query t attends to keys up to t + reach; None: all keys.
    """
    clips, steps, keys = len(target), target.shape[1], source.shape[1]
    exact = target.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    if not (cpu.on_cpu(target) and exact and clips * n_heads * steps * keys > SMALL):
        return PaddedLayout(allowed_keys(steps, keys, source_lengths, reach, target.device), n_heads)
    counts = _counts(lengths, target)
    # Longest first, so that the clips of a chunk have similar lengths.
    order = torch.argsort(counts, stable=True, descending=True)
    targets = Packed(counts[order], order, steps)
    if source is target:
        return PackedLayout(targets, targets, n_heads, reach)
    sources = Packed(_counts(source_lengths, source)[order], order, keys)
    return PackedLayout(targets, sources, n_heads, reach)


def _counts(lengths: Tensor | None, x: Tensor) -> Tensor:
    return torch.full((len(x),), x.shape[1]) if lengths is None else lengths


class Padded:
    """Padded sequences, for which packing does nothing."""

    def pack(self, x: Tensor) -> Tensor:
        """Return the sequences unchanged."""
        return x

    unpack = pack


class PaddedLayout:
    """Attention between padded sequences. allowed: mask of keys per query, from `allowed_keys`."""

    def __init__(self, allowed: Tensor | None, n_heads: int):
        self.allowed, self.n_heads = allowed, n_heads
        self.targets = self.sources = Padded()

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        """Apply attention. Shape: (B, T, width), (B, S, width), (B, S, width) -> (B, T, width)."""
        width = queries.shape[-1] // self.n_heads
        q, k, v = (self._heads(x) for x in (queries, keys, values))
        heads = F.scaled_dot_product_attention(q, k, v, self.allowed, dropout, scale=width**-0.5)
        return heads[..., :width].transpose(1, 2).flatten(2)

    def _heads(self, x: Tensor) -> Tensor:
        """Split into heads, zero-padded to a width of 8 k. Shape: (B, T, width) -> (B, n_heads, T, 8 k)."""
        heads = x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        # Memory-efficient kernels need widths that are multiples of 8; padding with zeros changes no result.
        return F.pad(heads, (0, -heads.shape[-1] % 8))


def allowed_keys(
    queries: int, keys: int, lengths: Tensor | None, reach: int | None, device: torch.device
) -> Tensor | None:
    """Mask the keys that each query may attend to; None: all. Shape: lengths (B,) -> (B or 1, 1, T or 1, S).

    Each query has at least the first key, because lengths are at least 1 and reach is at least 0.
    """
    mask = None if lengths is None else valid_steps(lengths, keys)[:, None, None]
    if reach is not None:
        within = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(reach)
        mask = within[None, None] if mask is None else mask & within
    return mask


class Packed:
    """The valid steps of all clips, concatenated. lengths: (B,), sorted by ``order``, as are the heads."""

    def __init__(self, lengths: Tensor, order: Tensor, steps: int):
        self.lengths: list[int] = lengths.tolist()
        self.shape = len(lengths), steps
        valid = valid_steps(lengths, steps)
        # Row of each valid step among the B * T steps, in the new order and in the batch's order.
        self.sorted_rows = valid.flatten().nonzero()[:, 0]
        self.rows = (order[:, None] * steps + torch.arange(steps))[valid]
        self.bias = torch.zeros(valid.shape).masked_fill_(~valid, -math.inf)

    def pack(self, x: Tensor) -> Tensor:
        """Remove padding. Shape: (B, T, width) -> (steps, width)."""
        return x.flatten(0, 1).index_select(0, self.rows)

    def unpack(self, x: Tensor) -> Tensor:
        """Restore padding. Shape: (steps, width) -> (B, T, width), zero in padded steps."""
        return self._spread(x, self.rows)

    def heads(self, x: Tensor, n_heads: int) -> Tensor:
        """Split into padded heads. Shape: (steps, width) -> (B, H, d, T) in the new order."""
        padded = self._spread(x, self.sorted_rows).unflatten(-1, (n_heads, -1))
        return padded.permute(0, 2, 3, 1).contiguous()

    def join(self, heads: Tensor) -> Tensor:
        """Invert `heads`. Shape: (B, H, d, T) -> (steps, width)."""
        return heads.permute(0, 3, 1, 2).flatten(2).flatten(0, 1).index_select(0, self.sorted_rows)

    def _spread(self, x: Tensor, rows: Tensor) -> Tensor:
        spread = x.new_zeros(self.shape[0] * self.shape[1], x.shape[1]).index_copy(0, rows, x)
        return spread.unflatten(0, self.shape)


class PackedLayout:
    """Attention between packed sequences, longest targets first."""

    def __init__(self, targets: Packed, sources: Packed, n_heads: int, reach: int | None):
        self.targets, self.sources, self.n_heads = targets, sources, n_heads
        self.plan = make_plan(targets.lengths, sources.lengths, n_heads, sources.bias, reach)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        """Apply attention. Shape: (steps, width) each -> (steps, width)."""
        q = self.targets.heads(queries * (queries.shape[-1] // self.n_heads) ** -0.5, self.n_heads)
        k, v = (self.sources.heads(x, self.n_heads) for x in (keys, values))
        seed = draw_seed() if dropout else 0
        return self.targets.join(ChunkedAttention.apply(q, k, v, self.plan, dropout, seed))


# A layout packs target and source, and computes the attention between them.
Layout = PaddedLayout | PackedLayout


class Chunk(NamedTuple):
    """Clips first to last, queries start to stop, and keys 0 to ``keys``; the ends are exclusive."""

    first: int
    last: int
    start: int
    stop: int
    keys: int


class Plan(NamedTuple):
    """Division of a (B, H, T, S) attention into chunks.

    chunks: cover every valid query. bias: (B, S), 0 for valid keys, else -inf. reach: query t attends to
    keys up to t + reach; None: all keys.
    """

    chunks: tuple[Chunk, ...]
    bias: Tensor
    reach: int | None


def make_plan(
    targets: Sequence[int], sources: Sequence[int], n_heads: int, bias: Tensor, reach: int | None
) -> Plan:
    """Divide an attention into chunks; targets, sources: valid steps of each clip, preferably sorted."""
    chunks = []
    for first, last in _groups(targets, sources, n_heads):
        steps, keys = max(targets[first:last]), max(sources[first:last])
        blocks = -(-steps // BLOCK)
        size = -(-steps // blocks)
        for start in range(0, steps, size):
            stop = min(start + size, steps)
            end = keys if reach is None else min(keys, stop + reach)
            chunks.append(Chunk(first, last, start, stop, end))
    return Plan(tuple(chunks), bias, reach)


def _groups(targets: Sequence[int], sources: Sequence[int], n_heads: int) -> Iterator[tuple[int, int]]:
    """Yield ranges (first, last) of adjacent clips that fit into one chunk."""
    first, steps, keys = 0, 0, 0
    for clip, (target, source) in enumerate(zip(targets, sources, strict=True)):
        wide = n_heads * max(steps, target) * max(keys, source) * (clip - first + 1)
        if clip > first and wide > CHUNK:
            yield first, clip
            first, steps, keys = clip, 0, 0
        steps, keys = max(steps, target), max(keys, source)
    yield first, len(targets)


class ChunkedAttention(torch.autograd.Function):
    """Attention softmax(q^T k + bias) v with dropout on the weights, chunk by chunk; 0 for padded queries."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan, dropout: float, seed: int) -> Tensor:
        """Compute the output (B, H, d, T). Shape: q (B, H, d, T), k and v (B, H, d, S)."""
        ctx.save_for_backward(q, k, v)
        ctx.how = plan, dropout, seed
        masks, out = (Masks(dropout, seed) if dropout else None), torch.zeros_like(q)
        for c in plan.chunks:
            weights = _weights(q, k, plan, c)
            if masks is not None:
                weights.mul_(masks.next(weights.shape, weights.dtype))
            heads = torch.bmm(_cut(v, c, 0, c.keys), weights.transpose(1, 2))
            _part(out, c, c.start, c.stop).copy_(heads.view(c.last - c.first, -1, *heads.shape[1:]))
        return out if masks is None else out.mul_(masks.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of queries, keys and values."""
        (q, k, v), (plan, dropout, seed) = ctx.saved_tensors, ctx.how
        masks = Masks(dropout, seed) if dropout else None
        gradient = gradient if masks is None else gradient * masks.scale
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for c in plan.chunks:
            weights, of_heads = _weights(q, k, plan, c), _cut(gradient, c, c.start, c.stop)
            d_weights, factors = torch.bmm(of_heads.transpose(1, 2), _cut(v, c, 0, c.keys)), weights
            if masks is not None:
                factors = masks.next(weights.shape, weights.dtype)
                d_weights.mul_(factors)
                factors.mul_(weights)
            _add(dv, c, 0, c.keys, torch.bmm(of_heads, factors))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            _add(dq, c, c.start, c.stop, torch.bmm(_cut(k, c, 0, c.keys), d_scores.transpose(1, 2)))
            _add(dk, c, 0, c.keys, torch.bmm(_cut(q, c, c.start, c.stop), d_scores))
        return dq, dk, dv, None, None, None


def _part(x: Tensor, c: Chunk, start: int, stop: int) -> Tensor:
    return x[c.first : c.last, :, :, start:stop]


def _cut(x: Tensor, c: Chunk, start: int, stop: int) -> Tensor:
    """Select a chunk's clips and steps. Shape: (B, H, d, T) -> (clips * H, d, steps)."""
    return _part(x, c, start, stop).flatten(0, 1)


def _add(x: Tensor, c: Chunk, start: int, stop: int, y: Tensor) -> None:
    part = _part(x, c, start, stop)
    part += y.view(part.shape)


def _weights(q: Tensor, k: Tensor, plan: Plan, c: Chunk) -> Tensor:
    """Compute a chunk's attention weights. Shape: (clips * H, queries, keys)."""
    scores = torch.bmm(_cut(q, c, c.start, c.stop).transpose(1, 2), _cut(k, c, 0, c.keys))
    if c.last - c.first > 1:
        clips = scores.view(c.last - c.first, -1, *scores.shape[1:])
        clips += plan.bias[c.first : c.last, None, None, : c.keys]
    if plan.reach is not None:
        # Keys from this index on are hidden from the first query; each further query sees one more key.
        hidden = c.start + plan.reach + 1
        if hidden < c.keys:
            scores[:, :, hidden:] += _triangle(c.stop - c.start, c.keys - hidden, scores.dtype)
    return torch.softmax(scores, -1, out=scores)


@lru_cache(maxsize=256)
def _triangle(queries: int, keys: int, dtype: torch.dtype) -> Tensor:
    """Return -inf on and above the diagonal, else 0. Shape: (queries, keys)."""
    return torch.full((queries, keys), -math.inf, dtype=dtype).triu()
