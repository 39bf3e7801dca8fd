"""Types of the configuration; values and comments stand in `harness/conf`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

METRICS_OF = {"mosi": "mosi", "mosei": "mosei", "sims": "sims"}
LABEL_SCALES = {"mosi": 3.0, "mosei": 3.0, "sims": 1.0}


@dataclass
class DatasetConfig:
    """One dataset.

    like: "mosi" | "mosei" | "sims": chooses metrics, label scale and backbone settings at once. path: an MMSA
    pickle; else file_unaligned or file_aligned under data_root, or a synthetic one of ``size`` ("quick" |
    "full"), ``clips`` clips in all, from generator ``seed``.
    """

    like: str = "mosi"
    path: str | None = None
    label_scale: float | None = None
    metrics: str | None = None
    aligned: bool = False
    file_unaligned: str | None = None
    file_aligned: str | None = None
    synthetic: bool = False
    size: str | None = None
    clips: int | None = None
    seed: int = 0


@dataclass
class OcclusionConfig:
    """Occlusion; ratios in [0, 1]."""

    ratios: list[float] = field(default_factory=list)
    protocols: list[str] = field(default_factory=list)
    train_ratios: list[float] | None = None
    granularity: str = "frame"
    mask_seed: int = 0


@dataclass
class TrainConfig:
    """Bounds of a training; None leaves them to the backbone."""

    max_epochs: int | None = None
    patience: int | None = None
    max_batches: int | None = None


@dataclass
class CellConfig:
    """How one cell runs; checkpoint_s: least time between two checkpoints, None: none is written."""

    threads: int = 1
    checkpoint_s: float | None = None


@dataclass
class DataConfig:
    """Where splits lie on CUDA: "auto" | "device" | "host"."""

    resident: str = "auto"


@dataclass
class BertConfig:
    """The pretrained text encoder of ``text=bert``; model: a Hugging Face directory or name."""

    model: str | None = None
    finetune: bool = True
    learning_rate: float = 2e-5


@dataclass
class UriConfig:
    """Address of a database or server; None: SQLite under var_dir."""

    uri: str | None = None


@dataclass
class TrackingConfig(UriConfig):
    """The tracking store; patience_s: how long the driver waits for it to answer."""

    patience_s: float = 300.0


@dataclass
class LedgerConfig(UriConfig):
    """The ledger; beat_s: time between two signs of life. stale_s: without one, a driver's claims fall."""

    beat_s: float = 5.0
    stale_s: float = 60.0


@dataclass
class LauncherConfig:
    """Which launcher runs the cells; all but its name is for "ray": see `harness.launchers.cluster`."""

    name: str = "processes"
    address: str | None = None
    gpus_per_cell: float | None = None
    max_retries: int = 3


@dataclass
class SweepConfig:
    """Sweeps and tuning.

    param: search space of a sweep, tune: method to tune; one of them. name: of the sweep; None: after these.
    storage: of Optuna; None: a journal file under var_dir. objective: a validation metric, by its name.
    trials: of a sampler that is not a grid. prune_at: parts of an epoch budget in (0, 1) after which a
    hopeless trial is ended. retries: of a trial whose worker died. tuned_dir: where tuned settings are
    written; None: under var_dir.
    """

    param: str | None = None
    tune: str | None = None
    name: str | None = None
    storage: str | None = None
    objective: str = "loss"
    trials: int = 30
    seeds: list[int] = field(default_factory=lambda: [1111, 1112])
    backbones: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    prune_at: list[float] = field(default_factory=lambda: [0.25, 0.5])
    retries: int = 2
    tuned_dir: str | None = None


@dataclass
class Config:
    """The benchmark's configuration, as composed; tuned: a folder, see `harness.config.tuned`."""

    study: str | None = None
    var_dir: str = "var"
    data_root: str | None = None
    matrix: str = "full"
    datasets: list[str] = field(default_factory=list)
    backbones: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    size: str = "quick"
    text: str = "features"
    bert: BertConfig = field(default_factory=BertConfig)
    jobs: int | None = None
    jobs_per_gpu: int | None = None
    device: str = "auto"
    deterministic: bool = True
    precision: str = "fp32"
    compile: bool = False
    retry: str | None = None
    report: bool = True
    tuned: str | None = None
    occlusion: OcclusionConfig = field(default_factory=OcclusionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    cell: CellConfig = field(default_factory=CellConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    ledger: LedgerConfig = field(default_factory=LedgerConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    dataset: dict[str, DatasetConfig] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] = field(default_factory=dict)


@dataclass
class SweepCommand(Config):
    """Configuration of the sweep command while it is read; ``param`` and ``tune`` are those of the sweep."""

    param: str | None = None
    tune: str | None = None


@dataclass
class ReportConfig:
    """Configuration of `reports.build` and `reports.export`; out, predictions: files to write.

    sweep: export the cells of this sweep's trials, instead of those of the study's matrix.
    """

    study: str | None = None
    var_dir: str = "var"
    tracking: UriConfig = field(default_factory=UriConfig)
    out: str | None = None
    predictions: str | None = None
    sweep: str | None = None
