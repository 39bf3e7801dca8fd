"""Search spaces: settings of a method and factors on a backbone's settings that a sweep varies."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from decimal import Decimal
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from harness.errors import UserError, unknown
from harness.matrix import Cell
from methods import METHODS

FACTORS = {"learning_rate": "learning_rate_factor", "dropout": "dropout_factor"}
ENDINGS = {"learning_rate": ("_lr", "_learning_rate"), "dropout": ("dropout",)}
MAX_DROPOUT = 0.9
DIGITS = 4  # finer differences do not matter in training and would make names of runs long
Choices = tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, integers if both ends are. log: sample uniformly in the logarithm.

    A range holds low plus whole multiples of step or, without a step, numbers of four significant digits.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        step, bounds = self.step, f"low={self.low}, high={self.high}, log={self.log}, step={self.step}"
        if not -math.inf < self.low <= self.high < math.inf:
            raise ValueError(f"low must be at most high, and both finite, got {bounds}")
        if not isinstance(self.log, bool) or (self.log and (self.low <= 0 or step is not None)):
            raise ValueError(f"log must be true or false; true needs low > 0 and no step, got {bounds}")
        if step is not None and (not 0 < step < math.inf or (self.integer and not isinstance(step, int))):
            raise ValueError(f"step must be > 0 and finite, and an integer if low and high are, got {bounds}")
        if not (self.holds(self.low) and self.holds(self.high)):
            rule = f"have at most {DIGITS} significant digits" if step is None else "be whole steps apart"
            raise ValueError(f"low and high must {rule}, got {bounds}")

    @property
    def integer(self) -> bool:
        """Whether the range holds integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def exact(self, value: float) -> float:
        """Round a value to the range's step or digits, without clipping it to the range's ends."""
        if not (self.integer or self.step is not None):
            return float(f"{value:.{DIGITS}g}")
        # Use decimals, because in floats 0.1 + 12 * 0.05 differs from 0.7 and would be another cell.
        low, step = Decimal(str(self.low)), Decimal(str(self.step or 1))
        number = low + step * round((Decimal(str(value)) - low) / step)
        return int(number) if self.integer else float(number)

    def holds(self, value: Any) -> bool:
        """Return whether the value is one of the range's numbers."""
        return is_number(value) and self.low <= value <= self.high and self.exact(value) == value


@dataclass(frozen=True)
class Space:
    """A search space: values for settings of a method and for factors on the backbone's own values, ordered.

    settings: field of the method's Settings -> values. backbone: "learning_rate" or "dropout" -> factors.
    """

    name: str
    method: str
    sampler: str
    settings: Mapping[str, Choices | Range] = field(default_factory=dict)
    backbone: Mapping[str, Choices | Range] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, Choices | Range]:
        """Name of each parameter, as the sampler sees it -> its values."""
        return {**self.settings, **{FACTORS[kind]: values for kind, values in self.backbone.items()}}

    def points(self) -> list[dict[str, Any]]:
        """Return all combinations of a grid; the first parameter varies slowest."""
        assert self.sampler == "grid", "only a grid has points"
        values = [choices for choices in self.parameters.values() if isinstance(choices, tuple)]
        return [dict(zip(self.parameters, point, strict=True)) for point in itertools.product(*values)]

    def for_backbone(self, cell: Cell) -> Space:
        """Return the space without factors that the cell's backbone lacks; UserError if none is left."""
        acting = {kind: values for kind, values in self.backbone.items() if any(_varied(cell, kind).values())}
        if not (self.settings or acting):
            raise UserError(f"No parameter of the search space {self.name} has an effect on {cell.backbone}.")
        return replace(self, backbone=acting)

    def default(self, cell: Cell) -> dict[str, Any]:
        """Return the parameter values that leave the cell unchanged, without values outside of the space."""
        own = {name: sampler_value(getattr(cell.method_settings, name)) for name in self.settings}
        own |= {FACTORS[kind]: 1.0 for kind in self.backbone}
        held = {
            name: own[name]
            for name, values in self.parameters.items()
            if (values.holds(own[name]) if isinstance(values, Range) else own[name] in values)
        }
        return self.exact(held)

    def apply(self, cell: Cell, values: Mapping[str, Any]) -> Cell:
        """Return the cell with these values; other parameters keep the cell's values.

        Raises UserError for an unknown parameter and for a value that the settings reject.
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
        """Return the values with numbers rounded by their ranges."""
        ranges = {name: kind for name, kind in self.parameters.items() if isinstance(kind, Range)}
        return {k: ranges[k].exact(v) if k in ranges and is_number(v) else v for k, v in values.items()}

    def _changes(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values rounded by their ranges and converted to the types of their fields."""
        types, changes = field_types(self.method), {}
        for name, value in self.exact(values).items():
            if name not in self.parameters:
                raise unknown(f"parameter of the search space {self.name}", name, self.parameters)
            changes[name] = typed(value, types.get(name, float))
        return changes

    def fields(self, cell: Cell) -> set[str]:
        """Return the fields of method and backbone settings that the space varies for this cell."""
        return set(self.settings).union(*(_varied(cell, kind) for kind in self.backbone))

    def to_json(self) -> dict[str, Any]:
        """Return the space as JSON values; equal spaces give equal values."""
        return dict(json.loads(json.dumps(asdict(self))))


def _varied(cell: Cell, kind: str) -> dict[str, float]:
    """Return the cell's backbone settings that are learning rates or dropouts: field -> value."""
    own = vars(cell.backbone_settings).items()
    return {name: value for name, value in own if name == kind or name.endswith(ENDINGS[kind])}


def _scaled(cell: Cell, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Multiply backbone settings by their factors; dropouts are capped at 0.9 or their original value."""
    products = {}
    for kind in [kind for kind, factor in FACTORS.items() if factor in changes]:
        for name, value in _varied(cell, kind).items():
            scaled = float(Decimal(str(value)) * Decimal(str(changes[FACTORS[kind]])))
            products[name] = min(scaled, max(MAX_DROPOUT, value)) if kind == "dropout" else scaled
    return products


def field_types(method: str) -> dict[str, Any]:
    """Return field of the method's settings -> type."""
    types = get_type_hints(METHODS[method].Settings)
    return {f.name: types[f.name] for f in fields(METHODS[method].Settings)}


def typed(value: Any, type_hint: Any) -> Any:
    """Convert a value to a field's type, for example an integer to a float; raises ValueError."""
    kinds = get_args(type_hint) if get_origin(type_hint) in (Union, UnionType) else (type_hint,)
    for kind in kinds:
        if kind is float and is_number(value):
            return float(value) + 0.0  # -0.0 would be another cell than 0.0
        if type(value) is kind:
            return value
        if get_origin(kind) is list:
            elements = json.loads(value) if isinstance(value, str) else value
            if isinstance(elements, list):
                return [typed(element, get_args(kind)[0]) for element in elements]
    names = [getattr(kind, "__name__", str(kind)) for kind in kinds]
    raise ValueError(f"{value!r} is not of type {' or '.join(names)}")


def sampler_value(value: Any) -> Any:
    """Convert a value for Optuna's samplers: a list becomes JSON text."""
    return json.dumps(value) if isinstance(value, list) else value


def is_number(value: Any) -> bool:
    """Return whether the value is an int or a float, but not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool)
