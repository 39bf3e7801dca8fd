"""Where the valid steps of padded sequences lie, and how to move them to the left."""

from __future__ import annotations

import numpy as np

_CLIPS_AT_ONCE = 1024


def span(occupied: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From the first to behind the last True of each row; (0, 0) where none. Shape: (N, T) -> (N,), (N,)."""
    filled = occupied.any(axis=1)
    stops = occupied.shape[1] - occupied[:, ::-1].argmax(axis=1)
    return np.where(filled, occupied.argmax(axis=1), 0), np.where(filled, stops, 0)


def first_gap(occupied: np.ndarray) -> np.ndarray:
    """The first False of each row, T where there is none. Shape: (N, T) -> (N,)."""
    return np.where(occupied.all(axis=1), occupied.shape[1], occupied.argmin(axis=1))


def find_starts(occupied: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Where sequences of known length begin: at 0, or at T - length in a file that is padded in front.

    A clip whose non-zero steps fit both places goes with the majority of those that fit one only.
    """
    steps = occupied.shape[1]
    first, stop = span(occupied)
    at_start = stop <= lengths
    at_end = (first >= steps - lengths) & (stop > 0)
    only_end = at_end & ~at_start
    only_start = at_start & ~at_end & (stop > 0)
    in_front = at_end if only_end.sum() > only_start.sum() else only_end
    return np.where(in_front, steps - lengths, 0)


def move_left(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
    """Move each clip's steps to the left in place and set the rest to 0. Shape: values (N, T, D)."""
    steps = np.arange(values.shape[1])
    moved = np.flatnonzero(starts)
    for begin in range(0, len(moved), _CLIPS_AT_ONCE):
        rows = moved[begin : begin + _CLIPS_AT_ONCE, None]
        values[rows, steps] = values[rows, np.minimum(steps + starts[rows], steps[-1])]
    values[steps >= lengths[:, None]] = 0
