"""``python -m harness.catalog [--markdown] [plugins=[FILE.py]]``: list methods and backbones.

Each has its file, paper and settings.
With ``--markdown``, print the tables of the README instead.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from harness.cli import end, importing, run_command

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the catalogue and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.catalog", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--markdown", action="store_true", help="print the tables of the README")
    parser.add_argument("plugins", nargs="?", metavar="plugins=[FILE.py]", help="list these plugins, too")
    given = parser.parse_args(arguments)
    return run_command(lambda _: _print(given.markdown, given.plugins or ""), (), "")


def _print(as_markdown: bool, plugins: str) -> int:
    """Print the catalogue with the classes of plugins."""
    from harness.config.grammar import parse_value
    from harness.errors import UserError
    from harness.plugins import use

    if plugins and not plugins.startswith("plugins="):
        raise UserError(f"Cannot parse {plugins!r}; give files with methods as plugins=[my_mix.py].")
    use(parse_value("plugins", plugins.removeprefix("plugins=")))
    print("\n".join(markdown() if as_markdown else text()))
    return 0


def registries() -> dict[str, Mapping[str, type[Any]]]:
    """Return the registered classes by kind ("method", "backbone") and name."""
    with importing():
        from backbones import BACKBONES
        from methods import METHODS

    return {"method": METHODS, "backbone": BACKBONES}


def text() -> Iterator[str]:
    """Yield lines for a terminal: one block per entry, with settings and defaults."""
    for kind, registry in registries().items():
        yield from (f"{kind.upper()}S", "")
        for name, entry in registry.items():
            settings, published = defaults(entry), getattr(entry, "published", {})
            yield f"{name}  {entry.title}: {summary(entry)}"
            yield f"  file      {file_of(entry)}"
            yield f"  paper     {entry.citation}"
            yield from _wrapped(
                "settings", {k: v for k, v in settings.items() if v is not None or not published}
            )
            for like, values in published.items():
                yield from _wrapped(like, values)
            if rates := getattr(entry, "published_text", None):
                yield from _wrapped("text=bert", rates)
            yield ""


def _wrapped(title: str, settings: dict[str, Any]) -> list[str]:
    from harness.matrix import readable_settings

    line = readable_settings(settings).strip("{}").replace(",", ", ") or "none"
    return textwrap.wrap(f"  {title:<9} {line}", 110, subsequent_indent=" " * 12, break_long_words=False)


def markdown() -> Iterator[str]:
    """Yield the lines of two Markdown tables, of methods and of backbones."""
    for kind, registry in registries().items():
        yield from (f"| {kind} | what it is | paper |", "|---|---|---|")
        for name, entry in registry.items():
            yield f"| [`{name}`]({file_of(entry)}) | {summary(entry)} | {entry.citation} |"
        yield ""


def summary(entry: type[Any]) -> str:
    """Return the first line of an entry's card, without its name and the source in parentheses."""
    card = inspect.getdoc(sys.modules[entry.__module__]) or entry.title
    return re.sub(r" \(.*\)", "", card.splitlines()[0].partition(": ")[2]).rstrip(".")


def file_of(entry: type[Any]) -> str:
    """Return the path of an entry's file, relative to the project's root if it lies below that."""
    path = Path(inspect.getfile(entry)).resolve()
    return (path.relative_to(ROOT) if path.is_relative_to(ROOT) else path).as_posix()


def defaults(entry: type[Any]) -> dict[str, Any]:
    """Return the default of each setting; None stands for the value published for the dataset."""
    settings = entry.Settings()
    return {f.name: getattr(settings, f.name) for f in fields(settings)}


if __name__ == "__main__":
    end(main())
