"""``python -m harness.new method|backbone NAME``: write a plugin that works, to be changed into your own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from harness.cli import leave, run_command

HELP = """\
usage: python -m harness.new method NAME
       python -m harness.new backbone NAME

Writes NAME.py into the current folder: a plugin that works, with a card. It replaces no file."""
KINDS = ("method", "backbone")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    return run_command(_run, sys.argv[1:] if arguments is None else arguments, HELP)


def _run(arguments: Sequence[str]) -> int:
    from harness.errors import UserError, file_error, unknown
    from harness.plugins import NAME, registered

    if len(arguments) != 2:
        raise UserError("Give a kind and a name, as in python -m harness.new method my_mix.")
    kind, name = arguments
    if kind not in KINDS:
        raise unknown("kind of plugin", kind, KINDS)
    if not NAME.fullmatch(name):
        raise UserError(
            f"A name has lower-case letters, digits and _, and starts with a letter, got {name!r}."
        )
    if name in registered():
        raise UserError(f"{name!r} is the name of a shipped method or backbone; choose another one.")
    file = Path(f"{name}.py")
    text = (Path(__file__).parent / f"{kind}.txt").read_text(encoding="utf-8")
    text = text.replace("NAME", name).replace("CLASS", "".join(map(str.capitalize, name.split("_"))))
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UserError(f"{file} exists already; choose another name, or move it away.") from None
    except OSError as error:
        raise file_error(str(file), "written", error) from None
    print(f"{file}: change it, then check it with python -m harness.check {file}")
    return 0


if __name__ == "__main__":
    leave(main())
