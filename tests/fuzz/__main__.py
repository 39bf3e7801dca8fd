"""The long run of the fuzzer, a part of ``make soak``: thousands of cases, counted in summary.json.

python -m tests.fuzz [--cases 10000] [--layouts 2000] [--stored 2200] [--seed 20261122] [--no-summary]
"""

import argparse
import json
import platform
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path

from harness.data.strict.memory_limit import SPARE, TIMES
from tests.fuzz.runner import BAD, CASE_S, GOOD, run_cases
from tests.fuzz.stored import TARGETS

CASES = 10_000
LAYOUTS = 2_000
SUMMARY = Path(__file__).with_name("summary.json")


def fuzz(reader, seed, cases):
    """Run cases and print those that ended badly; returns the results of all."""
    results = []
    for result in run_cases(reader, seed, range(cases)):
        if result["ending"] in BAD:
            print(reader, seed, *(result[key] for key in ("case", "kind", "ending", "detail")))
        results.append(result)
    print(f"{reader}: {dict(Counter(result['ending'] for result in results))}", flush=True)
    return results


def summarize(results, of_kinds=True):
    """Count endings, kinds of change by ending, and stages; find the most memory and time."""
    endings = Counter(result["ending"] for result in results)
    summary = {"cases": len(results)} | {name: endings[name] for name in GOOD + BAD}
    if of_kinds:
        kinds = Counter((result["kind"], result["ending"]) for result in results)
        names = sorted({kind for kind, _ in kinds})
        summary["by_change"] = {kind: {name: kinds[kind, name] for name in GOOD} for kind in names}
    shares = [result["peak"] / (SPARE + TIMES * result["size"]) for result in results]
    return {
        **summary,
        "by_stage": dict(sorted(Counter(result["stage"] for result in results).items())),
        "largest_file": max(result["size"] for result in results),
        "peak_memory_mib": round(max(result["peak"] for result in results) / 2**20, 1),
        "peak_memory_over_allowance": round(max(shares), 3),
        "slowest_s": round(max(result.get("s", CASE_S) for result in results), 2),
    }


def main():
    """Fuzz, and write the summary if all is well; returns the exit status."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--cases", type=int, default=CASES, help="MMSA files")
    parser.add_argument("--layouts", type=int, default=LAYOUTS, help="files in other layouts than MMSA's")
    parser.add_argument("--stored", type=int, default=2_200, help="the project's own stored files")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--no-summary", action="store_true", help="write nothing")
    given = parser.parse_args()
    files, others = fuzz("mmsa", given.seed, given.cases), fuzz("stored", given.seed, given.stored)
    layouts = fuzz("layouts", given.seed, given.layouts)
    if any(result["ending"] in BAD for result in files + layouts + others):
        print("FAILED", file=sys.stderr)
        return 1
    kinds = {name: [one for one in others if one["kind"].startswith(f"{name}: ")] for name in TARGETS}
    summary = {
        "seed": given.seed,
        "allowance_bytes": f"{SPARE} + {TIMES} x file",
        "mmsa": summarize(files),
        "layouts": summarize(layouts),
        "stored": {name: summarize(cases, of_kinds=False) for name, cases in kinds.items()},
        "versions": {"python": platform.python_version(), "numpy": metadata.version("numpy")},
    }
    if not given.no_summary:
        SUMMARY.write_text(json.dumps(summary, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
