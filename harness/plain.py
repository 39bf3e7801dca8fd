"""Reading JSON of our own: plain values, or a ValueError, whatever stands in the file."""

from __future__ import annotations

import json
from typing import Any


def load_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
