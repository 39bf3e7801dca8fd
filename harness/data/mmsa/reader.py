"""Reader of MMSA feature files: it validates, left-aligns and cleans them, and notes each change.

The format (github.com/thuiar/MMSA): a pickled dict train/valid/test -> dict of text, audio, vision
(clips, steps, width), regression_labels (clips,), and optionally id, text_bert (clips, 3, steps: token ids,
attention mask, segment ids), audio_lengths and vision_lengths. Other keys are ignored. Features may also be a
list of clips (steps, width), each with its own number of steps, and a modality may be absent.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from backbones.batch import MODALITIES
from harness.data.dataset import SPLITS, Dataset, Split
from harness.data.labels import LabelScale
from harness.data.layouts import recognise
from harness.data.mmsa.align import align
from harness.data.mmsa.arrays import absent_array, absent_modalities, read_array, read_lengths, read_tokens
from harness.data.mmsa.contents import load_content
from harness.data.mmsa.embeddings import embed_words
from harness.data.mmsa.ids import name_rows, read_ids
from harness.data.mmsa.problems import Problems
from harness.data.mmsa.resplit import OWN_SPLITS, SplitChoice
from harness.data.mmsa.split import LABELS, MmsaSplit, Notes, list_names, printable_names
from harness.data.strict.memory_limit import MemoryLimit
from harness.errors import UserError, nearest

CLASSES = "classification_labels"
_ONLY_SCORES = "this tool predicts a sentiment score for every clip, not a class"
_OTHER_SPLIT_NAMES = {"train": ("training",), "valid": ("val", "dev", "validation"), "test": ("testing",)}


def _split_contents(content: object, file: str, choice: SplitChoice) -> dict[str, dict[Any, Any]]:
    """Return the dictionaries of the three splits; raises UserError."""
    if not isinstance(content, dict):
        joined = "; MISA's and MMIM's three files must be joined in one dict" * isinstance(content, list)
        got = f"got a {type(content).__name__}{joined}"
        raise UserError(f"{file} must be a dict of {', '.join(SPLITS)}, {got}.")
    problems = Problems(file)
    advice = choice.advice(content)
    if advice and not any(split in content for split in SPLITS):
        raise UserError(f"{file} has no splits; found: {list_names(content)}.{advice}")
    for split in SPLITS:
        with problems.collected():
            _check_split(content, split, file, advice)
    problems.check()
    return {split: dict(content[split]) for split in SPLITS}


def _check_split(content: dict[Any, Any], split: str, file: str, advice: str) -> None:
    if split not in content:
        others = [name for name in _OTHER_SPLIT_NAMES[split] if name in content]
        close = nearest(split, printable_names(content))
        hint = f".{close or advice * (split == 'valid')}"
        hint = f"; rename {others[0]!r} to {split!r}." if others else hint
        raise UserError(f"{file} has no split {split!r}; found: {list_names(content)}{hint}")
    if not isinstance(content[split], dict) or not content[split]:
        kind = "empty" if isinstance(content[split], dict) else f"a {type(content[split]).__name__}"
        raise UserError(f"{file}: split {split!r} is {kind}; it must be a dict with {LABELS} and features.")


def _read_labels(raw: MmsaSplit) -> np.ndarray:
    """Read labels as (N,) float64; raises UserError for labels that are no scores."""
    if LABELS not in raw.content and CLASSES in raw.content:
        reason = f"has no {LABELS!r}, and {CLASSES!r} cannot replace it; {_ONLY_SCORES}."
        raise UserError(f"{raw.file}: split {raw.split!r} {reason}")
    array = raw.take(LABELS)
    if array.dtype.kind == "b":
        raise raw.error(LABELS, f"holds True and False; {_ONLY_SCORES}")
    if array.ndim == 0 or set(array.shape[1:]) - {1}:
        # Arrays of no columns may declare any number of rows.
        if array.ndim == 2 and array.size and np.isin(array, (0, 1)).all() and (array.sum(1) == 1).all():
            raise raw.error(LABELS, f"is one-hot, of shape {array.shape}, like classes; {_ONLY_SCORES}")
        mosei = ", such as the first of CMU-MOSEI's seven columns" * (array.shape[1:] == (7,))
        only = f"it must be (clips,), one sentiment score per clip{mosei}"
        raise raw.error(LABELS, f"has shape {array.shape}; {only}")
    labels = array.reshape(-1).astype(np.float64)
    if len(labels) == 0:
        raise UserError(f"{raw.file}: split {raw.split!r} is empty; every split needs at least one clip.")
    if not np.isfinite(labels).all():
        raise raw.error(LABELS, f"holds {labels[~np.isfinite(labels)][0]}; labels must be finite")
    return labels


def _read_split(
    raw: MmsaSplit, labels: np.ndarray, absent: Container[str], problems: Problems
) -> Split | None:
    """Read a split that is not yet aligned, with lengths only where the file has them; None if unusable."""
    clips = len(labels)
    ids, tokens, present = np.array([], str), None, {}
    with problems.collected():
        ids = read_ids(raw, clips)
    for m in MODALITIES:
        if m not in absent:
            with problems.collected():
                present[m] = read_array(raw, m, clips)
    with problems.collected():
        tokens = read_tokens(raw, clips, present["text"].shape[1] if "text" in present else None)
    if problems:
        return None
    features = {m: present[m] if m in present else absent_array(raw, m, clips, tokens) for m in MODALITIES}
    lengths = {}
    for m in MODALITIES if tokens is None else MODALITIES[1:]:
        with problems.collected():
            stored = read_lengths(raw, m, clips, features[m].shape[1])
            if stored is not None:
                lengths[m] = stored
    return Split(ids, features, lengths, labels, tokens)


def _read_splits(raw: Mapping[str, MmsaSplit], file: str, scale: LabelScale) -> dict[str, Split]:
    """Read all splits; raises UserError with all that is wrong with them."""
    problems = Problems(file)
    labels: dict[str, np.ndarray] = {}
    for name, split in raw.items():
        with problems.collected():
            labels[name] = _read_labels(split)
    absent: Container[str] = ()
    with problems.collected():
        absent = absent_modalities(raw)
    for split in raw.values():
        for m in MODALITIES:
            with problems.collected():
                if m not in absent and m not in split.content:
                    raise split.missing(m)
    problems.check()
    with problems.collected():
        scale.check(labels, file, LABELS)
    read = {n: _read_split(raw[n], scale.clip(values), absent, problems) for n, values in labels.items()}
    problems.check()
    splits = name_rows({n: split for n, split in read.items() if split is not None}, raw)
    for check in (_check_widths, _check_leakage):
        with problems.collected():
            check(splits, file)
    problems.check()
    return splits


def _check_widths(splits: Mapping[str, Split], file: str) -> None:
    for modality in MODALITIES:
        widths = {split: splits[split].features[modality].shape[2] for split in SPLITS}
        if len(set(widths.values())) > 1:
            sizes = ", ".join(f"{split} {width}" for split, width in widths.items())
            raise UserError(f"{file}: the width of {modality} differs between splits ({sizes}).")


def _check_leakage(splits: Mapping[str, Split], file: str) -> None:
    seen: dict[str, str] = {}
    for split in SPLITS:
        names = splits[split].ids.tolist()
        for name in names:
            if name in seen:
                raise UserError(f"{file}: clip {name!r:.60} is in both {seen[name]!r} and {split!r}.")
        seen.update(dict.fromkeys(names, split))


def _pad(raw: MmsaSplit, array: np.ndarray, steps: int, axis: int) -> np.ndarray:
    missing = [(0, 0)] * array.ndim
    missing[axis] = (0, steps - array.shape[axis])
    if not missing[axis][1]:
        return array
    raw.memory.take(array.nbytes // array.shape[axis] * steps)
    return np.pad(array, missing)


def _equal_steps(splits: Mapping[str, Split], raw: Mapping[str, MmsaSplit]) -> dict[str, Split]:
    """Pad every split to the largest T_m of the three; drop tokens unless all splits have them."""
    steps = {m: max(split.features[m].shape[1] for split in splits.values()) for m in MODALITIES}
    with_tokens = all(split.tokens is not None for split in splits.values())
    padded = {}
    for name, split in splits.items():
        features = {m: _pad(raw[name], split.features[m], steps[m], 1) for m in MODALITIES}
        for m in MODALITIES:
            is_padded = features[m] is not split.features[m]
            raw[name].note(m, f"was padded to {steps[m]} steps", is_padded * len(split))
        tokens = split.tokens if with_tokens else None
        if tokens is not split.tokens:
            raw[name].note("text_bert", "is not in every split, so it is left out", len(split))
        tokens = None if tokens is None else _pad(raw[name], tokens, steps["text"], 2)
        padded[name] = replace(split, features=features, tokens=tokens)
    return padded


def read_mmsa(
    path: str | Path, scale: LabelScale, choice: SplitChoice = OWN_SPLITS, embeddings: Path | None = None
) -> Dataset:
    """Read a feature file; the data set's `notes` list what was cleaned.

    choice: of the splits. embeddings: a .npy or .npz file whose rows are the text features of word ids
    (`embed_words`).

    The attention mask gives the valid steps of text. For audio and vision, `*_lengths` give them, unless
    these only mark the first zero step and cut clips. Without lengths, a modality that is aligned with text
    (as many steps, and 90% of the clips within the mask) uses the steps of text; any other one is valid from
    its first to its last non-zero step. Non-finite values become 0.

    Raises:
        UserError: The file is unusable; the message says where, what it contains and what is allowed.
    """
    file = repr(str(path))
    try:
        # Overflows and signalling NaNs are detected in the results, so numpy need not warn.
        with np.errstate(all="ignore"):
            return _read(path, file, scale, choice, embeddings)
    except MemoryError:
        raise UserError(f"{file} needs more memory than is available.") from None


def _read(
    path: str | Path, file: str, scale: LabelScale, choice: SplitChoice, embeddings: Path | None
) -> Dataset:
    content = load_content(path)
    notes: Notes = {}
    size = Path(path).stat().st_size + (
        embeddings.stat().st_size if embeddings and embeddings.is_file() else 0
    )
    memory = MemoryLimit(file, size)
    content, layout = recognise(content, file, memory)
    known = [] if layout is None else [f"the file has {layout}."]
    if embeddings is not None:
        content, note = embed_words(content, embeddings, file, memory)
        known.append(note)
    content, drawn = choice.apply(content, file)
    contents = _split_contents(content, file, choice)
    raw = {split: MmsaSplit(file, split, contents[split], notes, memory) for split in SPLITS}
    splits = _read_splits(raw, file, scale)
    aligned = _equal_steps(align(splits, raw), raw)
    sentences = (f"{m} {what} ({unit}: {', '.join(counts)})." for (m, what, unit), counts in notes.items())
    return Dataset(aligned, float(scale.size), (*known, *drawn, *sentences), float(scale.center))
