"""Detection of each clip's valid steps, left-alignment and cleaning, for the three splits together.

The attention mask gives the valid steps of text. Audio and vision use the lengths in the file; without
lengths, they use the steps of text if they are aligned with it, and else the first to last non-zero step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from backbones.batch import MODALITIES
from harness.data.dataset import Split
from harness.data.mmsa.split import MmsaSplit

# The fraction of clips that must be within the steps of text; below 1, so that a few outliers do not matter.
_WITHIN_TEXT = 0.9
_CLIPS_AT_ONCE = 1024


@dataclass(frozen=True)
class _Spans:
    """Step ranges [start, stop) of N sequences, (0, 0) if empty. Shape: starts, stops (N,)."""

    starts: np.ndarray
    stops: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.maximum(self.stops - self.starts, 1)

    def within(self, other: _Spans) -> np.ndarray:
        """Mask the sequences whose range is empty or within the other range. Shape: (N,) bool."""
        inside = (self.starts >= other.starts) & (self.stops <= other.stops)
        return inside | (self.stops == 0)

    def joined(self, other: _Spans) -> _Spans:
        """Return the smallest ranges that cover both; where one is empty, the other range."""
        starts = np.where(self.stops == 0, other.starts, np.minimum(self.starts, other.starts))
        return _Spans(starts, np.maximum(self.stops, other.stops))


@dataclass(frozen=True)
class _Padded:
    """One modality of a split. Shape: occupied (N, T) bool, true for non-zero steps."""

    split: Split
    raw: MmsaSplit
    modality: str
    occupied: np.ndarray

    @property
    def steps(self) -> int:
        return self.occupied.shape[1]

    @property
    def steps_of_text(self) -> int:
        return self.split.features["text"].shape[1]

    def note(self, what: str, clips: np.integer | int) -> None:
        """Note a change to a number of clips, unless it is 0."""
        self.raw.note(self.modality, what, clips)

    def cut_by(self, spans: _Spans) -> np.ndarray:
        """Mask the clips that have non-zero steps outside the given ranges. Shape: (N,) bool."""
        steps = np.arange(self.steps)
        outside = (steps < spans.starts[:, None]) | (steps >= (spans.starts + spans.lengths)[:, None])
        return (self.occupied & outside).any(axis=1)


def align(splits: Mapping[str, Split], raw: Mapping[str, MmsaSplit]) -> dict[str, Split]:
    """Left-align and clean features and tokens of all splits in place; return splits with final lengths.

    The input's valid steps may be anywhere, and its lengths are those in the file. raw: receives the notes.

    Raises:
        UserError: A modality has no finite value in any valid step.
    """
    lengths: dict[str, dict[str, np.ndarray]] = {name: {} for name in splits}
    by_mask: dict[str, _Spans] = {}
    for modality in MODALITIES:
        # NaN and infinity count as non-zero, because they mark valid steps.
        padded = {
            name: _Padded(split, raw[name], modality, np.any(split.features[modality], axis=2))
            for name, split in splits.items()
        }
        if modality == "text":
            by_mask = {
                name: _mask_spans(text, text.split.tokens)
                for name, text in padded.items()
                if text.split.tokens is not None
            }
            others = {name: one for name, one in padded.items() if name not in by_mask}
            spans = by_mask | _feature_spans(others, {})
        else:
            spans = _feature_spans(padded, by_mask)
        for name, one in padded.items():
            _move_and_clean(one, spans[name])
            lengths[name][modality] = spans[name].lengths
    return {name: replace(split, lengths=lengths[name]) for name, split in splits.items()}


def _mask_spans(text: _Padded, tokens: np.ndarray) -> _Spans:
    """Find the valid steps of text by its attention mask, and left-align its tokens in place."""
    starts, stops = span(tokens[:, 1] == 1)
    text.note("had empty attention masks, taken as length 1", (stops == 0).sum())
    lengths = np.maximum(stops - starts, 1)
    move_left(tokens.transpose(0, 2, 1), starts, lengths)
    # Tokens may be left-aligned while features are right-aligned.
    feature_starts = find_starts(text.occupied, lengths)
    if tokens.shape[2] == text.steps:
        feature_starts = np.where(starts > 0, starts, feature_starts)
    return _Spans(feature_starts, feature_starts + lengths)


def _feature_spans(padded: Mapping[str, _Padded], text: Mapping[str, _Spans]) -> dict[str, _Spans]:
    """Find valid steps by the file's lengths, by the text if aligned with it, or by non-zero steps."""
    stored = {name: _stored_spans(one) for name, one in padded.items()}
    own = {name: _Spans(*span(padded[name].occupied)) for name in padded if stored[name] is None}
    with_text = [name for name in own if name in text]
    same_steps = all(padded[name].steps == padded[name].steps_of_text for name in with_text)
    aligned = same_steps and _lie_within((own[name], text[name]) for name in with_text)
    spans = {name: one for name, one in stored.items() if one is not None}
    for name, one in own.items():
        if aligned and name in text:
            spans[name] = _joined_spans(padded[name], one, text[name])
        else:
            padded[name].note("had clips without a non-zero step, taken as length 1", (one.stops == 0).sum())
            spans[name] = one
    return spans


