"""The arithmetic of a cell: precision of matrix products, order of sums on CUDA, compiled steps.

`set_arithmetic` sets every flag for every cell, so that a worker carries nothing over to its next one.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from backbones.base import Backbone
from harness.errors import UserError, one_line, unknown

PRECISIONS = ("fp32", "tf32", "bf16")
DEVICES = ("auto", "cpu", "cuda")
STEPS = ("encode", "fuse", "head")


def check_precision(precision: str, device: str) -> None:
    """Raise UserError for an unknown precision, and for one that this kind of device does not have."""
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision != "fp32" and device != "cuda":
        raise UserError(
            f"precision={precision} needs device=cuda, and this would run on the CPU; use precision=fp32."
        )


def set_arithmetic(precision: str, deterministic: bool, device: torch.device) -> None:
    """Set the process's flags for one cell, whatever they were before.

    precision: "fp32": products of float32 in full. "tf32": in TensorFloat-32. "bf16": as fp32 but for
    `autocast`. deterministic: on CUDA, the same sums in the same order; the CPU keeps it anyway.
    """
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    if device.type == "cuda":
        # On the CPU the operations used are deterministic, and the call imports the compiler (seconds).
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        torch.backends.cudnn.benchmark = False
        # Its backward sums in any order; flash attention's can keep one, and the plain kernel does.
        torch.backends.cuda.enable_mem_efficient_sdp(not deterministic)


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Where matrix products run in bfloat16 under "bf16"; parameters and gradients stay float32."""
    if precision != "bf16":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def compile_steps(backbone: Backbone) -> None:
    """Compile a backbone's steps when they are first called; `plain_steps` undoes it."""
    # What was compiled for another cell would count towards the limit after which nothing more is.
    torch.compiler.reset()
    _configure_compiler()
    for name in STEPS:
        # Sizes are symbols from the start: else the code would depend on which sizes came first.
        setattr(backbone, name, torch.compile(getattr(backbone, name), dynamic=True))


def plain_steps(backbone: Backbone) -> None:
    """Take the steps as they are written again."""
    for name in STEPS:
        backbone.__dict__.pop(name, None)


def check_compiler(device: str) -> None:
    """Compile something small on a device; raises UserError where that does not work."""
    _configure_compiler()
    try:
        x = torch.ones(8, device=device)
        torch.compile(_probe, dynamic=True)(x)
    # Whatever the compiler's own tools raise.
    except Exception as error:
        tool = "Triton" if device == "cuda" else "a C++ compiler"
        reason = f"{tool} that PyTorch can use ({one_line(error)})"
        raise UserError(f"compile=true needs {reason}; use compile=false.") from None


def _configure_compiler() -> None:
    from torch._inductor import config

    # Workers compile side by side already, and helpers would outlive a worker that is killed.
    config.compile_threads = 1


def _probe(x: torch.Tensor) -> torch.Tensor:
    return (x.sin() + 1).sum()


def resolve_device(name: str) -> str:
    """The torch device for ``auto``, ``cpu`` or ``cuda``; raises UserError where there is no GPU."""
    if name not in DEVICES:
        raise unknown("device", name, DEVICES)
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device=cuda was asked for, but PyTorch sees no GPU here; use device=cpu or device=auto."
        )
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"
