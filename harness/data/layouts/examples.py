"""The layout of MAG-BERT, MISA and MMIM: a list of examples per split.

An example is ((words, visual, acoustic, ...), label, id). MAG-BERT has one file with the lists train, dev and
test; MISA and MMIM have a file for each. A label is a number, or (1, 1) or (1, 7) with the sentiment before
six emotions; an id is ``video[clip]``. Words are ids of an embedding matrix in another file, or text, or,
with MMIM, empty; ids become text features only with that matrix. Sources: multimodal_driver.py of
github.com/WasifurRahman/BERT_multimodal_transformer, src/create_dataset.py of
github.com/declare-lab/Multimodal-Infomax.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.data.dataset import SPLITS
from harness.data.layouts.names import WORD_IDS, as_text, name_clips
from harness.data.strict.memory_limit import MemoryLimit
from harness.errors import UserError, printable

_FORM = "((words, visual, acoustic), label, id)"
_COST_OF_EXAMPLE = 1024


def read_examples(content: dict[Any, Any], file: str, memory: MemoryLimit) -> dict[Any, Any] | None:
    """Turn lists of examples into lists of clips under MMSA's keys; the split dev is valid.

    The lists may be other splits, such as folds, if each begins with an example.
    """
    splits = dict(content)
    if "valid" not in splits and "dev" in splits:
        splits["valid"] = splits.pop("dev")
    lists = {name: rows for name, rows in splits.items() if isinstance(rows, (list, tuple)) and rows}
    if not all(split in lists for split in SPLITS) and not (
        len(lists) == len(splits) and lists and all(_is_example(rows[0]) for rows in lists.values())
    ):
        return None
    clips = {name: _clips(rows, f"{file}: {printable(name, 60)}", memory) for name, rows in lists.items()}
    _name_clips(list(clips.values()), memory)
    return clips


def _clips(examples: list[Any] | tuple[Any, ...], where: str, memory: MemoryLimit) -> dict[str, Any]:
    memory.take(_COST_OF_EXAMPLE * len(examples))
    for number, example in enumerate(examples):
        if not _is_example(example):
            raise UserError(f"{where}[{number}] must be an example {_FORM}, got a {type(example).__name__}.")
    clips: dict[str, Any] = {
        "regression_labels": [_label(e[1], f"{where}[{number}]") for number, e in enumerate(examples)],
        "id": [example[2] for example in examples],
    }
    clips[WORD_IDS] = [example[0][0] for example in examples]
    for modality, place in (("vision", 1), ("audio", 2)):
        clips[modality] = [example[0][place] for example in examples]
        if all(isinstance(clip, np.ndarray) and clip.ndim == 2 for clip in clips[modality]):
            clips[f"{modality}_lengths"] = [len(clip) for clip in clips[modality]]
    return clips


def _is_example(value: Any) -> bool:
    return _has_items(value, 3, 3) and _has_items(value[0], 3, 8)


def _has_items(value: Any, least: int, most: int) -> bool:
    return isinstance(value, (list, tuple)) and least <= len(value) <= most


def _label(value: Any, where: str) -> Any:
    """Return the sentiment of a label: itself, or the first of one or seven numbers; raises UserError."""
    if not isinstance(value, np.ndarray):
        return value
    if value.size not in (1, 7):
        raise UserError(f"{where} has a label of shape {value.shape}; it must be one score, or (1, 7).")
    return value.reshape(-1)[0]


def _name_clips(splits: list[dict[str, Any]], memory: MemoryLimit) -> None:
    """Name the clips ``video$_$clip`` if the ids of all splits have such a form.

    Splits that are named apart could hide a clip that is in two of them.
    """
    values = [value for clips in splits for value in clips["id"]]
    names = [name for name in map(as_text, values) if name is not None]
    memory.take(12 * sum(map(len, names)))
    named = name_clips(names) if len(names) == len(values) else None
    if named is not None:
        given = iter(named)
        for clips in splits:
            clips["id"] = [next(given) for _ in clips["id"]]
