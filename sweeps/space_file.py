"""Reader and validator of search spaces in YAML: the files in `sweeps/spaces` and the user's.

    method: ms_mix                # a registered method
    sampler: tpe                  # grid: every combination | tpe: sweep.trials trials
    settings:                     # fields of the method's Settings
      heads: [1, 2, 4, 8]         # a list of choices; the sampler gets a choice that is a list as JSON text
      alpha: {low: 0.1, high: 8.0, log: true}
    backbone:                     # factors on the backbone's own values
      learning_rate: {low: 0.2, high: 5.0, log: true}
      dropout: {low: 0.0, high: 1.5, step: 0.1}

A range {low, high[, log][, step]} holds integers if both ends are integers. A grid takes lists only.
No file here varies `mode` or `mix_loss`: they define the protocol, which is the same for all methods.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.config.compose import path_of
from harness.config.safe_yaml import check_keys_once, compose_yaml, load_yaml, reason_of
from harness.errors import UserError, unknown
from harness.plugins import plugin_of
from methods import METHODS
from methods.base import Method
from sweeps.space import FACTORS, Choices, Range, Space, field_types, is_number, sampler_value, typed

FOLDER = Path(__file__).parent / "spaces"
PARAMS = ("delta", "xi", "alpha", "heads", "all")  # the first four are shown in Figure 4
SAMPLERS = ("grid", "tpe")
KEYS = ("method", "sampler", "settings", "backbone")
MAX_COMBINATIONS = 10_000  # combinations to check; others are checked when they are applied


def load_space(name: str) -> Space:
    """Load a search space by a name in `PARAMS`, a method, or the path of a YAML file; raises UserError."""
    if name.endswith((".yaml", ".yml")):
        return read_space(path_of(name))
    if name not in (*PARAMS, *METHODS):
        raise unknown("search space", name, (*PARAMS, *METHODS))
    if name in METHODS and (plugin := plugin_of(METHODS[name])) is not None:
        return _plugin_space(METHODS[name], Path(plugin.file))
    return read_space(FOLDER / f"{'ms_mix' if name == 'all' else name}.yaml")


def _plugin_space(method: type[Method], file: Path) -> Space:
    """Read the search space of a plugin's method: of its class, or of the YAML file beside it."""
    content = getattr(method, "space", None)
    if content is None:
        beside = [file.with_name(f"{method.name}.yaml"), file.with_suffix(".yaml")]
        path = next((path for path in beside if path.exists()), None)
        if path is None:
            raise UserError(
                f"{method.name} has no search space; write {beside[0]}, or a class attribute 'space' "
                f"in {file} (see sweeps/space_file.py)."
            )
        return _of(method.name, read_space(path), path)
    try:
        space = _space(method.name, {"method": method.name, "sampler": "tpe", **content})
    except UserError as error:
        raise UserError(f"Search space of {method.name} in {file}: {error}") from None
    return _of(method.name, space, file)


def _of(method: str, space: Space, file: Path) -> Space:
    """Return the space if it is one of the method; raises UserError."""
    if space.method != method:
        raise UserError(f"The search space in {file} must be one of method {method}, got {space.method}.")
    return space


def read_space(path: Path) -> Space:
    """Read the search space in a file; its name is the file's stem. Raises UserError if it is invalid."""
    try:
        return _space(path.stem, _content(path))
    except UserError as error:
        raise UserError(f"Search space {path}: {error}") from None


def _content(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        check_keys_once(compose_yaml(text))
        return load_yaml(text)
    except FileNotFoundError:
        remedy = f"give another path, or one of param={'|'.join(PARAMS)}"
        if path.parent == FOLDER:  # of a method that has none yet
            remedy = "write it like the others in this folder"
        raise UserError(f"There is no such file; {remedy}.") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"the file cannot be read as YAML ({reason_of(error)}).") from None


