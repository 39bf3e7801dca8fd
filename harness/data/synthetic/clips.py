"""Clips of a synthetic dataset without their features: labels, lengths and the hidden truth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from harness.data.dataset import SPLITS
from harness.data.synthetic.statistics import (
    SHAPES,
    SIZES,
    STATISTICS,
    VIDEO_CLIPS_QUICK,
    DatasetStatistics,
    Shape,
)
from harness.errors import UserError, unknown

GENERATOR_VERSION = 1  # to be raised with any change of the bytes that are generated
CLIP_LIMITS = (12, 100_000)  # over the three splits

SILENT_TEXT, SILENCE = 0.25, 0.05  # the share of clips, and the intensity of a silent modality
BURSTS, BURST_SHARE = 3, 0.1  # per clip and modality; a burst's share of the clip's length


@dataclass(frozen=True)
class SyntheticSettings:
    """What identifies a synthetic dataset.

    Args:
        name: synthetic_mosi, synthetic_mosei or synthetic_sims.
        size: quick (300 clips, short and narrow) or full (the real sizes and shapes).
        clips: number of clips over the three splits, in the size's own proportions; None: the size's own.
        aligned: audio and vision have the text's length, word by word.
        seed: of the generator; not a training seed.

    Raises UserError for an unknown name or size, clips outside 12..100000 or a negative seed.
    """

    name: str
    size: str = "quick"
    clips: int | None = None
    aligned: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in STATISTICS:
            raise unknown("synthetic dataset", self.name, STATISTICS)
        if self.size not in SIZES:
            raise unknown("size", self.size, SIZES)
        least, most = CLIP_LIMITS
        if self.clips is not None and not least <= self.clips <= most:
            raise UserError(f"clips={self.clips} is not allowed; three splits take {least} to {most} clips.")
        if self.seed < 0:
            raise UserError(f"The generator's seed={self.seed} is negative; 0 or more is allowed.")

    @property
    def statistics(self) -> DatasetStatistics:
        """Labels, words and videos of the dataset that this one stands in for."""
        return STATISTICS[self.name]

    @property
    def shape(self) -> Shape:
        """Split sizes, steps, widths and signal strengths at this size."""
        return SHAPES[self.name, self.size]

    def steps(self) -> np.ndarray:
        """Padded length T_m of each modality. Shape: (3,)."""
        steps = self.shape.steps
        return np.array([steps[0]] * 3 if self.aligned else steps)

    def strength(self) -> np.ndarray:
        """Root mean square of each modality's full-intensity signal in a burst. Shape: (3,) float32."""
        # Of the noise in a mean over time, the background falls with the root of the steps, the style not
        # at all: the root between the two keeps the probes of aligned data where those of unaligned are.
        fewer_steps = np.array(self.shape.steps) / self.steps()
        return (np.array(self.shape.strength) * fewer_steps**0.25).astype(np.float32)

    def split_sizes(self) -> dict[str, int]:
        """Clips per split: the size's own, or its proportions with at least 3 clips in each."""
        own = dict(zip(SPLITS, self.shape.clips, strict=True))
        if self.clips is None:
            return own
        sizes = {split: max(3, round(own[split] * self.clips / sum(own.values()))) for split in SPLITS}
        return sizes | {"train": self.clips - sizes["valid"] - sizes["test"]}

    def generator(self, purpose: str) -> np.random.Generator:
        """A generator of its own for each purpose."""
        digest = hashlib.blake2b(f"{self.name}/{purpose}".encode(), digest_size=8).digest()
        return np.random.default_rng([self.seed, int.from_bytes(digest, "big")])


@dataclass(frozen=True)
class Clips:
    """One split without its features: what a clip says, how long it is, and the hidden truth.

    Shape (modalities in their usual order):
        ids: (N,) unicode, "video$_$clip". video, words: (N,) int. labels: (N,) float32.
        lengths, burst_span: (N, 3) int. burst_start: (N, 3, BURSTS) int.
        expressed, intensity, unimodal: (N, 3) float32. conflict: (N, 3) bool.
    """

    ids: np.ndarray
    video: np.ndarray
    words: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray
    burst_start: np.ndarray
    burst_span: np.ndarray
    expressed: np.ndarray
    intensity: np.ndarray
    conflict: np.ndarray
    unimodal: np.ndarray

    def truth(self) -> dict[str, np.ndarray]:
        """The hidden truth as arrays; ``u`` and ``a`` are the expressed sentiments and intensities."""
        return {
            "u": self.expressed,
            "a": self.intensity,
            "conflict": self.conflict,
            "unimodal": self.unimodal,
            "burst_start": self.burst_start,
            "burst_span": self.burst_span,
            "video": self.video,
        }


