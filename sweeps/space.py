"""Search spaces: one YAML file each in `sweeps/spaces`, data that is checked against the method's settings.

    method: ms_mix                # a name of the registry
    sampler: tpe                  # grid: every combination | tpe: as many trials as the budget has
    settings:                     # of the method, by the fields of its Settings
      heads: [1, 2, 4, 8]         # a list: choices; lists as choices are shown to the sampler as JSON text
      alpha: {low: 0.1, high: 8.0, log: true}
    backbone:                     # factors on the backbone's own values
      learning_rate: {low: 0.2, high: 5.0, log: true}
      dropout: {low: 0.0, high: 1.5, step: 0.1}

A range {low, high[, log][, step]} is of integers where both ends are. A grid has lists only.
No file here varies `mode` or `mix_loss`: they are the protocol, the same for all methods that are compared.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from decimal import Decimal
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from harness.config.compose import path_of
from harness.config.safe_yaml import compose_yaml, load_yaml
from harness.errors import UserError, unknown
from harness.matrix import Cell
from methods import METHODS

FOLDER = Path(__file__).parent / "spaces"
FIGURES = ("delta", "xi", "alpha", "heads")
ALIASES = {"all": "ms_mix"}
SAMPLERS = ("grid", "tpe")
KEYS = ("method", "sampler", "settings", "backbone")
FACTORS = {"learning_rate": "learning_rate_factor", "dropout": "dropout_factor"}
ENDINGS = {"learning_rate": ("_lr", "_learning_rate"), "dropout": ("dropout",)}
MAX_DROPOUT = 0.9
DIGITS = 4  # no training can tell finer settings apart, and the names of runs stay readable
MAX_CHECKED = 10_000  # combinations; what is not checked when a file is read is when it is applied

# The figures' spaces, their aliases, the methods', then any other file.
FILES = {path.stem for path in FOLDER.glob("*.yaml")}
ORDERED = [name for name in (*FIGURES, *ALIASES, *METHODS) if name in FILES or name in ALIASES]
SPACES = (*ORDERED, *sorted(FILES - set(ORDERED)))
Choices = tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, integers where both ends are; log: drawn evenly in the logarithm.

    It holds low and whole steps from there or, without a step, numbers of four significant digits.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        step, given = self.step, f"low={self.low}, high={self.high}, log={self.log}, step={self.step}"
        if not -math.inf < self.low <= self.high < math.inf:
            raise ValueError(f"low must be at most high, both finite, however: {given}")
        if not isinstance(self.log, bool) or (self.log and (self.low <= 0 or step is not None)):
            raise ValueError(f"log must be true or false, true with low > 0 and no step, however: {given}")
        if step is not None and (not 0 < step < math.inf or (self.integer and not isinstance(step, int))):
            raise ValueError(f"step must be > 0 and finite, whole between integers, however: {given}")
        if not (self.holds(self.low) and self.holds(self.high)):
            wanted = f"have at most {DIGITS} significant digits" if step is None else "be whole steps apart"
            raise ValueError(f"low and high must {wanted}, however: {given}")

    @property
    def integer(self) -> bool:
        """Whether it is a range of integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def exact(self, value: float) -> float:
        """The number nearest to the value among those of the range, continued beyond its ends."""
        if not (self.integer or self.step is not None):
            return float(f"{value:.{DIGITS}g}")
        # Decimals, as 0.1 + 12 * 0.05 in binary is another number than 0.7, so would be another cell.
        low, step = Decimal(str(self.low)), Decimal(str(self.step or 1))
        number = low + step * round((Decimal(str(value)) - low) / step)
        return int(number) if self.integer else float(number)

    def holds(self, value: Any) -> bool:
        """Whether the value is one of its numbers."""
        return _is_number(value) and self.low <= value <= self.high and self.exact(value) == value


