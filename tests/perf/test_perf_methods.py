"""The cost report: what is compared, when a bound is broken, and bad input. Nothing here looks at a clock."""

import numpy as np
import pytest
import torch

from harness.train.step import step_losses
from methods import METHODS
from tests.perf import methods as perf
from tests.support.builders import make_sizes


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Every action takes as many seconds as `clock` says, in turn: step, network, watched step."""
    seconds = {"next": (3.0, 2.0, 3.3)}
    calls = []

    def measured(action):
        action()
        calls.append(action)
        return seconds["next"][(len(calls) - 1) % 3]

    monkeypatch.setattr(perf, "_cpu_s", measured)
    monkeypatch.setattr(perf, "MOSI", make_sizes())
    threads = torch.get_num_threads()
    yield seconds
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "none"])
def test_shares(name):
    cost = perf.cost_of("lmf", name, 2, make_sizes())
    assert (cost.step_ms, cost.network_ms) == (3000, 2000)
    assert cost.own == pytest.approx(1 / 3)
    assert cost.diagnostics == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["mixup", "manifold_mixup", "ms_mix"])
def test_a_replay_has_the_losses_of_its_method_but_the_penalty_s_gradient(name):
    """The same mixed examples go through the network; nothing of the method is left to be trained."""
    sizes = make_sizes()
    kind = perf.BACKBONES["lmf"]
    torch.manual_seed(0)
    backbone = kind(perf.resolve_settings(kind, kind.Settings(), "mosi"), sizes).eval()
    method = METHODS[name](METHODS[name].Settings(), backbone.latent_widths, 3.0)
    batch = perf.random_batch(sizes, 6)
    draw = method.draw(np.random.default_rng(0), batch.labels.numpy())
    with torch.no_grad():
        inputs = backbone.embed(batch)
        source = backbone.encode(inputs) if draw.layer else inputs
        mixed = perf._detached(perf.mix_batch(backbone, method, source, batch.labels, draw))
    replay = perf.Replay(method.settings, mixed)
    wanted, made = (step_losses(backbone, m, batch, draw) for m in (method, replay))
    for a, b in zip(wanted, made, strict=True):
        torch.testing.assert_close(a, b)
    assert not list(replay.parameters())
    assert not any(x.requires_grad for x in mixed.latents.values.values())


def test_shares_are_held_against_their_bounds(clock):
    """The measuring process is asked for every method; AdvMixUp alone has no bound."""
    costs = perf.costs("lmf", 1)
    rows = [row for name in METHODS if name != "none" for row in perf._rows(perf.Cost(**costs(name)))]
    own = {row.name: row for row in rows if row.name.endswith("own work")}
    assert len(own) == len(METHODS) - 1
    assert all(row.value == pytest.approx(100 / 3) for row in own.values())
    assert [name for name, row in own.items() if row.holds] == ["advmixup, own work"]
    clock["next"] = (3.0, 2.95, 3.0)
    assert all(row.holds for row in perf._rows(perf.Cost(**costs("mixup"))))