def _stored_spans(padded: _Padded) -> _Spans | None:
    """Find valid steps by the file's lengths; None if it has none or they only mark the first zero step.

    MMSA's own script ends a clip at its first zero step, even if that step is a pause or front padding.
    """
    lengths = padded.split.lengths.get(padded.modality)
    if lengths is None:
        return None
    starts = find_starts(padded.occupied, lengths)
    spans = _Spans(starts, starts + lengths)
    cut = padded.cut_by(spans)
    if cut.any() and (lengths == np.maximum(first_gap(padded.occupied), 1)).all():
        padded.note("had lengths that end clips at a zero step too early, which were ignored", cut.sum())
        return None
    return spans


def _lie_within(pairs: Iterable[tuple[_Spans, _Spans]]) -> bool:
    """Check whether nearly all first ranges are within the second ones."""
    within = [one.within(other) for one, other in pairs]
    return bool(within) and bool(np.concatenate(within).mean() >= _WITHIN_TEXT)


def _joined_spans(padded: _Padded, own: _Spans, text: _Spans) -> _Spans:
    """Join the steps of text, which may include words without sound or picture, with the non-zero steps."""
    beyond = ~own.within(text)
    padded.note("is aligned with text, but had steps beyond it, which were kept", beyond.sum())
    return own.joined(text)


def _move_and_clean(padded: _Padded, spans: _Spans) -> None:
    """Left-align and clean the features in place."""
    padded.note("was padded in front, moved to the left", np.count_nonzero(spans.starts))
    padded.note("had non-zero padding, set to 0", padded.cut_by(spans).sum())
    values, lengths = padded.split.features[padded.modality], spans.lengths
    move_left(values, spans.starts, lengths)
    _clean(padded.raw, padded.modality, values, np.arange(padded.steps) < lengths[:, None])


def _clean(raw: MmsaSplit, modality: str, values: np.ndarray, inside: np.ndarray) -> None:
    """Set non-finite values to 0 in place. Shape: values (N, T, D), inside (N, T) bool."""
    finite = np.isfinite(values)
    if not finite.all():
        if not (finite.any(axis=2) & inside).any():
            raise raw.error(modality, "holds no finite value in any valid step")
        # NOTE[DIFF] MMSA sets -inf in audio to 0, too. If a feature has NaN, it sets the clip's whole time
        # mean (TFN, LMF) to 0, not the NaN alone; it leaves NaN and +inf to the other models.
        for name, test in (("-inf", np.isneginf), ("+inf", np.isposinf), ("NaN", np.isnan)):
            raw.note(modality, f"held {name}, set to 0", np.count_nonzero(test(values)), "values")
        np.copyto(values, 0, where=~finite)
    if not values.any():
        raw.note(modality, "is all zeros: a missing modality", len(values))


def span(occupied: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return first and last + 1 index of True in each row; (0, 0) if none. Shape: (N, T) -> (N,), (N,)."""
    filled = occupied.any(axis=1)
    stops = occupied.shape[1] - occupied[:, ::-1].argmax(axis=1)
    return np.where(filled, occupied.argmax(axis=1), 0), np.where(filled, stops, 0)


def first_gap(occupied: np.ndarray) -> np.ndarray:
    """Return the index of the first False in each row; T if there is none. Shape: (N, T) -> (N,)."""
    return np.where(occupied.all(axis=1), occupied.shape[1], occupied.argmin(axis=1))


def find_starts(occupied: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the first step of sequences of known length: 0, or T - length if the file is padded in front.

    A clip whose non-zero steps fit both follows the majority of the unambiguous clips.
    Shape: occupied (N, T), lengths (N,) -> (N,).
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
    """Shift each clip's steps to the left in place and set the rest to 0. Shape: values (N, T, D)."""
    steps = np.arange(values.shape[1])
    moved = np.flatnonzero(starts)
    for begin in range(0, len(moved), _CLIPS_AT_ONCE):
        rows = moved[begin : begin + _CLIPS_AT_ONCE, None]
        values[rows, steps] = values[rows, np.minimum(steps + starts[rows], steps[-1])]
    values[steps >= lengths[:, None]] = 0
