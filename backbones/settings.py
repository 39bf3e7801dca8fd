"""Checks of the settings of backbones and methods."""

from __future__ import annotations

from typing import Any


def check(settings: Any, name: str, holds: bool, allowed: str) -> None:
    """Raise a ValueError with the setting, its value and what is allowed, unless the condition holds."""
    if not holds:
        raise ValueError(f"{name} must be {allowed}, however: {name}={getattr(settings, name)!r}")
