"""Twenty losses of backbones with methods are the stored ones: see `loss_traces`."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from backbones import BACKBONES
from harness.matrix import RESULTS_VERSION
from harness.train import loop, step
from methods import METHODS
from tests.support import loss_traces
from tests.support.loss_traces import COMMAND, FOLDER, RTOL, STEPS, check, difference, read, trace, traces
from tests.support.paths import ROOT

PRINT = """
import json
from methods import METHODS
from tests.support.loss_traces import traces
print(json.dumps({method: traces(method) for method in METHODS}))
"""


@pytest.mark.parametrize("method", METHODS)
def test_the_losses_are_the_stored_ones(method, update):
    """Each method is trained with LMF, and each backbone with MS-Mix."""
    losses = traces(method, BACKBONES if update or method == "ms_mix" else ["lmf"])
    if update:
        loss_traces.update(method, losses)
    stored = read(method)
    check(stored, method, losses)
    assert stored["traces"].keys() == set(BACKBONES), f"{method} lacks a backbone's trace; run `{COMMAND}`."


def test_stored_traces_are_of_methods_and_differ():
    names = [file.stem for file in FOLDER.iterdir()]
    stored = {(m, b): losses for m in names for b, losses in read(m)["traces"].items()}
    assert set(names) <= set(METHODS)
    assert all(len(losses) == STEPS for losses in stored.values())
    assert np.isfinite(list(stored.values())).all()
    assert len({tuple(losses) for losses in stored.values()}) == len(stored)


def advanced(generator_for, seed, purpose, *parts):
    generator = generator_for(seed, purpose, *parts)
    if purpose == "mixing":
        generator.random()
    return generator


def with_other_betas(make_optimizer, *arguments):
    optimizer = make_optimizer(*arguments)
    for group in optimizer.param_groups:
        group["betas"] = (0.8, 0.999)
    return optimizer


def scaled(build, *arguments):
    backbone, method = build(*arguments)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.mul_(1.01)
    return backbone, method


CHANGES = {
    "mixed losses weigh more": (step, "_weigh", lambda f, s, task, mixed, *r: f(s, task, 1.001 * mixed, *r)),
    "dropout has another stream": (loop, "seed_for", lambda f, s, use, *r: f(s, OTHER.get(use, use), *r)),
    "draws come later": (loop, "generator_for", advanced),
    "the optimizer has other betas": (loop, "make_optimizer", with_other_betas),
    "weights start larger": (loop, "build", scaled),
}
OTHER = {"dropout": "dropping"}


@pytest.mark.parametrize("change", CHANGES)
def test_a_small_change_of_the_arithmetic_is_noticed(change, monkeypatch):
    module, name, changed = CHANGES[change]
    monkeypatch.setattr(module, name, functools.partial(changed, getattr(module, name)))
    with pytest.raises(AssertionError, match="raise RESULTS_VERSION in harness"):
        check(read("ms_mix"), "ms_mix", {"lmf": trace("lmf", "ms_mix")})


def test_another_seed_or_setting_is_another_trace():
    settings = dataclasses.replace(METHODS["mixup"].Settings(), xi1=1.001 * METHODS["mixup"].Settings().xi1)
    for changes in ({"seed": 2}, {"method_settings": settings}, {"max_batches": 9}):
        assert difference(trace("lmf", "mixup", **changes), read("mixup")["traces"]["lmf"]) > RTOL, changes


def test_how_far_traces_are_apart():
    assert difference([1.0, -2.0], [1.0, -2.0]) == difference([0.0], [0.0]) == 0
    assert difference([1.0, 2.0], [1.0, 2.002]) == pytest.approx(0.001, rel=0.01)
    assert difference([1.0], [1.0, 1.0]) == float("inf")


def test_a_missing_or_older_trace_names_the_command():
    missing = f"^lmf with new has no stored loss trace; add it with `{COMMAND}`"
    with pytest.raises(AssertionError, match=missing):
        check(read("new"), "new", {"lmf": [1.0]})
    older = {**read("none"), "results_version": RESULTS_VERSION - 1}
    with pytest.raises(AssertionError, match=f"the code's is {RESULTS_VERSION}; write them anew with `make"):
        check(older, "none", {})


@pytest.mark.parametrize("factor", [1, 1.0000001])
def test_equal_traces_are_written_again_to_the_same_bytes(factor, tmp_path):
    losses = read("mixup")["traces"]
    loss_traces.update("mixup", losses, tmp_path)
    scaled = {name: [factor * x for x in values] for name, values in losses.items()}
    loss_traces.update("mixup", scaled, tmp_path)
    assert (tmp_path / "mixup.json").read_bytes() == (FOLDER / "mixup.json").read_bytes()


def test_a_changed_trace_is_kept_until_the_version_is_raised_and_a_missing_one_added(tmp_path, monkeypatch):
    loss_traces.update("mixup", {"tfn": [1.0], "gone": [3.0]}, tmp_path)
    changed = {"tfn": [2.0], "lmf": [5.0]}
    loss_traces.update("mixup", changed, tmp_path)
    assert read("mixup", tmp_path)["traces"] == {"tfn": [1.0], "lmf": [5.0]}
    with pytest.raises(AssertionError, match=r"by up to 5.0e-01. Where that is wanted, raise RESULTS_"):
        check(read("mixup", tmp_path), "mixup", changed)
    monkeypatch.setattr(loss_traces, "RESULTS_VERSION", RESULTS_VERSION + 1)
    loss_traces.update("mixup", changed, tmp_path)
    assert read("mixup", tmp_path) == {"results_version": RESULTS_VERSION + 1, "traces": changed}
    check(read("mixup", tmp_path), "mixup", changed)


@pytest.mark.soak
@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_other_vector_instructions_change_less_than_a_tenth_of_what_is_noticed(capability):
    """Test every backbone with every method; a processor without AVX2 uses the instructions that it has."""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PRINT], env=environment, check=True, capture_output=True, text=True
    )
    for method, losses in json.loads(done.stdout).items():
        for backbone, values in losses.items():
            stored = read(method)["traces"][backbone]
            assert difference(values, stored) < RTOL / 10, f"{backbone} with {method}"