def _space(name: str, content: Any) -> Space:
    content = _mapping("A search space", content, KEYS)
    method = _one_of("method", content, METHODS)
    sampler = _one_of("sampler", content, SAMPLERS)
    types = field_types(method)
    section = _mapping("settings", content.get("settings", {}), types, f"setting of {method}")
    settings = {key: _parameter(f"settings.{key}", values, types[key]) for key, values in section.items()}
    section = _mapping("backbone", content.get("backbone", {}), FACTORS)
    backbone = {key: _parameter(f"backbone.{key}", values, float) for key, values in section.items()}
    space = Space(name, method, sampler, settings, backbone)
    if not space.parameters:
        raise UserError("settings or backbone must name at least one parameter.")
    if sampler == "grid" and any(isinstance(values, Range) for values in space.parameters.values()):
        raise UserError("a grid takes lists only, no range {low, high}.")
    _check_factors(backbone)
    _check_settings(method, settings)
    return space


def _mapping(where: str, content: Any, allowed: Iterable[str], kind: str = "key") -> dict[str, Any]:
    """Return the content if it is a mapping with allowed keys only; raises UserError."""
    names = list(allowed)
    if not isinstance(content, dict):
        raise UserError(f"{where} must be a mapping of {', '.join(names)}, got {content!r}.")
    for key in content:
        if key not in names:
            raise unknown(kind, str(key), names)
    return content


def _one_of(key: str, content: Mapping[str, Any], allowed: Iterable[str]) -> str:
    value = str(content.get(key, ""))
    if value not in allowed:
        raise unknown(key, value, allowed)
    return value


def _parameter(where: str, values: Any, type_hint: Any) -> Choices | Range:
    """Convert a list to choices and a mapping to a range, with values of the field's type."""
    try:
        if isinstance(values, list) and values:
            return _choices(values, type_hint)
        if isinstance(values, dict):
            return _range(
                _mapping(where, values, ("low", "high", "log", "step"), f"key of {where}"), type_hint
            )
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"{where}: {error}.") from None
    raise UserError(f"{where} must be a list of values or {{low: .., high: ..}}, got {values!r}.")


def _choices(values: list[Any], type_hint: Any) -> Choices:
    choices = tuple(sampler_value(typed(value, type_hint)) for value in values)
    if len(set(choices)) < len(choices):
        raise ValueError(f"values must be different, got {values!r}")
    return choices


def _range(bounds: Mapping[str, Any], type_hint: Any) -> Range:
    """Convert bounds to a range whose numbers are all integers or all floats; raises ValueError."""
    low, high, step = (bounds.get(key) for key in ("low", "high", "step"))
    if low is None or high is None or not all(is_number(x) for x in (low, high, step) if x is not None):
        raise ValueError(f"a range needs numbers for low and high (1.0e-3, not 1e-3), got {bounds}")
    if not (isinstance(low, int) and isinstance(high, int)):
        low, high, step = float(low) + 0.0, float(high) + 0.0, step and float(step)
    typed(low, type_hint)
    return Range(low, high, bounds.get("log", False), step)


def _check_factors(backbone: Mapping[str, Choices | Range]) -> None:
    for kind, values in backbone.items():
        for value in _ends(values):
            if not 0 <= value < math.inf or (value == 0 and kind == "learning_rate"):
                raise UserError(f"backbone.{kind} must be finite and > 0 (dropout may be 0), got {value}.")


def _check_settings(method: str, values: Mapping[str, Choices | Range]) -> None:
    """Raise UserError if the method's settings reject a combination of choices and ends of ranges."""
    types = field_types(method)
    ends = [[typed(value, types[name]) for value in _ends(kind)] for name, kind in values.items()]
    for point in itertools.islice(itertools.product(*ends), MAX_COMBINATIONS):
        try:
            METHODS[method].Settings(**dict(zip(values, point, strict=True)))
        except ValueError as error:
            raise UserError(f"{error}.") from None


def _ends(values: Choices | Range) -> list[Any]:
    return [values.low, values.high] if isinstance(values, Range) else list(values)
