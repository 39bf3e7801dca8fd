"""A sparsely gated mixture of experts (Shazeer et al., ICLR 2017, arXiv 1701.06538), as GLoMo uses it.

Each example goes to the k of E experts with the largest noisy logits H(x) = x W_g + noise * deviation, where
deviation = softplus(x W_n) + 0.01 and the noise is standard normal, drawn in training only. The gates are the
softmax of the k kept logits, and the output is log(sum_e gate_e exp(expert_e(x))).

Two losses keep the experts in equal use: the squared coefficients of variation, over the experts, of the
importance (sum of the gates) and of the load (expected number of examples).

NOTE[DIFF] the sum over experts is a log-sum-exp with the gates in logarithms: nothing overflows, where the
reference takes exp() as it stands and puts a small number for a sum of 0.
NOTE[DIFF] the load is estimated with the standard normal, which is what is drawn; the reference has 0.1 for
its mean.
NOTE[DIFF] of experts with equal logits the first ones are taken, on every device.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_DEVIATION = 1e-2
WEIGHT_DEVIATION = 0.02  # BERT's; the reference is built on one of its classes


class Gates(NamedTuple):
    """How examples are shared among experts: log gates (B, E), -inf where not kept, and load (E,)."""

    log: Tensor
    load: Tensor

    def balance_loss(self) -> Tensor:
        """Squared coefficients of variation of importance and load, summed; scalar."""
        return squared_variation(self.log.exp().sum(0)) + squared_variation(self.load)


class SparseExperts(nn.Module):
    """E experts, each linear, ReLU, linear, of which every example takes k. Shape: (B, width) -> (B, out).

    All experts are evaluated, as one batched product: at a few experts that costs less than sorting
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
        """(B, width) -> (B, out) in float32 at least, and who took which expert."""
        outputs = self.output(F.relu(self.hidden(x.expand(len(self.hidden.bias), -1, -1))))  # (E, B, out)
        # Half precision would decide ties among gates by rounding.
        with torch.autocast(x.device.type, enabled=False):
            gates = self.gates(at_least_float32(x))
            return combine(gates.log, outputs), gates

    def gates(self, x: Tensor) -> Gates:
        """(B, width) -> gates; noisy in training."""
        clean = x @ self.gate
        deviation = F.softplus(x @ self.noise) + LEAST_DEVIATION
        # Outside training zeros take the noise's place, so that its matrix has a gradient: zero.
        noise = torch.randn_like(clean) if self.training else torch.zeros_like(clean)
        return noisy_top_k(clean, deviation, noise, self.top_k)


class BatchedLinear(nn.Module):
    """n linear layers, each on its own rows. Shape: (n, B, width) -> (n, B, out)."""

    def __init__(self, n: int, width: int, out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n, width, out).normal_(std=WEIGHT_DEVIATION))
        self.bias = nn.Parameter(torch.zeros(n, out))

    def forward(self, x: Tensor) -> Tensor:
        """(n, B, width) -> (n, B, out)."""
        return torch.baddbmm(self.bias[:, None], x, self.weight)


def noisy_top_k(clean: Tensor, deviation: Tensor, noise: Tensor, k: int) -> Gates:
    """Gates of the k largest noisy logits, and the load. Shape: three times (B, E) -> (B, E), (E,)."""
    noisy = clean + noise * deviation
    ranked, order = noisy.sort(dim=-1, descending=True, stable=True)
    top = torch.zeros_like(noisy, dtype=torch.bool).scatter(-1, order[:, :k], True)
    log_gates = noisy.masked_fill(~top, -math.inf).log_softmax(-1)
    if k == clean.shape[1]:
        return Gates(log_gates, clean.new_full((k,), len(clean)))
    # An expert is kept if it beats the k-th largest logit of the others (Appendix A).
    rival = torch.where(top, ranked[:, k : k + 1], ranked[:, k - 1 : k])
    return Gates(log_gates, torch.special.ndtr((clean - rival) / deviation).sum(0))


def combine(log_gates: Tensor, outputs: Tensor) -> Tensor:
    """log(sum_e gate_e exp(output_e)). Shape: (B, E), (E, B, out) -> (B, out)."""
    return (log_gates.T[..., None] + outputs).logsumexp(0)


def squared_variation(x: Tensor) -> Tensor:
    """Squared coefficient of variation, with the sample variance; 0 for one number. Shape: (E,) -> scalar."""
    deviations = (x - x.mean()).square().sum() / max(len(x) - 1, 1)
    return deviations / (x.mean().square() + 1e-10)


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in float32, or in float64 where it already is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
