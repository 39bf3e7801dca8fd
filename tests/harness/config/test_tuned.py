"""Tuned settings: files that read back bit for bit, and the plans that use them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import math
import os
import re
from pathlib import Path
from typing import get_args, get_type_hints
from unittest.mock import Mock

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from backbones import BACKBONES
from backbones.text import BertSettings
from harness.config.compose import given_keys, load_benchmark
from harness.config.tuned import HEAD, read_tuned, tuned_label, write_tuned
from harness.errors import UserError
from harness.matrix import RESULTS_VERSION
from harness.plan import make_plan
from harness.study.description import describe
from harness.study.display import closing_table
from methods import METHODS
from tests.support.cells import make_cell, with_changes

BERT = BertSettings("bert", "abc", False, 0.0, 0.0)
GIVEN_HEAD = {
    "study": "paper",
    "sweep": "tune-powmix: 'é'",
    "objective": "valid/loss",
    "value": 0.1 + 0.2,
    "default_value": None,
    "trials": 30,
    "epochs": 12,
    "seeds": [1111, 1112],
    "fingerprint": "0123456789",
    "results_version": RESULTS_VERSION,
}
CLIPS = [f"dataset.synthetic_{name}.clips=12" for name in ("mosi", "sims")]
SMALL = ["datasets=[synthetic_mosi,synthetic_sims]", "backbones=[tfn,lmf]", "seeds=[1,2]", *CLIPS]


WORDS = ("replace", "mse", "split_mse", "cosine", "batch", "adamw", "plateau", "reference", "kept_mean")


def other_values(settings_of, name, generator):
    """Return values of the field's type, not all of them valid."""
    value = getattr(settings_of, name)
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value * 2, value + 1, value]
    if isinstance(value, float):
        return [value * float(generator.uniform(0.1, 3)), float(generator.uniform(0, 1)), 1e-5]
    if value is None:
        is_float = float in get_args(get_type_hints(type(settings_of))[name])
        return [float(generator.uniform(1, 2)) if is_float else 5]
    return {list: [[2, 0]], str: WORDS}.get(type(value), [value])


def shaken(settings_of, generator):
    """Settings with as many fields changed as the class allows."""
    for field in dataclasses.fields(settings_of):
        for value in other_values(settings_of, field.name, generator):
            with contextlib.suppress(ValueError):
                settings_of = dataclasses.replace(settings_of, **{field.name: value})
                break
    return settings_of


