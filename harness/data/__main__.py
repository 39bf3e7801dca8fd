"""``python -m harness.data convert|check|synth``: check or convert a feature file, or write a synthetic one.

Exit status: 0 success; 2 invalid arguments or an unusable file (one sentence on standard error).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError

if TYPE_CHECKING:
    from harness.data.dataset import Dataset

_SCALE = ("label_center", "label_scale")
_CHOICE = ("valid_share", "seed", "splits", "fold", "embeddings")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.data", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="convert|check|synth")
    check = commands.add_parser("check", help="print a file's splits, shapes, lengths, labels and defects")
    check.set_defaults(run=_check)
    convert = commands.add_parser("convert", help="write what was read as a clean pickle in MMSA's format")
    convert.set_defaults(run=_convert)
    for command in (check, convert):
        command.add_argument(
            "file", metavar="FILE", help="a feature file; harness/data/README.md has the layouts"
        )
        command.add_argument(
            "--label-scale", type=float, help="labels are in [C - S, C + S]; default 3", metavar="S"
        )
        command.add_argument("--label-center", type=float, help="the neutral label; default 0", metavar="C")
        command.add_argument(
            "--valid-share", "--valid_share", type=float, help="draw valid from train", metavar="P"
        )
        command.add_argument("--splits", help="a CSV file with the columns id and split", metavar="FILE.csv")
        command.add_argument("--fold", type=int, help="the number of the split that tests", metavar="K")
        command.add_argument(
            "--embeddings", help="a .npy or .npz matrix for files whose text is word ids", metavar="FILE"
        )
        command.add_argument("--seed", type=int, default=0, help="seed of --valid-share", metavar="N")
    convert.add_argument("out", metavar="OUT", help="the file to write")
    convert.add_argument("--force", action="store_true", help="overwrite an existing file")
    synth = commands.add_parser("synth", help="write a synthetic dataset as a pickle in MMSA's format")
    synth.add_argument("name", metavar="NAME", help="synthetic_mosi, synthetic_mosei or synthetic_sims")
    synth.add_argument("--size", default="quick", help="quick or full", metavar="SIZE")
    synth.add_argument("--out", required=True, help="the file to write", metavar="FILE")
    synth.add_argument("--clips", type=int, help="total number of clips in the three splits", metavar="N")
    synth.add_argument("--aligned", action="store_true", help="align audio and vision to the words")
    synth.add_argument("--seed", type=int, default=0, help="seed of the generator", metavar="N")
    synth.add_argument("--force", action="store_true", help="overwrite an existing file")
    synth.set_defaults(run=_synth)
    return parser


def _check(options: argparse.Namespace) -> None:
    from harness.data.summary import summary_lines

    print("\n".join(summary_lines(_read(options))))
    print(f"to train on it: {_settings(options, options.file, (*_SCALE, *_CHOICE))}")


def _convert(options: argparse.Namespace) -> None:
    from harness.data.convert import write_mmsa

    dataset = _read(options)
    write_mmsa(dataset, options.out, options.force)
    clips = ", ".join(f"{len(split)} {name}" for name, split in dataset.splits.items())
    print(f"{options.out}: clips: {clips}")
    print("".join(f"note: {note}\n" for note in dataset.notes), end="")
    print(f"to train on it: {_settings(options, options.out, _SCALE)}")


def _read(options: argparse.Namespace) -> Dataset:
    from harness.data.labels import given_scale
    from harness.data.mmsa.reader import read_mmsa
    from harness.data.mmsa.resplit import SplitChoice

    scale = given_scale(3.0, options.label_scale, options.label_center, "--label-{}")
    table = None if options.splits is None else Path(options.splits)
    choice = SplitChoice(options.valid_share, table, options.fold, options.seed, "--{}")
    embeddings = None if options.embeddings is None else Path(options.embeddings)
    return read_mmsa(options.file, scale, choice, embeddings)


def _settings(options: argparse.Namespace, path: str, keys: Sequence[str]) -> str:
    """Return the benchmark's settings for a file; it needs the same label scale and splits."""
    given = {key: getattr(options, key) for key in keys}
    typed = [
        f" dataset.mine.{key}={value:g}" if isinstance(value, float) else f" dataset.mine.{key}={value}"
        for key, value in given.items()
        if value is not None and (key != "seed" or options.valid_share is not None)
    ]
    return f"datasets=[mine] dataset.mine.path={path}{''.join(typed)}"


def _synth(options: argparse.Namespace) -> None:
    from harness.data.export import export
    from harness.data.synthetic import SyntheticSettings

    settings = SyntheticSettings(options.name, options.size, options.clips, options.aligned, options.seed)
    export(settings, options.out, options.force)
    clips = ", ".join(f"{count} {split}" for split, count in settings.split_sizes().items())
    print(f"{options.out}: {settings.name}, size {settings.size}, seed {settings.seed}, clips: {clips}")


if __name__ == "__main__":
    sys.exit(main())
