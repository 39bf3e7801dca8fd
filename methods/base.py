"""Base class of mixup methods: `draw` (random numbers on the host) and `forward` (mixed examples).

The training loop calls `draw` with a generator seeded by (seed, "mixing", epoch, step), moves the result to
the device, calls `forward`, passes clean and mixed latents through the fusion together, and computes all
losses. All interpolation of labels and latents is done by `interpolate`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from backbones.batch import MODALITIES, Latents
from backbones.precision import full_precision
from backbones.settings import check, check_not_negative

MODES = ("append", "replace")
MIX_LOSSES = ("backbone", "mse", "split_mse")


@dataclass(frozen=True)
class MethodSettings:
    """Settings that every method has.

    components: names of boolean settings that switch parts of the method for ablations, all on by default.

    xi1 (paper: \\xi_1): weight of the mixed loss, >= 0. mode: "append" adds the mixed loss to the clean loss,
    "replace" trains on mixed examples only. mix_loss: criterion for mixed examples; "backbone" and "mse" use
    the mixed label, "split_mse" is the weighted sum of squared errors to the members' labels. only: the
    modalities that are mixed, None: all. In each of the others a mixed example equals its first member, so
    that its weights are exactly 1 and 0; the label is mixed as it would be without this setting.
    """

    components: ClassVar[tuple[str, ...]] = ()
    xi1: float = 0.7
    mode: str = "append"
    mix_loss: str = "backbone"
    only: list[str] | None = None

    def __post_init__(self) -> None:
        check_not_negative(self, "xi1")
        check(self, "mode", self.mode in MODES, f"one of {', '.join(MODES)}")
        check(self, "mix_loss", self.mix_loss in MIX_LOSSES, f"one of {', '.join(MIX_LOSSES)}")
        if self.only is not None:
            given = list(self.only) if isinstance(self.only, Sequence) else []
            known = bool(given) and set(given) <= set(MODALITIES)
            words = [c for m in given for c in difflib.get_close_matches(str(m), MODALITIES, 1, 0.5)]
            nearest = f" (nearest: {words[0]!r})" if words else ""
            check(self, "only", known, f"a non-empty list of {', '.join(MODALITIES)}, or null{nearest}")
            # One order and one word for "all", so that equal settings are one cell.
            chosen = [modality for modality in MODALITIES if modality in self.only]
            object.__setattr__(self, "only", chosen if len(chosen) < len(MODALITIES) else None)


class Draw(NamedTuple):
    """Result of `Method.draw`: the layer to mix at (0, 1 or 2) and arrays for `Method.forward`."""

    layer: int
    arrays: Mapping[str, np.ndarray]


class Network(NamedTuple):
    """The network after the mix point, for methods that need it.

    ``predict``: latents -> predictions (B,), in eval mode: no dropout, no update of running statistics.
    ``criterion(prediction, target)``: the task loss per example, (B,).
    """

    predict: Callable[[Latents], Tensor]
    criterion: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Mixed:
    """The mixed examples of one batch, with the members and weights they were made from.

    Shape:
        latents: n rows. labels: (n,). penalty: scalar. indices: (n, k) int64, members of each mixture.
        weights[m]: (n, k), or (n, k, ...) if features have their own weights; label_weights: (n, k).
        counted: (n,) bool, the rows that count in the loss; None: all rows.
        diagnostics: scalars by name, logged as means over the steps of an epoch.
    """

    latents: Latents
    labels: Tensor
    penalty: Tensor
    indices: Tensor
    weights: Mapping[str, Tensor]
    label_weights: Tensor
    counted: Tensor | None = None
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, n: int) -> Mixed:
        """Return at most the first n mixed examples."""
        parts = (self.latents.values, self.latents.lengths, self.latents.kept)
        values, lengths, kept = ({m: x[:n] for m, x in part.items()} for part in parts)
        return replace(
            self,
            latents=Latents(values, lengths, kept),
            labels=self.labels[:n],
            indices=self.indices[:n],
            weights={m: w[:n] for m, w in self.weights.items()},
            label_weights=self.label_weights[:n],
            counted=None if self.counted is None else self.counted[:n],
        )


class Method(nn.Module):
    """Base class of mixup methods. Subclasses set the class attributes and define `draw`.

    A method whose weights depend on the latents also defines `forward`. Methods are called in training only.
    They contain no optimizer, loop, device call, logger or dataset name; learnable parts are submodules.

    Class attributes:
        name, title, citation: registry key, name in reports, paper. Settings: frozen dataclass of settings.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    citation: ClassVar[str]
    Settings: ClassVar[type[MethodSettings]] = MethodSettings

    def __init__(self, settings: Any, widths: Mapping[str, int], label_scale: float):
        """Args: settings; width D_m of each modality's latents at layer 1; label range s."""
        super().__init__()
        self.settings = settings
        self.widths = dict(widths)
        self.label_scale = label_scale
        if settings.only is not None:
            self.register_forward_hook(_keep_own)

    def draw(self, generator: np.random.Generator, labels: np.ndarray) -> Draw | None:
        """Draw pairs and weights for a batch; return None to mix nothing. Shape: labels (B,)."""
        raise NotImplementedError(f"{type(self).__name__} does not draw")

    def forward(
        self, latents: Latents, labels: Tensor, draw: Mapping[str, Tensor], network: Network | None = None
    ) -> Mixed:
        """Mix latents (B rows) and labels (B,), deterministically given the drawn arrays.

        By default, the drawn "indices" and "weights" apply to all modalities and the label.
        """
        return mix(latents, labels, draw["indices"], draw["weights"])

    def intensities(self, latents: Latents) -> dict[str, Tensor]:
        """Predict sentiment intensities (B,) per modality; empty if the method has no predictor."""
        return {}

    def explain(self, latents: Latents, labels: Tensor, draw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors by name for the figures, for one batch at layer 1; empty for most methods."""
        return {}


def _keep_own(method: Method, arguments: tuple[Any, ...], mixed: Mixed) -> Mixed:
    """Undo the mixing of the modalities that are not in ``only``: each row is its first member again."""
    latents: Latents = arguments[0]
    first, made = mixed.indices[:, 0], mixed.latents
    kept = [m for m in latents.values if m not in method.settings.only]

    def own(mixtures: Mapping[str, Tensor], clean: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**mixtures, **{m: x[first] for m, x in clean.items() if m in kept}}

    values = own(made.values, latents.values)
    rows = Latents(values, own(made.lengths, latents.lengths), own(made.kept, latents.kept))
    one_hot = torch.zeros_like(mixed.label_weights)
    one_hot[:, 0] = 1
    return replace(mixed, latents=rows, weights={**mixed.weights, **dict.fromkeys(kept, one_hot)})


def interpolate(values: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Compute convex combinations of rows.

    Shape: values (B, ...), indices (n, k), weights (n, k) or (n, k, ...) broadcasting over the rest ->
    (n, ...). A weight of exactly 1 gives a bit-exact copy of finite values.
    """
    if weights.ndim == 2 and indices.shape[1] > 2:
        # Gathering (n, k, ...) would need k copies of the batch; a product with an (n, B) matrix does not.
        matrix = weights.new_zeros(len(indices), len(values)).scatter_add(1, indices, weights)
        if values.ndim == 1:
            return _product(matrix.to(values.dtype), values)
        rows = values.reshape(len(values), -1)
        return (matrix.to(values.dtype) @ rows).view(len(indices), *values.shape[1:])
    weights = weights.view(*weights.shape, *[1] * (values.ndim + 1 - weights.ndim)).to(values.dtype)
    mixed = weights[:, 0] * values[indices[:, 0]]
    for member in range(1, indices.shape[1]):
        mixed = mixed + weights[:, member] * values[indices[:, member]]
    return mixed


def _product(matrix: Tensor, values: Tensor) -> Tensor:
    """Multiply a matrix and a vector in their own precision, because labels must not be rounded."""
    with full_precision(values):
        # On CUDA, matrix products may use TensorFloat-32, but matrix-vector products never do.
        return matrix.mv(values) if values.is_cuda else (matrix @ values[:, None])[:, 0]


def mix(
    latents: Latents,
    labels: Tensor,
    indices: Tensor,
    weights: Tensor | Mapping[str, Tensor],
    label_weights: Tensor | None = None,
    convex: bool = True,
) -> Mixed:
    """Build mixed examples from members and weights (one tensor for all modalities, or one per modality).

    A mixed sequence is as long as its longest member of nonzero weight. Its step counts as kept if any such
    member kept the step. convex: assert that weights are in [0, 1] and sum to 1.

    Shape: indices (n, k); weights (n, k) or (n, k, ...); label_weights (n, k), by default the common weights.
    """
    if isinstance(weights, Tensor):
        label_weights = weights if label_weights is None else label_weights
        weights = dict.fromkeys(latents.values, weights)
    assert label_weights is not None, "weights per modality need weights for the label"
    if convex:
        for w in (*weights.values(), label_weights):
            _assert_convex(w)
    mixed = Latents(
        {m: interpolate(values, indices, weights[m]) for m, values in latents.values.items()},
        {m: (x[indices] * _present(weights[m])).amax(1) for m, x in latents.lengths.items()},
        {m: (x[indices] & _present(weights[m])[..., None]).any(1) for m, x in latents.kept.items()},
    )
    mixed_labels = interpolate(labels, indices, label_weights)
    return Mixed(mixed, mixed_labels, labels.new_zeros(()), indices, weights, label_weights)


def _present(weights: Tensor) -> Tensor:
    """Mask the members that have any nonzero weight. Shape: (n, k, ...) -> (n, k) bool."""
    return (weights != 0).flatten(2).any(2) if weights.ndim > 2 else weights != 0


def _assert_convex(weights: Tensor) -> None:
    """Assert that weights are in [0, 1] and sum to 1."""
    # On CUDA the check would synchronise with the device.
    if weights.device.type == "cpu" and weights.numel():
        w = weights.detach()
        # NaN passes, because it comes from a diverged network, which the training loop reports.
        assert not bool(((w < 0) | (w > 1)).any()), "a mixing weight lies outside [0, 1]"
        assert not bool(((w.sum(1) - 1).abs() > 1e-5).any()), "mixing weights do not sum to 1"


def pair_weights(lam: np.ndarray) -> np.ndarray:
    """Return the weights (lambda, 1 - lambda) in float32. Shape: (n,) -> (n, 2)."""
    lam = lam.astype(np.float32)
    return np.stack([lam, 1 - lam], 1)


def draw_beta(generator: np.random.Generator, alpha: float, n: int) -> np.ndarray:
    """Draw n values from Beta(alpha, alpha); alpha = 0: 0 or 1 with probability 1/2 each. Shape: (n,)."""
    if alpha == 0:
        return generator.integers(0, 2, n).astype(np.float64)
    # Outside this range numpy's sampler no longer approaches the limits (0 or 1, and 1/2).
    alpha = min(max(alpha, 1e-300), 1e300)
    return generator.beta(alpha, alpha, n)


def draw_permutation_pairs(generator: np.random.Generator, n: int) -> np.ndarray:
    """Pair each example with a partner from one in-batch permutation, fixed points allowed. Shape: (n, 2)."""
    return np.stack([np.arange(n), generator.permutation(n)], 1)