def refusal(function, *arguments) -> str:
    """Return the error message, which must be one sentence."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert message.splitlines() == [message]
    assert message.endswith((".", "?"))
    return message


# Files


# Settings of methods and of backbones are written apart.
@pytest.mark.parametrize(
    ("method", "backbone", "kind"),
    list(zip(METHODS, itertools.cycle(BACKBONES), itertools.cycle([None, BERT]))),
)
def test_settings_of_every_kind_come_back_bit_for_bit(tmp_path, method, backbone, kind):
    generator = np.random.default_rng(0)
    base = make_cell(method, backbone, kind)
    best = dataclasses.replace(
        base,
        method_settings=shaken(base.method_settings, generator),
        backbone_settings=shaken(base.backbone_settings, generator),
    )
    path = write_tuned(tmp_path, base, best, GIVEN_HEAD)
    assert path == tmp_path / method / (backbone + ("[bert,frozen]" if kind else "")) / "mosi.yaml"
    ((key, found),) = read_tuned(tmp_path).items()
    assert (key, found.path, found.head) == ((method, base.backbone_label, "mosi"), path, GIVEN_HEAD)
    text = path.read_text()
    assert text.startswith(f"# The best settings found for {method} on {key[1]}, mosi. To use them")
    assert list(yaml.safe_load(text)) == [*GIVEN_HEAD, "method", "backbone"]
    assert found.digest == hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    again = with_changes(base, found.method, found.backbone)
    assert repr(again) == repr(best)
    assert again.cell_id == best.cell_id
    for name, changed in (("method_settings", found.method), ("backbone_settings", found.backbone)):
        before, after = (dataclasses.asdict(getattr(cell, name)) for cell in (base, best))
        assert changed == {field: after[field] for field in after if after[field] != before[field]}
    assert len(found.method) >= 2
    assert len(found.backbone) >= 5


@given(rate=st.floats(0, allow_infinity=False), sigma=st.none() | st.floats(0), xi1=st.floats(0, 1e300))
def test_every_float_comes_back_bit_for_bit(tmp_path_factory, rate, sigma, xi1):
    folder = tmp_path_factory.mktemp("tuned")
    base = make_cell("c_mixup")
    best = with_changes(base, {"sigma": sigma, "xi1": xi1}, {"learning_rate": rate})
    write_tuned(folder, base, best, GIVEN_HEAD)
    (found,) = read_tuned(folder).values()
    assert with_changes(base, found.method, found.backbone).cell_id == best.cell_id


def test_a_minus_before_zero_and_the_type_of_a_number_count(tmp_path):
    base = with_changes(make_cell(), {"xi1": 0.0, "n_ratio": 1.0})
    write_tuned(tmp_path, base, with_changes(base, {"xi1": -0.0}), GIVEN_HEAD)
    (found,) = read_tuned(tmp_path).values()
    assert math.copysign(1, found.method["xi1"]) == -1
    path = found.path
    path.write_text(path.read_text().replace("xi1: -0.0", "xi1: 1\n  alpha: 1e-5\n  n_ratio: 2.0"))
    (found,) = read_tuned(tmp_path).values()
    assert repr(found.method) == "{'xi1': 1.0, 'alpha': 1e-05, 'n_ratio': 2.0}"


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    base = make_cell()
    path = write_tuned(tmp_path, base, with_changes(base, {"alpha": 0.5}), GIVEN_HEAD)
    write_tuned(tmp_path, base, with_changes(base, {"alpha": 0.6}), GIVEN_HEAD)
    assert [file.name for file in path.parent.iterdir()] == ["mosi.yaml"]
    before = path.read_bytes()

    def full(self, content):
        self.open("wb").write(content[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_tuned(tmp_path, base, with_changes(base, {"alpha": 0.7}), GIVEN_HEAD)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["mosi.yaml"]


def test_a_best_cell_of_something_else_is_our_own_mistake(tmp_path):
    for other in ({"dataset": "mosei"}, {"text": BERT}, {"method": "none"}):
        with pytest.raises(AssertionError):
            write_tuned(tmp_path, make_cell(), dataclasses.replace(make_cell(), **other), GIVEN_HEAD)
    for head in ({**GIVEN_HEAD, "method": "powmix"}, {**GIVEN_HEAD, "backbone": "x"}):
        with pytest.raises(AssertionError):
            write_tuned(tmp_path, make_cell(), make_cell(), head)
    assert not list(tmp_path.rglob("*.yaml"))


@pytest.fixture
def file(tmp_path):
    """A good file below a folder, and how to change its text."""
    base = make_cell()
    best = with_changes(base, {"alpha": 0.5}, {"learning_rate": 0.25})
    return write_tuned(tmp_path / "tuned", base, best, GIVEN_HEAD)


BROKEN = {
    "method:\n  alpha: 0.5": {
        "method:\n  alhpa: 0.5": "Unknown setting of method powmix 'alhpa'; … Did you mean 'alpha'?",
        "method:\n  alpha: x": "method.powmix: Value 'x' … Float.",
        "method:\n  alpha: {a: 1}": "method.powmix.alpha must be a plain scalar or list, got {'a': 1}.",
        "method:\n  xi1: null": "method.powmix: Incompatible value 'None' …",
        "method:\n  mode: ${oc.env:HOME}": "method.powmix.mode must be …, got '${oc.env:HOME}'.",
        "method:\n  mode: '???'": "method.powmix.mode must be a plain scalar or list, got '???'.",
        "method:\n  max_subset: 2.5": "method.powmix: Value '2.5' … Integer.",
        "method:\n  1: 2": "Unknown setting of method powmix '1'; …",
        "method: [alpha]": "method must be a mapping of settings, got ['alpha'].",
        "method:": "method must be a mapping of settings, got None.",
        "methd:\n  alpha: 0.5": "Unknown entry 'methd'; … Did you mean 'method'?",
        "method:\n  alpha: 0.5\n 3": "it is not plain YAML without aliases, see line 17.",
        "method: !!int ''": "it contains a value that cannot be parsed.",
        "method: !!timestamp x": "it contains a value that cannot be parsed.",
    },
    "learning_rate: 0.25": {
        "learning_rat: 0.25": "Unknown setting of backbone tfn 'learning_rat'; …",
        "text_hidden: 1.5": "backbone.tfn: Value '1.5' … Integer.",
    },
    "trials: 30": {
        "trials: thirty": "trials must be of type int, got 'thirty'.",
        "trials: true": "trials must be of type int, got True.",
        "trials: {n: 30}": "Unknown entry 'trials'; …",
        "trials: 30\n1: 2": "Unknown entry '1'; …",
    },
    "epochs: 12": {"epochs: 1.5": "epochs must be of type int or null, got 1.5."},
    "seeds:\n- 1111\n- 1112": {"seeds: 2": "seeds must be of type list, got 2."},
    "value: 0.30000000000000004": {"value: low": "value must be of type float or int, got 'low'."},
    "fingerprint: 0123456789": {"fingerprint: 123": "fingerprint must be of type str, got 123."},
}


@pytest.mark.parametrize(
    ("old", "new"), [(old, new) for old, wrong in BROKEN.items() for new in wrong], ids=lambda text: text[:40]
)
def test_broken_files_are_refused_by_name(file, old, new):
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    message = refusal(read_tuned, file.parents[2])
    words = f"{str(file)!r} cannot be used: {BROKEN[old][new]}"
    assert re.match(".*".join(map(re.escape, words.split("…"))), message)


@example(b"")
@example(b"\x00")
@given(
    content=st.binary(max_size=60) | st.text("abc:-[]{}!&*?|>'\"%@`#, \n\t0.1é", max_size=40).map(str.encode)
)
def test_no_content_breaks_the_reader(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz" / "none" / "tfn" / "mosi.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert repr(str(path)) in refusal(read_tuned, path.parents[2])


def test_a_file_needs_all_of_its_head(file):
    stored = yaml.safe_load(file.read_text())
    for name in (*HEAD, "method", "backbone"):
        file.write_text(yaml.safe_dump({key: value for key, value in stored.items() if key != name}))
        assert refusal(read_tuned, file.parents[2]).endswith(f"cannot be used: it lacks {name!r}.")
    file.write_text(yaml.safe_dump({**stored, "epochs": None, "value": 1, "found_by": "me"}))
    (found,) = read_tuned(file.parents[2]).values()
    assert found.head["found_by"] == "me"
    for content, words in {
        b"- 1": "it must be a mapping, got a list.",
        b"\xff\xfe\x00": "it is not plain YAML without aliases.",
    }.items():
        file.write_bytes(content)
        assert refusal(read_tuned, file.parents[2]) == f"{str(file)!r} cannot be used: {words}"


DEPTHS = ("mosi.yaml", "powmix/mosi.yaml", "powmix/tfn/mosi/x.yaml", "powmix/tfn/mosei.yml")
FOREIGN = dict.fromkeys(DEPTHS, "files of tuned settings must be named METHOD/BACKBONE/DATASET.yaml") | {
    "pwmix/tfn/mosi.yaml": "Unknown method 'pwmix'; allowed: ",
    "powmix/tfm/mosi.yaml": "Unknown backbone 'tfm'; allowed: ",
    "powmix/tfn[brt]/mosi.yaml": "Unknown backbone 'tfn[brt]'; allowed: ",
}


@pytest.mark.parametrize("place", FOREIGN)
def test_files_in_the_wrong_place(file, place):
    other = file.parents[2] / place
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_bytes(file.read_bytes())
    message = refusal(read_tuned, file.parents[2])
    assert message.startswith(f"{str(other)!r} cannot be used: {FOREIGN[place]}")


def test_what_is_no_settings_file_is_left_alone_and_links_are_followed(file, tmp_path):
    folder, shared = file.parents[2], tmp_path / "mine"
    for place in ("README.md", ".hidden.yaml", ".cache/x.yaml", "powmix/tfn/.mosi.yaml.123", "powmix/notes"):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_text("{")
    shared.mkdir()
    (shared / "powmix").symlink_to(file.parents[1])
    for place in (folder, shared):
        assert list(read_tuned(place)) == [("powmix", "tfn", "mosi")]


def test_without_a_file_there_is_nothing_to_use(tmp_path, file, monkeypatch):
    absent, empty = tmp_path / "absent", tmp_path / "empty"
    assert refusal(read_tuned, absent).startswith(f"tuned={str(absent)!r} is not a folder")
    assert "is not a folder" in refusal(read_tuned, file)
    (empty / "powmix" / "tfn" / "mosi.yaml").mkdir(parents=True)
    assert "contains no settings" in refusal(read_tuned, empty)
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=PermissionError(13, "Permission denied")))
    assert refusal(read_tuned, file.parents[2]) == f"{str(file)!r} cannot be read: Permission denied."


# Plans


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Plan some arguments, which count as given, with one cache for all."""
    var = tmp_path_factory.mktemp("plans") / "var"

    def plan(*arguments):
        return make_plan(load_benchmark([f"var_dir={var}", *SMALL, *arguments]), given_keys(arguments))

    return plan


