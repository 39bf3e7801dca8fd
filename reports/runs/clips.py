"""What the predictions of a study's cells say: moves of scores by videos, and errors of clips."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.data.dataset import videos_of
from harness.metrics import METRICS
from harness.tracking.tracker import Run
from harness.train.result import Predictions
from reports.runs.predictions import split_key
from reports.stats.clips import ClipErrors, absolute_errors, video_moves


@dataclass(frozen=True)
class SplitClips:
    """The clips that a data set's cells were tested on.

    Shape: ids, labels, videos (clips,), shares (videos,).
    """

    ids: np.ndarray
    labels: np.ndarray
    videos: np.ndarray
    shares: np.ndarray
    by_video: bool

    @classmethod
    def of(cls, ids: np.ndarray, labels: np.ndarray) -> SplitClips:
        """Group clips by their video, or take each clip by itself if some id does not name its video."""
        names = videos_of(ids)
        _, videos = np.unique(ids if names is None else names, return_inverse=True)
        shares = np.bincount(videos) / max(1, len(videos))
        return cls(ids, labels, videos, shares, names is not None)


class StudyClips:
    """The `reports.stats.kinds.ErrorSource` of a study.

    runs: those that a report compares. kinds: data set -> kind of metrics. load: run_id -> predictions of a
    run, or nothing where a run has none. All runs of a data set must be tested on the same clips; those on
    other clips than most count as without predictions.
    """

    def __init__(
        self,
        runs: Iterable[Run],
        kinds: Mapping[str, str],
        load: Callable[[Iterable[Run]], Mapping[str, Predictions]],
    ) -> None:
        self._runs, self._kinds, self._load = list(runs), kinds, load

    def moves(self, scores: pd.DataFrame, metric: str) -> list[np.ndarray | None]:
        """See `reports.stats.comparison.Clips`; the scores need the column ``run_id``, too."""
        columns = ("dataset", "run_id", "occlusion_protocol", "occlusion_ratio")
        rows = zip(*(scores[name] for name in columns), strict=True)
        # Cells that were trained on occluded input are evaluated on clean input.
        return [
            self._moves(dataset, metric).get((run_id, 0.0 if protocol == "train" else ratio))
            for dataset, run_id, protocol, ratio in rows
        ]

    def shares(self, dataset: str) -> np.ndarray:
        """See `reports.stats.comparison.Clips`."""
        return self.split(dataset).shares

    @functools.cache  # noqa: B019 (the instance lives as long as the command)
    def errors(self, dataset: str) -> ClipErrors | None:
        """See `reports.stats.kinds.ErrorSource`."""
        if dataset not in self._splits:
            return None
        split, runs = self._splits[dataset]
        errors = {
            run_id: absolute_errors(self._kinds[dataset], own.values[0.0], split.labels)
            for run_id, own in runs.items()
            if 0.0 in own.values
        }
        return ClipErrors(split.ids, split.labels, split.videos, split.by_video, errors)

    def split(self, dataset: str) -> SplitClips:
        """Return the clips that most runs of a data set were tested on."""
        found = self._splits.get(dataset)
        return SplitClips.of(np.empty(0, str), np.empty(0)) if found is None else found[0]

    def without_predictions(self, runs: Iterable[Run]) -> int:
        """Count the runs whose predictions are missing, or are of other clips than those of most runs."""
        known = {run_id for _, predictions in self._splits.values() for run_id in predictions}
        return sum(run.run_id not in known for run in runs)

    @functools.cached_property
    def _splits(self) -> dict[str, tuple[SplitClips, dict[str, Predictions]]]:
        """Data set -> its clips, and the predictions of its runs."""
        predictions = self._load(self._runs)
        by_split: dict[str, dict[str, dict[str, Predictions]]] = {}
        for run in self._runs:
            if run.run_id in predictions:
                own = predictions[run.run_id]
                part = by_split.setdefault(run.tags["dataset"], {})
                part.setdefault(split_key(own), {})[run.run_id] = own
        splits = {}
        for dataset, parts in by_split.items():
            usual = max(parts.values(), key=len)
            one = next(iter(usual.values()))
            splits[dataset] = SplitClips.of(one.ids, one.labels), usual
        return splits

    @functools.cache  # noqa: B019
    def _moves(self, dataset: str, metric: str) -> dict[tuple[str, float], np.ndarray]:
        """(run_id, occlusion ratio) -> moves (videos,) of one metric."""
        if dataset not in self._splits or metric not in METRICS[self._kinds[dataset]]:
            return {}
        split, runs = self._splits[dataset]
        keys = [(run_id, ratio) for run_id, own in runs.items() for ratio in own.values]
        values = np.stack([runs[run_id].values[ratio] for run_id, ratio in keys])
        moves = video_moves(self._kinds[dataset], metric, values, split.labels, split.videos)[1]
        return dict(zip(keys, moves, strict=True))
