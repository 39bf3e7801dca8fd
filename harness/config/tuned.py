"""Tuned settings as files, one per method, backbone and dataset: ``METHOD/BACKBONE/DATASET.yaml``.

A file's head says how the settings were found; below stand those that were searched.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from backbones import BACKBONES
from backbones.text import ENCODERS, TextSettings
from harness.config.compose import is_plain, one_line, writable
from harness.config.safe_yaml import load_yaml
from harness.errors import UserError, unknown
from harness.files import replacing
from harness.matrix import RESULTS_VERSION, Cell
from methods import METHODS

Key = tuple[str, str, str]
LABELS = sorted(
    {TextSettings(encoder, finetune=tuned).label for encoder in ENCODERS for tuned in (True, False)}
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
    def tags(self) -> dict[str, str]:
        """Tags of the cells that use it: its digest, and whether it changes the backbone; for reports."""
        return {"tuned": self.digest, "tuned_backbone": "true" if self.backbone else "false"}

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
    key = _key_of(base)
    assert key == _key_of(best), f"settings of {_key_of(best)} are none of {key}"
    assert not set(SECTIONS) & set(head), "a head cannot hold the sections of settings"
    path = folder.joinpath(*key[:2], f"{key[2]}.yaml")
    changed = {
        "method": _changes(base.method_settings, best.method_settings, searched),
        "backbone": _changes(base.backbone_settings, best.backbone_settings, searched),
    }
    about = (
        f"# The best settings found for {key[0]} on {key[1]}, {key[2]}. In use with tuned=DIR, where DIR is\n"
        "# the folder that holds METHOD/BACKBONE/DATASET.yaml.\n"
    )
    written = yaml.safe_dump({**head, **changed}, sort_keys=False, allow_unicode=True, width=10_000)
    content = (about + written).encode()
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
    paths = sorted(Path(place, name).relative_to(folder) for place, _, names in walk for name in names)
    found = {}
    for path in paths:
        # Hidden ones belong to programs, among them those that a killed writer left.
        if path.suffix in (".yaml", ".yml") and not any(part.startswith(".") for part in path.parts):
            with _naming(folder / path):
                key = _key(path)
                content = (folder / path).read_bytes()
                found[key] = _parse(folder / path, content, key[0], key[1].partition("[")[0])
    if not found:
        raise UserError(f"tuned={str(folder)!r} holds no settings; `make tune METHOD=NAME` writes some.")
    return found


@dataclass
class Tuning:
    """Which combinations of a study use a file, and which do not.

    given: keys that the user gave on the command line. asked: what `file` has answered, but for variants.
    """

    files: Mapping[Key, Tuned]
    given: Collection[str] = ()
    asked: dict[Key, Tuned | None] = field(default_factory=dict)

    def file(self, method: str, backbone: str, label: str, dataset: str, fingerprint: str) -> Tuned | None:
        """The file for a method as it was asked for; None for a variant, or where there is none.

        Raises:
            UserError: it was tuned on other data, or sets what the user gave.
        """
        if not self.files or set("{[") & set(method):
            return None
        key = (method, label, dataset)
        file = self.asked[key] = self.files.get(key)
        if file is None:
            return None
        path = str(file.path)
        if file.head["fingerprint"] != fingerprint:
            raise UserError(
                f"{path!r} was tuned on other data than {dataset} has now; tune again or remove it."
            )
        sets = [f"method.{method}.{name}" for name in file.method]
        sets += [f"backbone.{backbone}.{name}" for name in file.backbone]
        twice = [name for name in sets if name in self.given]
        if twice:
            raise UserError(f"{twice[0]} is given, but {path!r} sets it; leave one of them out.")
        return file

    def notes(self) -> tuple[str, ...]:
        """Sentences for the user: how many combinations are tuned, which are not, unequal budgets."""
        if not self.files:
            return ()
        if not self.asked:
            return ("Tuned settings: none, as every method is given with settings of its own.",)
        missed = [self._missed_of(method) for method in dict.fromkeys(method for method, _, _ in self.asked)]
        rest = f"; the configuration's own for: {'; '.join(filter(None, missed))}" if any(missed) else ""
        used = sum(file is not None for file in self.asked.values())
        return (
            f"Tuned settings: {used} of {len(self.asked)} combinations{rest}.",
            *self._unequal(),
            *self._aged(),
        )

    def _aged(self) -> Iterator[str]:
        """Where settings were chosen by results of another version."""
        files = [file for file in self.asked.values() if file is not None]
        versions = {file.head.get("results_version", RESULTS_VERSION) for file in files} - {RESULTS_VERSION}
        if versions:
            yield (
                f"Some were chosen by results of version {', '.join(sorted(map(str, versions)))}, and this "
                f"program computes version {RESULTS_VERSION}; tune again to choose by its own."
            )

    def _missed_of(self, method: str) -> str:
        """Where a method has no file, in words; empty where it always has one."""
        found = {
            f"{label}/{dataset}": file
            for (name, label, dataset), file in self.asked.items()
            if name == method
        }
        missed = [place for place, file in found.items() if file is None]
        if len(missed) == len(found):
            return f"{method} (all)"
        return f"{method} on {', '.join(missed)}" if missed else ""

    def _unequal(self) -> Iterator[str]:
        """Where methods were tuned with different budgets; those of two backbones may well differ."""
        budgets: dict[str, set[str]] = {}
        for (_, label, dataset), file in self.asked.items():
            if file is not None:
                budgets.setdefault(f"{label}/{dataset}", set()).add(file.budget)
        unequal = {place: found for place, found in budgets.items() if len(found) > 1}
        if unequal:
            found = "; ".join(sorted(set().union(*unequal.values())))
            yield f"Methods were tuned with different budgets on {', '.join(unequal)}: {found}."


def _key_of(cell: Cell) -> Key:
    return cell.method, cell.backbone_label, cell.dataset


def _key(path: Path) -> Key:
    """The combination that a file's place stands for."""
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
    """Name the file in what is said of it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{str(path)!r} cannot be used: {error}") from None
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from None


def _parse(path: Path, content: bytes, method: str, backbone: str) -> Tuned:
    """A file's content; raises UserError."""
    try:
        found = load_yaml(content)
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        raise UserError(f"it is no YAML{f', see line {place.line + 1}' if place else ''}.") from None
    except ValueError:
        raise UserError("it holds a value that cannot be read.") from None
    if not isinstance(found, dict):
        raise UserError("it does not hold settings by name.")
    head = {name: value for name, value in found.items() if name not in SECTIONS}
    _check_head(found, head)
    return Tuned(
        path,
        head,
        _settings("method", method, METHODS[method].Settings(), found["method"]),
        _settings("backbone", backbone, BACKBONES[backbone].Settings(), found["backbone"]),
        hashlib.sha256(content).hexdigest()[:12],
    )


