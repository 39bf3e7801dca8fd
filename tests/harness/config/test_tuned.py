"""Tuned settings: files that read back bit for bit, the plans that use them, and what reports make of it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
from pathlib import Path
from typing import get_args, get_type_hints
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from backbones import BACKBONES
from backbones.base import resolve_settings
from backbones.text import TextSettings
from harness.config.compose import given_keys, load_benchmark
from harness.config.tuned import HEAD, read_tuned, tuned_label, write_tuned
from harness.errors import UserError
from harness.matrix import RESULTS_VERSION, Cell
from harness.plan import make_plan
from harness.study.description import describe
from harness.study.display import closing_table
from harness.tracking.tags import Trial
from harness.tracking.tracker import Tracker
from harness.train.result import Predictions, Result
from methods import METHODS
from reports import export
from reports.frame import COLUMNS, SCORES, load_frame, metric_kinds
from reports.tables.seed_means import main_numbers, occlusion_numbers
from tests.support.composing import compose_once
from tests.support.studies import as_latex, as_markdown, labels

BERT = TextSettings("bert", "abc", False, 0.0)
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
OF = ("none", "powmix", "ms_mix")


def make_cell(method="powmix", backbone="tfn", text=None, dataset="mosi", **more) -> Cell:
    kind = BACKBONES[backbone]
    return Cell(
        dataset=dataset,
        metrics="mosi",
        label_scale=3.0,
        fingerprint="0123456789",
        backbone=backbone,
        backbone_settings=resolve_settings(kind, kind.Settings(), "mosi"),
        method=method,
        method_settings=METHODS[method].Settings(),
        seed=1,
        text=text or TextSettings(),
        **more,
    )


def with_changes(cell, method=None, backbone=None):
    """The cell with some settings changed."""
    return dataclasses.replace(
        cell,
        method_settings=dataclasses.replace(cell.method_settings, **(method or {})),
        backbone_settings=dataclasses.replace(cell.backbone_settings, **(backbone or {})),
    )


WORDS = ("replace", "mse", "split_mse", "cosine", "batch", "adamw", "plateau", "reference", "kept_mean")


def other_values(settings_of, name, generator):
    """Values that a field may take, by the type of its own; not all of them are allowed."""
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
    """The one sentence with which it is refused."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert message.splitlines() == [message]
    assert message.endswith((".", "?"))
    return message


composed_once = pytest.fixture(scope="module", autouse=True)(compose_once)


# Files


@pytest.mark.parametrize("text", [None, BERT], ids=["features", "bert"])
@pytest.mark.parametrize(("method", "backbone"), list(itertools.product(METHODS, BACKBONES)))
def test_settings_of_every_kind_come_back_bit_for_bit(tmp_path, method, backbone, text):
    generator = np.random.default_rng(0)
    base = make_cell(method, backbone, text)
    best = dataclasses.replace(
        base,
        method_settings=shaken(base.method_settings, generator),
        backbone_settings=shaken(base.backbone_settings, generator),
    )
    path = write_tuned(tmp_path, base, best, GIVEN_HEAD)
    assert path == tmp_path / method / (backbone + ("[bert,frozen]" if text else "")) / "mosi.yaml"
    ((key, found),) = read_tuned(tmp_path).items()
    assert (key, found.path, found.head) == ((method, base.backbone_label, "mosi"), path, GIVEN_HEAD)
    assert found.digest == hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    again = with_changes(base, found.method, found.backbone)
    assert repr(again) == repr(best)
    assert again.cell_id == best.cell_id
    for name, changed in (("method_settings", found.method), ("backbone_settings", found.backbone)):
        before, after = (dataclasses.asdict(getattr(cell, name)) for cell in (base, best))
        assert changed == {field: after[field] for field in after if after[field] != before[field]}
    assert len(found.method) >= 2
    assert len(found.backbone) >= 5


@settings(deadline=None, max_examples=60)
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


