"""``python -m reports.build study=NAME``: tables of the study and its sweeps from MLflow; trains nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.tracking import Tracker


def build(tracker: Tracker, folder: Path) -> list[Path]:
    """Write the tables (main, occlusion, one per sweep) as CSV, Markdown and LaTeX; returns the files."""
    from backbones import BACKBONES
    from methods import METHODS
    from reports import sweeps
    from reports.frame import load_frame, metric_kinds
    from reports.tables import main_numbers, occlusion_numbers, to_csv, to_latex, to_markdown

    frame, kinds, order = load_frame(tracker), metric_kinds(tracker), [*BACKBONES, *METHODS]
    tables = folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    written = []
    for name, title, numbers in (
        ("main", f"Study {tracker.study}: results on the test split", main_numbers(frame, kinds, order)),
        (
            "occlusion",
            f"Study {tracker.study}: results under occlusion",
            occlusion_numbers(frame, kinds, order),
        ),
    ):
        texts = {"csv": to_csv(numbers), "md": to_markdown(numbers, title), "tex": to_latex(numbers, title)}
        for ending, text in texts.items():
            written.append(tables / f"{name}.{ending}")
            written[-1].write_text(text, encoding="utf-8")
    return [*written, *sweeps.write(tracker, folder)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status (2: the request is wrong)."""
    from harness.config import load_report, path_of
    from harness.errors import StoreError, UserError
    from harness.tracking import Tracker

    try:
        config = load_report(sys.argv[1:] if arguments is None else arguments)
        tracker = Tracker(config.tracking.uri, path_of(config.var_dir), str(config.study), create=False)
        for path in build(tracker, tracker.folder("reports")):
            print(path)
    except (UserError, StoreError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
