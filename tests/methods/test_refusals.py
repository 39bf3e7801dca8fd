"""Invalid settings raise whole sentences; settings at a bound are valid."""

import re

import numpy as np
import pytest

from methods import METHODS
from methods.base import Method, MethodSettings

POSITIVE = ">= 0 and finite"
HEADS, MODE = "1, 2, 4 or 8", "one of append, replace"
REFUSED = [
    ("mixup", "xi1", -0.5, POSITIVE),
    ("mixup", "mode", "add", MODE),
    ("mixup", "mix_loss", "l1", "one of backbone, mse, split_mse"),
    ("mixup", "only", [], "a non-empty list of text, audio, vision, or null"),
    ("mixup", "only", ["video"], "a non-empty list of text, audio, vision, or null (nearest: 'vision')"),
    ("av_mc", "only", ["text"], "a list with audio or vision, or null"),
    ("av_mc", "alpha", -1.0, POSITIVE),
    ("mixup", "alpha", -1.0, POSITIVE),
    ("manifold_mixup", "alpha", -1.0, POSITIVE),
    ("manifold_mixup", "layers", [], "a non-empty list of 0, 1 and 2"),
    ("manifold_mixup", "layers", [1, 3], "a non-empty list of 0, 1 and 2"),
    ("c_mixup", "alpha", -1.0, POSITIVE),
    ("c_mixup", "sigma", -0.5, ">= 0 or null"),
    ("advmixup", "alpha", -1.0, POSITIVE),
    ("advmixup", "eta", -1.0, POSITIVE),
    ("advmixup", "eps", -1.0, POSITIVE),
    ("advmixup", "margin", -0.1, "in [0, 0.5]"),
    ("advmixup", "margin", 0.6, "in [0, 0.5]"),
    *(
        case
        for name in ("multimix", "powmix")
        for case in (
            (name, "alpha", -1.0, ">= 0 and finite, or null"),
            (name, "alpha", np.inf, ">= 0 and finite, or null"),
            (name, "alpha_low", -0.5, ">= 0 and finite"),
            (name, "alpha_high", 0.4, "at least alpha_low and finite"),
            (name, "alpha_high", np.inf, "at least alpha_low and finite"),
            (name, "examples_per_mixture", 1, "at least 2, or null"),
        )
    ),
    ("powmix", "n_ratio", 0.0, "> 0 and finite"),
    ("powmix", "n_ratio", np.inf, "> 0 and finite"),
    ("powmix", "max_subset", 1, "at least 2"),
    ("ms_mix", "delta", -1.1, "in [-1, 1]"),
    ("ms_mix", "delta", 1.1, "in [-1, 1]"),
    ("ms_mix", "similarity", "dot", "minmax or cosine"),
    ("ms_mix", "attention", "time", "tokens or batch"),
    ("ms_mix", "heads", 3, HEADS),
    *(("ms_mix", field, -1.0, POSITIVE) for field in ("alpha", "xi2", "beta")),
    ("ms_mix_released", "delta", -0.1, "in [0, 1]"),
    ("ms_mix_released", "delta", 1.1, "in [0, 1]"),
    ("ms_mix_released", "heads", 3, HEADS),
    *(("ms_mix_released", field, -1.0, POSITIVE) for field in ("alpha", "xi2", "beta")),
]


@pytest.mark.parametrize(("name", "field", "value", "allowed"), REFUSED)
def test_a_refusal_says_what_is_allowed(name, field, value, allowed):
    with pytest.raises(ValueError, match=re.escape(f"{field} must be {allowed}, got {value!r}") + "$"):
        METHODS[name].Settings(**{field: value})


ALLOWED = {
    "mixup": {"xi1": [0.0], "alpha": [0.0], "mode": ["append", "replace"]}
    | {"mix_loss": ["backbone", "mse", "split_mse"]},
    "manifold_mixup": {"alpha": [0.0], "layers": [[0], [1], [2], [0, 1, 2]]},
    "c_mixup": {"alpha": [0.0], "sigma": [0.0, None, np.inf]},
    "advmixup": {"alpha": [0.0], "margin": [0.0, 0.5], "eta": [0.0], "eps": [0.0]},
    "multimix": {"alpha": [0.0, None], "alpha_low": [0.0, 2.0], "alpha_high": [0.5]}
    | {"examples_per_mixture": [2, None]},
    "powmix": {"n_ratio": [1e-9], "max_subset": [2]},
    "ms_mix": {"delta": [-1.0, 1.0], "similarity": ["minmax", "cosine"], "attention": ["tokens", "batch"]}
    | {"heads": [1, 2, 4, 8], "alpha": [0.0], "xi2": [0.0], "beta": [0.0]},
    "ms_mix_released": {"delta": [0.0, 1.0], "heads": [1, 2, 4, 8]}
    | {"alpha": [0.0], "xi2": [0.0], "beta": [0.0]},
}


@pytest.mark.parametrize("name", ALLOWED)
def test_values_at_a_bound_are_allowed(name):
    for field, values in ALLOWED[name].items():
        for value in values:
            assert getattr(METHODS[name].Settings(**{field: value}), field) == value


def test_a_method_without_a_draw_says_so_and_has_nothing_to_explain():
    method = Method(MethodSettings(), {"text": 2}, 3.0)
    with pytest.raises(NotImplementedError, match=r"^Method does not draw$"):
        method.draw(np.random.default_rng(0), np.zeros(2))
    assert method.intensities(None) == method.explain(None, None, None) == {}


def test_an_unknown_modality_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"only must be .*\(nearest: 'vision'\), got \['visio'\]"):
        METHODS["mixup"].Settings(only=["visio"])