def test_a_file_says_what_it_is_and_its_head_comes_first(tmp_path):
    base = make_cell()
    text = write_tuned(tmp_path, base, with_changes(base, {"alpha": 0.5}), GIVEN_HEAD).read_text()
    assert text.startswith("# The best settings found for powmix on tfn, mosi. In use with tuned=DIR")
    assert list(yaml.safe_load(text)) == [*GIVEN_HEAD, "method", "backbone"]
    assert "alpha: 0.5" in text


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
        "method:\n  alpha: true": "method.powmix: Value 'True' … Float.",
        "method:\n  alpha: [1]": "method.powmix: Value '[1]' … Float.",
        "method:\n  alpha: {a: 1}": "method.powmix.alpha={'a': 1} is no value for a setting.",
        "method:\n  alpha: 2020-01-01": "…=datetime.date(2020, 1, 1) is no value for a setting.",
        "method:\n  xi1: null": "method.powmix: Incompatible value 'None' …",
        "method:\n  mode: ${oc.env:HOME}": "method.powmix.mode='${oc.env:HOME}' is no value for a setting.",
        "method:\n  mode: '???'": "method.powmix.mode='???' is no value for a setting.",
        "method:\n  max_subset: 2.5": "method.powmix: Value '2.5' … Integer.",
        "method:\n  1: 2": "Unknown setting of method powmix '1'; …",
        "method: [alpha]": "method must be settings by name, got ['alpha'].",
        "method:": "method must be settings by name, got None.",
        "methd:\n  alpha: 0.5": "Unknown entry 'methd'; … Did you mean 'method'?",
        "x: 1": "it lacks 'method'.",
        "method:\n  alpha: 0.5\n 3": "it is no YAML, see line 17.",
        "method: !!python/name:os.system": "it is no YAML, see line 15.",
        "method: !!int ''": "it holds a value that cannot be read.",
        "method: !!timestamp x": "it holds a value that cannot be read.",
        "method: 2020-99-99": "it holds a value that cannot be read.",
        f"method: {'[' * 600}": "it holds a value that cannot be read.",
    },
    "backbone:\n  learning_rate: 0.25": {
        "backbone:\n  learning_rat: 0.25": "Unknown setting of backbone tfn 'learning_rat'; …",
        "backbone:\n  text_hidden: 1.5": "backbone.tfn: Value '1.5' … Integer.",
        "x: 1": "it lacks 'backbone'.",
    },
    "trials: 30": {
        "trials: thirty": "trials must be of type int, got 'thirty'.",
        "trials: true": "trials must be of type int, got True.",
        "tirals: 30": "it lacks 'trials'.",
        "trials: {n: 30}": "Unknown entry 'trials'; …",
        "trials: 30\n1: 2": "Unknown entry '1'; …",
    },
    "epochs: 12": {"epochs: 1.5": "epochs must be of type int or nothing, got 1.5."},
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
    message = refusal(read_tuned, file.parents[2]).removeprefix(f"{str(file)!r} cannot be used: ")
    assert not message.startswith("'/"), "the file must be named"
    rest = message
    for piece in BROKEN[old][new].split("…"):
        assert piece in rest, message
        rest = rest[rest.index(piece) + len(piece) :]
    assert message.startswith(BROKEN[old][new].partition("…")[0])


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"just text", b"- 1\n- 2", b"\x00", b"a: b: c"])
def test_files_that_hold_something_else(file, content):
    file.write_bytes(content)
    message = refusal(read_tuned, file.parents[2])
    assert message.startswith(f"{str(file)!r} cannot be used: it ")


@settings(deadline=None, max_examples=150)
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


