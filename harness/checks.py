"""Checks of a request before anything runs: names, bounds of numbers, and incompatible settings."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from backbones import BACKBONES
from backbones.text import ENCODERS
from harness.config.compose import var_path
from harness.config.grammar import split_backbone, split_variant
from harness.config.schema import Config
from harness.data.occlusion import GRANULARITIES
from harness.data.synthetic.statistics import SIZES
from harness.databases import redact
from harness.errors import UserError, nearest, unknown
from harness.launchers.choose import LAUNCHERS
from harness.train.arithmetic import check_device, check_precision, resolve_device
from methods import METHODS

DATASET_NAME = re.compile(r"[\w-]+")
PROTOCOLS = ("test", "train")
MAX_STUDY_BYTES = 200  # a study's name is also a folder's, and file systems allow 255 bytes
MAX_DATASET_BYTES = 100  # names of cache folders also contain a hash


def check_request(config: Config) -> None:
    """Raise UserError for a request that cannot be planned."""
    for kind in ("datasets", "backbones", "methods", "seeds"):
        if not getattr(config, kind):
            raise UserError(f"{kind} is empty; at least one is needed.")
    _check_datasets(config)
    _check_names(config)
    _check_occlusion(config)
    _check_bounds(config)
    _check_launcher(config)
    check_device(config.device)
    if config.launcher.name != "ray":
        check_precision(config.precision, resolve_device(config.device))
    var_path(config)
    check_name(config.study or "", "study", "study")
    if config.study == "Default":
        raise UserError(
            "study='Default' is MLflow's own experiment, with artifacts of its own; use another name."
        )
    _check_tuned(config)
    _check_keep(config)


def check_name(name: str, key: str, kind: str, most: int = MAX_STUDY_BYTES) -> None:
    """Raise UserError for a name that cannot be a path component; key: the setting that holds the name."""
    # Cc: control characters. Cs: surrogates, which stand for undecodable bytes.
    forbidden = [c for c in name if c in "/\\" or unicodedata.category(c) in ("Cc", "Cs")]
    too_long = len(name.encode(errors="surrogatepass")) > most
    if not name.strip() or name in (".", "..") or forbidden or too_long:
        allowed = f"up to {most} bytes without /, \\ and control characters"
        raise UserError(f"{key}={redact(name)!r} is not a valid {kind} name; use {allowed}.")


def _check_datasets(config: Config) -> None:
    for name in config.datasets:
        if name not in config.dataset:
            choice = f"choose one of {', '.join(sorted(config.dataset))}"
            own = f"give dataset.{name}.path=FILE"
            if not DATASET_NAME.fullmatch(name):  # no setting could name it
                own = "name yours with letters, digits, _ and -, as in dataset.my_data.path=FILE,"
            raise UserError(f"Unknown dataset {name!r}; {own} or {choice}.{nearest(name, config.dataset)}")
        check_name(name, "datasets", "dataset", MAX_DATASET_BYTES)


def _check_names(config: Config) -> None:
    methods = [split_variant(text)[0] for text in config.methods]
    names_by_kind: dict[str, tuple[Iterable[str], Iterable[str]]] = {
        "backbone": ([split_backbone(text)[0] for text in config.backbones], BACKBONES),
        "method": (methods, METHODS),
        "occlusion protocol": (config.occlusion.protocols, PROTOCOLS),
        "granularity": ([config.occlusion.granularity], GRANULARITIES),
        "value of retry": ([config.retry or "diverged"], ["diverged", "changed"]),
        "value of keep": ([config.keep or "weights"], ["weights"]),
        "value of data.resident": ([config.data.resident], ["auto", "device", "host"]),
        "value of text": ([config.text], ENCODERS),
        "size": ([config.size], SIZES),
        "launcher": ([config.launcher.name], LAUNCHERS),
        "method for report.baseline": ([split_variant(config.report.baseline or "none")[0]], METHODS),
    }
    for kind, (names, allowed) in names_by_kind.items():
        for name in names:
            if name not in allowed:
                raise unknown(kind, name, allowed)


def _check_occlusion(config: Config) -> None:
    occlusion = config.occlusion
    for ratio in [*occlusion.ratios, *(occlusion.train_ratios or [])]:
        if not 0 <= ratio <= 1:
            raise UserError(f"An occlusion ratio must lie in [0, 1], got {ratio}.")
    if not occlusion.ratios or not occlusion.protocols:
        raise UserError("occlusion.ratios and occlusion.protocols need at least one value each.")


def _check_bounds(config: Config) -> None:
    bounds: dict[str, tuple[float | None, int]] = {
        "cell.threads": (config.cell.threads, 1),
        "cell.checkpoint_s": (config.cell.checkpoint_s, 0),
        "jobs": (config.jobs, 1),
        "jobs_per_gpu": (config.jobs_per_gpu, 1),
        "launcher.max_retries": (config.launcher.max_retries, 0),
    }
    bounds |= {f"train.{k}": (getattr(config.train, k), 1) for k in ("max_epochs", "patience", "max_batches")}
    for key, (value, least) in bounds.items():
        if value is not None and not value >= least:
            raise UserError(f"{key} must be at least {least}, got {value}.")


def _check_launcher(config: Config) -> None:
    launcher, share = config.launcher, config.launcher.gpus_per_cell
    keys = [key for key in ("address", "gpus_per_cell") if getattr(launcher, key) is not None]
    if keys and launcher.name != "ray":
        raise UserError(f"launcher.{keys[0]} needs launcher=ray, got launcher={launcher.name}.")
    if share is not None and not (0 < share <= 1 or (share > 1 and share == int(share))):
        raise UserError(
            f"launcher.gpus_per_cell must be above 0 and at most 1, or a whole number, got {share:g}."
        )
    if share is not None and config.jobs_per_gpu is not None:
        raise UserError("jobs_per_gpu and launcher.gpus_per_cell exclude each other; give one of them.")


def _check_keep(config: Config) -> None:
    if config.keep is None:
        return
    scaled = [name for name in config.datasets if config.dataset[name].standardize]
    if scaled or config.text != "features":
        key = f"dataset.{scaled[0]}.standardize=true" if scaled else f"text={config.text}"
        # Kept weights hold neither the statistics of the training split nor the text encoder.
        raise UserError(f"keep=weights does not work with {key}, because predictions need plain features.")


def _check_tuned(config: Config) -> None:
    if config.tuned == "":
        raise UserError("tuned is empty; give a folder of tuned settings, as in tuned=var/tuned.")
    if config.tuned is not None and config.matrix == "ablation":
        # Tuned settings exist for the complete method only, which would put its ablations at a disadvantage.
        raise UserError("matrix=ablation compares components under the same settings; leave out tuned=DIR.")