@pytest.fixture
def tune(plan, tmp_path):
    """Write a file for a combination of the plan, tuned on its data."""

    def tune(method, backbone, dataset, changed=None, of_backbone=None, **head):
        names = (f"methods=[{method}]", f"backbones=[{backbone}]", f"datasets=[{dataset}]")
        base = plan(*names).cells[0]
        best = with_changes(base, changed, of_backbone)
        head = {**GIVEN_HEAD, "fingerprint": base.fingerprint, **head}
        return write_tuned(tmp_path / "tuned", base, best, head)

    return tune


def test_only_combinations_with_a_file_take_its_settings(plan, tune, tmp_path):
    powmix = tune("powmix", "tfn", "synthetic_mosi", {"alpha": 0.5}, {"learning_rate": 0.25})
    none = tune("none", "lmf", "synthetic_sims", None, {"audio_dropout": 0.125})
    asked = "methods=[none,powmix,ms_mix,'powmix{n_ratio:2.0}',powmix[dynamic],'powmix{}']"
    plain, tuned = plan(asked), plan(asked, f"tuned={tmp_path / 'tuned'}")
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in (powmix, none)}
    changes = {
        ("powmix", "tfn", "synthetic_mosi"): (powmix, {"alpha": 0.5}, {"learning_rate": 0.25}),
        ("none", "lmf", "synthetic_sims"): (none, {}, {"audio_dropout": 0.125}),
    }
    wanted, tags = [], {}
    for cell in plain.cells:
        is_plain = cell.method_settings == METHODS[cell.method].Settings()
        path, *changed = changes.get((cell.method, cell.backbone, cell.dataset), (None,))
        if not is_plain or path is None:
            wanted.append(cell)
            continue
        wanted.append(with_changes(cell, *changed))
        label = tuned_label(cell.method)
        tags[wanted[-1].cell_id] = {"tuned": digests[path], "tuned_backbone": "true", "label": label}
        if cell.method == "powmix":
            wanted.append(cell)  # powmix{} is unchanged, beside the tuned powmix
    assert {cell.cell_id for cell in tuned.cells} == {cell.cell_id for cell in wanted}
    others = [[cell for cell in cells if cell.method != "powmix"] for cells in (tuned.cells, wanted)]
    assert others[0] == others[1]
    assert tuned.tags == tags
    assert len(tags) == 4
    assert (plain.tags, plain.notes) == ({}, ())
    assert tuned.notes == (
        "Tuned settings: 2 of 12 combinations; no tuned settings for: "
        "none on tfn/synthetic_mosi, lmf/synthetic_mosi, tfn/synthetic_sims; "
        "powmix on lmf/synthetic_mosi, tfn/synthetic_sims, lmf/synthetic_sims; ms_mix (all).",
    )
    assert describe(tuned).endswith("Tuned settings: 4 cells.")
    assert "Methods: none, powmix{tuned}, ms_mix, " in describe(tuned)
    assert "uned" not in describe(plain)


