"""A network that a slow loop can train too, and short training rules."""

import torch

from backbones.base import Backbone, BackboneSettings, Fused, by_modality
from backbones.batch import MODALITIES, Latents


def rules(**settings) -> BackboneSettings:
    return BackboneSettings(**{"batch_size": 4, "learning_rate": 0.01, "weight_decay": 0.0} | settings)


class Toy(Backbone):
    """Linear in the means of the inputs; two groups of parameters."""

    name = "toy"
    title = "Toy"
    Settings = BackboneSettings
    published = {}

    def __init__(self, settings, sizes):
        super().__init__(settings, sizes)
        self.layers = torch.nn.ModuleDict({m: torch.nn.Linear(width, 2) for m, width in sizes.widths.items()})
        self.output = torch.nn.Linear(2, 1)

    @property
    def latent_widths(self):
        return by_modality(2, 2, 2)

    def encode(self, inputs):
        means = {m: inputs.values[m].to(self.output.weight.dtype).mean(1) for m in MODALITIES}
        return Latents({m: self.layers[m](mean) for m, mean in means.items()})

    def fuse(self, latents, n_clean):
        return Fused(sum(latents.values[m] for m in MODALITIES).tanh())

    def head(self, representation):
        return self.output(representation)[:, 0]

    def parameter_groups(self):
        return [
            {"params": list(self.layers.parameters())},
            {"params": list(self.output.parameters()), "lr": 3 * self.settings.learning_rate},
        ]
