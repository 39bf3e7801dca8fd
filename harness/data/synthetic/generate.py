"""Generator of synthetic stand-ins for MOSI, MOSEI and CH-SIMS with known ground truth.

Each clip has a label y from the real label histogram, and per modality m an expressed sentiment u^m (y, or
-y if the modality conflicts) and an intensity a^m in [0, 1]. In a quarter of the clips audio and vision carry
the sentiment and text is nearly silent, in the rest the reverse, so that fusion helps. A clip's features are
heavy-tailed AR(1) noise, plus the style of the video's speaker (a confounder), plus ``network(a^m * u^m)``
during a few bursts. The ground truth is returned separately and never reaches a model.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from backbones.batch import MODALITIES
from harness.data.dataset import SPLITS, Dataset, Split
from harness.data.synthetic.clips import GENERATOR_VERSION, Clips, SyntheticSettings, make_clips

CHUNK = 128  # clips generated at once, which limits the memory for temporary arrays

HIDDEN = 16  # width of the hidden layer of `_network`
PERSISTENCE = 0.7  # coefficient of the AR(1) background
STYLE = 0.3  # standard deviation of a speaker's style; the background has 1
TAIL_FREEDOM, TAIL_LIMIT = 4.0, 8.0  # degrees of freedom of the t distribution; limit on its scale factor

CLS, SEP = 101, 102  # token ids in bert-base-uncased and bert-base-chinese
PLAIN_WORDS, TELLING_WORDS, TONES, WORDS_PER_TONE = 2000, 6000, 21, 50


def generate(settings: SyntheticSettings) -> tuple[Dataset, dict[str, dict[str, np.ndarray]]]:
    """Generate a dataset and, per split, its hidden truth (keys as in `Clips.truth`)."""
    splits, truth = {}, {}
    notes = [f"synthetic stand-in: {settings}, generator version {GENERATOR_VERSION}"]
    for split in SPLITS:
        clips = make_clips(settings, split)
        features = make_features(settings, split, clips)
        broken = sum(_clean(array) for array in features.values())
        notes.append(f"{split}: {broken} non-finite audio values set to 0")
        lengths = {m: clips.lengths[:, k].copy() for k, m in enumerate(MODALITIES)}
        tokens = make_tokens(settings, clips, make_words(settings, split, clips))
        splits[split] = Split(clips.ids, features, lengths, clips.labels, tokens)
        truth[split] = clips.truth()
    return Dataset(splits, settings.statistics.label_scale, tuple(notes)), truth


def make_features(settings: SyntheticSettings, split: str, clips: Clips) -> dict[str, np.ndarray]:
    """Generate features (N, T_m, D_m) float32, 0 in padded steps; audio has a few -inf and NaN."""
    features = {m: _modality(settings, split, clips, k) for k, m in enumerate(MODALITIES)}
    _break_audio(settings.generator(f"{split}/broken"), features["audio"], clips.lengths[:, 1])
    return features


def make_words(settings: SyntheticSettings, split: str, clips: Clips) -> np.ndarray:
    """Draw the vocabulary ids of each clip's words, padded with 0. Shape: (N, maximum number of words) int64.

    Words within a burst of text express one of 21 grades of sentiment; all other words are neutral.
    """
    rng = settings.generator(f"{split}/words")
    shape = (len(clips.words), clips.words.max())
    tone = _signal(settings, clips, 0) + 0.1 * rng.standard_normal(len(clips.words))
    tone = np.rint((np.clip(tone, -1, 1) + 1) / 2 * (TONES - 1)).astype(np.int64)
    telling = TELLING_WORDS + WORDS_PER_TONE * tone[:, None] + rng.integers(WORDS_PER_TONE, size=shape)
    plain = rng.integers(PLAIN_WORDS, TELLING_WORDS, size=shape)
    # The steps of text are [CLS], words, [SEP], so word j is step j + 1.
    in_burst = _in_burst(clips, 0, slice(None), shape[1] + 1)[:, 1:]
    valid = np.arange(shape[1]) < clips.words[:, None]
    return np.where(valid, np.where(in_burst, telling, plain), 0)


def make_tokens(settings: SyntheticSettings, clips: Clips, words: np.ndarray) -> np.ndarray:
    """Build token ids, attention mask and segment ids of [CLS], as many words as fit, and [SEP].

    Shape: (N, 3, T_text) int64, zero in padded steps.
    """
    length = clips.lengths[:, :1]
    tokens = np.zeros((len(words), 3, settings.steps()[0]), dtype=np.int64)
    steps = np.arange(tokens.shape[2])
    fitting = min(words.shape[1], tokens.shape[2] - 1)
    tokens[:, 0, 1 : fitting + 1] = words[:, :fitting]
    tokens[:, 0, 0] = CLS
    tokens[:, 0][steps == length - 1] = SEP
    tokens[:, 0][steps >= length] = 0
    tokens[:, 1] = steps < length
    return tokens


def _signal(settings: SyntheticSettings, clips: Clips, k: int) -> np.ndarray:
    """Compute intensity times expressed sentiment of modality k, in [-1, 1]. Shape: (N,)."""
    return clips.intensity[:, k] * clips.expressed[:, k] / np.float32(settings.statistics.label_scale)


def _in_burst(clips: Clips, k: int, rows: slice, steps: int) -> np.ndarray:
    """Mask the steps of modality k that are within a burst. Shape: (rows, steps) bool."""
    start = clips.burst_start[rows, k]
    end = start + clips.burst_span[rows, k, None]
    time = np.arange(steps)[:, None]
    return ((time >= start[:, None]) & (time < end[:, None])).any(axis=2)


def _network(rng: np.random.Generator, signal: np.ndarray, width: int) -> np.ndarray:
    """Map sentiments to features with a fixed random two-layer network. Shape: (N,) -> (N, width).

    Sentiment 0 maps to 0. The output has mean square 1 over features and sentiments in [-1, 1].
    """
    slope, shift = 1.5 * rng.standard_normal(HIDDEN), 0.3 * rng.standard_normal(HIDDEN)
    output = rng.standard_normal((HIDDEN, width))

    def mapped(sentiment: np.ndarray) -> np.ndarray:
        hidden = np.tanh(sentiment[:, None] * slope + shift) - np.tanh(shift)
        # Use einsum, because the rounding of a matrix product depends on the number of threads.
        return np.einsum("nh,hd->nd", hidden, output)

    size = np.sqrt(np.mean(mapped(np.linspace(-1, 1, 201)) ** 2))
    return (mapped(signal) / size).astype(np.float32)


def _modality(settings: SyntheticSettings, split: str, clips: Clips, k: int) -> np.ndarray:
    """Generate finite features of modality k, 0 in padded steps. Shape: (N, T, D) float32."""
    name, width = MODALITIES[k], settings.shape.widths[k]
    network = settings.generator(f"network/{name}")
    signal = settings.strength()[k] * _network(network, _signal(settings, clips, k), width)
    rng = settings.generator(f"{split}/{name}")
    style = STYLE * rng.standard_normal((clips.video[-1] + 1, width), dtype=np.float32)
    features = np.zeros((len(clips.ids), settings.steps()[k], width), dtype=np.float32)
    for rows in _chunks(len(clips.ids)):
        length = clips.lengths[rows, k]
        part = features[rows, : length.max()]
        _background(rng, part)
        part += style[clips.video[rows], None]
        part += _in_burst(clips, k, rows, part.shape[1])[:, :, None] * signal[rows, None]
        part[np.arange(part.shape[1]) >= length[:, None]] = 0
    return features


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


def _background(rng: np.random.Generator, out: np.ndarray) -> None:
    """Fill ``out`` (n, steps, D) with AR(1) noise of variance 1 with multivariate t innovations."""
    noise = rng.standard_normal(out.shape, dtype=np.float32)
    spread = np.sqrt((TAIL_FREEDOM - 2) / rng.chisquare(TAIL_FREEDOM, out.shape[:2]))
    spread = np.minimum(spread, TAIL_LIMIT).astype(np.float32)
    noise *= spread[:, :, None]
    noise[:, 1:] *= np.float32(np.sqrt(1 - PERSISTENCE**2))
    for step in range(1, out.shape[1]):
        noise[:, step] += np.float32(PERSISTENCE) * noise[:, step - 1]
    out[:] = noise


def _break_audio(rng: np.random.Generator, audio: np.ndarray, lengths: np.ndarray) -> None:
    """Set one value to -inf in about 1% of the clips and one to NaN in 0.25%, at least one each, in place."""
    for value, per_clip in ((-np.inf, 0.01), (np.nan, 0.0025)):
        clip = rng.integers(len(audio), size=max(1, round(per_clip * len(audio))))
        step = (rng.random(len(clip)) * lengths[clip]).astype(np.int64)
        audio[clip, step, rng.integers(audio.shape[2], size=len(clip))] = value


def _clean(array: np.ndarray) -> int:
    """Set non-finite values to 0 in place, chunk by chunk; return how many there were."""
    count = 0
    for rows in _chunks(len(array)):
        broken = ~np.isfinite(array[rows])
        count += int(broken.sum())
        array[rows][broken] = 0
    return count
