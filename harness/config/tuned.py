"""Tuned settings as files, one per method, backbone and dataset: ``METHOD/BACKBONE/DATASET.yaml``.

A file's head says how the settings were found; below stand those that were searched.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from backbones import BACKBONES
from backbones.text import ENCODERS, TextSettings
from harness.config.compose import writable
from harness.config.grammar import is_plain
from harness.config.safe_yaml import load_yaml
from harness.errors import UserError, file_error, one_line, unknown
from harness.files import replacing
from harness.matrix import Cell
from methods import METHODS

Key = tuple[str, str, str]
LABELS = sorted(
    {TextSettings(encoder, finetune=finetune).label for encoder in ENCODERS for finetune in (True, False)}
)
# What every head must hold, and the types that it may have; it may hold more.
HEAD: Mapping[str, tuple[type, ...]] = {
    "study": (str,),
    "sweep": (str,),
    "objective": (str,),
    "value": (float, int),
    "trials": (int,),
    "epochs": (int, type(None)),
    "seeds": (list,),
    "fingerprint": (str,),
}
SECTIONS = ("method", "backbone")


@dataclass(frozen=True)
class Tuned:
    """One file: its head, its settings of the method and of the backbone, and a digest, 12 hex digits."""

    path: Path
    head: Mapping[str, Any]
    method: dict[str, Any]
    backbone: dict[str, Any]
    digest: str

    @property
    def budget(self) -> str:
        """What the search was allowed, in words."""
        epochs = "the backbone's" if self.head["epochs"] is None else self.head["epochs"]
        return f"{self.head['trials']} trials of {epochs} epochs, {len(self.head['seeds'])} seeds"


def tuned_label(method: str) -> str:
    """The name that tables give to a method with tuned settings, which differ between their rows."""
    return f"{method}{{tuned}}"


def write_tuned(
    folder: Path, base: Cell, best: Cell, head: Mapping[str, Any], searched: Collection[str] = ()
) -> Path:
    """Write the settings in which ``best`` differs from ``base``, below a head; returns the file.

    searched: fields that are written even if they do not differ, so that the file means the same elsewhere.
    The file is whole or absent. Raises OSError where it cannot be written.
    """
    key, best_key = ((cell.method, cell.backbone_label, cell.dataset) for cell in (base, best))
    assert key == best_key, f"settings of {best_key} are none of {key}"
    assert not set(SECTIONS) & set(head), "a head cannot hold the sections of settings"
    path = folder.joinpath(*key[:2], f"{key[2]}.yaml")
    changed = {
        "method": _changes(base.method_settings, best.method_settings, searched),
        "backbone": _changes(base.backbone_settings, best.backbone_settings, searched),
    }
    comment = (
        f"# The best settings found for {key[0]} on {key[1]}, {key[2]}. In use with tuned=DIR, where DIR is\n"
        "# the folder that holds METHOD/BACKBONE/DATASET.yaml.\n"
    )
    text = yaml.safe_dump({**head, **changed}, sort_keys=False, allow_unicode=True, width=10_000)
    content = (comment + text).encode()
    again = _parse(path, content, base.method, base.backbone)
    assert repr((again.method, again.backbone)) == repr(tuple(changed.values())), "it reads differently"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def read_tuned(folder: Path) -> dict[Key, Tuned]:
    """All files below a folder, by method, backbone label and dataset.

    Raises:
        UserError: there is no file, or one that cannot be used: which, and why.
    """
    if not folder.is_dir():
        raise UserError(f"tuned={str(folder)!r} is no folder; `make tune METHOD=NAME` writes one.")
    walk = os.walk(folder, followlinks=True)
    paths = sorted(Path(parent, name).relative_to(folder) for parent, _, names in walk for name in names)
    files = {}
    for path in paths:
        # Hidden ones belong to programs, among them those that a killed writer left.
        if path.suffix in (".yaml", ".yml") and not any(part.startswith(".") for part in path.parts):
            with _naming(folder / path):
                key = _key(path)
                content = (folder / path).read_bytes()
                files[key] = _parse(folder / path, content, key[0], key[1].partition("[")[0])
    if not files:
        raise UserError(f"tuned={str(folder)!r} holds no settings; `make tune METHOD=NAME` writes some.")
    return files


def _key(path: Path) -> Key:
    """The method, backbone label and dataset that a file's path names."""
    if len(path.parts) != 3 or path.suffix != ".yaml":
        raise UserError("only METHOD/BACKBONE/DATASET.yaml may lie below the folder of tuned settings.")
    method, label = path.parts[:2]
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    labels = [name + label for name in BACKBONES for label in LABELS]
    if label not in labels:
        raise unknown("backbone", label, labels)
    return method, label, path.stem


def _changes(base: Any, best: Any, searched: Collection[str]) -> dict[str, Any]:
    """The fields in which two settings of one class differ; repr tells -0.0 and 1 from 0.0 and 1.0."""
    pairs = {f.name: (getattr(base, f.name), getattr(best, f.name)) for f in dataclasses.fields(base)}
    return {name: new for name, (old, new) in pairs.items() if name in searched or repr(old) != repr(new)}


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in every error of the block."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{str(path)!r} cannot be used: {error}") from None
    except OSError as error:
        raise file_error(repr(str(path)), "read", error) from None


def _parse(path: Path, content: bytes, method: str, backbone: str) -> Tuned:
    """A file's content; raises UserError."""
    try:
        entries = load_yaml(content)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"it is no YAML{f', see line {mark.line + 1}' if mark else ''}.") from None
    except ValueError:
        raise UserError("it holds a value that cannot be read.") from None
    if not isinstance(entries, dict):
        raise UserError("it does not hold settings by name.")
    head = {name: value for name, value in entries.items() if name not in SECTIONS}
    _check_head(entries, head)
    return Tuned(
        path,
        head,
        _settings("method", method, METHODS[method].Settings(), entries["method"]),
        _settings("backbone", backbone, BACKBONES[backbone].Settings(), entries["backbone"]),
        hashlib.sha256(content).hexdigest()[:12],
    )


def _check_head(entries: Mapping[Any, Any], head: Mapping[Any, Any]) -> None:
    needed = (*HEAD, *SECTIONS)
    for name, value in head.items():
        if not isinstance(name, str) or not is_plain(value):
            raise unknown("entry", str(name), needed)
    for name in needed:
        if name not in entries:
            raise UserError(f"it lacks {name!r}.")
    for name, types in HEAD.items():
        # isinstance would take a boolean for an int.
        if type(head[name]) not in types:
            kind = " or ".join("nothing" if t is type(None) else t.__name__ for t in types)
            raise UserError(f"{name} must be of type {kind}, got {head[name]!r}.")


def _settings(kind: str, name: str, settings: Any, section: Any) -> dict[str, Any]:
    """Some settings of a method or backbone with the types of its fields; raises UserError."""
    if not isinstance(section, dict):
        raise UserError(f"{kind} must be settings by name, got {section!r}.")
    names = [f.name for f in dataclasses.fields(settings)]
    for key, value in section.items():
        if key not in names:
            raise unknown(f"setting of {kind} {name}", str(key), names)
        if not is_plain(value) or "${" in str(value):
            raise UserError(f"{kind}.{name}.{key}={value!r} is no value for a setting.")
    try:
        typed = OmegaConf.to_container(OmegaConf.merge(writable(settings), section))
    except (OmegaConfBaseException, ValueError, OverflowError) as error:
        raise UserError(f"{kind}.{name}: {one_line(error)}.") from None
    assert isinstance(typed, dict)
    return {key: typed[key] for key in section}
