"""The scale of a dataset's labels: its bounds, the metrics that it allows, and what the labels say of it.

Labels stay as the file has them. Networks and methods see ``label - center``, in ``[-size, size]``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.errors import UserError, unknown
from harness.metrics import METRICS

TOLERANCE = 1e-4
SCORE = "score"
# Their classes are bins of this scale, with 0 as the neutral label.
SIZE_OF = {"mosi": 3.0, "mosei": 3.0, "sims": 1.0}


@dataclass(frozen=True)
class LabelScale:
    """Labels are in ``[center - size, center + size]``, and `center` is the neutral label.

    chosen: those of "center" and "scale" that the user gave. setting: how the user types one of them, with {}
    for "center" or "scale". Raises UserError for a size that is not positive, and for numbers that are not
    finite.
    """

    size: float
    center: float = 0.0
    chosen: frozenset[str] = frozenset()
    setting: str = "label_{}"

    def __post_init__(self) -> None:
        if not 0 < self.size < math.inf:
            raise UserError(f"{self.setting.format('scale')} must be a positive number, got {self.size}.")
        if not math.isfinite(self.center):
            raise UserError(f"{self.setting.format('center')} must be a number, got {self.center}.")

    @property
    def range(self) -> str:
        """The interval of the labels as text, e.g. ``[1, 5]``."""
        return interval(self.center - self.size, self.center + self.size)

    def check(self, labels: Mapping[str, np.ndarray], file: str, key: str) -> None:
        """Raise UserError if the labels of the splits, (N,) each, cannot be meant to be on this scale.

        file, key: names for the messages.
        """
        low = min(float(values.min()) for values in labels.values())
        high = max(float(values.max()) for values in labels.values())
        holds = f"{file}: {key} holds {{}}{low:g} to {high:g},"
        typed = self._typed(*_usual_scale(low, high))
        varied = low < high  # labels that are all the same say nothing of their scale
        if "center" not in self.chosen and varied and (low >= 0 or high <= 0):
            zero = f"{self.setting.format('center')}=0"
            if low >= 0 and not any((values % 1).any() for values in labels.values()):
                raise UserError(
                    f"{holds.format('the whole numbers ')} like classes, and this tool predicts a sentiment "
                    f"score, not a class; if they are scores, give {typed}, or {zero} if 0 is neutral."
                )
            raise UserError(
                f"{holds.format('')} and no label on the other side of 0, which stands for neutral; give "
                f"{typed}, or {zero} if 0 is neutral."
            )
        for split, values in labels.items():
            worst = values[np.abs(values - self.center).argmax()]
            if abs(worst - self.center) > self.size + TOLERANCE:
                outside = f"{split}/{key} holds {worst:g}, outside {self.range}"
                raise UserError(f"{file}: {outside}; if it is no error, give {typed}.")
        largest = max(high - self.center, self.center - low)
        if "scale" not in self.chosen and varied and largest <= self.size / 2:
            scale = f"{self.setting.format('scale')}={self.size:g}"
            raise UserError(
                f"{holds.format('')} at most half of {self.range}; give {typed}, or {scale} if that is right."
            )

    def clip(self, labels: np.ndarray) -> np.ndarray:
        """Return checked labels as float32 without what rounding put outside the scale. Shape: (N,)."""
        return np.clip(labels, self.center - self.size, self.center + self.size).astype(np.float32)

    def _typed(self, center: float, size: float) -> str:
        """Return the settings that give another scale; a center of 0 goes without saying."""
        given = f"{self.setting.format('scale')}={size:.10g}"
        if not center and not self.center:
            return given
        return f"{self.setting.format('center')}={center:.10g} {given}"

    def metrics(self, name: str, kind: str, given: str | None) -> tuple[str, list[str]]:
        """Return the kind of metrics of a dataset, and notes on it; raises UserError.

        name: of the dataset. kind: that of datasets like it. given: the kind that the user gave, or None.
        """
        if given is not None and given not in METRICS:
            raise unknown(f"value of dataset.{name}.metrics", given, METRICS)
        wanted = given or kind
        if wanted == SCORE or (self.size, self.center) == (SIZE_OF[wanted], 0):
            return wanted, []
        own = interval(-SIZE_OF[wanted], SIZE_OF[wanted])
        if given is not None:
            raise UserError(
                f"dataset.{name}.metrics={given} needs labels in {own}, whose bins are its classes, got "
                f"{self.range}; give dataset.{name}.metrics={SCORE}."
            )
        return SCORE, [f"labels are in {self.range}, so no accuracies and F1 are computed, which need {own}."]


def given_scale(usual: float, size: float | None, center: float | None, setting: str) -> LabelScale:
    """Return the scale that a user gave, with None for what was not given; usual: the default size."""
    chosen = frozenset(key for key, value in (("scale", size), ("center", center)) if value is not None)
    return LabelScale(usual if size is None else size, center or 0.0, chosen, setting)


def interval(low: float, high: float) -> str:
    """Return an interval as text, e.g. ``[-3, 3]``."""
    return f"[{low:g}, {high:g}]"


def _usual_scale(low: float, high: float) -> tuple[float, float]:
    """Return center and size of the scale that people use for labels from low to high, e.g. 1 to 5."""
    if low < 0 < high or low == high:
        largest = max(abs(low), abs(high))
        return 0.0, float(math.ceil(largest)) if largest > 0.5 else largest
    first, last = math.floor(low), math.ceil(high)
    return (first + last) / 2, (last - first) / 2
