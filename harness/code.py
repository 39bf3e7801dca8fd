"""Hashes of the code of methods and backbones, which tell results of edited code from current ones.

The hash of a class covers its module and all modules of `PACKAGES` that this module imports, directly or
indirectly; comments, docstrings and formatting do not affect it. For a plugin these are its file and what it
imports of `PACKAGES`, or of its own package if it is installed. It does not cover the training loop, for
which `RESULTS_VERSION` stands.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from backbones import BACKBONES
from harness import plugins
from harness.matrix import Cell
from methods import METHODS

PACKAGES = ("backbones", "methods")
METHOD_CODE, BACKBONE_CODE = "method_code", "backbone_code"
"""Names of the run tags that hold the code hashes of method and backbone."""


def code_tags(cell: Cell) -> dict[str, str]:
    """Return the current code hashes of a cell's method and backbone, as tags of its run."""
    backbone, method = BACKBONES[cell.backbone], METHODS[cell.method]
    return {METHOD_CODE: code_hash(method), BACKBONE_CODE: code_hash(backbone)}


def code_hash(cls: type) -> str:
    """Return the code hash of a method or a backbone, 16 hex digits."""
    return _code_hash(cls.__module__)


@functools.cache
def _code_hash(module: str) -> str:
    # The name of a plugin's module depends on its comments.
    names = {name: "plugin" if name.startswith(plugins.PREFIX) else name for name in modules(module)}
    parts = [[label, _plain(_tree(name))] for name, label in names.items()]
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def modules(module: str) -> list[str]:
    """Return the sorted names of a module and of the modules that its hash covers."""
    known: set[str] = set()
    names = [module]
    while names:
        name = names.pop()
        if name not in known:
            known.add(name)
            names += _imported(name, _tree(name), {*PACKAGES, module.partition(".")[0]})
    return sorted(known)


def sources(cls: type) -> dict[str, str]:
    """Return the text of each module that `code_hash` reads for a class."""
    return {module: source(module) for module in modules(cls.__module__)}


def source(module: str) -> str:
    """Return the source text of an imported module."""
    text = plugins.source(sys.modules[module])
    return Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8") if text is None else text


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(source(module))


@functools.cache
def _import_statements(tree: ast.Module) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def _imported(module: str, tree: ast.Module, packages: Container[str]) -> Iterator[str]:
    """Yield the modules of ``packages`` in a module's import statements."""
    package = str(sys.modules[module].__package__)
    for node in _import_statements(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            # `from package import name` imports a submodule or a name defined in the package's __init__.
            names = [full if (full := f"{base}.{a.name}") in sys.modules else base for a in node.names]
        yield from (name for name in names if name.partition(".")[0] in packages and name in sys.modules)


def _plain(node: Any) -> Any:
    """Return a syntax tree as nested lists, without positions, docstrings and empty fields."""
    # The text of `ast.dump` differs between Python versions, which print different empty fields.
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
        return [type(node).__name__, *([name, _plain(value)] for name, value in fields)]
    if isinstance(node, list):
        return [_plain(item) for item in node if not _is_docstring(item)]
    return repr(node)


def _is_docstring(node: Any) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
