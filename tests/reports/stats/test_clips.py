"""Scores without one video, against the scores of the other clips computed one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics import METRICS, score
from reports.stats.clips import video_moves

PAIRS = [(kind, metric) for kind in METRICS for metric in METRICS[kind]]


def slow_moves(kind, metric, predictions, labels, groups):
    """The same by a double loop over cells and videos."""
    scores, moves = [], []
    for cell in predictions:
        whole = score(kind, cell, labels).values[metric]
        scores.append(whole)
        row = []
        for video in range(groups.max() + 1):
            others = groups != video
            rest = score(kind, cell[others], labels[others]).values[metric] if others.any() else np.nan
            row.append(others.mean() * (whole - rest))
        moves.append(row)
    return np.array(scores), np.array(moves)


@pytest.mark.parametrize(("kind", "metric"), PAIRS)
@given(seed=st.integers(0, 999), videos=st.integers(1, 5), cells=st.integers(1, 3))
@settings(deadline=None, max_examples=12)
def test_moves_equal_a_double_loop(kind, metric, seed, videos, cells):
    generator = np.random.default_rng(seed)
    clips = videos + int(generator.integers(0, 12))
    groups = generator.permutation(np.r_[np.arange(videos), generator.integers(0, videos, clips - videos)])
    scale = 1 if kind == "sims" else 3
    labels = np.round(generator.uniform(-scale, scale, clips), 1).astype(np.float32)
    predictions = (labels + generator.normal(0, scale / 2, (cells, clips))).astype(np.float32)
    predictions[0] = 0.5 if seed % 5 == 0 else predictions[0]
    labels = np.zeros_like(labels) if seed % 11 == 0 else labels
    scores, moves = video_moves(kind, metric, predictions, labels, groups)
    expected_scores, expected_moves = slow_moves(kind, metric, predictions, labels, groups)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-9)
    np.testing.assert_allclose(moves, expected_moves, atol=1e-9)


def test_the_moves_of_a_mean_are_the_weighted_deviations_of_videos_and_sum_to_0():
    labels, groups = np.zeros(6), np.array([0, 0, 0, 1, 1, 2])
    predictions = np.array([[1.0, 2, 3, 5, 7, 0]])
    scores, moves = video_moves("mosi", "mae", predictions, labels, groups)
    assert scores == 3
    np.testing.assert_allclose(moves, [[3 / 6 * (2 - 3), 2 / 6 * (6 - 3), 1 / 6 * (0 - 3)]], atol=1e-12)
    assert moves.sum() == pytest.approx(0)


def test_many_cells_are_scored_in_blocks_and_an_unknown_metric_is_refused():
    generator = np.random.default_rng(0)
    labels, groups = generator.normal(size=20), np.arange(20) % 4
    predictions = generator.normal(size=(600, 20))
    scores, moves = video_moves("score", "rmse", predictions, labels, groups)
    assert (scores.shape, moves.shape) == ((600,), (600, 4))
    last = video_moves("score", "rmse", predictions[-1:], labels, groups)[0]
    assert scores[-1] == last[0]
    empty = video_moves("score", "rmse", predictions[:0], labels, groups)[1]
    assert empty.shape == (0, 4)
    with pytest.raises(ValueError, match="acc7 is not among the metrics of sims"):
        video_moves("sims", "acc7", predictions, labels, groups)