def synthetic_fingerprint(settings: SyntheticSettings) -> str:
    """Hash of the generator's version and every setting (not of the bytes: rounding differs by machine)."""
    text = json.dumps({"generator": GENERATOR_VERSION, **asdict(settings)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def make_clips(settings: SyntheticSettings, split: str) -> Clips:
    """Draw everything about a split's clips but their features and words."""
    count = settings.split_sizes()[split]
    statistics, rng = settings.statistics, settings.generator(f"{split}/clips")
    ids, video = _videos(settings, split, count)
    labels = rng.choice(statistics.grid(), size=count, p=statistics.probabilities()).astype(np.float32)
    words = np.rint(_from_percentiles(rng, statistics.words, count)).astype(np.int64)
    lengths = _lengths(settings, words)
    start, span = _bursts(settings, rng, lengths)
    conflict = (rng.random((count, 3)) < statistics.flip_rates()) & (labels != 0)[:, None]
    expressed = np.where(conflict, -labels[:, None], labels[:, None])
    text_is_silent = rng.random(count) < SILENT_TEXT
    speaks = np.stack([~text_is_silent, text_is_silent, text_is_silent], axis=1)
    intensity = np.where(speaks, 0.6 + 0.4 * rng.beta(2, 2, (count, 3)), SILENCE).astype(np.float32)
    unimodal = _unimodal(statistics, rng, expressed)
    return Clips(ids, video, words, labels, lengths, start, span, expressed, intensity, conflict, unimodal)


def _videos(settings: SyntheticSettings, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and video index of each clip; the split's last video is cut to fit."""
    rng = settings.generator(f"{split}/videos")
    percentiles = VIDEO_CLIPS_QUICK if settings.size == "quick" else settings.statistics.clips_per_video
    sizes = np.rint(_from_percentiles(rng, percentiles, count)).astype(np.int64)
    video = np.repeat(np.arange(count), sizes)[:count]
    number = np.arange(count) - np.searchsorted(video, video) + 1
    ids = [f"synthetic_{split}_{v:04d}$_${n}" for v, n in zip(video, number, strict=True)]
    return np.array(ids), video


def _from_percentiles(rng: np.random.Generator, table: Mapping[int, float], count: int) -> np.ndarray:
    """Draw from the distribution whose percentiles are listed, linear in between. Shape: (count,)."""
    return np.interp(100 * rng.random(count), list(table), list(table.values()))


def _lengths(settings: SyntheticSettings, words: np.ndarray) -> np.ndarray:
    """Valid steps per clip and modality: words for text, the same share of T_m for the others. (N, 3)."""
    steps = settings.steps()
    text = np.minimum(words, steps[0])
    return np.rint(text[:, None] * (steps / steps[0])).astype(np.int64)


def _bursts(
    settings: SyntheticSettings, rng: np.random.Generator, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """First steps (N, 3, BURSTS) and spans (N, 3) of the bursts; [CLS] and [SEP] are never in one."""
    margin = np.array([1, 1, 1] if settings.aligned else [1, 0, 0])
    span = np.maximum(1, np.rint(BURST_SHARE * lengths).astype(np.int64))
    where = rng.random((*lengths.shape, BURSTS))
    if settings.aligned:
        where[:] = where[:, :1]
    room = lengths - 2 * margin - span + 1
    assert room.min() >= 1
    return margin[:, None] + (where * room[:, :, None]).astype(np.int64), span


def _unimodal(statistics: DatasetStatistics, rng: np.random.Generator, expressed: np.ndarray) -> np.ndarray:
    """What annotators of one modality alone would say: u^m's sign, a noisy magnitude, on the grid. (N, 3).

    Without listed statistics (MOSI, MOSEI have no such labels) it is u^m itself.
    """
    if statistics.unimodal is None:
        return expressed.copy()
    slope, noise = (np.array(values) for values in statistics.unimodal)
    step = 1 / statistics.grid_per_unit
    size = slope * np.abs(expressed) + noise * rng.standard_normal(expressed.shape)
    size = np.clip(np.rint(size / step), 1, statistics.label_scale / step) / statistics.grid_per_unit
    return (np.sign(expressed) * size).astype(np.float32)
