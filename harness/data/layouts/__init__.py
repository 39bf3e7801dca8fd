"""Layouts of feature files: each module has one function that renames a file's content to MMSA's keys.

To add a layout, write such a function in a module of its own, list it in `LAYOUTS`, and give it a file in
tests/harness/data/layout_files.py, from which its tests and the fuzzer take it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.data.layouts.examples import read_examples
from harness.data.layouts.mult import read_mult
from harness.data.strict.memory_limit import MemoryLimit

# A function takes an unpickled dict, the file's name and its memory limit. It returns MMSA's dict (split ->
# key -> arrays or lists, unchecked) or None for another layout, and raises UserError for a damaged one.
Layout = Callable[[dict[Any, Any], str, MemoryLimit], dict[Any, Any] | None]
LAYOUTS: dict[str, Layout] = {
    "the lists of examples of MAG-BERT, MISA and MMIM": read_examples,
    "the layout of MulT and MultiBench": read_mult,
}


def recognise(content: object, file: str, memory: MemoryLimit) -> tuple[object, str | None]:
    """Return a file's content under MMSA's keys, and the name of its layout unless it is MMSA's own."""
    if isinstance(content, dict):
        for name, read in LAYOUTS.items():
            renamed = read(content, file, memory)
            if renamed is not None:
                return renamed, name
    return content, None
