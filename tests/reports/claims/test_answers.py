"""The answers of a whole study: verdicts, what would decide them, and where they are shown."""

import dataclasses
import json
import shlex

import pytest

from harness.config.compose import load_benchmark, load_sweep
from harness.errors import UserError
from reports.build import check_claims, main, state_hash
from reports.claims.answers import answers, answers_json
from reports.claims.reader import read_claims
from reports.page.claims import claim_rows, claims_table
from reports.page.html import Report, page
from reports.runs.study_runs import StudyRuns
from tests.reports.claims.test_reader import text
from tests.support.browser import Reader
from tests.support.drivers.driving import Tracker
from tests.support.studies import empty_study, make_study

CLAIMS = read_claims()


@pytest.fixture(scope="module")
def study():
    return make_study(3, ("synthetic_mosi",), sweeps=False)


@pytest.fixture(scope="module")
def found(study):
    return {answer.claim.id: answer for answer in answers(study, CLAIMS)}


def arguments(command):
    """The settings of a command."""
    words = shlex.split(command)
    if words[0] == "make":
        words = [*words[2:], *shlex.split(words[2].removeprefix("ARGS="))] if len(words) > 2 else []
    return [word for word in words if "=" in word and not word.startswith(("ARGS=", "STUDY=", "--"))]


def test_an_empty_study_tests_nothing_and_says_how_to():
    for answer in answers(empty_study(), CLAIMS):
        assert answer.verdict == "not tested"
        assert answer.because.startswith("It needs ")
        config = load_benchmark(arguments(answer.command))
        bases = {name.partition("[")[0] for name in config.methods}
        assert answer.claim.method in bases


def test_what_is_missing_is_named_with_the_command_that_trains_it(found):
    """The study has no MultiMix, no ablation of PowMix and no C-Mixup."""
    assert found["ms_mix.better"].verdict in ("undecided", "contradicted")
    assert "Not trained: MultiMix." in found["powmix.better"].decide
    assert "multimix" in load_benchmark(arguments(found["powmix.better"].command)).methods
    assert found["powmix.components"].verdict == "not tested"
    asked = load_benchmark(arguments(found["powmix.components"].command)).methods
    assert "powmix[random_n,reweight,anisotropic,dynamic]" in asked
    assert "with and without random n, reweight" in found["powmix.components"].because
    assert "c_mixup" in load_benchmark(arguments(found["c_mixup.labels"].command)).methods


def test_the_verdicts_of_a_study_in_which_they_are_known(found):
    """Opposite pairs of ms_mix are 0.1 fewer; intensities follow."""
    for name in ("ms_mix.selection", "ms_mix.ratios", "ms_mix.alignment"):
        assert found[name].verdict == "supported", name
        assert not found[name].command
    assert "least: MAE against MS-Mix without S" in found["ms_mix.components"].because
    assert found["ms_mix.selection"].because.startswith("2 of 2 support it; least: share of opposite pairs")


def test_what_would_decide_the_undecided(study):
    few = dataclasses.replace(study, frame=study.frame[study.frame["seed"] < 1113])
    for answer in answers(few, CLAIMS[:2]):
        assert answer.verdict == "undecided"
        assert answer.decide.startswith("2 seeds decide nothing: a verdict needs three.")
    assert load_benchmark(arguments(answer.command)).seeds == [1111, 1112, 1113]
    unknown = dataclasses.replace(study, clips=None)
    [answer] = answers(unknown, [CLAIMS[0]])
    assert "this needs predictions of all runs" in answer.decide


def test_a_claim_about_other_data_is_not_tested(study):
    [answer] = answers(study, [dataclasses.replace(CLAIMS[1], datasets=("mosi",))])
    assert answer.verdict == "not tested"
    [answer] = answers(study, [dataclasses.replace(CLAIMS[1], backbones=("tfn",))])
    assert answer.parts[0].n == 3


def test_the_json_the_page_and_the_table_agree(study, found):
    listed = json.loads(answers_json(list(found.values()), study))
    assert [entry["id"] for entry in listed] == list(found)
    for entry in listed:
        assert entry["verdict"] in ("supported", "contradicted", "undecided", "not tested")
        assert entry["claim"]
        assert entry["source"]
        assert bool(entry["runs"]) == (entry["verdict"] != "not tested")
    rows, table = claim_rows(list(found.values()), study), claims_table(list(found.values()), study)
    report = Report("t", "s", tables=[table], claims=rows)
    read = Reader(page(report))
    said = read.texts("summary")[: len(listed)]
    assert [text.split(" ")[0] for text in said] == [e["verdict"].split(" ")[0] for e in listed]
    targets = {e[1]["href"] for e in read.all("a") if e[1]["href"].startswith("#")}
    assert "#table-claims" in targets
    shown = {row[0].text for part in table.parts for group in part.groups for row in group}
    assert shown == {entry["id"] for entry in listed if entry["verdict"] != "not tested"}


def test_ones_own_claims_reach_the_report_and_its_state(finished_study, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text())
    settings = load_benchmark([f"report.claims={path}"]).report
    check_claims(settings)
    runs = StudyRuns(Tracker(None, finished_study, "s", create=False))
    before = state_hash(runs, settings)
    path.write_text(text(claim="Mixup helps more."))
    assert state_hash(runs, settings) != before
    path.write_text(text(kind="worse"))
    with pytest.raises(UserError, match="Unknown kind 'worse'"):
        check_claims(settings)
    assert load_sweep([f"report.claims={path}"]).report.claims == str(path)


def test_a_bad_file_of_claims_stops_the_command(finished_study, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("claims: 3\n")
    assert main([f"var_dir={finished_study}", "study=s", f"report.claims={path}"]) == 2
    assert capsys.readouterr().err.startswith(f"Error: Claims {path}: claims must be a list of at least one")
