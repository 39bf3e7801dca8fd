"""Files of tuned settings, one per method, backbone and dataset: ``METHOD/BACKBONE/DATASET.yaml``.

A file starts with a head, which says how the settings were found; the sections with the settings follow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shlex
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
# The required entries of a head with their allowed types; further entries are allowed.
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
    """One file: its head, the settings of method and backbone, and a digest of its bytes (12 hex digits)."""

    path: Path
    head: Mapping[str, Any]
    method: dict[str, Any]
    backbone: dict[str, Any]
    digest: str

    @property
    def budget(self) -> str:
        """The budget of the search in words: trials, epochs and seeds."""
        epochs = "the backbone's" if self.head["epochs"] is None else self.head["epochs"]
        return f"{self.head['trials']} trials of {epochs} epochs, {len(self.head['seeds'])} seeds"


def tuned_label(method: str) -> str:
    """Return the label of a method with tuned settings, which may differ between the rows of a table."""
    return f"{method}{{tuned}}"


def write_tuned(
    folder: Path, base: Cell, best: Cell, head: Mapping[str, Any], searched: Collection[str] = ()
) -> Path:
    """Write the head and the settings in which ``best`` differs from ``base``, atomically; return the path.

    searched: fields to write even if they do not differ, so that the file does not depend on defaults.
    Raises OSError if the file cannot be written.
    """
    key, best_key = ((cell.method, cell.backbone_label, cell.dataset) for cell in (base, best))
    assert key == best_key, f"the settings belong to {best_key}, not to {key}"
    assert not set(SECTIONS) & set(head), f"the head must not contain {SECTIONS}"
    path = folder.joinpath(*key[:2], f"{key[2]}.yaml")
    changed = {
        "method": _changes(base.method_settings, best.method_settings, searched),
        "backbone": _changes(base.backbone_settings, best.backbone_settings, searched),
    }
    comment = (
        f"# The best settings found for {key[0]} on {key[1]}, {key[2]}. To use them, give tuned=DIR, where\n"
        "# DIR is the folder that contains METHOD/BACKBONE/DATASET.yaml.\n"
    )
    text = yaml.safe_dump({**head, **changed}, sort_keys=False, allow_unicode=True, width=10_000)
    content = (comment + text).encode()
    parsed = _parse(path, content, base.method, base.backbone)
    assert repr((parsed.method, parsed.backbone)) == repr(tuple(changed.values())), "settings changed in YAML"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def read_tuned(folder: Path) -> dict[Key, Tuned]:
    """Read all files below a folder, keyed by method, backbone label and dataset.

    Raises:
        UserError: There is no such file, or one of them is invalid; the message names it and says why.
    """
    if not folder.is_dir():
        raise UserError(f"tuned={str(folder)!r} is not a folder; {_writer(folder)} writes one.")
    walk = os.walk(folder, followlinks=True)
    paths = sorted(Path(parent, name).relative_to(folder) for parent, _, names in walk for name in names)
    files = {}
    for path in paths:
        # Hidden files belong to other programs or are left over from an interrupted write.
        if path.suffix in (".yaml", ".yml") and not any(part.startswith(".") for part in path.parts):
            with _naming(folder / path):
                key = _key(path)
                content = (folder / path).read_bytes()
                files[key] = _parse(folder / path, content, key[0], key[1].partition("[")[0])
    if not files:
        raise UserError(f"tuned={str(folder)!r} contains no settings; {_writer(folder)} writes some.")
    return files


def _writer(folder: Path) -> str:
    return f"`python -m sweeps.run tune=METHOD {shlex.quote(f'sweep.tuned_dir={folder}')}`"


def _key(path: Path) -> Key:
    """Split a relative path into method, backbone label and dataset; raises UserError."""
    if len(path.parts) != 3 or path.suffix != ".yaml":
        raise UserError("files of tuned settings must be named METHOD/BACKBONE/DATASET.yaml.")
    method, label = path.parts[:2]
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    labels = [name + label for name in BACKBONES for label in LABELS]
    if label not in labels:
        raise unknown("backbone", label, labels)
    return method, label, path.stem


def _changes(base: Any, best: Any, searched: Collection[str]) -> dict[str, Any]:
    """Return the fields of ``best`` that differ from ``base`` or were searched."""
    pairs = {f.name: (getattr(base, f.name), getattr(best, f.name)) for f in dataclasses.fields(base)}
    # Compared by repr, which distinguishes -0.0 from 0.0 and 1 from 1.0.
    return {name: new for name, (old, new) in pairs.items() if name in searched or repr(old) != repr(new)}


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Prefix every error of the block with the file's name."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{str(path)!r} cannot be used: {error}") from None
    except OSError as error:
        raise file_error(repr(str(path)), "read", error) from None


def _parse(path: Path, content: bytes, method: str, backbone: str) -> Tuned:
    """Parse the content of a file; raises UserError."""
    try:
        entries = load_yaml(content)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", see line {mark.line + 1}" if mark else ""
        raise UserError(f"it is not plain YAML without aliases{line}.") from None
    except ValueError:
        raise UserError("it contains a value that cannot be parsed.") from None
    if not isinstance(entries, dict):
        raise UserError(f"it must be a mapping, got a {type(entries).__name__}.")
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
        # isinstance would accept a boolean as an int.
        if type(head[name]) not in types:
            kind = " or ".join("null" if t is type(None) else t.__name__ for t in types)
            raise UserError(f"{name} must be of type {kind}, got {head[name]!r}.")


def _settings(kind: str, name: str, settings: Any, section: Any) -> dict[str, Any]:
    """Convert a section's settings to the types of the dataclass's fields; raises UserError."""
    if not isinstance(section, dict):
        raise UserError(f"{kind} must be a mapping of settings, got {section!r}.")
    names = [f.name for f in dataclasses.fields(settings)]
    for key, value in section.items():
        if key not in names:
            raise unknown(f"setting of {kind} {name}", str(key), names)
        if not is_plain(value) or "${" in str(value):
            raise UserError(f"{kind}.{name}.{key} must be a plain scalar or list, got {value!r}.")
    try:
        typed = OmegaConf.to_container(OmegaConf.merge(writable(settings), section))
    except (OmegaConfBaseException, ValueError, OverflowError) as error:
        raise UserError(f"{kind}.{name}: {one_line(error)}.") from None
    assert isinstance(typed, dict)
    return {key: typed[key] for key in section}
