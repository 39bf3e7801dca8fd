"""Layers of the backbones as loops over one clip's valid steps, and helpers of the backbones' tests."""

import dataclasses
import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.batch import Batch
from tests.support.builders import array

Parameters = dict[str, np.ndarray]
Steps = list[np.ndarray] | np.ndarray


def moved(module: nn.Module, by: float = 0.3) -> nn.Module:
    """Return the module with every trained parameter off its initial value."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn_like(parameter))
    return module


def in_double(batch: Batch) -> Batch:
    """The batch with features in double precision."""
    return dataclasses.replace(batch, features={m: x.double() for m, x in batch.features.items()})


def lengthened(batch: Batch, steps: int) -> Batch:
    """The batch with so many more steps of padding."""
    return dataclasses.replace(
        batch, features={m: F.pad(x, (0, 0, 0, steps)) for m, x in batch.features.items()}
    )


def check_halved(dropped: Tensor, whole: Tensor) -> None:
    """Dropped out with probability 1/2: every entry became 0 or twice as large, and some did either."""
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * whole[kept])
    gone = ~kept & (whole != 0)
    assert 0.2 < gone.sum() / (whole != 0).sum() < 0.8


def parameters_of(module: nn.Module) -> Parameters:
    """A module's state in double precision."""
    return {name: array(x) for name, x in module.state_dict().items()}


def below(p: Parameters, prefix: str) -> Parameters:
    """The parameters of a submodule."""
    return {key.removeprefix(f"{prefix}."): x for key, x in p.items() if key.startswith(f"{prefix}.")}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(scores: Steps) -> np.ndarray:
    shares = np.exp(np.array(scores) - max(scores))
    return shares / shares.sum()


def slow_linear(p: Parameters, name: str, x: np.ndarray) -> np.ndarray:
    """A linear layer of a vector, without bias where there is none."""
    return p[f"{name}.weight"] @ x + p.get(f"{name}.bias", 0)


def slow_norm(p: Parameters, name: str, step: np.ndarray) -> np.ndarray:
    deviation = step - step.mean()
    return deviation / math.sqrt((deviation**2).mean() + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def slow_lstm(p: Parameters, name: str, steps: Steps) -> list[np.ndarray]:
    """The hidden states, one after the other."""
    hidden = cell = np.zeros(p[f"{name}.weight_hh_l0"].shape[1])
    states = []
    for step in steps:
        gates = p[f"{name}.weight_ih_l0"] @ step + p[f"{name}.bias_ih_l0"]
        gates = gates + p[f"{name}.weight_hh_l0"] @ hidden + p[f"{name}.bias_hh_l0"]
        update, forget, new, out = np.split(gates, 4)
        cell = sigmoid(forget) * cell + sigmoid(update) * np.tanh(new)
        hidden = sigmoid(out) * np.tanh(cell)
        states.append(hidden)
    return states


def slow_attend(queries: Steps, keys: Steps, values: Steps, n_heads: int, reach: float = math.inf) -> Steps:
    """Step by step, head by head, key by key: query t sees the keys up to t + reach."""
    size, answers = len(queries[0]) // n_heads, []
    for t, query in enumerate(queries):
        heads = []
        for head in range(n_heads):
            part = slice(head * size, (head + 1) * size)
            total, weighted = 0.0, np.zeros(size)
            for s, (key, value) in enumerate(zip(keys, values, strict=True)):
                if s <= t + reach:
                    weight = math.exp(query[part] @ key[part] / math.sqrt(size))
                    total, weighted = total + weight, weighted + weight * value[part]
            heads.append(weighted / total)
        answers.append(np.concatenate(heads))
    return answers


def split_three(weight: np.ndarray, bias: np.ndarray, steps: Steps) -> list[Steps]:
    """Queries, keys and values from one matrix."""
    return [[w @ x + b for x in steps] for w, b in zip(np.split(weight, 3), np.split(bias, 3), strict=True)]


def slow_positions(steps: int, width: int) -> np.ndarray:
    """Position t, from 1: sin and cos of t / 10000^(i / (half - 1)) in the two halves."""
    half, table = width // 2, np.zeros((steps, width))
    for t, i in itertools.product(range(steps), range(half)):
        angle = (t + 1) / 10000 ** (i / (half - 1))
        table[t, i], table[t, half + i] = math.sin(angle), math.cos(angle)
    return table


def slow_encoder(
    p: Parameters, target: Steps, source: Steps | None, n_heads: int, reach: float, positions: int = 0
) -> np.ndarray:
    """The pre-norm encoder, with positions on the first steps. Shape: (T, D), (S, D) or None -> (T, D)."""

    def embed(x):
        table = slow_positions(len(x), len(x[0]))
        table[positions:] = 0
        return math.sqrt(len(x[0])) * np.array(x) + table

    x, keys = embed(target), None if source is None else embed(source)
    for layer in range(1 + max(int(key.split(".")[1]) for key in p if key.startswith("layers."))):
        q = below(p, f"layers.{layer}")
        queries = [slow_norm(q, "norm_1", step) for step in x]
        seen = queries if keys is None else [slow_norm(q, "norm_1", step) for step in keys]
        matrix = q["attention.projection.weight"], q["attention.projection.bias"]
        asked, (_, *answering) = split_three(*matrix, queries)[0], split_three(*matrix, seen)
        gathered = slow_attend(asked, *answering, n_heads, reach)
        x = x + np.array([slow_linear(q, "attention.output", step) for step in gathered])
        hidden = [np.maximum(slow_linear(q, "widen", slow_norm(q, "norm_2", step)), 0) for step in x]
        x = x + np.array([slow_linear(q, "narrow", step) for step in hidden])
    return np.array([slow_norm(p, "norm", step) for step in x])


def slow_post_norm_layer(p: Parameters, steps: Steps, n_heads: int) -> list[np.ndarray]:
    """`nn.TransformerEncoderLayer` in eval mode. Shape: (T, D) -> (T, D)."""
    projected = split_three(p["self_attn.in_proj_weight"], p["self_attn.in_proj_bias"], steps)
    made = []
    for step, answer in zip(steps, slow_attend(*projected, n_heads), strict=True):
        x = slow_norm(p, "norm1", step + slow_linear(p, "self_attn.out_proj", answer))
        hidden = np.maximum(slow_linear(p, "linear1", x), 0)
        made.append(slow_norm(p, "norm2", x + slow_linear(p, "linear2", hidden)))
    return made
