"""Agreement of single training steps on a device with those on the CPU.

Each step starts from the CPU's weights and optimizer state, because thresholds and signs in some methods
amplify rounding errors from step to step. Dropout is off, random numbers are drawn on the CPU, and Adam's
epsilon is EPSILON: at 1e-8 it makes whole steps of the rounding errors of gradients that are 0.
"""

from dataclasses import fields, replace

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from harness.launchers.processes import usable_cores
from tests.perf.steps import training

TOLERANCE, UPDATE_TOLERANCE = 2e-4, 0.1
"""Of a step's losses, by the total loss, and of the weights after it, by the learning rate."""
EPSILON = 1e-4  # of Adam, well above rounding errors
DRAWS = (torch.randn_like, torch.rand_like, torch.randn, torch.rand)


def agreement(cell, options, change=lambda steps: None):
    """Compare steps on the device with the CPU's, each from the CPU's state; change: made to the device's."""
    threads, losses, updates = torch.get_num_threads(), ([], []), []
    torch.set_num_threads(usable_cores())
    try:
        with HostDraws():
            runs = [training(cell, options.data, device) for device in ("cpu", options.device)]
            for steps in runs:
                for group in steps.optimizer.param_groups:
                    group["eps"] = EPSILON
            for _ in range(options.steps):
                runs[1].take_over(runs[0])
                change(runs[1])
                for steps, rows in zip(runs, losses, strict=True):
                    rows.append(steps.first_of_epoch())
                updates.append(weight_difference(*runs))
    finally:
        torch.set_num_threads(threads)
    difference = relative_difference(*(torch.stack(rows) for rows in losses))
    within = difference <= TOLERANCE and max(updates) <= UPDATE_TOLERANCE
    return {"difference": difference, "update": max(updates), "holds": within}


def weight_difference(expected, actual):
    """Return the largest RMS difference of a tensor between two trainings, in units of the learning rate."""
    found = 0.0
    for first, second in zip(expected.optimizer.param_groups, actual.optimizer.param_groups, strict=True):
        for a, b in zip(first["params"], second["params"], strict=True):
            gap = a.detach().cpu().double() - b.detach().cpu().double()
            found = max(found, float(gap.square().mean().sqrt().nan_to_num(torch.inf)) / first["lr"])
    return found


def without_dropout(cell):
    """Set all probabilities of dropout to 0: devices draw different masks from one seed."""
    names = [f.name for f in fields(cell.backbone_settings) if f.name.endswith("_dropout")]
    return replace(cell, backbone_settings=replace(cell.backbone_settings, **dict.fromkeys(names, 0.0)))


class HostDraws(TorchFunctionMode):
    """Within it random tensors are drawn on the CPU and copied, so that all devices get the same ones."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in DRAWS:
            return func(*args, **kwargs)
        device = kwargs.get("device")
        if isinstance(args[0], Tensor):
            device, args = args[0].device, (args[0].cpu(), *args[1:])
        return func(*args, **{**kwargs, "device": "cpu"}).to(device)


def relative_difference(expected, actual):
    """Return the largest difference of losses, (n, 5) each, by the total loss (first column).

    That of the step, or of the first one where it is larger: losses that go to 0 have no digits to compare.
    """
    total = expected[:, :1].abs().maximum(expected[0, 0].abs())
    return float(((expected - actual).abs() / total).nan_to_num(torch.inf).max())
