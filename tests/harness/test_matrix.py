"""Cells and their identity, the names that people read, and derived seeds."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import itertools
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones import BACKBONES
from backbones.base import KINDS, BackboneSettings, resolve_settings
from backbones.text import BertSettings
from harness.config.compose import load_benchmark, settings_of
from harness.config.grammar import split_list, split_variant
from harness.data.export import export
from harness.data.synthetic import SyntheticSettings
from harness.matrix import Cell, differences, first_seeds, ratio_text, readable_settings, unique
from harness.plan import make_plan
from harness.train.seeds import generator_for, seed_for
from methods import METHODS
from methods.base import MethodSettings

CELL = Cell(
    dataset="mosi",
    metrics="mosi",
    label_scale=3.0,
    fingerprint="0123456789abcdef",
    backbone="tfn",
    backbone_settings=BackboneSettings(32, 0.001, 0.0, "l1", "adam", 8, 200),
    method="mixup",
    method_settings=MethodSettings(0.7, "append", "backbone"),
    seed=1111,
    ratios=(0.0, 0.5),
    results_version=1,
)


# Identity


def test_known_ids_and_seeds_stay():
    """Stored results carry these ids: if an id changes, its cell is trained again."""
    assert CELL.cell_id == "9631d0e1da9a0f01"
    assert seed_for(1111, "mixing", 1, 2) == 3806424939642225790, "a change calls for a new results version"


@pytest.mark.parametrize("registry", [METHODS, BACKBONES], ids=["methods", "backbones"])
def test_the_id_is_the_hash_of_all_fields_as_plain_json(registry):
    kind = "method_settings" if registry is METHODS else "backbone_settings"
    for entry in registry.values():
        cell = dataclasses.replace(CELL, **{kind: entry.Settings()}, text=BertSettings(model="m"))
        fields = dataclasses.asdict(cell)
        later = {"label_center": 3.0, "standardize": True, "test_curve": True}
        for name in later:  # which cells of earlier versions have not
            del fields[name]
        assert fields.pop("backbone_changes") == ""
        del fields["method_settings"]["only"]
        assert cell.cell_id == _hash(fields)
        assert dataclasses.replace(cell, **later).cell_id == _hash({**fields, **later})


def test_a_method_of_some_modalities_is_a_cell_of_its_own():
    every = (None, ("text",), ("vision", "text"), ("text", "vision"), ("text", "audio", "vision"))
    settings = {only: METHODS["mixup"].Settings(only=only and list(only)) for only in every}
    mixed = {only: dataclasses.replace(CELL, method_settings=one) for only, one in settings.items()}
    ids = {only: cell.cell_id for only, cell in mixed.items()}
    assert len(set(ids.values())) == 3
    assert ids["vision", "text"] == ids["text", "vision"]
    assert ids["text", "audio", "vision"] == ids[None]
    assert mixed["vision", "text"].method_label.endswith("{only:[text,vision]}")


def _hash(fields):
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def test_unique_keeps_the_first_of_each_in_order():
    cells = [dataclasses.replace(CELL, seed=seed) for seed in (3, 1, 3, 2, 1)]
    assert [cell.seed for cell in unique(cells)] == [3, 1, 2]


def test_the_first_seed_of_each_place_is_the_first_in_the_plan():
    kinds = itertools.product(("mosi", "mine"), ("tfn", "lmf"), (0.2, 0.4), (3, 1, 2), (0.5, 0.0))
    cells = [
        dataclasses.replace(
            CELL,
            dataset=dataset,
            backbone=backbone,
            method="ms_mix",
            method_settings=METHODS["ms_mix"].Settings(delta=delta),
            seed=seed,
            train_ratio=ratio,
        )
        for dataset, backbone, delta, seed, ratio in kinds
    ]
    wanted = {cell.cell_id for cell in cells if (cell.seed, cell.train_ratio) == (3, 0.0)}
    assert first_seeds(cells) == wanted
    assert len(wanted) == 8


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "mine.pkl"
    export(SyntheticSettings("synthetic_mosi", clips=12), path)
    return path


@pytest.fixture(scope="module")
def ids(file, tmp_path_factory):
    """Return the ids of the cells that these arguments plan."""
    var = tmp_path_factory.mktemp("plans") / "var"
    asked = ["datasets=[mine,synthetic_mosi]", "dataset.synthetic_mosi.clips=12", "backbones=[tfn,lmf]"]
    more = ["methods=[none,ms_mix]", "seeds=[1,2]", "occlusion.ratios=[0,0.5]", f"dataset.mine.path={file}"]

    @functools.cache
    def plan(*arguments):
        cells = make_plan(load_benchmark([f"var_dir={var}", *asked, *more, *arguments])).cells
        return [cell.cell_id for cell in cells]

    return plan


def test_ids_do_not_depend_on_where_and_how_cells_run(ids, file, tmp_path):
    elsewhere = tmp_path / "moved.pkl"
    shutil.copy(file, elsewhere)
    expected = ids()
    assert len(set(expected)) == 16
    neutral = (
        "launcher=processes jobs=7 jobs_per_gpu=3 study=other report=false device=cpu data_root=/nowhere "
        "data.resident=host retry=diverged tracking.uri=http://host ledger.uri=sqlite:///a"
    )
    assert ids(*neutral.split(), f"var_dir={tmp_path / 'var'}", f"dataset.mine.path={elsewhere}") == expected
    orders = ["seeds=[2,1]", "backbones=[lmf,tfn]", "methods=[ms_mix,none]", "datasets=[synthetic_mosi,mine]"]
    shuffled = ids(*orders)
    assert shuffled != expected
    assert set(shuffled) == set(expected)


@pytest.mark.parametrize(
    "argument",
    ["seeds=[3]", "occlusion.ratios=[0,0.5,0.6]", "occlusion.granularity=entry", "occlusion.mask_seed=1",
     "train.max_epochs=2", "train.patience=2", "train.max_batches=2", "cell.threads=2", "deterministic=false",
     "compile=true",
     "method.none.xi1=0.1 methods=[none]", "method.ms_mix.xi2=0.1 methods=[ms_mix]",
     "backbone.tfn.text_out=3 backbones=[tfn]", "backbone.lmf.rank=7 backbones=[lmf]",
     "dataset.mine.label_scale=4 datasets=[mine]", "dataset.mine.metrics=score datasets=[mine]",
     "dataset.mine.label_scale=4 dataset.mine.label_center=1 datasets=[mine]",
     "dataset.mine.standardize=true datasets=[mine]", "evaluate.test_curve=true",
     "dataset.mine.like=mosei datasets=[mine]", "dataset.synthetic_mosi.clips=13 datasets=[synthetic_mosi]",
     "dataset.synthetic_mosi.seed=1 datasets=[synthetic_mosi]",
     "dataset.synthetic_mosi.aligned=true datasets=[synthetic_mosi]"],
)  # fmt: skip
def test_ids_depend_on_what_changes_the_numbers(ids, argument):
    assert not set(ids(*argument.split())) & set(ids())


def test_only_the_asked_part_of_a_matrix_changes(ids):
    assert len(set(ids("backbone.tfn.text_out=3")) & set(ids())) == 8
    assert len(set(ids("method.ms_mix.delta=0.3")) & set(ids())) == 8
    assert set(ids()) < set(ids("seeds=[1,2,3]"))


# Names


def test_run_names():
    assert CELL.run_name == "mosi/tfn/mixup/seed1111"
    assert CELL.protocol == "test"
    trained = dataclasses.replace(CELL, ratios=(0.0,), train_ratio=0.3)
    assert trained.run_name == "mosi/tfn/mixup/seed1111/train_r0.30"
    assert trained.protocol == "train"
    variant = METHODS["ms_mix"].Settings(delta=0.4, sig=False)
    found = dataclasses.replace(CELL, method="ms_mix", method_settings=variant)
    assert found.run_name == "mosi/tfn/ms_mix[sass,sal]{delta:0.4}/seed1111"
    assert found.variant == {"delta": 0.4, "sig": False}


def test_readable_settings():
    assert readable_settings({}) == ""
    assert readable_settings({"b": 1, "a": 0.5}) == "{a:0.5,b:1}"
    assert readable_settings({"layers": [0, 1], "mode": "replace"}) == "{layers:[0,1],mode:replace}"
    assert readable_settings({"a": "null", "b": "1", "c": "x y"}) == '{a:"null",b:"1",c:"x y"}'


def test_differences_are_what_is_not_the_default():
    for entry in (*METHODS.values(), *BACKBONES.values()):
        default = entry.Settings()
        assert differences(default) == {}
        for field in dataclasses.fields(default):
            changed = copy.copy(default)
            object.__setattr__(changed, field.name, "another, allowed or not")
            assert differences(changed) == {field.name: "another, allowed or not"}


keys = st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**6), 10**6) | st.booleans()
words = st.sampled_from(["append", "replace", "padded_mean", "a b", "null", "true", "1", "", "a,b", "{", "é"])


@settings(deadline=None)
@given(
    name=keys,
    given_settings=st.dictionaries(keys, numbers | words | st.lists(numbers, max_size=3), max_size=4),
)
def test_a_readable_variant_can_be_given_back_to_the_command(name, given_settings):
    label = name + readable_settings(given_settings)
    # Compare by repr, because types must match too.
    assert repr(split_variant(label)) == repr((name, dict(sorted(given_settings.items()))))
    assert split_list("methods", f"[none,'{label}']") == ["none", label]


@pytest.mark.parametrize(
    "text",
    ["ms_mix", "ms_mix{delta:0.4,sal:false,mode:replace}", "manifold_mixup{layers:[0,2],alpha:0.5}",
     "none{mix_loss:mse}", "mixup{per_sample:true,xi1:0}", "ms_mix[sass,sal]", "ms_mix[]",
     "ms_mix[sig]{alpha:1}"],
)  # fmt: skip
def test_the_label_of_a_variant_gives_its_settings_again(text):
    config = load_benchmark([])
    method, changes = split_variant(text)
    made = settings_of(config, "method", method, changes)
    label = dataclasses.replace(CELL, method=method, method_settings=made).method_label
    assert split_variant(label)[0] == method
    assert settings_of(config, "method", *split_variant(label)) == made


@given(ratio=st.floats(0, 1) | st.integers(0, 100).map(lambda k: k / 100))
def test_ratio_text_names_the_ratio_and_no_other(ratio):
    assert float(ratio_text(ratio)) == ratio
    short = f"{ratio:.2f}"
    assert (ratio_text(ratio) == short) == (float(short) == ratio)


# Seeds


def test_seeds_differ_by_purpose_and_place():
    purposes = ("init", "method_init", "order", "mixing", "dropout", "mixing1", "1")
    parts = ([], [1], [1, 1], [11], ["1"], [1, 11], [11, 1])
    seeds = {seed_for(s, purpose, *rest) for s in (-1, 1, 11) for purpose in purposes for rest in parts}
    assert len(seeds) == 3 * 7 * 7
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_are_streams_of_their_own():
    places = [(1, "order", 1), (1, "order", 2), (1, "mixing", 1), (2, "order", 1)]
    streams = np.stack([generator_for(*place).random(2000) for place in places])
    assert np.abs(np.corrcoef(streams) - np.eye(4)).max() < 5 / np.sqrt(2000)
    assert np.array_equal(streams[0], generator_for(1, "order", 1).random(2000))


def test_resolved_settings_hold_no_none():
    for backbone, like in itertools.product(BACKBONES.values(), KINDS):
        settings = resolve_settings(backbone, backbone.Settings(), like)
        assert isinstance(settings, BackboneSettings)
        assert None not in dataclasses.asdict(settings).values()
