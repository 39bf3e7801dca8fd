"""A method in a training loop of one's own, as a notebook: ``# %%`` begins a cell.

Any method of `methods` mixes a batch. This needs torch and numpy, but neither `harness` nor a data set.
"""
# mypy: ignore-errors

# %%
import numpy as np
import torch
from torch import nn

from backbones.batch import Latents
from methods import METHODS

# %% [markdown]
# A network and clips: three modalities, and a score in [-3, 3] that all of them tell a part of.

# %%
WIDTHS = {"text": 16, "audio": 8, "vision": 8}
torch.manual_seed(0)


class Regressor(nn.Module):
    """Two layers on the concatenated modalities. Shape: inputs[m] (B, D_m) -> (B,)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(sum(WIDTHS.values()), 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Predict scores."""
        prediction: torch.Tensor = self.layers(torch.cat(list(inputs.values()), 1))[:, 0]
        return prediction


clips = {name: torch.randn(512, width) for name, width in WIDTHS.items()}
scores = sum(values.mean(1) for values in clips.values()).mul(3).clamp(-3, 3)
batches = torch.arange(512).split(32)
network = Regressor()
optimizer = torch.optim.Adam(network.parameters(), lr=0.01)

# %% [markdown]
# The method draws pairs and weights on the host, and mixes what it is given; the loop adds the mixed loss.

# %%
kind, generator = METHODS["mixup"], np.random.default_rng(0)
method = kind(kind.Settings(alpha=0.4), widths=WIDTHS, label_scale=3.0)
losses = []
for _ in range(5):
    for rows in batches:
        inputs, labels = {name: values[rows] for name, values in clips.items()}, scores[rows]
        draw = method.draw(generator, labels.numpy())
        arrays = {name: torch.from_numpy(array) for name, array in draw.arrays.items()}
        mixed = method(Latents(inputs), labels, arrays)
        clean_loss = (network(inputs) - labels).abs().mean()
        mixed_loss = (network(mixed.latents.values) - mixed.labels).abs().mean()
        loss = clean_loss + method.settings.xi1 * mixed_loss + mixed.penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(clean_loss.item())

# %%
losses[0], losses[-1]
