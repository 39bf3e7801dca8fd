"""Files of claims: those of the project, and what is refused in those of a user."""

import re

import pytest

from harness.errors import UserError
from reports.claims.claim import KINDS
from reports.claims.reader import FILES, NEEDED, read_claims, read_file

GOOD = {
    "id": "mine.better",
    "claim": "Mixup helps.",
    "kind": "better",
    "method": "mixup",
    "than": "[none]",
}


def text(source="me", **changed):
    """A file with one claim; a key that is None is left out."""
    fields = {key: value for key, value in {**GOOD, **changed}.items() if value is not None}
    entry = "\n  ".join(f"{key}: {value}" for key, value in fields.items())
    return f"source: {source}\nclaims:\n- {entry}\n"


def written(tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    return path


def refusal(tmp_path, content):
    path = written(tmp_path, content)
    with pytest.raises(UserError) as error:
        read_claims(str(path))
    said = str(error.value)
    assert said.startswith(f"Claims {path}: ")
    assert "\n" not in said
    return said.removeprefix(f"Claims {path}: ")


def test_the_projects_claims_are_of_every_kind_and_have_their_source():
    claims = read_claims()
    assert {claim.kind for claim in claims} == set(KINDS) == set(NEEDED)
    assert {claim.id.partition(".")[0] for claim in claims} == {path.stem for path in FILES}
    assert all(re.search(r"arXiv \d{4}\.\d{5}", claim.source) for claim in claims)
    assert all(claim.sentence.endswith(".") for claim in claims)


def test_a_users_claims_follow_and_have_defaults(tmp_path):
    path = written(tmp_path, text(datasets="mosi", metric="[corr, mae]"))
    [*shipped, own] = read_claims(str(path))
    assert shipped == read_claims()
    assert (own.id, own.source, own.sentence) == ("mine.better", "me", "Mixup helps.")
    assert (own.than, own.metrics, own.datasets, own.backbones) == (("none",), ("corr", "mae"), ("mosi",), ())
    [robust] = read_file(written(tmp_path, text(kind="robust", ratio="0.3", source="other")))
    assert (robust.ratio, robust.metrics, robust.source) == (0.3, ("mae",), "other")


BAD = {
    "claims: [": "the file cannot be read as YAML (line 1: ",
    "[]": "A file of claims must be a mapping of source, claims, got []",
    "claims: []": "claims must be a list of at least one claim, got []",
    "claims: [1]": "claim 1: a claim must be a mapping of id, claim, kind",
    "clams: []": "Did you mean 'claims'?",
    "source: 3\nclaims: [{}]": "source must be a text, got 3",
    text(kind="beter"): "claim mine.better: Unknown kind 'beter'",
    text(method="ms_mx"): "Did you mean 'ms_mix'?",
    text(method="mixup{alpha"): "Cannot parse the variant",
    text(than="[nonne]"): "Did you mean 'none'?",
    text(than="[none, none]"): "than must be a list of different texts, got ['none', 'none']",
    text(than=None): "claim mine.better: the key 'than' is missing.",
    text(id=None): "claim 1: the key 'id' is missing.",
    text(id="a b"): "id must have letters, digits",
    text(claim="''"): "claim must be a text, got ''",
    text(metric="maee"): "Did you mean 'mae'?",
    text(metrc="mae"): "Did you mean 'metric'?",
    text(ratio="0.5"): "Unknown key 'ratio'",
    text(kind="robust", ratio="0"): "ratio must be above 0 and at most 1, got 0",
    text(kind="robust", ratio="yes"): "ratio must be above 0 and at most 1, got True",
    text(kind="component", method="ms_mix", than=None, without="[sas]"): "Did you mean 'sass'?",
    text(kind="diagnostic", metric="mae", **{"is": "lower"}): "metric must be a statistic such as mix_",
    text(kind="diagnostic", metric="mix_x", **{"is": "less"}): "is must be lower or higher, got 'less'",
    text(kind="correlates", than=None, metric="intensity_texts_truth"): "metric must be intensity_text|",
    text() + "  id: again\n": "duplicate key 'id' in line 8",
    text(id="ms_mix.better"): "",
}


@pytest.mark.parametrize("content", BAD)
def test_a_bad_file_is_refused_in_one_sentence(content, tmp_path):
    if not BAD[content]:
        with pytest.raises(UserError, match=r"the id 'ms_mix\.better' is taken; choose another"):
            read_claims(str(written(tmp_path, content)))
        return
    assert BAD[content] in refusal(tmp_path, content)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="No such file or directory"):
        read_claims(str(tmp_path / "none.yaml"))
