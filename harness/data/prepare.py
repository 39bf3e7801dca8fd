"""Preparation of a dataset: reading or generating it once into the cache, keyed by a fingerprint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.config.compose import path_of
from harness.config.schema import LABEL_SCALES, METRICS_OF, DatasetConfig
from harness.data.dataset import Dataset
from harness.data.labels import LabelScale, given_scale
from harness.data.mmsa.reader import read_mmsa
from harness.data.mmsa.resplit import SplitChoice
from harness.data.standardize import scale_notes, standardize
from harness.data.store import file_fingerprint, load_dataset, save_dataset
from harness.data.synthetic.clips import SyntheticSettings, synthetic_fingerprint
from harness.data.synthetic.generate import generate
from harness.errors import UserError, file_error, unknown
from harness.files import replacing

# Raise this version with any change to the checks of a file, or to the arrays that are made from its bytes.
READER_VERSION = 4


@dataclass(frozen=True)
class CachedDataset:
    """A dataset ready for training: its resolved configuration and the cache folder that workers map."""

    name: str
    like: str
    metrics: str
    label_scale: float
    fingerprint: str
    folder: Path
    source: str
    synthetic: bool
    notes: tuple[str, ...]
    label_center: float = 0.0
    standardize: bool = False


def prepare(name: str, config: DatasetConfig, size: str, data_root: str | None, cache: Path) -> CachedDataset:
    """Read or generate a dataset unless it is in the cache; raises UserError."""
    scale = _label_scale(name, config)
    metrics, notes = scale.metrics(name, METRICS_OF[config.like], config.metrics)
    synthetic = config.synthetic and config.path is None
    if synthetic:
        _refuse_splits(name, config)
        settings = SyntheticSettings(name, config.size or size, config.clips, config.aligned, config.seed)
        source = f"synthetic stand-in data, size {settings.size}, generator seed {settings.seed}"
        fingerprint = synthetic_fingerprint(settings)
        if (scale.size, scale.center) != (settings.statistics.label_scale, 0):
            own = LabelScale(settings.statistics.label_scale).range
            raise UserError(
                f"Dataset {name!r}: synthetic labels are in {own}, got {scale.range}; leave out label_scale, "
                "label_center and like."
            )
        folder = _folder(cache, name, fingerprint, config.standardize)
        if not folder.exists():
            _generate(settings, folder, config.standardize)
    else:
        path = _file(name, config, data_root)
        choice = _choice(name, config)
        source = str(path)
        embeddings = None if config.embeddings is None else path_of(config.embeddings)
        fingerprint = choice.identity(_fingerprint(path, embeddings, cache))
        # A label_center of 0 is left out, so that caches of earlier versions stay in use.
        labels = f"{scale.size}" + (f"-{scale.center}" if scale.center else "")
        folder = _folder(cache, name, f"{fingerprint}-{labels}-{READER_VERSION}", config.standardize)
        if not folder.exists():
            _save(read_mmsa(path, scale, choice, embeddings), folder, config.standardize)
    return CachedDataset(
        name=name,
        like=config.like,
        metrics=metrics,
        label_scale=scale.size,
        fingerprint=fingerprint,
        folder=folder,
        source=source,
        synthetic=synthetic,
        notes=(*load_dataset(folder).notes, *notes),
        label_center=scale.center,
        standardize=config.standardize,
    )


def _fingerprint(path: Path, embeddings: Path | None, cache: Path) -> str:
    """Return the fingerprint of a file, or of it and the embeddings of its words."""
    files = [path, *([] if embeddings is None else [embeddings])]
    hashes = [file_fingerprint(file, cache / "fingerprints.json") for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _choice(name: str, config: DatasetConfig) -> SplitChoice:
    """Return the splits to make of a file; raises UserError."""
    table = None if config.splits is None else path_of(config.splits)
    return SplitChoice(config.valid_share, table, config.fold, config.seed, f"dataset.{name}.{{}}")


def _label_scale(name: str, config: DatasetConfig) -> LabelScale:
    """Return the scale of a dataset's labels; raises UserError."""
    if config.like not in METRICS_OF:
        raise unknown(f"value of dataset.{name}.like", config.like, METRICS_OF)
    usual, setting = LABEL_SCALES[config.like], f"dataset.{name}.label_{{}}"
    return given_scale(usual, config.label_scale, config.label_center, setting)


def _refuse_splits(name: str, config: DatasetConfig) -> None:
    for key in ("valid_share", "splits", "fold", "embeddings"):
        if getattr(config, key) is not None:
            raise UserError(f"dataset.{name}.{key} is for files only, and {name!r} is synthetic data.")


def _save(dataset: Dataset, folder: Path, standardized: bool) -> None:
    """Write a dataset to the cache, standardized or with notes on features that should be."""
    notes = (*dataset.notes, *scale_notes(dataset))
    save_dataset(standardize(dataset) if standardized else replace(dataset, notes=notes), folder)


def _generate(settings: SyntheticSettings, folder: Path, standardized: bool) -> None:
    """Generate a dataset and its hidden truth into the cache; training never reads the truth."""
    try:
        # Created first, so that a missing write permission is noticed before the work.
        folder.parent.mkdir(parents=True, exist_ok=True)
        dataset, truth = generate(settings)
        arrays = {f"{split}/{key}": a for split, items in truth.items() for key, a in items.items()}
        path = folder.with_name(f"{folder.name}.truth.npz")
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except OSError as error:
        raise file_error(f"The data cache {str(folder.parent)!r}", "written", error) from error
    _save(dataset, folder, standardized)


def _folder(cache: Path, name: str, key: str, standardized: bool) -> Path:
    head, _, rest = key.partition("-")
    return cache / "data" / "-".join(filter(None, (name, head[:16], rest, "standardized" * standardized)))


def _file(name: str, config: DatasetConfig, data_root: str | None) -> Path:
    for key in ("size", "clips"):
        if getattr(config, key) is not None:
            raise UserError(f"dataset.{name}.{key} is for synthetic data only, and {name!r} is a file.")
    if config.path is not None:
        path = path_of(config.path)
    else:
        kind = "aligned" if config.aligned else "unaligned"
        file = config.file_aligned if config.aligned else config.file_unaligned
        if file is None:
            raise UserError(f"Dataset {name!r} has no {kind} file; give dataset.{name}.path=FILE.")
        if data_root is None:
            remedy = f"give data_root=DIR with {file} below it, or dataset.{name}.path=FILE"
            raise UserError(f"The location of dataset {name!r} is unknown; {remedy}.")
        path = path_of(data_root) / file
    try:
        if path.is_file():
            return path
    except OSError as error:
        raise file_error(f"Dataset {name!r}: {str(path)!r}", "read", error) from error
    raise UserError(f"Dataset {name!r}: there is no file {str(path)!r}.")
