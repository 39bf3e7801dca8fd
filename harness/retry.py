"""Retries of calls to stores, with exponential backoff."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from harness.databases import is_damage, remedy
from harness.errors import StoreError
from harness.interrupts import interrupts_held

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0

Call = Callable[[Callable[[], Any]], Any]
P = ParamSpec("P")
T = TypeVar("T")


def once(action: Callable[[], T]) -> T:
    """Call an action without retries, which is the default of stores."""
    return action()


class Retry:
    """Retries of idempotent actions with exponential backoff, until their store answers.

    All stores of a driver share one object: of nested calls, only the outermost is retried.

    Args:
        patience_s: seconds of retries before `StoreError` is raised; a damaged file is not retried.
        report: called before each wait, with the reason and the seconds.
        unlogged: returns the state of results that are not logged yet, as the end of a sentence.
    """

    def __init__(
        self, patience_s: float, report: Callable[[str, float], None], unlogged: Callable[[], str]
    ) -> None:
        self.patience_s, self.report, self.unlogged = patience_s, report, unlogged
        self._calling = False

    def __call__(self, action: Callable[[], T]) -> T:
        """Call an action with retries; raise `StoreError` after ``patience_s``."""
        if self._calling:
            return action()
        give_up_at, wait_s = time.monotonic() + self.patience_s, FIRST_WAIT_S
        while True:
            try:
                return self._call(action)
            except StoreError as error:
                reason = f"{error}{remedy(str(error))}; {self.unlogged()}"
                if is_damage(reason) or time.monotonic() + wait_s > give_up_at:
                    raise StoreError(reason) from error
            self.report(reason, wait_s)
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _call(self, action: Callable[[], T]) -> T:
        self._calling = True
        try:
            with interrupts_held():
                return action()
        finally:
            self._calling = False


class Retrying(Protocol):
    """A store whose calls are retried."""

    @property
    def retry(self) -> Call:
        """`once`, or a `Retry`."""


S = TypeVar("S", bound=Retrying)


def retried(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Decorate a method of a store so that it is called through the store's attribute ``retry``."""

    @functools.wraps(method)
    def call(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = self.retry(lambda: method(self, *args, **kwargs))
        return result

    return call
