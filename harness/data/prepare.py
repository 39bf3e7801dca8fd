"""Preparation of a dataset: reading or generating it once into the cache, keyed by a fingerprint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.config.compose import path_of
from harness.config.schema import LABEL_SCALES, METRICS_OF, DatasetConfig
from harness.data.mmsa.reader import read_mmsa
from harness.data.store import file_fingerprint, load_dataset, save_dataset
from harness.data.synthetic.clips import SyntheticSettings, synthetic_fingerprint
from harness.data.synthetic.generate import generate
from harness.errors import UserError, file_error, unknown
from harness.files import replacing

# Raise this version with any change to the arrays that the reader makes from the same bytes.
READER_VERSION = 2


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


def prepare(name: str, config: DatasetConfig, size: str, data_root: str | None, cache: Path) -> CachedDataset:
    """Read or generate a dataset unless it is in the cache; raises UserError."""
    metrics, scale = _scoring(name, config)
    synthetic = config.synthetic and config.path is None
    if synthetic:
        settings = SyntheticSettings(name, config.size or size, config.clips, config.aligned, config.seed)
        source = f"synthetic stand-in data, size {settings.size}, generator seed {settings.seed}"
        fingerprint = synthetic_fingerprint(settings)
        if scale != settings.statistics.label_scale:
            raise UserError(
                f"dataset.{name}.label_scale must be {settings.statistics.label_scale:g}, the range of the "
                f"synthetic labels, got {scale:g}."
            )
        folder = _folder(cache, name, fingerprint)
        if not folder.exists():
            _generate(settings, folder)
    else:
        path = _file(name, config, data_root)
        source, fingerprint = str(path), file_fingerprint(path, cache / "fingerprints.json")
        folder = _folder(cache, name, f"{fingerprint}-{scale}-{READER_VERSION}")
        if not folder.exists():
            save_dataset(read_mmsa(path, scale), folder)
    dataset = load_dataset(folder)
    notes = dataset.notes
    return CachedDataset(name, config.like, metrics, scale, fingerprint, folder, source, synthetic, notes)


def _scoring(name: str, config: DatasetConfig) -> tuple[str, float]:
    """Return the kind of metrics and the label range; raises UserError."""
    if config.like not in METRICS_OF:
        raise unknown(f"value of dataset.{name}.like", config.like, METRICS_OF)
    metrics = METRICS_OF[config.like] if config.metrics is None else config.metrics
    if metrics not in METRICS_OF.values():
        raise unknown(f"value of dataset.{name}.metrics", metrics, METRICS_OF.values())
    scale = LABEL_SCALES[config.like] if config.label_scale is None else config.label_scale
    if not 0 < scale < float("inf"):
        raise UserError(f"dataset.{name}.label_scale must be a positive number, got {scale}.")
    return metrics, scale


def _generate(settings: SyntheticSettings, folder: Path) -> None:
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
    save_dataset(dataset, folder)


def _folder(cache: Path, name: str, key: str) -> Path:
    head, _, rest = key.partition("-")
    return cache / "data" / "-".join(filter(None, (name, head[:16], rest)))


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
