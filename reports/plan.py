"""``python -m reports.plan study=NAME gain=0.02``: how many seeds a study needs to find a gain.

The variances of seeds and videos come from a pilot, whose cells also tell how long a cell takes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness.cli import asks_for_help, importing, leave

if TYPE_CHECKING:
    from harness.config.schema import ReportConfig
    from reports.runs.study import Study
    from reports.stats.noise import Noise

HELP = """\
usage: python -m reports.plan study=NAME gain=0.02 [KEY=VALUE ...]

Reads variances and times from the cells of a study, and says how many seeds find a gain over none.

  gain=0.02 metric=mae              the gain of a method, and its metric (default: mae)
  report.baseline=mixup             a gain over this method (default: none)
  var_dir=DIR tracking.uri=URI      location of the study's results (default: var)"""
MOST_SEEDS = 1000
PER_HOUR = 3600


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status (2: invalid request)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if asks_for_help(arguments):
        print(HELP)
        return 0
    from harness.config.compose import load_report, path_of
    from harness.errors import StoreError, UserError

    try:
        config = load_report(arguments)
        if config.gain is None or not 0 < config.gain < math.inf:
            raise UserError(f"gain must be a positive number, as in gain=0.02, got {config.gain}.")
        with importing():
            from harness.tracking.tracker import Tracker
            from reports.runs.study import load_study
            from reports.runs.study_runs import StudyRuns

        tracker = Tracker(config.tracking.uri, path_of(config.var_dir), str(config.study), create=False)
        study = load_study(StudyRuns(tracker, tracker.var_dir / "cache"), config.report)
        for line in plan_lines(study, config):
            print(line)
    except (UserError, StoreError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def plan_lines(study: Study, config: ReportConfig) -> Iterator[str]:
    """Yield a line per data set and method, then the time that the largest number of seeds takes.

    Raises:
        UserError: for an unknown metric, and for a study that tells no variances.
    """
    from harness.errors import UserError
    from reports.stats.comparison import clean, noises, paired

    assert config.gain is not None
    gain, baseline = config.gain, study.baselines[-1]
    pairs = paired(clean(study.scores()), config.metric, baseline, study.clips)
    found = noises(pairs, study.clips)
    if not found:
        raise UserError(
            f"Study {study.name!r} tells no variances: train {baseline} and another method with at least two "
            "seeds, on a test split of at least two videos."
        )
    yield f"A gain of {gain:g} in test {config.metric} over {baseline}, with 80% probability:"
    most = 0
    for (dataset, method), (noise, now) in found.items():
        seeds = seeds_for(noise, now, gain)
        power = f"found with probability {noise.power(gain):.2f} by {now:g} seeds"
        if seeds is None:
            least = noise.smallest_gain_of_any_seeds()
            yield f"  {dataset}, {method}: {power}; no seeds on these clips find less than {least:.3g}."
            continue
        most = max(most, seeds)
        yield f"  {dataset}, {method}: {power}; {seeds} seeds suffice."
    if most:
        yield _time(study, most)


def seeds_for(noise: Noise, now: float, gain: float) -> int | None:
    """Return the smallest number of seeds, at least 3, that finds a gain with 80% probability, or None."""
    from reports.stats.intervals import FEWEST
    from reports.stats.noise import POWER

    for seeds in range(FEWEST, MOST_SEEDS + 1):
        if noise.with_seeds(now, seeds).power(gain) >= POWER:
            return seeds
    return None


def _time(study: Study, seeds: int) -> str:
    """Return how long all combinations of the study take with so many seeds, as their cells took so far."""
    rows = study.frame.query("split == 'cell' and metric == 'train_s' and occlusion_ratio == 0")
    means = rows.groupby(["dataset", "backbone", "variant"])["value"].mean()
    hours = means.sum() * seeds / PER_HOUR
    cells = len(means) * seeds
    return (
        f"{seeds} seeds for each of the {len(means)} combinations of this study are {cells} cells, which "
        f"take {hours:.2g} hours of one worker."
    )


if __name__ == "__main__":
    leave(main())
