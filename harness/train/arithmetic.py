"""The arithmetic of a cell: precision of matrix products, determinism on CUDA, compiled steps.

`set_arithmetic` sets every flag for every cell, so that no flag of a worker's previous cell remains.
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
    """Raise UserError for an unknown precision, or one that this kind of device does not support."""
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision != "fp32" and device != "cuda":
        raise UserError(
            f"precision={precision} needs device=cuda, but cells would run on the CPU; use precision=fp32."
        )


def set_arithmetic(precision: str, deterministic: bool, device: torch.device) -> None:
    """Set the process-wide flags of torch for one cell.

    precision: "fp32": full float32 products. "tf32": TensorFloat-32 products. "bf16": as "fp32", outside of
    `autocast`. deterministic: use deterministic algorithms on CUDA; the CPU always does.
    """
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    if device.type == "cuda":
        # CPU operations are always deterministic, and there the call would import the compiler (seconds).
        # With warn_only=True, the backward passes of fused attention keep their non-deterministic algorithms
        # (PyTorch, aten/src/ATen/native/transformers/cuda/attention_backward.cu).
        torch.use_deterministic_algorithms(deterministic, warn_only=False)
        # Otherwise each new tensor would be filled first; nothing here reads uninitialised memory.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return a context that runs matrix products in bfloat16 for "bf16"; parameters stay float32."""
    if precision != "bf16":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def compile_steps(backbone: Backbone) -> None:
    """Compile a backbone's steps at their first call; `plain_steps` undoes it."""
    # Code compiled for earlier cells would count towards torch's limit of recompilations.
    torch.compiler.reset()
    _configure_compiler()
    for name in STEPS:
        # dynamic=True: otherwise the compiled code would depend on which sizes come first.
        setattr(backbone, name, torch.compile(getattr(backbone, name), dynamic=True))


def plain_steps(backbone: Backbone) -> None:
    """Restore a backbone's uncompiled steps."""
    for name in STEPS:
        backbone.__dict__.pop(name, None)


def check_compiler(device: str) -> None:
    """Compile a small function on a device; raise UserError if that fails."""
    _configure_compiler()
    try:
        x = torch.ones(8, device=device)
        torch.compile(_probe, dynamic=True)(x)
    # The compiler's tools raise many kinds of exceptions.
    except Exception as error:
        tool = "Triton" if device == "cuda" else "a C++ compiler"
        reason = f"{tool} that PyTorch can use ({one_line(error)})"
        raise UserError(f"compile=true needs {reason}; use compile=false.") from None


def _configure_compiler() -> None:
    from torch._inductor import config

    # Workers already compile in parallel, and compiler processes would outlive a killed worker.
    config.compile_threads = 1


def _probe(x: torch.Tensor) -> torch.Tensor:
    return (x.sin() + 1).sum()


def check_device(name: str) -> None:
    """Raise UserError for a device that no machine offers to this program."""
    if name == "mps":
        raise UserError("device=mps is not supported: no test shows that its results repeat; use device=cpu.")
    if name not in DEVICES:
        raise unknown("device", name, DEVICES)


def resolve_device(name: str) -> str:
    """Return the torch device for ``auto``, ``cpu`` or ``cuda``; raise UserError for cuda without a GPU."""
    check_device(name)
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device=cuda needs a GPU, but PyTorch finds none here; use device=cpu or device=auto."
        )
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"
