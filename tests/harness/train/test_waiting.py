"""Mixing and a whole training step never wait for the device."""

import contextlib
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from backbones import cpu
from harness.train.diagnostics import Diagnostics
from harness.train.step import step_losses
from methods import METHODS
from tests.support.builders import PAIRS, changed, make_batch, make_sizes, small_backbone

REFUSED = (
    *("_local_scalar_dense", "equal", "allclose"),  # read numbers back
    *("nonzero", "masked_select", "unique", "_unique", "_unique2", "unique_dim", "unique_consecutive"),
    *("unique_dim_consecutive", "bincount"),  # have shapes that depend on values
)
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class NoOperationWaits(TorchDispatchMode):
    """Refuse operations that wait for the device or whose shapes depend on values, backward, too."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        assert name not in REFUSED, name
        if name in ("index", "index_put", "index_put_"):
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), "a mask as index"
        if name == "repeat_interleave":
            assert kwargs.get("output_size") is not None, "repeats that the device knows"
        return func(*args, **kwargs)


class NoCallWaits(TorchFunctionMode):
    """Refuses calls that copy to the host; on the CPU these end in no operation, so they are seen as calls.

    A copy that does not block is allowed: it is how a draw comes to its device.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        assert name not in ("tolist", "cpu", "numpy", "item", "__array__"), name
        if name == "to" and not kwargs.get("non_blocking"):
            places = [x for x in (*args[1:], *kwargs.values()) if isinstance(x, str | torch.device)]
            assert not any(torch.device(place).type == "cpu" for place in places), "a copy to the CPU"
        return func(*args, **kwargs)


@contextlib.contextmanager
def no_waiting():
    """Reject every operation that would wait for a GPU."""
    with pytest.MonkeyPatch.context() as elsewhere, NoCallWaits(), NoOperationWaits():
        elsewhere.setattr(cpu, "on_cpu", lambda x: False)
        elsewhere.setattr("methods.base._assert_convex", lambda weights: None)
        yield


class WaitsInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * gradient.sum().item()


@pytest.mark.parametrize(
    "wait",
    [
        *(bool, torch.nonzero, torch.unique, torch.unique_consecutive),
        *(lambda x: x.sum().item(), lambda x: [10, 11][x.long()], lambda x: x.tolist()),
        *(lambda x: x.detach().numpy(), lambda x: np.asarray(x.detach())),
        *(lambda x: x.cpu(), lambda x: x.to("cpu")),
        lambda x: x.to(device=torch.device("cpu"), dtype=torch.float64),
        *(lambda x: x[x > 0], lambda x: torch.masked_select(x, x > 0)),
        *(lambda x: torch.unique(x, dim=0), lambda x: torch.bincount(x.long())),
        lambda x: torch.repeat_interleave(x, x.long()),
        *(lambda x: torch.equal(x, x), lambda x: torch.allclose(x, x)),
        lambda x: WaitsInBackward.apply(x).sum().backward(),
    ],
)
def test_what_waits_is_seen(wait):
    x = torch.ones(1, requires_grad=True)
    with no_waiting(), pytest.raises(AssertionError):
        wait(x)


def make_step(name: str, backbone_name: str, device: str):
    """A backbone, a method and a batch on a device, and draws for two steps."""
    sizes = make_sizes()
    backbone = small_backbone(backbone_name, sizes).train().to(device)
    method = METHODS[name](METHODS[name].Settings(), backbone.latent_widths, 3.0).train().to(device)
    batch = make_batch(sizes, 6)
    draws = [method.draw(np.random.default_rng(seed), batch.labels.numpy()) for seed in range(2)]
    return backbone, method, changed(batch, lambda x: x.to(device)), draws


def run_step(backbone, method, batch, draw) -> torch.Tensor:
    losses = step_losses(backbone, method, batch, draw, Diagnostics().watch)
    losses.total.backward()
    return losses.total


# MulT's latents are sequences with lengths.
@pytest.mark.parametrize(("name", "backbone_name"), [*PAIRS, *((name, "mult") for name in METHODS)])
def test_a_step_never_waits_for_the_device(name, backbone_name):
    backbone, method, batch, draws = make_step(name, backbone_name, "cpu")
    for mode, draw in zip(("append", "replace"), draws, strict=True):
        method.settings = dataclasses.replace(method.settings, mode=mode)
        with no_waiting():
            total = run_step(backbone, method, batch, draw)
        assert total.isfinite()


@cuda
@pytest.mark.parametrize(("name", "backbone_name"), list(itertools.product(METHODS, ("tfn", "mult"))))
def test_a_step_never_waits_on_cuda(name, backbone_name):
    *parts, (first, second) = make_step(name, backbone_name, "cuda")
    run_step(*parts, first)  # libraries are loaded, and wait, in the first step
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        total = run_step(*parts, second)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert total.isfinite()