def test_a_file_of_no_changes_gives_the_same_cells_tagged(plan, tune, tmp_path):
    tune("powmix", "tfn", "synthetic_mosi")
    names = ("backbones=[tfn]", "datasets=[synthetic_mosi]", "methods=[powmix]")
    found = plan(*names, f"tuned={tmp_path / 'tuned'}")
    assert found.cells == plan(*names).cells
    assert set(found.tags) == {cell.cell_id for cell in found.cells}
    assert {tags["tuned_backbone"] for tags in found.tags.values()} == {"false"}
    assert found.notes == ("Tuned settings: 1 of 1 combinations.",)


def test_a_file_stands_above_the_configuration_and_below_its_bounds(plan, tune, tmp_path):
    tune("powmix", "tfn", "synthetic_mosi", {"alpha": 0.5}, {"learning_rate": 0.25, "max_epochs": 77})
    names = ("backbones=[tfn]", "datasets=[synthetic_mosi]", "methods=[powmix]")
    names += (f"tuned={tmp_path / 'tuned'}",)
    quick = plan("profile=quick", *names, "method.powmix.n_ratio=2.0").cells[0]
    plain = plan("profile=quick", *names[:3]).cells[0]
    assert plain.backbone_settings.learning_rate == 0.003, "the profile's own"
    of_backbone = {"learning_rate": 0.25, "max_epochs": 77}
    assert quick == with_changes(plain, {"alpha": 0.5, "n_ratio": 2.0}, of_backbone)
    assert plan(*names, "train.max_epochs=3").cells[0].backbone_settings.max_epochs == 3


