"""Made-up results, and studies of them written straight into a fresh MLflow database.

Through MLflow 10,000 runs take five minutes, and their numbers are the same.
"""

import dataclasses
import itertools
import uuid
from collections import defaultdict

import numpy as np
import sqlalchemy as sa

from backbones.batch import MODALITIES
from harness.claims.process import this_process
from harness.claims.table import CLAIMS, DONE, open_engine
from harness.launchers.base import Job
from harness.metrics import METRICS
from harness.tracking.artifacts import write_result
from harness.tracking.tags import NOTE, cell_tags, description, numbers, parameters, result_tags
from harness.train.inspection import SAMPLE
from harness.train.result import Predictions, Result

# As many points and clips as the cells of the quick profile have.
EPOCHS, TEST_CLIPS, WIDTH = 12, 686, 64
CURVES = [f"mix_lambda_{m}_{q}" for m in (*MODALITIES, "label") for q in ("q10", "q50", "q90")]
CURVES += ["mix_opposite_rate", "mix_label_spread", "mix_distance", "valid_loss", "epoch_s"]
CURVES += [f"train_{part}_loss" for part in ("total", "task", "mixed", "penalty", "auxiliary")]
LABELS = np.random.default_rng(0).standard_normal(TEST_CLIPS).astype(np.float32)
NUMBERS = ("epoch_s", "train_s", "peak_memory_mb", "parameter_count", "method_parameter_count", "best_epoch")
STARTED_MS = 1_700_000_000_000


def ready_result(job, loss=0.5):
    """Make a result as large as one of MOSI, without a training."""
    cell, generator = job.cell, np.random.default_rng(job.cell.seed)
    keys = ["valid", *("test" if not r else f"test_r{r:.2f}" for r in cell.ratios)]
    values = generator.standard_normal(TEST_CLIPS).astype(np.float32)
    ids = np.array([f"video_{i // 20}$_${i % 20}" for i in range(TEST_CLIPS)])
    return Result(
        "complete",
        {k: {m: generator.uniform(0.4, 0.6) for m in METRICS[cell.metrics]} | {"loss": loss} for k in keys},
        cell=dict.fromkeys(NUMBERS, 1.0),
        curves={name: generator.random(EPOCHS).tolist() for name in CURVES},
        environment={"device": "cpu", "torch": "2.13.0"},
        predictions=Predictions(ids, LABELS, {ratio: LABELS + values for ratio in cell.ratios}),
    )


def ready_trial(job):
    """Make a ready result, or a pause where one is due; the loss follows delta."""
    loss = (job.cell.method_settings.delta - 0.4) ** 2
    if job.pause_after is not None:
        return Result("paused", curves={"valid_loss": [1 + loss] * job.pause_after})
    return ready_result(job, loss)


def lean_result(cell):
    """Make a result without curves and with predictions, for exports."""
    return dataclasses.replace(ready_result(Job(cell, "", "cpu")), curves={})


def drawn_result(cell):
    """Make a result with what a report reads: predictions, and latents where MISA mixes MOSEI first."""
    samples = {}
    first = cell.seed == 0 and not cell.train_ratio and cell.dataset.endswith("mosei")
    if first and cell.method != "none" and cell.backbone == "misa":
        # As `harness.train.inspection.sample_latents` keeps them.
        generator = np.random.default_rng(0)
        for kind in ("clean", "mixed"):
            latents = {m: generator.standard_normal((SAMPLE, WIDTH)) for m in MODALITIES}
            latents["labels"] = generator.uniform(-3, 3, SAMPLE)
            samples |= {f"{kind}_{name}": array.astype(np.float16) for name, array in latents.items()}
    return dataclasses.replace(ready_result(Job(cell, "", "cpu")), samples=samples)


def store_runs(tracker, results, **tags):
    """Write complete runs of cells; tags: of all of them, as the provenance is.

    Only the last point of each curve is written, and files only for predictions or samples.
    """
    engine, tables = sa.create_engine(tracker.uri), sa.MetaData()
    tables.reflect(engine)
    numbered = enumerate(results)
    with engine.begin() as connection:
        while batch := list(itertools.islice(numbered, 500)):
            rows = defaultdict(list)
            for number, (cell, result) in batch:
                for table, values in _rows_of(tracker, cell, result, tags, number):
                    rows[table].append(values)
            for table, values in rows.items():
                connection.execute(tables.tables[table].insert(), values)
    engine.dispose()


def _rows_of(tracker, cell, result, more, number):
    """Yield the rows of a run, each with its table; write its files."""
    run_id, now = uuid.UUID(int=number).hex, STARTED_MS + number
    artifacts = tracker.folder("artifacts").absolute() / run_id / "artifacts"
    if result.samples or result.predictions is not None:
        artifacts.mkdir(parents=True)
        write_result(cell, result, artifacts)
    run = {"run_uuid": run_id, "name": cell.run_name, "user_id": "perf", "artifact_uri": artifacts.as_uri()}
    run |= {"experiment_id": int(tracker.experiment_id), "source_type": "LOCAL", "lifecycle_stage": "active"}
    yield "runs", {**run, "status": "FINISHED", "start_time": now, "end_time": now}
    scores = numbers(result)
    pairs = {
        "tags": {
            **cell_tags(cell),
            NOTE: description(cell, tracker.study),
            **more,
            **result_tags(result),
            "mlflow.runName": cell.run_name,
        },
        "params": parameters(dataclasses.asdict(cell)),
        "metrics": scores,
        "latest_metrics": scores | {f"epoch/{name}": curve[-1] for name, curve in result.curves.items()},
    }
    for table, named in pairs.items():
        point = {"timestamp": now, "step": 0, "is_nan": False} if "metrics" in table else {}
        for key, value in named.items():
            yield table, {"run_uuid": run_id, "key": key, "value": value, **point}


def store_claims(uri, study, cells):
    """Mark cells as done in the ledger at ``uri``, as the driver that trained them would."""
    engine = open_engine(uri)
    owner = {"study": study, "owner": uuid.uuid4().hex, "state": DONE, **vars(this_process())}
    with engine.begin() as connection:
        rows = [{**owner, "cell_id": cell.cell_id, "beat": beat} for beat, cell in enumerate(cells, 1)]
        connection.execute(sa.insert(CLAIMS), rows)
    engine.dispose()
