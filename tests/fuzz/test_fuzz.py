"""The fuzzer: some of its cases, how far they get, and whether it would notice what it looks for."""

import json
import random
from collections import Counter

import pytest

from harness.data.labels import LabelScale
from harness.data.mmsa.reader import read_mmsa
from tests.fuzz.__main__ import CASES, LAYOUTS, SUMMARY, summarize
from tests.fuzz.corpus import corpus
from tests.fuzz.layouts import OTHERS
from tests.fuzz.mutations import MUTATIONS, mutate
from tests.fuzz.readers import BROKEN
from tests.fuzz.runner import BAD, GOOD, run_cases
from tests.fuzz.stored import TARGETS
from tests.harness.data.test_mmsa import check_contract


def test_the_corpus_is_valid(tmp_path):
    """Unchanged files must be valid in every protocol, under old and new names."""
    for content in list(corpus().values())[::3]:
        path = tmp_path / "file.pkl"
        path.write_bytes(content)
        check_contract(read_mmsa(path, LabelScale(3.0)))


@pytest.fixture(scope="module")
def cases():
    """Cases of MMSA files, of stored ones and of other layouts, from one child."""
    found = list(run_cases("every", 3, range(32 * len(TARGETS))))
    assert [said["case"] for said in found] == list(range(32 * len(TARGETS)))
    return found[::4], found[1::4], [said for said in found if said["case"] % 4 > 1]


def test_some_cases_end_well_and_reach_every_part_of_the_reader(cases):
    """Cases reach every stage: not all fail at the first check, and not all are harmless."""
    assert [said for said in cases[0] if said["ending"] in BAD] == []
    found = summarize(cases[0])
    assert set(found["by_change"]) == set(MUTATIONS)
    assert found["accepted"] >= 0.05 * found["cases"]
    stages = Counter(said["stage"].partition(":")[0] for said in cases[0])
    assert stages["content"] >= 0.1 * found["cases"]
    reached = {"pickle: not allowed", "pickle: truncated", "content: splits", "a dataset"}
    assert reached <= set(found["by_stage"])


def test_some_cases_of_other_layouts_end_well(cases):
    found = cases[2]
    assert [said for said in found if said["ending"] in BAD] == []
    counted = summarize(found)
    assert {kind.partition(":")[0] for kind in counted["by_change"]} == set(OTHERS)
    assert counted["accepted"] >= 0.05 * counted["cases"]
    assert {"content: archive", "content: examples", "content: labels", "a dataset"} <= set(
        counted["by_stage"]
    )


def test_a_case_follows_from_its_number(cases):
    for said in cases[0]:
        kind, content = mutate(random.Random(f"3 {said['case']}"))
        assert (kind, len(content)) == (said["kind"], said["size"])


def test_some_stored_files_end_well(cases):
    assert [said for said in cases[1] if said["ending"] in BAD] == []
    assert {said["kind"].partition(":")[0] for said in cases[1]} == set(TARGETS)
    assert {said["ending"] for said in cases[1]} == set(GOOD)


@pytest.mark.slow
def test_broken_readers_are_found_out():
    """Cases after a child's crash still run."""
    found = list(run_cases("broken", 1, range(len(BROKEN)), case_s=10))
    assert [said["case"] for said in found] == list(range(len(BROKEN)))
    ends = dict(zip(BROKEN, [said["ending"] for said in found], strict=True))
    assert ends == {name: ending for name, (_, ending) in BROKEN.items()}
    assert set(BAD) - {"invalid"} <= set(ends.values())


def test_the_long_run_found_nothing():
    summary = json.loads(SUMMARY.read_text())
    assert summary["mmsa"]["cases"] >= CASES
    assert summary["layouts"]["cases"] >= LAYOUTS
    assert set(summary["stored"]) == set(TARGETS)
    for found in (summary["mmsa"], summary["layouts"], *summary["stored"].values()):
        assert {name: found[name] for name in BAD} == dict.fromkeys(BAD, 0)
        assert sum(found[name] for name in GOOD) == found["cases"]
        assert found["peak_memory_over_allowance"] < 1.5
