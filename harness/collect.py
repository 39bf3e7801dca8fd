"""``python -m harness.collect study=NAME [from=DIR ...]``: log the results that shards left as files.

Exit status: 0 if all files could be read, 1 if some were left out, 2 if the request is invalid.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from harness.cli import importing, leave, make_console, run_command, shell_command

HELP = """\
usage: python -m harness.collect study=NAME [from=DIR ...] [KEY=VALUE ...]

Logs the results of shards (python -m harness.benchmark shard=1/4 ...) to MLflow, each cell once. Call it as
often as you like, also while shards still run. Files stay where they are.

  from=DIR                          a folder of results, or a copied var_dir; default: var_dir/shards/NAME
  plugins=[my_mix.py]               those of the shards
  var_dir=DIR tracking.uri=URI ledger.uri=URI
                                    the study's stores, as for python -m harness.benchmark"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(_run, sys.argv[1:] if arguments is None else arguments, HELP)


def _run(arguments: Sequence[str]) -> int:
    with importing():
        from harness.config.compose import load_collect, path_of, var_path

        config = load_collect([text for text in arguments if not text.startswith("from=")])
        given = [path_of(text.partition("=")[2]) for text in arguments if text.startswith("from=")]
        from harness.shards.collect import collect, find, folders_of, missing
        from harness.study.display import LiveDisplay
        from harness.tracking.tracker import Tracker

    console, var_dir = make_console(), var_path(config)
    found = find(folders_of(var_dir, config.study, given))
    for sentence in found.refused:
        console.print(sentence, style="yellow", markup=False, soft_wrap=True)
    tracker = Tracker(config.tracking.uri, var_dir, config.study)
    with LiveDisplay(console) as display:
        outcome = collect(config, tracker, found, display)
    counts = f"{outcome.done_before} were logged before"
    counts += f"; {len(outcome.failed)} diverged" if outcome.failed else ""
    console.print(f"Logged {outcome.reused} cells of study {config.study!r}; {counts}.", markup=False)
    if left := missing(tracker):
        console.print(left, markup=False, highlight=False, soft_wrap=True)
    build = shell_command("report", "reports.build", config.study, tracker.located())
    console.print(f"Build the report with `{build}`.", markup=False, highlight=False, soft_wrap=True)
    return 1 if found.refused else 0


if __name__ == "__main__":
    leave(main())
