"""Export of datasets as pickles in MMSA's format."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from backbones.batch import MODALITIES
from harness.data.dataset import SPLITS
from harness.data.synthetic.clips import SyntheticSettings, make_clips
from harness.data.synthetic.generate import make_features, make_tokens, make_words
from harness.errors import UserError, file_error
from harness.files import replacing

PROTOCOL = 4


def raw_mmsa(settings: SyntheticSettings) -> dict[str, dict[str, Any]]:
    """Generate a dataset as an MMSA dictionary: train, valid, test -> key -> array or list.

    The clips are those of `generate`, but audio keeps its -inf and NaN. Unaligned data have ``audio_lengths``
    and ``vision_lengths`` (lists of int); SIMS has labels per modality (``regression_labels_T`` and so on).
    """
    return {split: _split(settings, split) for split in SPLITS}


def export(settings: SyntheticSettings, path: str | Path, force: bool = False) -> None:
    """Write `raw_mmsa` as `write_pickle` does, which raises UserError."""
    write_pickle(lambda: raw_mmsa(settings), path, force)


def write_pickle(make: Callable[[], object], path: str | Path, force: bool) -> None:
    """Write an object atomically as a pickle (protocol 4); missing parent folders are created.

    make: returns the object, once the path is known to be free.

    Raises UserError if the file exists (unless ``force``), is a folder, or cannot be written.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{str(path)!r} is a folder; give the name of a file to write.")
        if path.exists() and not force:
            raise UserError(f"{str(path)!r} exists; choose another name, or overwrite it with --force.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("xb") as file:
            pickler = pickle.Pickler(file, protocol=PROTOCOL)
            # The memo would keep a second copy of every array in memory until the end.
            pickler.fast = True
            pickler.dump(make())
    except OSError as error:
        raise file_error(repr(str(path)), "written", error) from error


def _split(settings: SyntheticSettings, split: str) -> dict[str, Any]:
    clips = make_clips(settings, split)
    words = make_words(settings, split, clips)
    entry: dict[str, Any] = {
        "raw_text": np.array([_sentence(row) for row in words]),
        "id": clips.ids,
        **make_features(settings, split, clips),
        "text_bert": make_tokens(settings, clips, words),
        "annotations": np.array(["Negative", "Neutral", "Positive"])[_polarity(clips.labels)],
        "classification_labels": _polarity(clips.labels).astype(np.float32),
        "regression_labels": clips.labels,
    }
    if not settings.aligned:
        for k, modality in enumerate(MODALITIES[1:], start=1):
            entry[f"{modality}_lengths"] = clips.lengths[:, k].tolist()
    if settings.statistics.unimodal is not None:
        for k, letter in enumerate("TAV"):
            labels = np.ascontiguousarray(clips.unimodal[:, k])
            entry[f"regression_labels_{letter}"] = labels
            entry[f"classification_labels_{letter}"] = _polarity(labels).astype(np.float32)
    return entry


def _polarity(labels: np.ndarray) -> np.ndarray:
    """Map negative, zero and positive labels to 0, 1 and 2. Shape: (N,) -> (N,) int."""
    return np.sign(labels).astype(np.int64) + 1


def _sentence(words: np.ndarray) -> str:
    return " ".join(f"word{word}" for word in words[words > 0])
