"""Lookup of the tuned settings for each combination of method, backbone and dataset in a study."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from harness.config.tuned import Key, Tuned
from harness.errors import UserError
from harness.matrix import RESULTS_VERSION


@dataclass
class TunedLookup:
    """Files of tuned settings by combination, with a record of all lookups.

    argument_keys: keys set on the command line. results: answers of `file` so far, except for variants.
    """

    files: Mapping[Key, Tuned]
    argument_keys: Collection[str] = ()
    results: dict[Key, Tuned | None] = field(default_factory=dict)

    def file(self, method: str, backbone: str, label: str, dataset: str, fingerprint: str) -> Tuned | None:
        """Return the file for a method; None if the method is a variant or has no file.

        Raises:
            UserError: The file was tuned on other data, or sets a key that the command line sets too.
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
        conflicts = [name for name in keys if name in self.argument_keys]
        if conflicts:
            raise UserError(f"{conflicts[0]} is given, but {path!r} sets it too; leave out one of them.")
        return file

    def notes(self) -> tuple[str, ...]:
        """Return sentences on the number of tuned combinations, missing files and unequal budgets."""
        if not self.files:
            return ()
        if not self.results:
            return ("Tuned settings: none, because every method is a variant with its own settings.",)
        methods = dict.fromkeys(method for method, _, _ in self.results)
        without = "; ".join(filter(None, map(self._without_file, methods)))
        rest = f"; no tuned settings for: {without}" if without else ""
        used = sum(file is not None for file in self.results.values())
        return (
            f"Tuned settings: {used} of {len(self.results)} combinations{rest}.",
            *self._unequal_budgets(),
            *self._outdated(),
        )

    def _without_file(self, method: str) -> str:
        """List the combinations for which a method has no file; empty if it has all."""
        files = {
            f"{label}/{dataset}": file
            for (name, label, dataset), file in self.results.items()
            if name == method
        }
        missing = [combination for combination, file in files.items() if file is None]
        if len(missing) == len(files):
            return f"{method} (all)"
        return f"{method} on {', '.join(missing)}" if missing else ""

    def _unequal_budgets(self) -> Iterator[str]:
        """Report methods that were tuned with different budgets on the same backbone and dataset."""
        budgets: dict[str, set[str]] = {}
        for (_, label, dataset), file in self.results.items():
            if file is not None:
                budgets.setdefault(f"{label}/{dataset}", set()).add(file.budget)
        unequal = {combination: values for combination, values in budgets.items() if len(values) > 1}
        if unequal:
            values = "; ".join(sorted(set().union(*unequal.values())))
            yield f"Methods were tuned with different budgets on {', '.join(unequal)}: {values}."

    def _outdated(self) -> Iterator[str]:
        """Report settings that were chosen by results of another version."""
        files = [file for file in self.results.values() if file is not None]
        versions = {file.head.get("results_version", RESULTS_VERSION) for file in files} - {RESULTS_VERSION}
        if versions:
            yield (
                f"Some settings were tuned with results of version {', '.join(sorted(map(str, versions)))}; "
                f"the current version is {RESULTS_VERSION}. Tune again to use current results."
            )