@dataclass(frozen=True)
class Space:
    """What a sweep varies: settings of a method and factors on the backbone's own values, in order.

    settings: by field of the method's Settings. backbone: by "learning_rate" and "dropout".
    """

    name: str
    method: str
    sampler: str
    settings: Mapping[str, Choices | Range] = field(default_factory=dict)
    backbone: Mapping[str, Choices | Range] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, Choices | Range]:
        """All parameters by the name that the sampler sees."""
        return {**self.settings, **{FACTORS[kind]: values for kind, values in self.backbone.items()}}

    def points(self) -> list[dict[str, Any]]:
        """Every combination of a grid, the first parameter slowest."""
        assert self.sampler == "grid", "only a grid has points"
        values = [choices for choices in self.parameters.values() if isinstance(choices, tuple)]
        return [dict(zip(self.parameters, point, strict=True)) for point in itertools.product(*values)]

    def for_backbone(self, cell: Cell) -> Space:
        """The same without factors that cannot act on the cell's backbone; UserError if none is left."""
        acting = {kind: values for kind, values in self.backbone.items() if any(_own(cell, kind).values())}
        if not (self.settings or acting):
            raise UserError(f"Nothing that the search space {self.name} varies acts on {cell.backbone}.")
        return replace(self, backbone=acting)

    def default(self, cell: Cell) -> dict[str, Any] | None:
        """The values that leave the cell as it is, those that the space holds; None where it holds none."""
        own = {name: _shown(getattr(cell.method_settings, name)) for name in self.settings}
        own |= {FACTORS[kind]: 1.0 for kind in self.backbone}
        kinds = self.parameters.items()
        held = [k for k, v in kinds if (v.holds(own[k]) if isinstance(v, Range) else own[k] in v)]
        return self.exact({name: own[name] for name in held}) or None

    def apply(self, cell: Cell, values: Mapping[str, Any]) -> Cell:
        """The cell with these values; a parameter not given stays as it is in the cell.

        Raises UserError for an unknown parameter and for a value that the settings refuse.
        """
        assert cell.method == self.method, f"a cell of {cell.method} in a space of {self.method}"
        try:
            changes = self._changes(values)
            method = {name: value for name, value in changes.items() if name in self.settings}
            return replace(
                cell,
                method_settings=replace(cell.method_settings, **method),
                backbone_settings=replace(cell.backbone_settings, **_scaled(cell, changes)),
            )
        except (ValueError, ArithmeticError) as error:
            raise UserError(f"The search space {self.name} cannot be applied: {error}.") from None

    def exact(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values as they act: numbers as exact as their range."""
        ranges = {name: kind for name, kind in self.parameters.items() if isinstance(kind, Range)}
        return {k: ranges[k].exact(v) if k in ranges and _is_number(v) else v for k, v in values.items()}

    def _changes(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values in their fields' types, numbers as exact as their range."""
        hints, changes = _hints(self.method), {}
        for name, value in self.exact(values).items():
            if name not in self.parameters:
                raise unknown(f"parameter of the search space {self.name}", name, self.parameters)
            changes[name] = _typed(value, hints.get(name, float))
        return changes

    def fields(self, cell: Cell) -> set[str]:
        """The fields of method and backbone that it varies on the cell's backbone."""
        return set(self.settings).union(*(_own(cell, kind) for kind in self.backbone))

    def plain(self) -> dict[str, Any]:
        """The space in terms of JSON; equal for equal spaces."""
        return dict(json.loads(json.dumps(asdict(self))))


def load_space(name: str) -> Space:
    """The search space of a name in `SPACES`, or at a path that ends in .yaml or .yml; raises UserError."""
    if name.endswith((".yaml", ".yml")):
        return read_space(path_of(name))
    if name not in SPACES:
        raise unknown("search space", name, SPACES)
    return read_space(FOLDER / f"{ALIASES.get(name, name)}.yaml")


def read_space(path: Path) -> Space:
    """The search space in a file, named by the file; raises UserError with what is wrong with it."""
    try:
        return _space(path.stem, _content(path))
    except UserError as error:
        raise UserError(f"Search space {path}: {error}") from None


def _content(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        _check_keys_once(compose_yaml(text))
        return load_yaml(text)
    except FileNotFoundError:
        raise UserError(f"There is no such file; names of search spaces: {', '.join(SPACES)}.") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else str(error)
        raise UserError(f"It cannot be read as YAML ({reason.splitlines()[0]}).") from None


def _check_keys_once(node: yaml.Node | None) -> None:
    """Refuse a key that stands twice in a mapping, where YAML would silently take the last."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if str(key.value) in seen:
                raise UserError(f"{key.value!r} stands twice, in line {key.start_mark.line + 1} again.")
            seen.add(str(key.value))
            _check_keys_once(value)


def _space(name: str, content: Any) -> Space:
    content = _mapping("A search space", content, KEYS)
    method = _one_of("method", content, METHODS)
    sampler = _one_of("sampler", content, SAMPLERS)
    hints = _hints(method)
    given = _mapping("settings", content.get("settings", {}), hints, f"setting of {method}")
    settings = {key: _parameter(f"settings.{key}", values, hints[key]) for key, values in given.items()}
    given = _mapping("backbone", content.get("backbone", {}), FACTORS)
    backbone = {key: _parameter(f"backbone.{key}", values, float) for key, values in given.items()}
    space = Space(name, method, sampler, settings, backbone)
    if not space.parameters:
        raise UserError("It varies nothing; settings or backbone must name a parameter.")
    if sampler == "grid" and any(isinstance(values, Range) for values in space.parameters.values()):
        raise UserError("A grid takes lists only, no range {low, high}.")
    _check_factors(backbone)
    _check_settings(method, settings)
    return space


def _mapping(where: str, content: Any, allowed: Iterable[str], kind: str = "key") -> dict[str, Any]:
    """A mapping with known keys only."""
    names = list(allowed)
    if not isinstance(content, dict):
        raise UserError(f"{where} must be a mapping of {', '.join(names)}, however: {content!r}.")
    for key in content:
        if key not in names:
            raise unknown(kind, str(key), names)
    return content


def _one_of(key: str, content: Mapping[str, Any], allowed: Iterable[str]) -> str:
    value = str(content.get(key, ""))
    if value not in allowed:
        raise unknown(key, value, allowed)
    return value


def _parameter(where: str, given: Any, hint: Any) -> Choices | Range:
    """Choices from a list, a range from a mapping, of the field's type."""
    try:
        if isinstance(given, list) and given:
            return _choices(given, hint)
        if isinstance(given, dict):
            return _range(_mapping(where, given, ("low", "high", "log", "step"), f"key of {where}"), hint)
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"{where}: {error}.") from None
    raise UserError(f"{where} must be a list of values or {{low: .., high: ..}}, however: {given!r}.")


def _choices(given: list[Any], hint: Any) -> Choices:
    choices = tuple(_shown(_typed(value, hint)) for value in given)
    if len(set(choices)) < len(choices):
        raise ValueError(f"a value stands twice in {given!r}")
    return choices


def _range(bounds: Mapping[str, Any], hint: Any) -> Range:
    """A range whose numbers are all integers or all floats."""
    low, high, step = (bounds.get(key) for key in ("low", "high", "step"))
    if low is None or high is None or not all(_is_number(x) for x in (low, high, step) if x is not None):
        raise ValueError(f"a range needs numbers for low and high (1.0e-3, not 1e-3), however: {bounds}")
    if not (isinstance(low, int) and isinstance(high, int)):
        low, high, step = float(low) + 0.0, float(high) + 0.0, step and float(step)
    _typed(low, hint)
    return Range(low, high, bounds.get("log", False), step)


def _check_factors(backbone: Mapping[str, Choices | Range]) -> None:
    for kind, values in backbone.items():
        for value in _ends(values):
            if not 0 <= value < math.inf or (value == 0 and kind == "learning_rate"):
                raise UserError(f"backbone.{kind} must be finite and > 0 (dropout: >= 0), however: {value}.")


def _check_settings(method: str, values: Mapping[str, Choices | Range]) -> None:
    """Whether the settings take all combinations of choices and ends of ranges."""
    hints = _hints(method)
    ends = [[_typed(value, hints[name]) for value in _ends(kind)] for name, kind in values.items()]
    for point in itertools.islice(itertools.product(*ends), MAX_CHECKED):
        try:
            METHODS[method].Settings(**dict(zip(values, point, strict=True)))
        except ValueError as error:
            raise UserError(f"{error}.") from None


def _ends(values: Choices | Range) -> list[Any]:
    return [values.low, values.high] if isinstance(values, Range) else list(values)


def _own(cell: Cell, kind: str) -> dict[str, float]:
    """The learning rates or dropouts of the cell's backbone, by field."""
    own = vars(cell.backbone_settings).items()
    return {name: value for name, value in own if name == kind or name.endswith(ENDINGS[kind])}


def _scaled(cell: Cell, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The same times their factors; dropouts up to 0.9, or to their own value where that is more."""
    found = {}
    for kind in [kind for kind, factor in FACTORS.items() if factor in changes]:
        for name, value in _own(cell, kind).items():
            scaled = float(Decimal(str(value)) * Decimal(str(changes[FACTORS[kind]])))
            found[name] = min(scaled, max(MAX_DROPOUT, value)) if kind == "dropout" else scaled
    return found


def _hints(method: str) -> dict[str, Any]:
    """The types of a method's settings, by field."""
    hints = get_type_hints(METHODS[method].Settings)
    return {f.name: hints[f.name] for f in fields(METHODS[method].Settings)}


def _typed(value: Any, hint: Any) -> Any:
    """The value in a field's type, an integer as a float where one is needed; raises ValueError."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for kind in kinds:
        if kind is float and _is_number(value):
            return float(value) + 0.0  # -0.0 would be another cell than 0.0
        if type(value) is kind:
            return value
        if get_origin(kind) is list:
            elements = json.loads(value) if isinstance(value, str) else value
            if isinstance(elements, list):
                return [_typed(element, get_args(kind)[0]) for element in elements]
    names = [getattr(kind, "__name__", str(kind)) for kind in kinds]
    raise ValueError(f"{value!r} is no {' or '.join(names)}")


def _shown(value: Any) -> Any:
    """A value as the sampler sees it: lists as text."""
    return json.dumps(value) if isinstance(value, list) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
