"""Made-up worlds for the tests of claims: frames in which it is known whether a claim holds."""

import itertools
import json

import numpy as np
import pandas as pd

from reports.claims.claim import Claim
from reports.claims.kinds import Evidence
from tests.support.scores import STILL
from tests.support.studies import labels

BACKBONES = ("tfn", "lmf", "misa")
NONE, MS, PART = ("none", "{}"), ("ms_mix", "{}"), ("ms_mix", json.dumps({"sass": False}))


def rows(method, mean, split="test", metric="mae", ratio=0.0, seeds=5, noise=0.01, dataset="mosi"):
    """A row per backbone and seed around a mean."""
    name, settings = method
    generator = np.random.default_rng([len(metric), int(100 * ratio), len(settings), len(name)])
    common = {"dataset": dataset, "split": split, "metric": metric, "occlusion_ratio": ratio}
    common |= {
        "method": labels(name, settings)["variant"],
        "occlusion_protocol": "test",
        "environment": "cpu",
    }
    grid = itertools.product(BACKBONES, range(seeds))
    return [
        {**common, "backbone": b, "seed": s, "value": mean + noise * generator.normal(), "run_id": f"{b}{s}"}
        for b, s in grid
    ]


def world(*parts, clips=STILL, margins=None, divergence=None):
    """Evidence of these lists of rows."""
    frame = pd.DataFrame([row for part in parts for row in part])
    more = {} if divergence is None else {"divergence": lambda methods: divergence}
    return Evidence(frame, clips, margins or {}, **more)


def claim(kind, **fields):
    """A claim about ms_mix."""
    return Claim(**{"id": "x", "source": "s", "sentence": "c", "kind": kind, "method": "ms_mix", **fields})


def scores(gain, ratio=0.0, other=NONE, **more):
    """MAE of ms_mix and of another method that it beats by a gain."""
    return [*rows(MS, 1 - gain, ratio=ratio, **more), *rows(other, 1.0, ratio=ratio, **more)]


def divergences(gain, spread=0.05, backbones=6):
    """KL of ms_mix and of powmix, which is larger by a gain."""
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {"dataset": "mosi", "backbone": f"b{b}", "method": method, "kl": kl + spread * generator.normal()}
            for b in range(backbones)
            for method, kl in (("ms_mix", 1.0), ("powmix", 1.0 + gain))
        ]
    )


OPPOSITE = {"split": "epoch", "metric": "mix_opposite_rate"}


def opposite(gain, **more):
    """The rate of opposite pairs of ms_mix, and of mixup, which is higher by a gain."""
    return [*rows(MS, 0.3, **OPPOSITE, **more), *rows(("mixup", "{}"), 0.3 + gain, **OPPOSITE, **more)]


def follows(correlation, **more):
    """A mechanism check of ms_mix."""
    return rows(MS, correlation, "mechanism", "intensity_text_truth", **more)


CLAIMS = {
    "better": claim("better", than=("none",)),
    "component": claim("component", without=("sass",)),
    "robust": claim("robust", than=("none",), ratio=0.5),
    "diagnostic": claim("diagnostic", than=("mixup",), metrics=("mix_opposite_rate",)),
    "correlates": claim("correlates", metrics=("intensity_text_truth",)),
    "closer": claim("closer", than=("powmix",)),
}
WORLDS = {
    "better": lambda effect, **more: world(scores(effect, **more)),
    "component": lambda effect, **more: world(scores(effect, other=PART, **more)),
    "robust": lambda effect, **more: world(scores(0.1, **more), scores(0.1 + effect, 0.5, **more)),
    "diagnostic": lambda effect, **more: world(opposite(effect, **more)),
    "correlates": lambda effect, **more: world(follows(effect, **more)),
    "closer": lambda effect, noise=0.01, seeds=6: world(
        scores(0.0), divergence=divergences(effect, noise, seeds)
    ),
}
"""Kind -> function of the true effect that returns a world."""
