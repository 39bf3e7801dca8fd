"""Which combinations of a study take tuned settings from a file, and which do not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from harness.config.tuned import Key, Tuned
from harness.errors import UserError
from harness.matrix import RESULTS_VERSION


@dataclass
class TunedLookup:
    """Finds the file of a combination and remembers all combinations that were asked for.

    given: keys that the user gave on the command line. results: what `file` has answered, but for variants.
    """

    files: Mapping[Key, Tuned]
    given: Collection[str] = ()
    results: dict[Key, Tuned | None] = field(default_factory=dict)

    def file(self, method: str, backbone: str, label: str, dataset: str, fingerprint: str) -> Tuned | None:
        """The file for a method as the request spells it; None for a variant, or where there is none.

        Raises:
            UserError: it was tuned on other data, or sets what the user gave.
        """
        if not self.files or set("{[") & set(method):
            return None
        key = (method, label, dataset)
        file = self.results[key] = self.files.get(key)
        if file is None:
            return None
        path = str(file.path)
        if file.head["fingerprint"] != fingerprint:
            raise UserError(
                f"{path!r} was tuned on other data than {dataset} has now; tune again or remove it."
            )
        keys = [f"method.{method}.{name}" for name in file.method]
        keys += [f"backbone.{backbone}.{name}" for name in file.backbone]
        twice = [name for name in keys if name in self.given]
        if twice:
            raise UserError(f"{twice[0]} is given, but {path!r} sets it; leave one of them out.")
        return file

    def notes(self) -> tuple[str, ...]:
        """Sentences for the user: how many combinations are tuned, which are not, unequal budgets."""
        if not self.files:
            return ()
        if not self.results:
            return ("Tuned settings: none, as every method is given with settings of its own.",)
        methods = dict.fromkeys(method for method, _, _ in self.results)
        without = "; ".join(filter(None, map(self._without_file, methods)))
        rest = f"; the configuration's own for: {without}" if without else ""
        used = sum(file is not None for file in self.results.values())
        return (
            f"Tuned settings: {used} of {len(self.results)} combinations{rest}.",
            *self._unequal_budgets(),
            *self._outdated(),
        )

    def _without_file(self, method: str) -> str:
        """Where a method has no file, in words; empty where it always has one."""
        files = {
            f"{label}/{dataset}": file
            for (name, label, dataset), file in self.results.items()
            if name == method
        }
        without = [place for place, file in files.items() if file is None]
        if len(without) == len(files):
            return f"{method} (all)"
        return f"{method} on {', '.join(without)}" if without else ""

    def _unequal_budgets(self) -> Iterator[str]:
        """Where methods were tuned with different budgets; those of two backbones may well differ."""
        budgets: dict[str, set[str]] = {}
        for (_, label, dataset), file in self.results.items():
            if file is not None:
                budgets.setdefault(f"{label}/{dataset}", set()).add(file.budget)
        unequal = {place: values for place, values in budgets.items() if len(values) > 1}
        if unequal:
            values = "; ".join(sorted(set().union(*unequal.values())))
            yield f"Methods were tuned with different budgets on {', '.join(unequal)}: {values}."

    def _outdated(self) -> Iterator[str]:
        """Where settings were chosen by results of another version."""
        files = [file for file in self.results.values() if file is not None]
        versions = {file.head.get("results_version", RESULTS_VERSION) for file in files} - {RESULTS_VERSION}
        if versions:
            yield (
                f"Some were chosen by results of version {', '.join(sorted(map(str, versions)))}, and this "
                f"program computes version {RESULTS_VERSION}; tune again to choose by its own."
            )
