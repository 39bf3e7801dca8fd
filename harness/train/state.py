"""The state of a training: networks, optimizer, best weights, curves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backbones.base import Backbone
from methods.base import Method

MODULES = ("backbone", "method", "optimizer")


@dataclass
class TrainingState:
    """Everything that a training changes and a checkpoint stores.

    Random streams, gradients and schedules are not part of the state: streams are derived from (seed,
    purpose, epoch, step), no gradient outlives its epoch, and learning rates are computed from the curves. A
    module's state is its parameters and persistent buffers.

    best_weights: network's state after best_epoch. epoch: last completed one. train_s: seconds until then.
    """

    backbone: Backbone
    method: Method
    optimizer: torch.optim.Optimizer
    best_weights: dict[str, Tensor] = field(init=False)
    best_loss: float = float("inf")
    best_epoch: int = 0
    epoch: int = 0
    train_s: float = 0.0
    curves: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.best_weights = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}

    @property
    def network(self) -> nn.ModuleDict:
        """The backbone and the method as one module."""
        return nn.ModuleDict({"backbone": self.backbone, "method": self.method})

    def keep_best(self, epoch: int, loss: float) -> None:
        """Store the network's weights as the best so far."""
        self.best_epoch, self.best_loss = epoch, loss
        for name, tensor in self.network.state_dict().items():
            self.best_weights[name].copy_(tensor)

    def record(self, epoch: int, numbers: dict[str, float]) -> None:
        """Append an epoch to the curves; a number that is missing in an epoch is NaN there."""
        for name in dict.fromkeys([*self.curves, *numbers]):
            curve = self.curves.setdefault(name, [math.nan] * (epoch - 1))
            curve.append(numbers.get(name, math.nan))

    def numbers(self) -> dict[str, float]:
        """Return durations and parameter counts of the training, by the names under which they are logged."""
        numbers = {
            "best_epoch": self.best_epoch,
            "train_s": self.train_s,
            "epoch_s": np.median(self.curves["epoch_s"]),
            "parameter_count": sum(p.numel() for _, p in self.backbone.own_parameters()),
            "method_parameter_count": sum(p.numel() for p in self.method.parameters()),
        }
        return {name: float(number) for name, number in numbers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values and tensors, which are not copied."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return values | {name: values[name].state_dict() for name in MODULES}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state; if it does not fit, any exception is raised and the state is partly restored."""
        for name in MODULES:
            getattr(self, name).load_state_dict(state[name])
        for name, tensor in self.best_weights.items():
            tensor.copy_(state["best_weights"][name])
        self.best_loss, self.best_epoch = float(state["best_loss"]), int(state["best_epoch"])
        self.epoch, self.train_s = int(state["epoch"]), float(state["train_s"])
        self.curves = {name: [float(x) for x in curve] for name, curve in state["curves"].items()}
