"""Validation of the settings of backbones and methods."""

from __future__ import annotations

from math import inf
from typing import Any


def check(settings: Any, name: str, holds: bool, allowed: str) -> None:
    """Raise a ValueError that says what is allowed for the setting ``name``, unless ``holds`` is true."""
    if not holds:
        raise ValueError(f"{name} must be {allowed}, got {getattr(settings, name)!r}")


def check_not_negative(settings: Any, *names: str) -> None:
    """Raise a ValueError unless these settings are >= 0 and finite."""
    for name in names:
        check(settings, name, 0 <= getattr(settings, name) < inf, ">= 0 and finite")
