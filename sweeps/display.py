"""Progress of a sweep on the console (trials done, best so far, time left), and its closing lines."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from harness.matrix import Cell, readable_settings
from harness.metrics import DIRECTION
from harness.study.display import LiveDisplay, escape
from harness.tracking.tags import Trial


class SweepDisplay(LiveDisplay):
    """Progress display that counts trials, not cells; a failed trial shows the reason of its failed cell."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, "trials")
        self.best: dict[str, Trial] = {}

    def trials(self, total: int, ended: Sequence[Trial]) -> None:
        """Start the progress bar with the trials that have already ended."""
        for trial in ended:
            self._compare(trial)
        self.total, self.done, self.done_before, self.since = total, len(ended), len(ended), time.monotonic()
        self.progress.update(self.task, total=total, completed=self.done)
        if not self.console.is_terminal and self.done < total:
            self.console.print(f"{self.done} of {total} trials are done.", highlight=False)

    def trial_started(self, trial: str) -> None:
        """Show the trial's name until there is a best trial to show."""
        if not self.best:
            self.progress.update(self.task, now=escape(trial))

    def trial_ended(self, trial: Trial) -> None:
        """Count a trial and print how it ended."""
        self.done += 1
        self._compare(trial)
        left = f"{self._left_s():.0f} s left" if self.done < self.total else ""
        best = self.best.get(trial.search)
        so_far = f"best {best.value:.4f} at {short(best.values)}" if best else ""
        self.progress.update(self.task, completed=self.done, left=left, now=escape(so_far))
        if trial.state == "failed":
            line = f"[red]failed[/red] {escape(trial.run_name)}: {escape(trial.reason)}"
            self.console.print(line, soft_wrap=True)
        elif not self.console.is_terminal:
            value = trial.state if trial.value is None else f"{trial.objective} {trial.value:.4f}"
            where = f"{trial.base.dataset}/{trial.base.backbone_label}/{trial.base.method}"
            line = f"{self.done}/{self.total} {where}{short(trial.values)}: {value}; {so_far} {left}"
            self.console.print(escape(line), soft_wrap=True, highlight=False)

    def begin(self, total: int, done: int, left: Iterable[Cell] = ()) -> None:
        """Do nothing: the display counts trials, not cells."""

    def started(self, cell: Cell) -> None:
        """Do nothing: the display shows trials, not cells."""

    def ended(self, cell: Cell, note: str) -> None:
        """Do nothing: a failed cell may be retried; `trial_ended` prints the reason if its trial fails."""

    def _compare(self, trial: Trial) -> None:
        best = self.best.get(trial.search)
        if trial.state == "complete" and (best is None or merit(trial) > merit(best)):
            self.best[trial.search] = trial


def short(values: Mapping[str, Any]) -> str:
    """Format parameters for people, floats with four significant digits."""
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in values.items()}
    return readable_settings(rounded)


def merit(trial: Trial) -> float:
    """Return the objective's value of a complete trial, negated if lower is better."""
    assert trial.value is not None, "a complete trial has a value"
    return DIRECTION[trial.objective.partition("/")[2]] * trial.value


def closing_lines(records: Iterable[Trial]) -> Iterator[str]:
    """Yield lines for each search: how its trials ended, the best setting, and the default setting."""
    searches: dict[str, list[Trial]] = {}
    for record in records:
        searches.setdefault(record.search, []).append(record)
    for trials in searches.values():
        base, complete = trials[0].base, [t for t in trials if t.state == "complete"]
        counts = {state: sum(t.state == state for t in trials) for state in ("complete", "pruned", "failed")}
        numbers = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        note = " (synthetic stand-in data)" if trials[0].synthetic else ""
        yield f"{trials[0].sweep} on {base.backbone_label}, {base.dataset}{note}: {numbers}"
        best, default = max(complete, key=merit, default=None), next((t for t in complete if t.default), None)
        for name, trial in (("best", best), ("default", default)):
            if trial is None:
                continue
            error = f"test MAE {trial.metrics.get('test/mae', float('nan')):.4f}"
            yield f"  {name:<8}{trial.objective} {trial.value:.4f}  {error}  {short(trial.values)}"
