"""Sparsely gated mixture of experts (Shazeer et al., ICLR 2017, arXiv 1701.06538), as used in GLoMo.

Each example goes to the k of E experts with the largest noisy logits H(x) = x W_g + noise * deviation, where
deviation = softplus(x W_n) + 0.01; the noise is standard normal in training and 0 otherwise. The gates are
the softmax of the k selected logits, and the output is log(sum_e gate_e exp(expert_e(x))).

Two losses balance the use of the experts: the squared coefficients of variation, over the experts, of the
importance (sum of the gates) and of the load (expected number of examples).

NOTE[DIFF] the sum over experts is a log-sum-exp with log gates, which cannot overflow; the reference computes
exp() directly and replaces a sum of 0 by a small number.
NOTE[DIFF] the load is estimated with the standard normal distribution of the noise; the reference uses a
normal distribution with mean 0.1.
NOTE[DIFF] if experts have equal logits, the first are selected on every device.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.precision import full_precision

LEAST_DEVIATION = 1e-2
WEIGHT_DEVIATION = 0.02  # as in BERT; the reference derives from a BERT class


class Gates(NamedTuple):
    """Assignment of examples to experts: log gates (B, E), -inf for unselected experts, and load (E,)."""

    log: Tensor
    load: Tensor

    def balance_loss(self) -> Tensor:
        """Compute the sum of the squared coefficients of variation of importance and load; scalar."""
        return squared_variation(self.log.exp().sum(0)) + squared_variation(self.load)


class SparseExperts(nn.Module):
    """E experts (linear, ReLU, linear), k of which process each example. Shape: (B, width) -> (B, out).

    All experts are evaluated in one batched product, which for few experts costs less than sorting the
    examples by expert.
    """

    def __init__(self, width: int, out: int, n_experts: int, top_k: int):
        super().__init__()
        self.top_k = top_k
        self.gate = nn.Parameter(torch.zeros(width, n_experts))
        self.noise = nn.Parameter(torch.zeros(width, n_experts))
        self.hidden = BatchedLinear(n_experts, width, out)
        self.output = BatchedLinear(n_experts, out, out)

    def forward(self, x: Tensor) -> tuple[Tensor, Gates]:
        """Return outputs and gates. Shape: (B, width) -> (B, out), at least float32."""
        outputs = self.output(F.relu(self.hidden(x.expand(len(self.hidden.bias), -1, -1))))  # (E, B, out)
        # In half precision, rounding would create ties between gates.
        with full_precision(x):
            gates = self.gates(at_least_float32(x))
            return combine(gates.log, outputs), gates

    def gates(self, x: Tensor) -> Gates:
        """Compute the gates, with noise in training. Shape: (B, width) -> (B, E), (E,)."""
        clean = x @ self.gate
        deviation = F.softplus(x @ self.noise) + LEAST_DEVIATION
        # In evaluation, the noise is zero, not absent, so that its matrix still gets a (zero) gradient.
        noise = torch.randn_like(clean) if self.training else torch.zeros_like(clean)
        return noisy_top_k(clean, deviation, noise, self.top_k)


class BatchedLinear(nn.Module):
    """n independent linear layers. Shape: (n, B, width) -> (n, B, out)."""

    def __init__(self, n: int, width: int, out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n, width, out).normal_(std=WEIGHT_DEVIATION))
        self.bias = nn.Parameter(torch.zeros(n, out))

    def forward(self, x: Tensor) -> Tensor:
        """Apply each layer to its own rows. Shape: (n, B, width) -> (n, B, out)."""
        return torch.baddbmm(self.bias[:, None], x, self.weight)


def noisy_top_k(clean: Tensor, deviation: Tensor, noise: Tensor, k: int) -> Gates:
    """Compute gates of the k largest noisy logits, and the load. Shape: three (B, E) -> (B, E), (E,)."""
    noisy = clean + noise * deviation
    ranked, order = noisy.sort(dim=-1, descending=True, stable=True)
    top = torch.zeros_like(noisy, dtype=torch.bool).scatter(-1, order[:, :k], True)
    log_gates = noisy.masked_fill(~top, -math.inf).log_softmax(-1)
    if k == clean.shape[1]:
        return Gates(log_gates, clean.new_full((k,), len(clean)))
    # An expert is selected if its logit exceeds the k-th largest logit of the others (Appendix A).
    rival = torch.where(top, ranked[:, k : k + 1], ranked[:, k - 1 : k])
    return Gates(log_gates, torch.special.ndtr((clean - rival) / deviation).sum(0))


def combine(log_gates: Tensor, outputs: Tensor) -> Tensor:
    """Compute log(sum_e gate_e exp(output_e)). Shape: (B, E), (E, B, out) -> (B, out)."""
    return (log_gates.T[..., None] + outputs).logsumexp(0)


def squared_variation(x: Tensor) -> Tensor:
    """Compute the squared coefficient of variation (sample variance; 0 for E = 1). Shape: (E,) -> scalar."""
    deviations = (x - x.mean()).square().sum() / max(len(x) - 1, 1)
    return deviations / (x.mean().square() + 1e-10)


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32; float32 and float64 stay unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
