"""``python -m harness.check my_mix.py``: check a plugin against the contract, and train it for two epochs.

Exit status: 0 if all rules hold, 1 if one is broken, 2 if the file cannot be used as a plugin.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from harness.cli import importing, leave, run_command

HELP = """\
usage: python -m harness.check FILE.py

Checks the methods and backbones of a plugin against the contract, and trains each for two epochs on synthetic
clips. Each line is a rule: "ok" if it holds, or what is wrong and where. A "hint" does not count as broken.

A plugin to begin with: python -m harness.new method NAME"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    return run_command(_run, sys.argv[1:] if arguments is None else arguments, HELP)


def _run(arguments: Sequence[str]) -> int:
    from harness import plugins
    from harness.errors import UserError

    if len(arguments) != 1:
        raise UserError(f"Give one file, as in python -m harness.check my_mix.py; got {len(arguments)}.")
    with importing():
        plugins.use(arguments)
    broken = 0
    for cls in plugins.classes():
        for line, failed in _lines(cls, plugins.file_of(cls)):
            print(line)
            broken += failed
    names = ",".join(cls.name for cls in plugins.classes())
    print(f"{broken} broken." if broken else f"All rules hold. Next: {_next(names, arguments[0])}")
    return 1 if broken else 0


def _next(names: str, file: str) -> str:
    from harness.plugins import classes, kind_of

    kind = kind_of(classes()[0])
    chosen = f"backbones=[{names}]" if kind == "backbone" else f"backbones=[lmf] methods=[none,{names}]"
    return f"python -m harness.benchmark plugins=[{file}] {chosen} study=mine"


def _lines(cls: type[Any], file: str) -> Iterator[tuple[str, bool]]:
    """Yield each line of the output, and whether it is about a broken rule."""
    with importing():
        from harness.check import backbones, methods, training
        from harness.check.rule import verdicts
        from harness.plugins import kind_of

    yield f"{kind_of(cls)} {cls.name} ({cls.title}), {file}", False
    rules = methods.RULES if kind_of(cls) == "method" else backbones.RULES
    for verdict in verdicts(cls, rules, file):
        yield _line(verdict.rule.sentence, verdict.fault, verdict.rule.hint), verdict.failed
    for sentence, fault, hint in training.report(cls, file):
        yield _line(sentence, fault, hint), bool(fault) and not hint
    yield _line("its docstring says what it computes", _card(cls), True), False


def _card(cls: type[Any]) -> str:
    text = sys.modules[cls.__module__].__doc__ or ""
    named = text.startswith((f"{cls.name}: ", f"{cls.title}: "))
    return "" if named else f"the file should begin with a docstring like '{cls.name}: one sentence.'"


def _line(sentence: str, fault: str, hint: bool) -> str:
    state = ("hint" if hint else "WRONG") if fault else "ok"
    return f"  {state:<6}{sentence}" + (f":\n{textwrap.indent(fault, ' ' * 10)}" if fault else "")


if __name__ == "__main__":
    leave(main())
