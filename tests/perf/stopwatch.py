"""Adding up the time spent in chosen functions while other code calls them."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Watched = Mapping[str, tuple[Any, Sequence[str]]]
"""What is watched, by the name of the sum: a class or module, and functions there."""


@contextlib.contextmanager
def watched(calls: Watched) -> Iterator[dict[str, float]]:
    """Give the seconds spent in each group of calls, those that they make in turn included."""
    spent = dict.fromkeys(calls, 0.0)
    with contextlib.ExitStack() as stack:
        for label, (home, names) in calls.items():
            for name in names:
                plain = getattr(home, name)
                setattr(home, name, _timed(plain, label, spent))
                stack.callback(setattr, home, name, plain)
        yield spent


def _timed(function: Callable[..., Any], label: str, spent: dict[str, float]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[label] += time.perf_counter() - started

    return call
