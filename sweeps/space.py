"""Search spaces: the settings of a method and the factors on a backbone's settings that a sweep varies."""

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
DIGITS = 4  # no training can tell finer settings apart, and the names of runs stay readable
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
        step, bounds = self.step, f"low={self.low}, high={self.high}, log={self.log}, step={self.step}"
        if not -math.inf < self.low <= self.high < math.inf:
            raise ValueError(f"low must be at most high, both finite, got {bounds}")
        if not isinstance(self.log, bool) or (self.log and (self.low <= 0 or step is not None)):
            raise ValueError(f"log must be true or false, true with low > 0 and no step, got {bounds}")
        if step is not None and (not 0 < step < math.inf or (self.integer and not isinstance(step, int))):
            raise ValueError(f"step must be > 0 and finite, whole between integers, got {bounds}")
        if not (self.holds(self.low) and self.holds(self.high)):
            rule = f"have at most {DIGITS} significant digits" if step is None else "be whole steps apart"
            raise ValueError(f"low and high must {rule}, got {bounds}")

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
        return is_number(value) and self.low <= value <= self.high and self.exact(value) == value


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
        acting = {kind: values for kind, values in self.backbone.items() if any(_varied(cell, kind).values())}
        if not (self.settings or acting):
            raise UserError(f"Nothing that the search space {self.name} varies acts on {cell.backbone}.")
        return replace(self, backbone=acting)

    def default(self, cell: Cell) -> dict[str, Any]:
        """The values that leave the cell as it is, without those that the space does not hold."""
        own = {name: sampler_value(getattr(cell.method_settings, name)) for name in self.settings}
        own |= {FACTORS[kind]: 1.0 for kind in self.backbone}
        held = {
            name: own[name]
            for name, values in self.parameters.items()
            if (values.holds(own[name]) if isinstance(values, Range) else own[name] in values)
        }
        return self.exact(held)

    def apply(self, cell: Cell, values: Mapping[str, Any]) -> Cell:
        """The cell with these values; parameters without a value stay as they are in the cell.

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
        return {k: ranges[k].exact(v) if k in ranges and is_number(v) else v for k, v in values.items()}

    def _changes(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values in their fields' types, numbers as exact as their range."""
        types, changes = field_types(self.method), {}
        for name, value in self.exact(values).items():
            if name not in self.parameters:
                raise unknown(f"parameter of the search space {self.name}", name, self.parameters)
            changes[name] = typed(value, types.get(name, float))
        return changes

    def fields(self, cell: Cell) -> set[str]:
        """The fields of method and backbone that it varies on the cell's backbone."""
        return set(self.settings).union(*(_varied(cell, kind) for kind in self.backbone))

    def to_json(self) -> dict[str, Any]:
        """The space as JSON values; equal for equal spaces."""
        return dict(json.loads(json.dumps(asdict(self))))


def _varied(cell: Cell, kind: str) -> dict[str, float]:
    """The learning rates or dropouts of the cell's backbone, by field."""
    own = vars(cell.backbone_settings).items()
    return {name: value for name, value in own if name == kind or name.endswith(ENDINGS[kind])}


def _scaled(cell: Cell, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The same times their factors; dropouts up to 0.9, or to their own value where that is more."""
    products = {}
    for kind in [kind for kind, factor in FACTORS.items() if factor in changes]:
        for name, value in _varied(cell, kind).items():
            scaled = float(Decimal(str(value)) * Decimal(str(changes[FACTORS[kind]])))
            products[name] = min(scaled, max(MAX_DROPOUT, value)) if kind == "dropout" else scaled
    return products


def field_types(method: str) -> dict[str, Any]:
    """The types of a method's settings, by field."""
    types = get_type_hints(METHODS[method].Settings)
    return {f.name: types[f.name] for f in fields(METHODS[method].Settings)}


def typed(value: Any, type_hint: Any) -> Any:
    """The value in a field's type, an integer as a float where one is needed; raises ValueError."""
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
    raise ValueError(f"{value!r} is no {' or '.join(names)}")


def sampler_value(value: Any) -> Any:
    """A value as Optuna's samplers take it: lists as text."""
    return json.dumps(value) if isinstance(value, list) else value


def is_number(value: Any) -> bool:
    """Whether the value is a number and no boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool)
