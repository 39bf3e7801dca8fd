"""The Transformer encoder of MulT and GLoMo in loops, on valid steps alone, and what its tests share."""

import itertools
import math

import numpy as np
import torch
from torch import Tensor, nn


def moved(module: nn.Module) -> nn.Module:
    """The module with every parameter moved from where it starts."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def check_halved(dropped: Tensor, whole: Tensor) -> None:
    """Dropped out with probability 1/2: every entry became 0 or twice as large, and some did either."""
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * whole[kept])
    gone = ~kept & (whole != 0)
    assert 0.2 < gone.sum() / (whole != 0).sum() < 0.8


def below(parameters: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The parameters of a submodule."""
    return {key.removeprefix(prefix): x for key, x in parameters.items() if key.startswith(prefix)}


def slow_norm(p: dict[str, np.ndarray], name: str, step: np.ndarray) -> np.ndarray:
    deviation = step - step.mean()
    return deviation / math.sqrt((deviation**2).mean() + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def slow_linear(p: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return p[f"{name}.weight"] @ x + p[f"{name}.bias"]


def slow_attention(p, queries, source, n_heads: int, reach: int) -> list[np.ndarray]:
    """Step by step, head by head, key by key: query t sees the keys up to t + reach."""
    size, gathered = len(queries[0]) // n_heads, []
    projected = [np.split(slow_linear(p, "projection", step), 3) for step in source]
    for t, step in enumerate(queries):
        query = np.split(slow_linear(p, "projection", step), 3)[0]
        heads = []
        for head in range(n_heads):
            total, weighted = 0.0, np.zeros(size)
            part = slice(head * size, (head + 1) * size)
            for s, (_, key, value) in enumerate(projected):
                if s <= t + reach:
                    weight = math.exp(query[part] @ key[part] / math.sqrt(size))
                    total, weighted = total + weight, weighted + weight * value[part]
            heads.append(weighted / total)
        gathered.append(slow_linear(p, "output", np.concatenate(heads)))
    return gathered


def slow_positions(steps: int, width: int) -> np.ndarray:
    """Position t, from 1: sin and cos of t / 10000^(i / (half - 1)) in the two halves."""
    half, table = width // 2, np.zeros((steps, width))
    for t, i in itertools.product(range(steps), range(half)):
        angle = (t + 1) / 10000 ** (i / (half - 1))
        table[t, i], table[t, half + i] = math.sin(angle), math.cos(angle)
    return table


def slow_encoder(p, target, source, n_heads: int, reach: int, positions: bool = False) -> np.ndarray:
    """The encoder on valid steps alone. Shape: (T, D), (S, D) or None -> (T, D)."""

    def embed(x):
        table = slow_positions(*x.shape) if positions else 0
        return math.sqrt(x.shape[1]) * x + table

    x = embed(target)
    keys = None if source is None else embed(source)
    for layer in range(1 + max(int(key.split(".")[1]) for key in p if key.startswith("layers."))):
        q = below(p, f"layers.{layer}.")
        queries = [slow_norm(q, "norm_1", step) for step in x]
        seen = queries if keys is None else [slow_norm(q, "norm_1", step) for step in keys]
        x = x + np.array(slow_attention(below(q, "attention."), queries, seen, n_heads, reach))
        hidden = [np.maximum(slow_linear(q, "widen", slow_norm(q, "norm_2", step)), 0) for step in x]
        x = x + np.array([slow_linear(q, "narrow", step) for step in hidden])
    return np.array([slow_norm(p, "norm", step) for step in x])
