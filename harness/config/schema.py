"""Schema of the configuration; `harness/conf` has the default values and explains each setting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

METRICS_OF = {"mosi": "mosi", "mosei": "mosei", "sims": "sims", "simsv2": "sims"}
LABEL_SCALES = {"mosi": 3.0, "mosei": 3.0, "sims": 1.0, "simsv2": 1.0}


@dataclass
class DatasetConfig:
    """One dataset: an MMSA pickle or a synthetic dataset.

    like: "mosi" | "mosei" | "sims" | "simsv2", which sets metrics, label scale and backbone settings at once.
    path: an MMSA pickle; None: file_unaligned or file_aligned under data_root, or, if ``synthetic``, data
    generated from ``seed`` at ``size`` ("quick" | "full") with ``clips`` clips in total. Labels are in
    ``[label_center - label_scale, label_center + label_scale]``, and label_center is neutral. standardize:
    scale each feature by its mean and standard deviation over the training split. A file's own splits are
    replaced by one of: valid_share, the share of the training videos that validates, drawn with ``seed``;
    splits, a CSV file with the columns id and split; fold, the number of the split that tests, while the next
    one validates. embeddings: a .npy or .npz matrix (words, width) for files whose text is word ids.
    """

    like: str = "mosi"
    path: str | None = None
    label_scale: float | None = None
    label_center: float | None = None
    metrics: str | None = None
    standardize: bool = False
    valid_share: float | None = None
    splits: str | None = None
    fold: int | None = None
    embeddings: str | None = None
    aligned: bool = False
    file_unaligned: str | None = None
    file_aligned: str | None = None
    synthetic: bool = False
    size: str | None = None
    clips: int | None = None
    seed: int = 0


@dataclass
class OcclusionConfig:
    """Occlusion of inputs; ratios are in [0, 1]."""

    ratios: list[float] = field(default_factory=list)
    protocols: list[str] = field(default_factory=list)
    train_ratios: list[float] | None = None
    granularity: str = "frame"
    mask_seed: int = 0


@dataclass
class TrainConfig:
    """Limits of a training run; None: the backbone's own limit."""

    max_epochs: int | None = None
    patience: int | None = None
    max_batches: int | None = None


@dataclass
class EvaluateConfig:
    """Evaluations beyond the usual ones; test_curve: score the test split after every epoch, to show only."""

    test_curve: bool = False


@dataclass
class CellConfig:
    """Execution of one cell; checkpoint_s: minimum seconds between checkpoints, None: only to pause."""

    threads: int = 1
    checkpoint_s: float | None = None


@dataclass
class DataConfig:
    """Placement of splits when training on CUDA: "auto" | "device" | "host"."""

    resident: str = "auto"


@dataclass
class BertConfig:
    """Pretrained text encoder for ``text=bert``.

    model: a directory or a name on the Hugging Face hub. learning_rate, weight_decay: of a fine-tuned
    encoder; None: the values for the backbone.
    """

    model: str | None = None
    finetune: bool = True
    learning_rate: float | None = None
    weight_decay: float | None = None


@dataclass
class UriConfig:
    """Address of a database or server; None: SQLite under var_dir."""

    uri: str | None = None


@dataclass
class TrackingConfig(UriConfig):
    """The tracking store; patience_s: seconds that the driver retries while the store does not answer."""

    patience_s: float = 300.0


@dataclass
class LedgerConfig(UriConfig):
    """The ledger; beat_s: seconds between heartbeats, stale_s: age at which a driver's claims expire."""

    beat_s: float = 5.0
    stale_s: float = 60.0


@dataclass
class LauncherConfig:
    """The launcher of the cells; all fields but name are for "ray", see `harness.launchers.cluster`."""

    name: str = "processes"
    address: str | None = None
    gpus_per_cell: float | None = None
    max_retries: int = 3


@dataclass
class ReportSettings:
    """What a report shows; build: whether a benchmark or sweep ends with one (``report=false`` is short).

    baseline: a method with which all are compared, beside "none". equal_within: metric -> gains below which
    two methods count as equal, in units of the metric; without one, nothing is called equal. claims: file of
    further claims, see `reports.claims.reader`.
    """

    build: bool = True
    baseline: str | None = None
    equal_within: dict[str, float] = field(default_factory=dict)
    claims: str | None = None


@dataclass
class SweepConfig:
    """Sweeps and tuning.

    param: search space of a sweep; tune: method to tune; exactly one of the two is given. name: name of the
    sweep; None: derived from param or tune. storage: URL of Optuna's storage; None: a journal file under
    var_dir. objective: name of a validation metric. trials: number of trials, unless the sampler is a grid.
    prune_at: fractions of the epochs, in (0, 1), after which an unpromising trial is pruned. retries: of a
    cell that failed without diverging. tuned_dir: folder for tuned settings; None: under var_dir.
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
    """Configuration of the benchmark; tuned: a folder, see `harness.config.tuned`.

    plugins: files with methods and backbones, see `harness.plugins`.
    """

    study: str | None = None
    var_dir: str = "var"
    data_root: str | None = None
    matrix: str = "full"
    datasets: list[str] = field(default_factory=list)
    backbones: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    plugins: list[str] = field(default_factory=list)
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
    keep: str | None = None
    report: ReportSettings = field(default_factory=ReportSettings)
    tuned: str | None = None
    occlusion: OcclusionConfig = field(default_factory=OcclusionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    cell: CellConfig = field(default_factory=CellConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    ledger: LedgerConfig = field(default_factory=LedgerConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    shard: str | None = None
    sweep: SweepConfig = field(default_factory=SweepConfig)
    dataset: dict[str, DatasetConfig] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] = field(default_factory=dict)


@dataclass
class SweepCommand(Config):
    """Configuration of the sweep command; ``param`` and ``tune`` are short for those in ``sweep``."""

    param: str | None = None
    tune: str | None = None


@dataclass
class PredictConfig:
    """Configuration of `harness.predict`; run: id of a run; data: a feature file; out: a CSV file."""

    run: str | None = None
    data: str | None = None
    out: str | None = None
    plugins: list[str] = field(default_factory=list)
    device: str = "cpu"
    var_dir: str = "var"
    tracking: UriConfig = field(default_factory=UriConfig)


@dataclass
class CollectConfig:
    """Configuration of `harness.collect`."""

    study: str = ""
    plugins: list[str] = field(default_factory=list)
    var_dir: str = "var"
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    ledger: LedgerConfig = field(default_factory=LedgerConfig)


@dataclass
class ReportConfig:
    """Configuration of `reports.build`, `reports.export`, `reports.plan` and `reports.ui`.

    out, predictions, curves: files to write. sweep: export the cells of this sweep's trials, not the study's
    matrix. sweeps: export those of all sweeps. all: export the cells that a report leaves out, too. port: of
    the UI; default: 5000, or the next free one. gain, metric: what a planned study is to find.
    """

    study: str | None = None
    plugins: list[str] = field(default_factory=list)
    var_dir: str = "var"
    tracking: UriConfig = field(default_factory=UriConfig)
    out: str | None = None
    predictions: str | None = None
    curves: str | None = None
    sweep: str | None = None
    sweeps: bool = False
    port: int | None = None
    all: bool = False
    gain: float | None = None
    metric: str = "mae"
    report: ReportSettings = field(default_factory=ReportSettings)