def test_what_is_given_cannot_be_tuned_as_well(plan, tune, tmp_path):
    path = tune("powmix", "tfn", "synthetic_mosi", {"alpha": 0.5}, {"learning_rate": 0.25})
    tuned = f"tuned={tmp_path / 'tuned'}"
    for key in ("method.powmix.alpha", "backbone.tfn.learning_rate"):
        message = refusal(plan, "methods=[powmix]", tuned, f"{key}=0.5")
        assert message == f"{key} is given, but {str(path)!r} sets it too; leave out one of them."
    allowed = ("method.ms_mix.alpha=0.5", "backbone.lmf.learning_rate=0.1", "backbone.tfn.text_out=3")
    assert plan("methods=[powmix,ms_mix]", tuned, *allowed).tags
    # An unused file causes no error.
    for unused in ("methods=[none]", "methods=['powmix{n_ratio:2.0}']"):
        assert not plan(unused, tuned, "method.powmix.alpha=0.5", "backbone.tfn.learning_rate=0.1").tags
    assert not plan("methods=[powmix]", "backbones=[lmf]", tuned, "method.powmix.alpha=0.5").tags


def test_settings_tuned_on_other_data_are_refused(plan, tune, tmp_path):
    path = tune("powmix", "tfn", "synthetic_mosi", {"alpha": 0.5})
    tuned = f"tuned={tmp_path / 'tuned'}"
    message = refusal(plan, "methods=[powmix]", tuned, "dataset.synthetic_mosi.clips=13")
    assert message == (
        f"{str(path)!r} was tuned on other data than synthetic_mosi has now; tune again or remove it."
    )
    assert not plan("methods=[powmix]", tuned, "datasets=[synthetic_sims]").tags
    assert not plan("methods=[none]", tuned, "dataset.synthetic_mosi.clips=13").tags


def test_settings_that_do_not_go_with_the_others_are_refused_by_name(plan, tune, tmp_path):
    path = tune("multimix", "tfn", "synthetic_mosi", {"alpha_high": 0.75})
    message = refusal(
        plan, "methods=[multimix]", f"tuned={tmp_path / 'tuned'}", "method.multimix.alpha_low=1"
    )
    assert message.startswith(f"{str(path)!r} cannot be used: method.multimix: alpha_high must be at least")