DEPTHS = ("mosi.yaml", "powmix/mosi.yaml", "powmix/tfn/mosi/x.yaml", "powmix/tfn/mosei.yml")
FOREIGN = dict.fromkeys(DEPTHS, "only METHOD/BACKBONE/DATASET.yaml may lie below") | {
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


def test_without_a_file_there_is_nothing_to_use(tmp_path, file):
    absent, empty = tmp_path / "absent", tmp_path / "empty"
    assert refusal(read_tuned, absent).startswith(f"tuned={str(absent)!r} is no folder")
    assert "is no folder" in refusal(read_tuned, file)
    (empty / "powmix" / "tfn" / "mosi.yaml").mkdir(parents=True)
    assert "holds no settings" in refusal(read_tuned, empty)


def test_a_file_without_the_right_to_read(file, monkeypatch):
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
            wanted.append(cell)  # powmix{} stays as it was, beside the tuned powmix
    assert {cell.cell_id for cell in tuned.cells} == {cell.cell_id for cell in wanted}
    others = [[cell for cell in cells if cell.method != "powmix"] for cells in (tuned.cells, wanted)]
    assert others[0] == others[1]
    assert tuned.tags == tags
    assert len(tags) == 4
    assert (plain.tags, plain.notes) == ({}, ())
    assert tuned.notes == (
        "Tuned settings: 2 of 12 combinations; the configuration's own for: "
        "none on tfn/synthetic_mosi, lmf/synthetic_mosi, tfn/synthetic_sims; "
        "powmix on lmf/synthetic_mosi, tfn/synthetic_sims, lmf/synthetic_sims; ms_mix (all).",
    )
    assert describe(tuned).endswith("Tuned settings: 4 cells.")
    assert "Methods: none, powmix{tuned}, ms_mix, " in describe(tuned)
    assert "uned" not in describe(plain)


def test_a_cell_does_not_know_that_it_was_tuned(plan, tune, tmp_path):
    tune("powmix", "tfn", "synthetic_mosi", {"alpha": 0.5}, {"learning_rate": 0.25})
    names = ("backbones=[tfn]", "datasets=[synthetic_mosi]")
    found = plan(*names, "methods=[powmix]", f"tuned={tmp_path / 'tuned'}").cells
    by_hand = plan(*names, "methods=['powmix{alpha:0.5}']", "backbone.tfn.learning_rate=0.25").cells
    assert found == by_hand
    assert [cell.cell_id for cell in found] == [cell.cell_id for cell in by_hand]


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
        assert message == f"{key} is given, but {str(path)!r} sets it; leave one of them out."
    allowed = ("method.ms_mix.alpha=0.5", "backbone.lmf.learning_rate=0.1", "backbone.tfn.text_out=3")
    assert plan("methods=[powmix,ms_mix]", tuned, *allowed).tags
    # A file that is not used is in nobody's way.
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
    assert note.startswith(f"Some were chosen by results of version {RESULTS_VERSION - 1}, and this program")
    assert len(plan("methods=[ms_mix]", *tuned).notes) == 1


def test_variants_alone_use_no_file(plan, tune, tmp_path):
    tune("powmix", "tfn", "synthetic_mosi", {"alpha": 0.5})
    found = plan("methods=['powmix{}']", f"tuned={tmp_path / 'tuned'}")
    assert found.notes == ("Tuned settings: none, as every method is given with settings of its own.",)
    assert not found.tags


def test_requests_that_tuned_settings_do_not_go_with(plan, tune, tmp_path):
    tune("ms_mix", "tfn", "synthetic_mosi", {"delta": 0.5})
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


# Reports


def scores(number):
    names = ("acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc5", "acc7", "mae", "corr", "loss")
    return {split: dict.fromkeys(names, number) for split in ("valid", "test")}


@pytest.fixture
def logged(var_dir):
    """Log some cells of the study "s" as complete, and get its tracker."""
    tracker = Tracker(None, var_dir, "s")

    def log(*entries):
        for cell, number, tags in entries:
            clips = Predictions(np.array(["a"]), np.zeros(1, "f4"), {0.0: np.full(1, number, "f4")})
            result = Result("complete", scores(number), predictions=clips)
            tracker.finish(tracker.log(cell, result, tags), result)
        return tracker

    return log


CELLS = [make_cell(name, backbone) for name in OF for backbone in ("tfn", "lmf")]


def test_the_frame_says_which_cells_are_tuned(logged):
    tags = [
        {},
        {},
        {"tuned": "a", "tuned_backbone": "true"},
        {"tuned": "b", "tuned_backbone": "false"},
        {},
        {},
    ]
    frame = load_frame(logged(*((cell, 0.5, given) for cell, given in zip(CELLS, tags, strict=True))))
    assert tuple(frame.columns) == SCORES
    assert frame.groupby("method")["tuned"].unique().map(list).to_dict() == {
        "none": [False],
        "powmix": [True],
        "ms_mix": [False],
    }
    changed = frame[frame["tuned_backbone"]]
    assert set(zip(changed["method"], changed["backbone"], strict=True)) == {("powmix", "tfn")}
    assert all(frame[name].dtype == bool for name in ("tuned", "tuned_backbone", "outdated"))
    assert not frame["outdated"].any()


def test_cells_of_a_file_that_another_replaced_are_outdated(logged):
    """By the latest start, whatever the order of the log."""
    entries = [
        *(("powmix", "tfn", "mosi", seed, "old") for seed in (1, 2)),
        *(("powmix", "tfn", "mosi", seed, None) for seed in (3,)),
        ("powmix", "lmf", "mosi", 1, "old"),
        ("powmix", "tfn", "mosei", 1, "old"),
        ("ms_mix", "tfn", "mosi", 1, "old"),
        ("powmix", "tfn", "mosi", 4, "new"),
    ]
    cells = [dataclasses.replace(make_cell(m, b, dataset=d), seed=s) for m, b, d, s, _ in entries]
    tracker = logged()
    for k in (6, 0, 1, 2, 3, 4, 5):
        digest = entries[k][-1]
        label = tuned_label(cells[k].method)
        tags = {"tuned": digest, "tuned_backbone": "false", "label": label} if digest else {}
        result = Result("complete", scores(0.5), started=10.0 + k)
        tracker.finish(tracker.log(cells[k], result, tags), result)
    frame = load_frame(tracker)
    assert set(frame[frame["outdated"]]["cell_id"]) == {cells[0].cell_id, cells[1].cell_id}
    numbers = main_numbers(frame, {"mosi": "mosi", "mosei": "mosi"})
    mae = numbers[(numbers["metric"] == "mae") & (numbers["dataset"] == "mosi")]
    counts = mae[mae["n"] > 0].set_index(["backbone", "method"])["n"].to_dict()
    assert counts == {
        ("tfn", "powmix"): 4,
        ("tfn", "powmix{tuned}"): 1,
        ("lmf", "powmix{tuned}"): 1,
        ("lmf", "powmix"): 1,
        ("tfn", "ms_mix{tuned}"): 1,
        # A search that ends at the defaults has trained the method without tuning, too.
        ("tfn", "ms_mix"): 1,
    }
    assert numbers.attrs["outdated"] == 2


def trial(tracker, sweep, number, params, cells, state="complete"):
    """Log a trial with these cells."""
    values = dict(search=f"s/{sweep}", number=number, default=False, state=state, objective="valid/loss")
    made = Trial(
        sweep,
        base=cells[0],
        values=params,
        value=0.5,
        cells={cell.seed: cell.cell_id for cell in cells},
        metrics={},
        started=0.0,
        **values,
    )
    tracker.log_trial(made)


def test_a_sweeps_export_has_all_cells_of_its_trials(logged, tmp_path, capsys):
    cells = [dataclasses.replace(make_cell("none"), seed=seed) for seed in range(5)]
    mix = with_changes(make_cell("powmix"), {"alpha": 0.75})
    lost, alone = dataclasses.replace(cells[0], seed=8), dataclasses.replace(cells[0], seed=9)
    tags = [{"sweep": "rate"}, {}, {"sweep": "other"}, {"sweep": "rate"}, {}, {}, {"sweep": "rate"}]
    tracker = logged(*((c, 0.5, t) for c, t in zip([*cells, mix, alone], tags, strict=True)))
    trial(tracker, "rate", 0, {"learning_rate": 0.5}, [cells[0], cells[1], lost])
    trial(tracker, "rate", 1, {"learning_rate": 0.25}, [cells[2], cells[0]], state="failed")
    trial(tracker, "rate", 2, {"learning_rate": 0.25}, [cells[2]])
    trial(tracker, "rate", 3, {"sigma": 2.0}, [mix])
    trial(tracker, "copy", 0, {"dropout": 0.0}, [cells[2]])
    own = json.dumps(mix.variant)
    assert "alpha" in own
    wanted = {
        "rate": {
            (cells[0], '{"learning_rate": 0.5}'),
            (cells[0], '{"learning_rate": 0.25}'),
            (cells[1], '{"learning_rate": 0.5}'),
            (cells[2], '{"learning_rate": 0.25}'),
            (mix, json.dumps({**mix.variant, "sigma": 2.0}, sort_keys=True)),
        },
        "copy": {(cells[2], '{"dropout": 0.0}')},
    }
    for sweep, pairs in wanted.items():
        out, clips = tmp_path / "a.csv", tmp_path / "a.parquet"
        asked = ["study=s", f"var_dir={tracker.var_dir}", f"out={out}", f"predictions={clips}"]
        assert export.main([*asked, f"sweep={sweep}"]) == 0
        numbers = pd.read_csv(out)
        assert tuple(numbers.columns) == COLUMNS
        found = numbers.groupby(["cell_id", "settings"]).size().to_dict()
        assert found == {(cell.cell_id, text): 18 for cell, text in pairs}
        ids = sorted({cell.cell_id for cell, _ in pairs})
        assert pd.read_parquet(clips)["cell_id"].tolist() == ids
        assert f"of {len(ids)} cells" in capsys.readouterr().out
    assert export.main([*asked, "sweep=raet"]) == 2
    assert capsys.readouterr().err == (
        "Error: Unknown sweep 'raet'; allowed: copy, rate. Did you mean 'rate'?\n"
    )
    assert set(load_frame(tracker)["cell_id"]) == {cells[1].cell_id, cells[4].cell_id, mix.cell_id}


def test_cells_of_sweeps_stay_out_unless_asked_for(logged):
    tags = [{}, {"sweep": "delta"}, {"sweep": "delta"}, {"sweep": "xi"}, {}, {}]
    cells = [dataclasses.replace(c, dataset="mosei") if t else c for c, t in zip(CELLS, tags, strict=True)]
    tracker = logged(*((c, 0.25, t) for c, t in zip(cells, tags, strict=True)))
    trial(tracker, "delta", 0, {"alpha": 1.0}, cells[1:2])
    trial(tracker, "delta", 1, {"alpha": 2.0}, cells[2:3])
    for sweep, wanted in ((None, [cells[0], *cells[4:]]), ("delta", cells[1:3])):
        assert set(load_frame(tracker, sweep)["cell_id"]) == {cell.cell_id for cell in wanted}
        assert metric_kinds(tracker, sweep) == {"mosei" if sweep else "mosi": "mosi"}


def test_a_study_of_sweeps_alone_names_their_tables(logged):
    tracker = logged((CELLS[0], 0.5, {"sweep": "delta"}))
    for logs, wanted in ((False, "no complete cells yet"), (True, "no complete cells but those of sweeps")):
        if logs:
            trial(tracker, "delta", 0, {}, CELLS[:1])
        numbers = main_numbers(load_frame(tracker), {})
        assert wanted in as_markdown(numbers)
        assert wanted in as_latex(numbers)
    assert r"see sweep\_\*.md." in as_markdown(numbers)
    assert "see sweep\\_{*}.md." in as_latex(numbers)
    logged((CELLS[1], 0.5, {}))
    assert not load_frame(tracker).attrs["sweeps"]
    assert "sweep" not in as_markdown(main_numbers(load_frame(tracker), {"mosi": "mosi"}))


def test_a_study_without_sweeps_has_none_to_export(logged):
    tracker = logged()
    assert load_frame(tracker).empty
    assert tuple(load_frame(tracker).columns) == SCORES
    assert main_numbers(load_frame(tracker), {}).empty
    assert refusal(load_frame, tracker, "delta").endswith("no trials of sweeps, so none of 'delta'.")


def rows(method, values, settings="{}", **given):
    """One row per metric and seed of the kind "sims"."""
    base = {"study": "s", "dataset": "mine", "backbone": "tfn", "method": method, "settings": settings}
    base |= {"occlusion_protocol": "test", "occlusion_ratio": 0.0, "split": "test", "run_id": "r"}
    base |= {"tuned": False, "tuned_backbone": True, "outdated": False, "environment": "cpu"}
    base |= labels(method, settings, given.get("tuned", False))
    metrics = ("acc2", "acc3", "acc5", "f1", "mae", "corr")
    return [
        {**base, "metric": metric, "value": value, "seed": seed, "cell_id": f"{settings}{seed}", **given}
        for metric in metrics
        for seed, value in enumerate(values)
    ]


TUNED = [
    *rows("none", (0.1, 0.3)),
    *rows("none", (0.1, 0.3), backbone="lmf"),
    *rows("powmix", (0.2, 0.4), '{"alpha": 0.5}', tuned=True),
    *rows("powmix", (0.6, 0.8), '{"alpha": 0.7}', tuned=True, backbone="lmf"),
    *rows("powmix", (0.5, 0.5)),
    *rows("powmix", (0.5, 0.5), '{"alpha": 0.5}'),
]
KINDS = {"mine": "sims"}


def test_tuned_settings_make_one_row_whatever_they_are():
    numbers = main_numbers(pd.DataFrame(TUNED), KINDS)
    assert list(dict.fromkeys(numbers["method"])) == ["none", "powmix", "powmix{alpha:0.5}", "powmix{tuned}"]
    tuned = numbers[(numbers["method"] == "powmix{tuned}") & (numbers["metric"] == "mae")]
    assert tuned.set_index("backbone")["mean"].round(9).to_dict() == {"lmf": 0.7, "tfn": 0.3}
    assert (tuned[["n", "seeds"]] == 2).all(axis=None)
    by_ratio = occlusion_numbers(pd.DataFrame(TUNED), KINDS)
    assert set(by_ratio["method"]) == set(numbers["method"])
    shuffled = main_numbers(pd.DataFrame(TUNED).sample(frac=1, random_state=1), KINDS)
    pd.testing.assert_frame_equal(shuffled, numbers)


def test_a_search_that_ends_at_settings_with_a_row_of_their_own_leaves_no_hole_there():
    own = {"tuned": True, "tuned_backbone": False, "backbone": "lmf"}
    for settings_, wanted in (
        ("{}", "powmix"),
        ('{"alpha": 0.5}', "powmix{alpha:0.5}"),
        ('{"alpha": 9}', None),
    ):
        tidy = pd.DataFrame([*rows("powmix", (0.5, 0.5)), *rows("powmix", (0.5, 0.5), '{"alpha": 0.5}')])
        tuned = pd.DataFrame(rows("powmix", (0.2, 0.4), settings_, **own))
        numbers = main_numbers(pd.concat([tidy, tuned]), KINDS)
        assert set(numbers["method"]) == {"powmix", "powmix{alpha:0.5}", "powmix{tuned}"}
        mae = numbers[(numbers["backbone"] == "lmf") & (numbers["metric"] == "mae")].set_index("method")
        filled = {name for name, count in mae["n"].items() if count}
        assert filled == {"powmix{tuned}", wanted} - {None}
        assert mae.loc[sorted(filled), "mean"].round(9).unique() == [0.3]
        changed = main_numbers(pd.concat([tidy, tuned.assign(tuned_backbone=True)]), KINDS)
        assert set(changed[(changed["backbone"] == "lmf") & (changed["n"] > 0)]["method"]) == {
            "powmix{tuned}"
        }


def test_a_method_tuned_twice_is_pointed_out():
    twice = [*TUNED, *rows("powmix", (0.9, 0.9), '{"alpha": 0.9}', tuned=True)]
    assert "| powmix{tuned} | 4‡ |" in as_markdown(main_numbers(pd.DataFrame(twice), KINDS))
    assert "‡" not in as_markdown(main_numbers(pd.DataFrame(TUNED), KINDS))


@pytest.mark.parametrize(("old", "said"), [(0, None), (1, "1 cell of"), (2, "2 cells of")])
def test_cells_of_earlier_files_are_left_out_and_counted(old, said):
    earlier = rows("powmix", (0.9,) * old, '{"alpha": 0.9}', tuned=True, outdated=True)
    tidy = pd.DataFrame([*TUNED, *earlier])
    numbers, plain = main_numbers(tidy, KINDS), main_numbers(pd.DataFrame(TUNED), KINDS)
    pd.testing.assert_frame_equal(numbers, plain)
    for text in (as_markdown(numbers), as_latex(numbers)):
        assert ("earlier" in text) == (said is not None)
        assert said is None or f"takes the newest file alone: {said} earlier ones left out." in text


def test_an_outdated_cell_still_stands_in_the_row_of_its_settings():
    earlier = rows("powmix", (0.9,), '{"alpha": 0.5}', tuned=True, tuned_backbone=False, outdated=True)
    numbers = main_numbers(pd.DataFrame([*TUNED, *earlier]), KINDS)
    counts = numbers[(numbers["backbone"] == "tfn") & (numbers["metric"] == "mae")].set_index("method")["n"]
    assert counts.to_dict() == {"none": 2, "powmix": 2, "powmix{alpha:0.5}": 3, "powmix{tuned}": 2}


def test_tables_say_what_tuned_means_where_it_stands():
    chosen, unequal = "settings chosen on the validation split", "had no such choice"
    for frame, wanted in (
        (TUNED, (True, True)),
        ([row for row in TUNED if row["tuned"]], (True, False)),
        ([row for row in TUNED if not row["tuned"]], (False, False)),
    ):
        numbers = main_numbers(pd.DataFrame(frame), KINDS)
        for text in (as_markdown(numbers), as_latex(numbers)):
            assert (chosen in text, unequal in text) == wanted
            assert ("files under tuned=DIR the budgets" in text) == wanted[0]
            assert ("for none learning rate and dropout; the seeds of" in text) == wanted[0]
    latex = as_latex(main_numbers(pd.DataFrame(TUNED), KINDS))
    assert r"& powmix\{tuned\} & 2 &" in latex
    assert r"\{tuned\}: settings chosen" in latex


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
