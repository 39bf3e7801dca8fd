"""Plugins: methods and backbones from the user's own files, in the same registries as the shipped ones.

``plugins=[my_mix.py,my_backbone.py]`` imports each file under its own module name and adds its classes to
`METHODS` and `BACKBONES`, so that everything downstream runs the same code as for a shipped class. A name
without ``.py`` is an entry point of the group ``msa_mixup_bench``, whose value is a module of an installed
package. A plugin file is one module: it may import installed packages and this project's packages.

Code: the driver reads each file once. Workers get this text with their jobs, so editing a file during a run
changes nothing, and nodes need no shared disk. The module's name contains a hash of the text. Runs store the
code hash of the class (`harness.code`), and cells whose plugin has changed since are trained anew.

Optional attributes of a plugin's class: ``title``, ``citation``, ``colour`` ("#rrggbb") and ``space``, the
search space for ``tune=NAME``, which can also be a file beside the plugin, ``my_mix.yaml``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.metadata
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import UserError, file_error, line_with_type, unknown

GROUP = "msa_mixup_bench"
PREFIX = "msa_plugin_"
NAME = re.compile(r"[a-z][a-z0-9_]*")
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Plugin:
    """The code of a plugin: path of its file, or name of its module; text: None for an installed module."""

    place: str
    text: str | None

    @property
    def digest(self) -> str:
        """Hash of the text, 12 hex digits; for an installed module, of its name."""
        return hashlib.sha256((self.text or self.place).encode()).hexdigest()[:12]

    @property
    def module(self) -> str:
        """Name under which the code is imported."""
        return self.place if self.text is None else PREFIX + self.digest

    @property
    def file(self) -> str:
        """Path of the file that errors name."""
        return self.place if self.text is not None else str(sys.modules[self.module].__file__)


_LOADED: dict[Plugin, list[type[Any]]] = {}


def loaded() -> tuple[Plugin, ...]:
    """Return the plugins in use."""
    return tuple(_LOADED)


def plugin_of(cls: type) -> Plugin | None:
    """Return the plugin that defines a class; None for a shipped class."""
    return next((plugin for plugin, classes in _LOADED.items() if cls in classes), None)


def classes() -> list[type[Any]]:
    """Return the classes of all plugins in use."""
    return [cls for some in _LOADED.values() for cls in some]


def file_of(cls: type) -> str:
    """Return the path of a plugin's file by one of its classes."""
    plugin = plugin_of(cls)
    assert plugin is not None, "a class of a plugin"
    return plugin.file


def registered() -> set[str]:
    """Return the names of all methods and backbones."""
    return {name for kind in _bases() for name in _registry(kind)}


def use(names: Iterable[str]) -> None:
    """Put exactly these plugins, file paths or entry points, into the registries; raises UserError."""
    load(read(name) for name in dict.fromkeys(names))


def load(plugins: Iterable[Plugin]) -> None:
    """Put exactly these plugins into the registries; raises UserError."""
    wanted = list(dict.fromkeys(plugins))
    if wanted == list(_LOADED):
        return
    _clear()
    try:
        for plugin in wanted:
            _register(plugin, list(_classes(plugin, _module(plugin))))
    except BaseException:
        _clear()
        raise


def read(name: str) -> Plugin:
    """Read a plugin's file, or find its entry point; raises UserError, also for a syntax error."""
    if not name.endswith(".py"):
        points = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
        if name not in points:
            if "/" in name or not points:
                raise UserError(f"The plugin {name!r} is no Python file; give a path that ends in .py.")
            raise unknown(f"plugin of the entry point group {GROUP}", name, points)
        return Plugin(points[name].module, None)
    path = Path(name).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
        # Compiled here, since this is possible before torch is loaded.
        compile(text, str(path), "exec", dont_inherit=True)
    except OSError as error:
        raise file_error(f"The plugin {name!r}", "read", error) from None
    except SyntaxError as error:
        raise UserError(f"Plugin {path}, line {error.lineno or 1}: SyntaxError: {error.msg}.") from None
    except ValueError as error:  # bytes that are not UTF-8, or NUL
        raise UserError(f"Plugin {path} is no Python text: {line_with_type(error)}.") from None
    return Plugin(str(path.absolute()), text)


class _Loader(importlib.abc.ExecutionLoader):
    """Loader of a module from a text, which may come from another machine."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin

    def get_filename(self, fullname: str) -> str:
        return self.plugin.place

    def get_source(self, fullname: str) -> str:
        return self.plugin.text or ""


def source(module: ModuleType) -> str | None:
    """Return the text from which a plugin's module was loaded; None for other modules."""
    loader = module.__spec__.loader if module.__spec__ else None
    return loader.plugin.text if isinstance(loader, _Loader) else None


def _module(plugin: Plugin) -> ModuleType:
    """Import a plugin's code; raises UserError with file and line."""
    name = plugin.module
    if name in sys.modules:
        known = sys.modules[name]
        if plugin.text is not None:
            known.__file__ = plugin.place  # the same text may have been read from another file before
        return known
    try:
        if plugin.text is None:
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(name, plugin.place, loader=_Loader(plugin))
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        # Dataclasses and pickle look the module up by its name.
        sys.modules[name] = module
        _Loader(plugin).exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == plugin.place]
        where = f", line {lines[-1]}" if lines else ""
        raise UserError(f"Plugin {plugin.place}{where}: {line_with_type(error).rstrip('.')}.") from error
    return module


