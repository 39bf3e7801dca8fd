"""``make mutants``: small random changes of the code that decides numbers; how many do its own tests notice?

mutmut makes the mutants and runs the tests that reach each of them. Every package has its own copy of the
working tree and only its own folder of tests. ``summary.md`` and the exit status tell the result: 1 where
fewer than `WANTED` of the mutants that are not equivalent were killed. ``verdicts.yaml`` says in a word why
a mutant survived; the word of an equivalent one begins with "equivalent".
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import yaml

from tests.support.paths import ROOT

# Package: the files that are mutated, and the tests that have to notice.
PACKAGES = {
    "methods": (["methods/*.py"], ["tests/methods"]),
    "train": (["harness/train/*.py"], ["tests/harness/train"]),
    "metrics": (["harness/metrics.py"], ["tests/harness/test_metrics.py"]),
    "matrix": (["harness/matrix.py"], ["tests/harness/test_matrix.py"]),
    "stats": (["reports/stats/*.py"], ["tests/reports/stats"]),
}
# It blocks every import but torch and numpy, and mutated modules import mutmut.
WITHOUT = ["--ignore", "tests/methods/test_bare.py"]
SOURCES = ["backbones", "methods", "harness", "reports", "sweeps"]
SUMMARY, VERDICTS = (Path(__file__).with_name(name) for name in ("summary.md", "verdicts.yaml"))
WANTED = 0.93
# Exit codes of mutmut's workers. A mutant's timeout is 15 times the duration of its tests without it.
FAILED, TIMEOUT = {1, 3}, {24, -24, 36, 152, 255}


def copy_tree(folder, package):
    """Copy the files that git knows to a folder, with mutmut's settings for a package."""
    files, tests = PACKAGES[package]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    settings = {
        "source_paths": SOURCES,
        "only_mutate": files,
        "pytest_add_cli_args_test_selection": tests,
        "pytest_add_cli_args": ["-m", "not slow and not soak", "-p", "no:randomly", *WITHOUT],
    }
    lines = ["[mutmut]"]
    for key, values in settings.items():
        lines += [f"{key} =", *(f"    {value}" for value in values)]
    (folder / "setup.cfg").write_text("\n".join(lines) + "\n")


def mutmut(folder, *arguments):
    """Run mutmut in a copy and return what it printed."""
    program = Path(sys.executable).with_name("mutmut")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([program, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    (folder / "mutmut.log").write_text(run.stdout + run.stderr)
    return run.stdout


def exit_codes(folder):
    """Mutant -> the exit code of its tests, None where they have not run."""
    files = sorted((folder / "mutants").rglob("*.meta"))
    return {name: code for f in files for name, code in json.loads(f.read_text())["exit_code_by_key"].items()}


def change(folder, mutant):
    """Return the lines that a mutant removes and the lines that it adds."""
    lines = mutmut(folder, "show", mutant).splitlines()
    body = [line for line in lines if line[:1] in "-+" and line[:3] not in ("---", "+++")]
    return "\n".join(line[0] + " " + line[1:].strip() for line in body)


def draw(folders, count, seed):
    """Choose mutants at random from all packages: package -> their names."""
    for package, folder in folders.items():
        print(f"{package}: making mutants and looking which tests reach them", flush=True)
        copy_tree(folder, package)
        # No mutant has this name, so mutmut only finds which tests reach which function.
        mutmut(folder, "run", "none")
        if not (folder / "mutants" / "mutmut-stats.json").exists():
            sys.exit(f"The tests of {package} failed without any mutant; {folder / 'mutmut.log'} says why.")
    pairs = [(package, name) for package, folder in folders.items() for name in sorted(exit_codes(folder))]
    chosen = sorted(random.Random(seed).sample(pairs, min(count, len(pairs))))
    return len(pairs), {package: [n for p, n in chosen if p == package] for package in folders}


def test_mutants(folder, names, jobs):
    """Run the tests against each mutant.

    Returns how many were killed, how many of these by a timeout, and name -> change of the others.
    """
    if names:
        mutmut(folder, "run", "--max-children", str(jobs), *names)
    codes = exit_codes(folder)
    if any(codes[name] is None for name in names):
        sys.exit(f"mutmut did not try all mutants; {folder / 'mutmut.log'} says why.")
    late = sum(codes[name] in TIMEOUT for name in names)
    alive = [name for name in names if codes[name] not in FAILED | TIMEOUT]
    return len(names) - len(alive), late, {name: change(folder, name) for name in alive}


def summarize(rows, total, seed):
    """The text of the summary, and the share of mutants that are not equivalent and were killed."""
    verdicts = {
        entry["change"].strip(): entry["word"] for entry in yaml.safe_load(VERDICTS.read_text()) or []
    }
    lines, counts, survivors = [], Counter(), []
    for package, (killed, late, alive) in rows.items():
        words = {name: verdicts.get(text, "not judged") for name, text in alive.items()}
        equivalent = sum(word.startswith("equivalent") for word in words.values())
        lines.append((package, killed + len(alive), killed, equivalent))
        survivors += [f"- `{name}`: {words[name]}\n\n```diff\n{alive[name]}\n```\n" for name in alive]
        counts.update(tried=killed + len(alive), killed=killed, late=late, equivalent=equivalent)
    lines.append(("all", counts["tried"], counts["killed"], counts["equivalent"]))
    table = [f"| {p} | {t} | {k} | {t - k - e} | {e} | {k / max(1, t - e):.1%} |" for p, t, k, e in lines]
    text = [
        "# Mutants",
        "",
        f"{counts['tried']} of {total} mutants, drawn with seed {seed}; `make mutants` writes this page. "
        f"{counts['late']} were killed by a timeout.",
        "",
        "| package | tried | killed | survived | equivalent | killed of those not equivalent |",
        "|---|---|---|---|---|---|",
        *table,
        "",
        *survivors,
    ]
    return "\n".join(text).rstrip() + "\n", counts["killed"] / max(1, counts["tried"] - counts["equivalent"])


def main():
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=400, help="mutants to try (default 400)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at once (default: cores)")
    options = parser.parse_args()
    place = ROOT / "var" / "mutants"
    shutil.rmtree(place, ignore_errors=True)
    folders = {package: place / package for package in PACKAGES}
    total, chosen = draw(folders, options.count, options.seed)
    rows = {}
    for package, names in chosen.items():
        print(f"{package}: {len(names)} mutants", flush=True)
        rows[package] = test_mutants(folders[package], names, options.jobs)
    text, share = summarize(rows, total, options.seed)
    SUMMARY.write_text(text)
    print(text)
    sys.exit(share < WANTED)


if __name__ == "__main__":
    main()
