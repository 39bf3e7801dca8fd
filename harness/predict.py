"""``python -m harness.predict run=RUN_ID data=FILE out=FILE.csv``: predict clips with a run's kept weights.

Exit status: 0 if the table is written, 2 if the request is invalid.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.cli import importing, leave, run_command

if TYPE_CHECKING:
    import pandas as pd

    from backbones.base import Sizes
    from harness.data.dataset import Split
    from harness.matrix import Cell
    from harness.train.weights import Kept

HELP = """\
usage: python -m harness.predict run=RUN_ID data=FILE out=FILE.csv [KEY=VALUE ...]

Predicts every clip of a feature file with the weights of one run, which python -m harness.benchmark
keep=weights stores. Writes the columns id, split (if the file has splits), prediction, and label (if it has
labels), in units of the labels that the run was trained on.

  run=RUN_ID                        from the column run_id of python -m reports.export, or the MLflow UI
  data=FILE                         a file as for training; splits and labels may be absent
  device=cpu|cuda                   default: cpu
  plugins=[my_mix.py]               those of the run
  var_dir=DIR tracking.uri=URI      location of the run (default: var)"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(_run, sys.argv[1:] if arguments is None else arguments, HELP)


def _run(arguments: Sequence[str]) -> int:
    with importing():
        from harness.config.compose import load_predict, path_of, var_path

        config = load_predict(arguments)
        from harness.data.mmsa.clips import read_clips
        from harness.errors import file_error
        from harness.files import replacing
        from harness.train.arithmetic import check_device

    check_device(config.device)
    cell, kept = _load(config, var_path(config))
    splits, labelled = read_clips(path_of(str(config.data)))
    splits = {name: fitted(split, kept.sizes, str(config.data)) for name, split in splits.items()}
    frame = predictions(cell, kept, splits, labelled, config.device)
    try:
        with replacing(path_of(str(config.out))) as temporary:
            frame.to_csv(temporary, index=False)
    except OSError as error:
        raise file_error(f"out={str(config.out)!r}", "written", error) from None
    sys.stdout.write(f"{config.out}: {len(frame)} predictions of {cell.run_name}\n")
    return 0


def _load(config: Any, var_dir: Any) -> tuple[Cell, Kept]:
    """Return the cell and weights of the run that the configuration names; raises UserError."""
    from harness.errors import UserError, one_line
    from harness.shards.stored import read_cell
    from harness.tracking.kept import AllRuns
    from harness.train.weights import unpack

    cell_id, content = AllRuns(config.tracking.uri, var_dir).weights(config.run)
    try:
        kept = unpack(content)
        cell = read_cell(kept.cell)
        if cell.cell_id != cell_id:
            raise ValueError(f"they are those of cell {cell.cell_id}")
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"The weights of run {config.run!r} cannot be used: {one_line(error)}.") from None
    return cell, kept


def fitted(split: Split, sizes: Sizes, file: str) -> Split:
    """Return a split padded to the steps of a network; raises UserError if it does not fit the network."""
    import numpy as np

    from harness.errors import UserError

    widths = {m: values.shape[2] for m, values in split.features.items()}
    if widths != dict(sizes.widths):
        raise UserError(f"{file!r} has {_listed(widths)}; the run was trained on {_listed(sizes.widths)}.")
    features = {}
    for m, values in split.features.items():
        longest = int(split.lengths[m].max())
        if longest > sizes.steps[m]:
            raise UserError(
                f"{file!r} has a clip with {longest} steps of {m}; the run's network takes at most "
                f"{sizes.steps[m]}; cut longer clips."
            )
        own = values[:, : sizes.steps[m]]
        features[m] = np.pad(own, ((0, 0), (0, sizes.steps[m] - own.shape[1]), (0, 0)))
    return replace(split, features=features)


def _listed(widths: Mapping[str, int]) -> str:
    from backbones.batch import MODALITIES

    return "features of widths " + ", ".join(f"{m} {widths[m]}" for m in sorted(widths, key=MODALITIES.index))


def predictions(
    cell: Cell, kept: Kept, splits: Mapping[str, Split], labelled: frozenset[str], device: str
) -> pd.DataFrame:
    """Return a row per clip: id, split, prediction, label; see `HELP` for the columns that may be absent."""
    import pandas as pd
    import torch

    from harness.data.mmsa.clips import WHOLE
    from harness.errors import UserError
    from harness.train.arithmetic import set_arithmetic
    from harness.train.evaluate import in_own_units, predict
    from harness.train.splits import ResidentSplit, Splits
    from harness.train.weights import rebuild

    place = torch.device(device)
    torch.set_num_threads(cell.threads)
    set_arithmetic(cell.precision, cell.deterministic, place)
    try:
        backbone = rebuild(cell, kept, place)
    except ValueError as error:
        raise UserError(f"The weights cannot be used: {error}.") from None
    resident = Splits(
        {name: ResidentSplit(split, place, center=cell.label_center) for name, split in splits.items()}, {}
    )
    every = replace(cell, max_batches=None)
    frames = []
    for name, split in splits.items():
        own, labels = in_own_units(every, predict(every, backbone, resident, name)[0], resident, name)
        frames.append(pd.DataFrame({"id": split.ids, "split": name, "prediction": own, "label": labels}))
    absent = ["split"] * (set(splits) == {WHOLE}) + ["label"] * (not labelled)
    return pd.concat(frames, ignore_index=True).drop(columns=absent)


if __name__ == "__main__":
    leave(main())