def test_unequal_budgets_are_pointed_out(plan, tune, tmp_path):
    tune("none", "tfn", "synthetic_mosi", trials=10)
    tune("powmix", "tfn", "synthetic_mosi", trials=30)
    tune("ms_mix", "tfn", "synthetic_mosi", trials=30)
    tune("powmix", "lmf", "synthetic_mosi", epochs=99)
    tuned = (f"tuned={tmp_path / 'tuned'}", "datasets=[synthetic_mosi]")
    assert len(plan("methods=[powmix,ms_mix]", *tuned).notes) == 1, "backbones may differ in epochs"
    (_, note) = plan("methods=[none,powmix]", *tuned).notes
    assert note == (
        "Methods were tuned with different budgets on tfn/synthetic_mosi: "
        "10 trials of 12 epochs, 2 seeds; 30 trials of 12 epochs, 2 seeds."
    )
    for part in ({"epochs": 3}, {"seeds": [1]}, {"epochs": None}):
        tune("none", "tfn", "synthetic_mosi", **part)
        assert len(plan("methods=[none,powmix]", *tuned).notes) == 2
    tune("none", "tfn", "synthetic_mosi", seeds=[7, 8])
    assert len(plan("methods=[none,powmix]", *tuned).notes) == 1, "as many seeds are the same budget"


def test_settings_chosen_by_results_of_another_version_are_pointed_out(plan, tune, tmp_path):
    tune("powmix", "tfn", "synthetic_mosi", results_version=RESULTS_VERSION - 1)
    tune("ms_mix", "tfn", "synthetic_mosi")
    tuned = (f"tuned={tmp_path / 'tuned'}", "datasets=[synthetic_mosi]", "backbones=[tfn]")
    (_, note) = plan("methods=[powmix,ms_mix]", *tuned).notes
    assert note.startswith(f"Some settings were tuned with results of version {RESULTS_VERSION - 1}; ")
    assert len(plan("methods=[ms_mix]", *tuned).notes) == 1


def test_requests_that_tuned_settings_do_not_go_with(plan, tune, tmp_path):
    tune("powmix", "tfn", "synthetic_mosi", {"alpha": 0.5})
    variants_alone = plan("methods=['powmix{}']", f"tuned={tmp_path / 'tuned'}")
    sentence = "Tuned settings: none, because every method is a variant with its own settings."
    assert (variants_alone.notes, variants_alone.tags) == ((sentence,), {})
    assert "matrix=ablation" in refusal(plan, "matrix=ablation", f"tuned={tmp_path / 'tuned'}")
    assert "tuned is empty" in refusal(plan, "tuned=")
    absent = tmp_path / "a=b, [c]"
    assert repr(str(absent)) in refusal(plan, f"tuned={absent}")


def test_a_file_is_for_one_kind_of_text(plan, tune, tmp_path, monkeypatch):
    path = tune("powmix", "tfn", "synthetic_mosi", {"alpha": 0.5})
    asked = ("methods=[powmix]", f"tuned={tmp_path / 'tuned'}")
    assert plan(*asked).tags
    with monkeypatch.context() as patched:
        patched.setattr("harness.plan._text", lambda *_: (BERT, None))
        assert not plan(*asked).tags
        path.parent.rename(path.parents[1] / "tfn[bert,frozen]")
        assert plan(*asked).tags
    assert not plan(*asked).tags


def test_the_closing_table_has_the_same_names(plan, tune, tmp_path):
    tune("powmix", "tfn", "synthetic_mosi", {"alpha": 0.5})
    tune("powmix", "lmf", "synthetic_mosi", {"alpha": 0.7})
    asked = ("methods=[powmix,'powmix{alpha:0.7}']", "datasets=[synthetic_mosi]")
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    for more, wanted in (
        ((f"tuned={tmp_path / 'tuned'}",), ["powmix{tuned}", "powmix{alpha:0.7}", "powmix{tuned}"]),
        ((), ["powmix", "powmix{alpha:0.7}"] * 2),
    ):
        console.print(closing_table(plan(*asked, *more), {}))
        text = console.export_text()
        names = [line.split("│")[3].strip() for line in text.splitlines() if line.startswith("│")]
        assert names == wanted
    assert tuned_label("powmix") == "powmix{tuned}"