def _check_head(found: Mapping[Any, Any], head: Mapping[Any, Any]) -> None:
    needed = (*HEAD, *SECTIONS)
    for name, value in head.items():
        if not isinstance(name, str) or not is_plain(value):
            raise unknown("entry", str(name), needed)
    for name in needed:
        if name not in found:
            raise UserError(f"it lacks {name!r}.")
    for name, types in HEAD.items():
        # A truth value is an int to Python.
        if type(head[name]) not in types:
            kind = " or ".join("nothing" if t is type(None) else t.__name__ for t in types)
            raise UserError(f"{name} must be of type {kind}, however: {head[name]!r}.")


def _settings(kind: str, name: str, settings: Any, given: Any) -> dict[str, Any]:
    """Some settings of a method or backbone with the types of its fields; raises UserError."""
    if not isinstance(given, dict):
        raise UserError(f"{kind} must be settings by name, however: {given!r}.")
    names = [f.name for f in dataclasses.fields(settings)]
    for key, value in given.items():
        if key not in names:
            raise unknown(f"setting of {kind} {name}", str(key), names)
        if not is_plain(value) or "${" in str(value):
            raise UserError(f"{kind}.{name}.{key}={value!r} is no value for a setting.")
    try:
        typed = OmegaConf.to_container(OmegaConf.merge(writable(settings), given))
    except (OmegaConfBaseException, ValueError, OverflowError) as error:
        raise UserError(f"{kind}.{name}: {one_line(error)}.") from None
    assert isinstance(typed, dict)
    return {key: typed[key] for key in given}
