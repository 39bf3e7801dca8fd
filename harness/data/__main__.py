"""``python -m harness.data check|synth``: summarise an MMSA file, or write a synthetic one.

Exit status: 0 success; 2 invalid arguments or an unusable file (one sentence on standard error).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from harness.errors import UserError


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
    commands = parser.add_subparsers(required=True, metavar="check|synth")
    check = commands.add_parser("check", help="print a file's splits, shapes, lengths, labels and defects")
    check.add_argument("file", metavar="FILE", help="a pickle in MMSA's format")
    check.add_argument(
        "--label-scale", type=float, help="labels are in [C - S, C + S]; default 3", metavar="S"
    )
    check.add_argument("--label-center", type=float, help="the neutral label; default 0", metavar="C")
    check.set_defaults(run=_check)
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
    from harness.data.labels import given_scale
    from harness.data.mmsa.reader import read_mmsa, summary_lines

    scale = given_scale(3.0, options.label_scale, options.label_center, "--label-{}")
    print("\n".join(summary_lines(read_mmsa(options.file, scale))))
    # The benchmark needs the same scale.
    typed = [
        f" dataset.mine.label_{key}={getattr(options, f'label_{key}'):g}" for key in sorted(scale.chosen)
    ]
    print(f"to train on it: datasets=[mine] dataset.mine.path={options.file}{''.join(typed)}")


def _synth(options: argparse.Namespace) -> None:
    from harness.data.export import export
    from harness.data.synthetic import SyntheticSettings

    settings = SyntheticSettings(options.name, options.size, options.clips, options.aligned, options.seed)
    export(settings, options.out, options.force)
    clips = ", ".join(f"{count} {split}" for split, count in settings.split_sizes().items())
    print(f"{options.out}: {settings.name}, size {settings.size}, seed {settings.seed}, clips: {clips}")


if __name__ == "__main__":
    sys.exit(main())
