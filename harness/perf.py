"""``python -m harness.perf``: what the methods cost, as shares of a training step measured in one run.

Writes ``methods.json`` and ``methods.md`` below ``var/perf``. Exit status: 0; 1 where a share is above its
bound; 2 the request is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backbones import BACKBONES
from backbones.base import Backbone, Sizes, by_modality, resolve_settings
from harness.data.batch import Batch
from harness.diagnostics import Diagnostics
from harness.errors import UserError, unknown
from harness.latents import Latents
from harness.launchers.processes import WORKER_ENVIRONMENT
from harness.step import Watch, mix_batch, step_losses
from harness.train import make_optimizer
from methods import METHODS
from methods.base import Draw, Method, Mixed

# The shapes of MMSA's unaligned MOSI files.
MOSI = Sizes(by_modality(768, 5, 20), by_modality(50, 375, 500), 3.0)
# Most of a step that a method's own work may take; AdvMixUp runs the network once more to attack it.
BOUND, BOUNDS = 0.10, {"ms_mix": 0.15, "ms_mix_released": 0.15, "advmixup": None}
WARM_UP = 2


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
    bound: float | None

    @property
    def holds(self) -> bool:
        """Whether the share is within its bound."""
        return self.bound is None or self.own <= self.bound


class Replay(nn.Module):
    """Stands for a method whose mixed examples are at hand: the step's cost without the method's own work."""

    def __init__(self, settings: Any, mixed: Mixed):
        super().__init__()
        self.settings = settings
        self.mixed = mixed

    def forward(self, latents: Latents, labels: Tensor, draw: Mapping[str, Tensor], network: Any) -> Mixed:
        """The given mixed examples."""
        return self.mixed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the table; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.backbone not in BACKBONES:
            raise unknown("backbone", options.backbone, BACKBONES)
        if options.rounds < 1:
            raise UserError(f"--rounds must be at least 1, however: {options.rounds}.")
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    costs = []
    for name in METHODS:
        if name != "none":
            costs.append(measure(options.backbone, name, options.rounds, MOSI))
            print(f"{name}: own work {costs[-1].own:.1%} of {costs[-1].step_ms:.0f} ms", file=sys.stderr)
    text = "\n".join(table(options.backbone, costs))
    print(text)
    folder = Path(options.var_dir) / "perf"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "methods.md").write_text(text + "\n", encoding="utf-8")
    stored = {"backbone": options.backbone, "torch": torch.__version__, "costs": [asdict(c) for c in costs]}
    (folder / "methods.json").write_text(json.dumps(stored, indent=1), encoding="utf-8")
    return 0 if all(cost.holds for cost in costs) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.perf", description=__doc__, allow_abbrev=False)
    parser.add_argument("--backbone", default="tfn", help="at MOSI size, published settings (default: tfn)")
    parser.add_argument("--rounds", type=int, default=15, help="pairs of steps per method (default: 15)")
    parser.add_argument("--var-dir", default="var", help="where perf/ is written (default: var)")
    return parser


def measure(backbone_name: str, method_name: str, rounds: int, sizes: Sizes) -> Cost:
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
    bound = BOUNDS.get(method_name, BOUND)
    return Cost(method_name, 1e3 * step_s, 1e3 * network_s, own, diagnostics, bound)


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


def table(backbone: str, costs: Sequence[Cost]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield f"One training step of {backbone} at MOSI size, one CPU thread, CPU time, medians."
    yield ""
    yield "| method | step, ms | the network's passes, ms | the method's own work | bound | | diagnostics |"
    yield "|---|---|---|---|---|---|---|"
    for c in costs:
        bound = "none" if c.bound is None else f"{c.bound:.0%}"
        verdict = "holds" if c.holds else "BROKEN"
        times = f"{c.step_ms:.0f} | {c.network_ms:.0f} | {c.own:.1%}"
        yield f"| {c.method} | {times} | {bound} | {verdict} | {c.diagnostics:.1%} |"


if __name__ == "__main__":
    # As workers run, see there; the allocator reads its settings when the process starts.
    if any(os.environ.get(name) != value for name, value in WORKER_ENVIRONMENT.items()):
        environment = {**os.environ, **WORKER_ENVIRONMENT}
        os.execve(sys.executable, [sys.executable, "-m", "harness.perf", *sys.argv[1:]], environment)
    sys.exit(main())
