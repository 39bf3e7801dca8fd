"""Twenty losses of every backbone with every method are the stored ones: see `loss_traces`."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import harness.train.loop
import harness.train.step
from backbones import BACKBONES
from harness.matrix import RESULTS_VERSION
from methods import METHODS
from tests.support import loss_traces
from tests.support.loss_traces import COMMAND, RTOL, STEPS, check, difference, pairs, read, refresh, trace
from tests.support.paths import ROOT

PAIR = ("lmf", "mixup")
PRINT = """
import json
from tests.support.loss_traces import pairs, trace
print(json.dumps([trace(*pair) for pair in pairs()]))
"""


@pytest.mark.parametrize(("backbone", "method"), pairs())
def test_the_losses_are_the_stored_ones(backbone, method):
    check(read(), backbone, method, trace(backbone, method))


def test_every_stored_trace_is_of_a_backbone_and_a_method():
    traces = {(b, m): losses for b, found in read()["traces"].items() for m, losses in found.items()}
    assert set(traces) <= set(pairs())
    assert all(len(losses) == STEPS for losses in traces.values())
    assert np.isfinite(list(traces.values())).all()
    assert len({tuple(losses) for losses in traces.values()}) == len(traces)


# What it notices


def weighs_mixed_losses_otherwise(monkeypatch):
    plain = harness.train.step._weigh
    monkeypatch.setattr(
        harness.train.step, "_weigh", lambda s, task, mixed, *rest: plain(s, task, 1.001 * mixed, *rest)
    )


def drops_by_another_stream(monkeypatch):
    plain = harness.train.loop.seed_for
    swapped = {"dropout": "dropping"}
    monkeypatch.setattr(
        harness.train.loop,
        "seed_for",
        lambda s, purpose, *rest: plain(s, swapped.get(purpose, purpose), *rest),
    )


def draws_in_another_order(monkeypatch):
    plain = harness.train.loop.generator_for

    def generator_for(seed, purpose, *parts):
        generator = plain(seed, purpose, *parts)
        if purpose == "mixing":
            generator.random()
        return generator

    monkeypatch.setattr(harness.train.loop, "generator_for", generator_for)


def optimises_otherwise(monkeypatch):
    plain = harness.train.loop.make_optimizer

    def make_optimizer(*given):
        optimizer = plain(*given)
        for group in optimizer.param_groups:
            group["betas"] = (0.8, 0.999)
        return optimizer

    monkeypatch.setattr(harness.train.loop, "make_optimizer", make_optimizer)


def initialises_otherwise(monkeypatch):
    plain = harness.train.loop.build

    def build(*given):
        backbone, method = plain(*given)
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter.mul_(1.01)
        return backbone, method

    monkeypatch.setattr(harness.train.loop, "build", build)


CHANGES = [
    weighs_mixed_losses_otherwise,
    drops_by_another_stream,
    draws_in_another_order,
    optimises_otherwise,
    initialises_otherwise,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("method", ["mixup", "manifold_mixup", "powmix", "ms_mix"])
def test_a_small_change_of_the_arithmetic_is_noticed(change, method, monkeypatch):
    change(monkeypatch)
    with pytest.raises(AssertionError, match="raise RESULTS_VERSION in harness"):
        check(read(), "lmf", method, trace("lmf", method))


def test_another_seed_or_setting_is_another_trace():
    stored = read()["traces"]["lmf"]["mixup"]
    settings = dataclasses.replace(METHODS["mixup"].Settings(), xi1=1.001 * METHODS["mixup"].Settings().xi1)
    for changes in ({"seed": 2}, {"method_settings": settings}, {"max_batches": 9}):
        assert difference(trace(*PAIR, **changes), stored) > RTOL, changes


def test_how_far_traces_are_apart():
    assert difference([1.0, -2.0], [1.0, -2.0]) == 0
    assert difference([1.0, 2.0], [1.0, 2.002]) == pytest.approx(0.001, rel=0.01)
    assert difference([0.0], [0.0]) == 0
    assert difference([1.0], [1.0, 1.0]) == float("inf")


# Missing traces, and the command that writes them


@pytest.fixture
def few(monkeypatch, tmp_path):
    """Two backbones and two methods alone, and a file for their traces."""
    monkeypatch.setattr(loss_traces, "BACKBONES", {name: BACKBONES[name] for name in ("tfn", "lmf")})
    monkeypatch.setattr(loss_traces, "METHODS", {name: METHODS[name] for name in ("none", "mixup")})
    file = tmp_path / "traces.json"
    assert refresh(file) == []
    return file


def test_a_new_name_without_a_trace_is_told_the_command(few):
    stored = read(few)
    del stored["traces"]["lmf"]
    for backbone, method in (("lmf", "none"), ("tfn", "new")):
        with pytest.raises(AssertionError) as caught:
            check(stored, backbone, method, [1.0])
        said = str(caught.value)
        assert said.startswith(f"{backbone} with {method} has no stored loss trace; add it with `{COMMAND}`.")


def test_traces_of_another_version_are_told_the_command(few):
    stored = {**read(few), "results_version": RESULTS_VERSION - 1}
    with pytest.raises(
        AssertionError, match=f"and the code's is {RESULTS_VERSION}; refresh them with `python"
    ):
        check(stored, "tfn", "none", trace("tfn", "none"))


def test_the_file_is_written_again_to_the_same_bytes(few):
    content = few.read_bytes()
    assert json.loads(content)["results_version"] == RESULTS_VERSION
    assert refresh(few) == []
    assert few.read_bytes() == content
    stored = read()
    for backbone, found in read(few)["traces"].items():
        for method, losses in found.items():
            assert difference(losses, stored["traces"][backbone][method]) < RTOL


def test_what_changed_is_not_overwritten_before_the_version_is_raised_and_what_is_new_is_added(
    few, monkeypatch, capsys
):
    before = read(few)["traces"]
    monkeypatch.setitem(loss_traces.METHODS, "ms_mix", METHODS["ms_mix"])
    weighs_mixed_losses_otherwise(monkeypatch)
    assert refresh(few) == ["tfn with mixup", "lmf with mixup"]
    after = read(few)["traces"]
    for backbone in ("tfn", "lmf"):
        assert {name: after[backbone][name] for name in ("none", "mixup")} == before[backbone]
        assert len(after[backbone]["ms_mix"]) == STEPS
    monkeypatch.setattr(loss_traces, "refresh", lambda: refresh(few))
    assert loss_traces.main() == 1
    assert "raise RESULTS_VERSION in harness/matrix.py and then refresh" in capsys.readouterr().err
    monkeypatch.setattr(loss_traces, "RESULTS_VERSION", RESULTS_VERSION + 1)
    assert loss_traces.main() == 0
    raised = read(few)
    assert raised["results_version"] == RESULTS_VERSION + 1
    assert raised["traces"]["tfn"]["none"] == before["tfn"]["none"]
    assert difference(raised["traces"]["tfn"]["mixup"], before["tfn"]["mixup"]) > RTOL


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["default", pytest.param("avx2", marks=pytest.mark.soak)])
def test_other_vector_instructions_change_less_than_a_tenth_of_what_is_noticed(capability):
    """Of this processor; one that lacks them is asked for what it has."""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PRINT], env=environment, check=True, capture_output=True, text=True
    )
    stored = read()["traces"]
    for (backbone, method), losses in zip(pairs(), json.loads(done.stdout), strict=True):
        assert difference(losses, stored[backbone][method]) < RTOL / 10, f"{backbone} with {method}"
