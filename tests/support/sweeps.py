"""Sweeps as plain objects, from which `load_trials` reads as from a tracker."""

import json
import statistics
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from reports.runs.trials import load_trials
from reports.stats.settings import settings_table, verdicts

SMALL = np.array([[0.50, 0.46, 0.41, 0.44, 0.49], [0.60, 0.57, 0.50, 0.55, 0.58]])


@dataclass
class Sweep:
    """A tracker: trials are added one by one, with (valid loss, test MAE) or a dict of metrics per seed."""

    name: str = "delta"
    study: str = "s"
    objective: str = "valid/loss"
    dataset: str = "synthetic_mosi"
    backbone: str = "misa"
    runs: list = field(default_factory=list)
    cells: dict = field(default_factory=dict)

    def trials(self):
        return list(self.runs)

    def complete(self):
        return dict(self.cells)

    def add(self, params, *scores, state="complete", first_seed=1111, **tags):
        number, names = len(self.runs), {}
        for seed, score in enumerate(scores, first_seed):
            usual = {"test/corr": 0.5, "cell/train_s": number}
            metrics = score if isinstance(score, dict) else {
                "valid/loss": score[0], "test/mae": score[1], **usual}  # fmt: skip
            names[str(seed)] = f"{self.name} {self.dataset} {self.backbone} {number} {seed}"
            self.cells[names[str(seed)]] = SimpleNamespace(metrics=metrics, run_id=names[str(seed)])
        means = [self.cells[cell_id].metrics[self.objective] for cell_id in names.values()]
        metrics = {"objective": statistics.fmean(means)} if means and state == "complete" else {}
        own = {"sweep": self.name, "dataset": self.dataset, "backbone": self.backbone, "method": "ms_mix"}
        own |= {"objective": self.objective, "trial": str(number), "state": state, "synthetic": "true"}
        own |= {"params": json.dumps(params), "cells": json.dumps(names)}
        self.runs.append(SimpleNamespace(run_id=f"r{number}", tags=own | tags, metrics=metrics))
        return self


def delta_sweep(values, default=0, **options):
    sweep = Sweep(**options)
    for k in range(values.shape[1]):
        tag = {"default": "true"} if k == default else {}
        sweep.add({"delta": k / 10}, *((v, v + 0.1) for v in values[:, k]), **tag)
    return sweep


def verdict(sweep):
    (found,) = verdicts(load_trials(sweep))
    return found


def sentence(sweep):
    return verdict(sweep).sentence


def table_of(sweep):
    return settings_table(load_trials(sweep))
