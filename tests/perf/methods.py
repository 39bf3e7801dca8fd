"""What the methods cost, as shares of a training step measured in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backbones import BACKBONES
from backbones.base import Backbone, Sizes, by_modality, resolve_settings
from backbones.batch import Batch, Latents
from harness.train.diagnostics import Diagnostics
from harness.train.loop import make_optimizer
from harness.train.step import Watch, mix_batch, step_losses
from methods import METHODS
from methods.base import Draw, Method, Mixed
from tests.perf.child import Child
from tests.perf.rows import Part, Row

# The shapes of MMSA's unaligned MOSI files.
MOSI = Sizes(by_modality(768, 5, 20), by_modality(50, 375, 500), 3.0)
# Most of a step that a method's own work may take; AdvMixUp runs the network once more to attack it.
BOUND, BOUNDS = 0.10, {"ms_mix": 0.15, "ms_mix_released": 0.15, "advmixup": None}
WARM_UP, ROUNDS = 2, 15


@dataclass(frozen=True)
class Cost:
    """CPU time of a training step with a method, and with its mixed examples given beforehand.

    own: the share of the step that the method itself takes: everything but the passes of clean and mixed
    examples through the network. diagnostics: what watching adds to the step, as a share of it.
    """

    method: str
    step_ms: float
    network_ms: float
    own: float
    diagnostics: float


class Replay(nn.Module):
    """Stands for a method whose mixed examples are at hand: the step's cost without the method's own work."""

    def __init__(self, settings: Any, mixed: Mixed):
        super().__init__()
        self.settings = settings
        self.mixed = mixed

    def forward(self, latents: Latents, labels: Tensor, draw: Mapping[str, Tensor], network: Any) -> Mixed:
        """The given mixed examples."""
        return self.mixed


def measure(rounds: int = ROUNDS, backbone: str = "tfn") -> Part:
    """All methods on one backbone at MOSI's size, one thread."""
    rows: list[Row] = []
    with Child("tests.perf.methods:costs", {"backbone": backbone, "rounds": rounds}) as child:
        for name in METHODS:
            if name != "none":
                rows += _rows(Cost(**child.ask(method=name)))
    how = (
        f"Shares of a training step of {backbone} at MOSI's size: CPU time of one thread, medians of "
        f"{rounds} rounds. Own work is the step against the same step with its mixed examples given."
    )
    return Part("methods", "What methods cost", how, tuple(rows))


def _rows(cost: Cost) -> Iterator[Row]:
    bound = BOUNDS.get(cost.method, BOUND)
    yield Row(f"{cost.method}, step", cost.step_ms, "ms")
    yield Row(f"{cost.method}, the network's passes", cost.network_ms, "ms")
    yield Row(f"{cost.method}, own work", 100 * cost.own, "%", None if bound is None else 100 * bound)
    yield Row(f"{cost.method}, diagnostics", 100 * cost.diagnostics, "%")


def costs(backbone: str, rounds: int) -> Callable[..., dict[str, Any]]:
    """For a measuring process: asks for a method's `Cost`."""
    torch.set_num_threads(1)
    return lambda method: asdict(cost_of(backbone, method, rounds, MOSI))


def cost_of(backbone_name: str, method_name: str, rounds: int, sizes: Sizes) -> Cost:
    """Interleave steps with a method and with its replay; medians over the rounds."""
    kind = BACKBONES[backbone_name]
    torch.manual_seed(0)
    backbone = kind(resolve_settings(kind, kind.Settings(), "mosi"), sizes).train()
    method = METHODS[method_name](METHODS[method_name].Settings(), backbone.latent_widths, sizes.label_scale)
    batch = random_batch(sizes, backbone.settings.batch_size)
    full = _full_step(backbone, method, batch)
    network = _network_step(backbone, method, batch)
    watched = _full_step(backbone, method, batch, watch=True)
    actions = (full, network, watched)
    timed = [[_cpu_s(action) for action in actions] for _ in range(WARM_UP + rounds)][WARM_UP:]
    step_s, network_s, _ = (statistics.median(times) for times in zip(*timed, strict=True))
    own = statistics.median(1 - network / step for step, network, _ in timed)
    diagnostics = statistics.median(watched / step - 1 for step, _, watched in timed)
    return Cost(method_name, 1e3 * step_s, 1e3 * network_s, own, diagnostics)


def _full_step(backbone: Backbone, method: Method, batch: Batch, watch: bool = False) -> Callable[[], None]:
    optimizer, labels = make_optimizer(backbone, method), batch.labels.numpy()

    def step() -> None:
        # A new one each time, so that what an epoch does once counts at every step here.
        watcher = Diagnostics().watch if watch else None
        # The draw of the replay: some methods also draw how many examples they mix.
        draw = method.draw(np.random.default_rng(0), labels)
        _step(backbone, method, batch, draw, optimizer, watcher)

    return step


def _network_step(backbone: Backbone, method: Method, batch: Batch) -> Callable[[], None]:
    draw = method.draw(np.random.default_rng(0), batch.labels.numpy())
    assert draw is not None
    with torch.no_grad():
        inputs = backbone.embed(batch)
        source = backbone.encode(inputs) if draw.layer else inputs
    mixed = _detached(mix_batch(backbone, method, source, batch.labels, draw))
    replay: Any = Replay(method.settings, mixed)
    optimizer = make_optimizer(backbone, replay)
    return lambda: _step(backbone, replay, batch, Draw(draw.layer, {}), optimizer)


def _step(
    backbone: Backbone,
    method: Any,
    batch: Batch,
    draw: Draw | None,
    optimizer: Any,
    watch: Watch | None = None,
) -> None:
    step_losses(backbone, method, batch, draw, watch).total.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _detached(mixed: Mixed) -> Mixed:
    values = {m: x.detach() for m, x in mixed.latents.values.items()}
    latents = Latents(values, mixed.latents.lengths, mixed.latents.kept)
    return replace(
        mixed,
        latents=latents,
        labels=mixed.labels.detach(),
        penalty=mixed.penalty.detach(),
        label_weights=mixed.label_weights.detach(),
    )


def _cpu_s(action: Callable[[], None]) -> float:
    # CPU time of one thread: what else the machine does then matters least.
    started = time.process_time()
    action()
    return time.process_time() - started


def random_batch(sizes: Sizes, n: int) -> Batch:
    """Clips without padding. Shape: n clips of the given sizes."""
    generator = torch.Generator().manual_seed(0)
    features = {
        m: torch.randn(n, steps, sizes.widths[m], generator=generator) for m, steps in sizes.steps.items()
    }
    lengths = {m: torch.full((n,), steps) for m, steps in sizes.steps.items()}
    labels = (torch.rand(n, generator=generator) * 2 - 1) * sizes.label_scale
    return Batch(features, lengths, labels)