def _bases() -> dict[str, type[Any]]:
    # Imported here, since they load torch.
    from backbones.base import Backbone
    from methods.base import Method

    return {"method": Method, "backbone": Backbone}


def _registry(kind: str) -> dict[str, Any]:
    from backbones import BACKBONES
    from methods import METHODS

    registries: dict[str, dict[str, Any]] = {"method": METHODS, "backbone": BACKBONES}
    return registries[kind]


def facts(cls: type[Any]) -> dict[str, str]:
    """Return what reports show of a plugin's class without its file; empty for a shipped class."""
    plugin = plugin_of(cls)
    if plugin is None:
        return {}
    shown = {name: getattr(cls, name) for name in ("title", "citation", "colour") if hasattr(cls, name)}
    return {"kind": kind_of(cls), "file": Path(plugin.file).name, **shown}


def kind_of(cls: type) -> str:
    """Return "method" or "backbone"."""
    return next(kind for kind, base in _bases().items() if issubclass(cls, base))


def _classes(plugin: Plugin, module: ModuleType) -> Iterator[type[Any]]:
    """Yield the checked classes with a name of their own; raises UserError if there is none."""
    bases = tuple(_bases().values())
    own = [
        cls
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, bases) and cls.__module__ == module.__name__
    ]
    named = list(dict.fromkeys(cls for cls in own if "name" in vars(cls)))
    if not named:
        seen = f"; {own[0].__name__} has no attribute 'name'" if own else ""
        raise UserError(
            f"Plugin {plugin.file} defines no method or backbone{seen}. Derive a class from "
            "methods.base.Method or backbones.base.Backbone, as in methods/mixup.py, and name it."
        )
    for cls in named:
        _check(plugin, cls)
        yield cls


def _check(plugin: Plugin, cls: type[Any]) -> None:
    """Raise UserError if a class breaks the contract in a way that is visible without running it."""
    for field, value, allowed in _broken(cls):
        line = _line(plugin, cls)
        raise UserError(f"Plugin {plugin.file}, line {line}: {cls.__name__}.{field} {allowed}, got {value}.")
    for field, value in {"title": cls.name, "citation": "no publication"}.items():
        if not hasattr(cls, field):
            setattr(cls, field, value)


def _broken(cls: type[Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (attribute, its value, what is allowed) of the first broken rules."""
    base = _bases()[kind_of(cls)]
    if not (isinstance(cls.name, str) and NAME.fullmatch(cls.name)):
        yield "name", repr(cls.name), "must be lower-case letters, digits and _, starting with a letter"
    for field in ("title", "citation"):
        if not isinstance(getattr(cls, field, ""), str):
            yield field, repr(getattr(cls, field)), "must be a text"
    colour = getattr(cls, "colour", "#000000")
    if not (isinstance(colour, str) and COLOUR.fullmatch(colour)):
        yield "colour", repr(colour), 'must be written "#rrggbb"'
    if not isinstance(getattr(cls, "space", {}), Mapping):
        yield "space", repr(cls.space), "must be a mapping, see sweeps/space_file.py"
    for method in ("draw",) if hasattr(base, "draw") else ("latent_widths", "encode", "fuse", "head"):
        if getattr(cls, method) is getattr(base, method):
            yield method, "that of the base class", "must be defined"
    yield from _broken_settings(cls, base.Settings)


def _broken_settings(cls: type[Any], base: type[Any]) -> Iterator[tuple[str, str, str]]:
    settings = cls.Settings
    params = getattr(settings, "__dataclass_params__", None)
    frozen = params is not None and params.frozen
    if not (frozen and isinstance(settings, type) and issubclass(settings, base)):
        yield "Settings", repr(settings), f"must be a frozen dataclass derived from {base.__name__}"
        return
    try:
        from omegaconf import OmegaConf

        OmegaConf.structured(settings())
    except Exception as error:
        yield "Settings", line_with_type(error), "must have a default of a plain type for every field"
        return
    if kind_of(cls) == "backbone":
        yield from _broken_published(cls)


def _broken_published(cls: type[Any]) -> Iterator[tuple[str, str, str]]:
    from backbones.base import KINDS, resolve_settings

    if not isinstance(getattr(cls, "published", None), Mapping):
        cls.published = {kind: {} for kind in KINDS}
    for kind in KINDS:
        try:
            resolve_settings(cls, cls.Settings(), kind)
        except (KeyError, TypeError, ValueError) as error:
            allowed = f"must give a value for {kind} to every setting whose default is None"
            yield "published", line_with_type(error), allowed


def _line(plugin: Plugin, cls: type[Any]) -> int:
    """Return the line of a class in its file; 1 if it is not found."""
    lines = (plugin.text or "").splitlines()
    return next((n for n, line in enumerate(lines, 1) if line.startswith(f"class {cls.__name__}")), 1)


def _register(plugin: Plugin, classes: list[type[Any]]) -> None:
    """Add the classes of a plugin to the registries; raises UserError for a name in use."""
    _LOADED[plugin] = []
    for cls in classes:
        # Figures and tables look a name up in both registries.
        for kind in _bases():
            if (known := _registry(kind).get(cls.name)) is not None:
                files = f"{sys.modules[known.__module__].__file__} and {plugin.file}"
                raise UserError(f"The name {cls.name!r} is used twice: in {files}. Rename yours.")
        _registry(kind_of(cls))[cls.name] = cls
        _LOADED[plugin].append(cls)


def _clear() -> None:
    """Take all plugins out of the registries."""
    for classes in _LOADED.values():
        for cls in classes:
            del _registry(kind_of(cls))[cls.name]
    _LOADED.clear()
