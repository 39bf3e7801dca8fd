"""From a request to its cells: the plan, and one sentence for every invalid request."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backbones import BACKBONES
from harness.benchmark import main
from harness.config.compose import load_benchmark
from harness.data.dataset import SPLITS
from harness.data.export import export, raw_mmsa
from harness.data.synthetic import SyntheticSettings
from harness.plan import make_plan
from harness.study.description import MOST_NAMES, describe
from harness.train.arithmetic import resolve_device
from methods import METHODS
from tests.harness.data.test_unpickle import Call

FILES = {
    "MOSI/Processed/unaligned_50.pkl": ("synthetic_mosi", False),
    "MOSI/Processed/aligned_50.pkl": ("synthetic_mosi", True),
    "MOSEI/Processed/unaligned_50.pkl": ("synthetic_mosei", False),
    "MOSEI/Processed/aligned_50.pkl": ("synthetic_mosei", True),
    "SIMS/Processed/unaligned_39.pkl": ("synthetic_sims", False),
    "SIMSv2/Processed/sims_unaligned.pkl": ("synthetic_sims", False),
}
QUICK = [f"dataset.synthetic_{name}.clips=12" for name in ("mosi", "mosei", "sims")]
SMALL = ["datasets=[synthetic_mosi]", "backbones=[tfn]", "methods=[none]", "seeds=[1]", *QUICK]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """MMSA's tree with tiny synthetic files."""
    folder = tmp_path_factory.mktemp("root")
    for file, (name, aligned) in FILES.items():
        export(SyntheticSettings(name, clips=12, aligned=aligned), folder / file)
    return folder


@pytest.fixture(scope="module")
def plan(root, tmp_path_factory):
    """Plan some arguments with one cache for all."""
    var = tmp_path_factory.mktemp("plans") / "var"
    return lambda *arguments: make_plan(load_benchmark([f"var_dir={var}", f"data_root={root}", *arguments]))


def dump(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content, protocol=4))


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """Files that cannot be used, by name."""
    folder = tmp_path_factory.mktemp("bad")
    good = raw_mmsa(SyntheticSettings("synthetic_mosi", clips=12))
    dump(folder / "good", good)
    dump(folder / "code", {"train": Call(os.mkdir, str(folder / "mark"))})
    dump(folder / "nobody", good | {"valid": {key: value[:0] for key, value in good["valid"].items()}})
    return folder


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run a command that must fail before any work; return its message."""
    workplace = tmp_path / "workplace"
    workplace.mkdir()
    monkeypatch.chdir(workplace)

    monkeypatch.setattr("harness.benchmark._drive", Mock(side_effect=AssertionError("work was started")))

    def run(*arguments, var=tmp_path / "var"):
        assert main([f"var_dir={var}", *SMALL, *arguments]) == 2
        out, error = capsys.readouterr()
        assert out == ""
        assert error.startswith("Error: ")
        assert len(error.splitlines()) == 1
        assert list(workplace.iterdir()) == []
        return error.strip()

    return run


# Invalid requests

UNKNOWN = {
    "methods=[none,ms_mx]": "Unknown method 'ms_mx'; allowed: … Did you mean 'ms_mix'?",
    "methods=[ms_mx{delta:0.4}]": "Unknown method 'ms_mx'; allowed: … Did you mean 'ms_mix'?",
    "backbones=[tfm]": "Unknown backbone 'tfm'; allowed: … Did you mean 'tfn'?",
    "datasets=[synthetic_mossi]": "Unknown dataset 'synthetic_mossi'; give … Did you mean 'synthetic_mosi'?",
    "launcher.name=rya": "Unknown launcher 'rya'; allowed: inline, processes, ray. …",
    "device=gpu": "Unknown device 'gpu'; allowed: auto, cpu, cuda.",
    "device=mps": "device=mps is not supported: no test shows that its results repeat; use device=cpu.",
    "study=Default": "study='Default' is MLflow's own experiment",
    "precision=fp23": "Unknown precision 'fp23'; allowed: bf16, fp32, tf32. Did you mean 'fp32'?",
    "dataset.synthetic_mosi.size=fll": "Unknown size 'fll'; allowed: full, quick. Did you mean 'full'?",
    "retry=x": "Unknown value of retry 'x'; allowed: changed, diverged.",
    "data.resident=devise": "Unknown value of data.resident 'devise'; … Did you mean 'device'?",
    "occlusion.protocols=[tst]": "Unknown occlusion protocol 'tst'; allowed: test, train. …",
    "occlusion.granularity=fram": "Unknown granularity 'fram'; allowed: entry, frame. …",
    "dataset.synthetic_mosi.like=moosi": "Unknown value of dataset.synthetic_mosi.like 'moosi'; … 'mosi'?",
    "dataset.synthetic_mosi.metrics=smis": "Unknown value of dataset.synthetic_mosi.metrics 'smis'; …",
    "dataset.synthetic_mosi.metrics=": "Unknown value of dataset.synthetic_mosi.metrics ''; allowed: …",
    "methods=[mixup{mode:apend}]": "method.mixup: mode must be one of append, replace, …'apend'.",
    "backbone.tfn.criterion=l2": "backbone.tfn: criterion must be one of l1, mse, got 'l2'.",
}


@pytest.mark.parametrize("argument", UNKNOWN)
def test_unknown_names(refused, argument):
    beginning, _, end = UNKNOWN[argument].partition("…")
    message = refused(argument).removeprefix("Error: ")
    assert message.startswith(beginning)
    assert message.endswith(end)


NUMBERS = {
    "occlusion.ratios=[0,1.5]": "[0, 1], got 1.5",
    "occlusion.ratios=[-0.1]": "[0, 1], got -0.1",
    "occlusion.ratios=[nan]": "[0, 1], got nan",
    "occlusion.train_ratios=[0.5,2]": "[0, 1], got 2.0",
    "jobs=0": "jobs must be at least 1, got 0",
    "jobs_per_gpu=0": "jobs_per_gpu must be at least 1, got 0",
    "precision=bf16 device=cpu": "precision=bf16 needs device=cuda, but cells would run on the CPU; use",
    "cell.threads=0": "cell.threads must be at least 1, got 0",
    "train.max_epochs=0": "train.max_epochs must be at least 1, got 0",
    "train.max_batches=-1": "train.max_batches must be at least 1, got -1",
    "dataset.synthetic_mosi.clips=-5": "clips must be in 12 .. 100000, got -5",
    "dataset.synthetic_mosi.seed=-1": "seed must be at least 0, got -1",
    **{
        f"dataset.synthetic_mosi.label_scale={value}": f"label_scale must be a positive number, got {value}"
        for value in ("0.0", "-3.0", "inf", "nan")
    },
    "dataset.synthetic_mosi.label_scale=1": "synthetic labels are in [-3, 3], got [-1, 1]",
    "dataset.synthetic_mosi.label_center=1": "synthetic labels are in [-3, 3], got [-2, 4]",
    "dataset.synthetic_mosi.like=sims": "synthetic labels are in [-3, 3], got [-1, 1]; leave out",
    "backbone.tfn.text_hidden=-4": "text_hidden must be at least 1, got -4",
    "backbone.tfn.batch_size=0": "batch_size must be at least 1, got 0",
    "backbone.tfn.learning_rate=-1": "learning_rate must be >= 0 and finite, got -1.0",
    "backbone.tfn.learning_rate=nan": "learning_rate must be >= 0 and finite, got nan",
    "backbone.tfn.audio_dropout=1": "audio_dropout must be in [0, 1), got 1.0",
    "method.none.xi1=-1": "xi1 must be >= 0 and finite, got -1.0",
    "methods=[mixup{alpha:-1}]": "alpha must be >= 0 and finite, got -1.0",
    "methods=[] ": "methods is empty",
    "backbones=[]": "backbones is empty",
    "datasets=": "datasets is empty",
    "seeds=[]": "seeds is empty",
    "occlusion.ratios=[]": "need at least one value",
    "occlusion.protocols=[]": "need at least one value",
    "occlusion.protocols=[train] occlusion.ratios=[0.5] occlusion.train_ratios=[]": "at least one ratio",
    "var_dir=": "var_dir is empty",
}


@pytest.mark.parametrize("arguments", NUMBERS)
def test_numbers_that_are_not_allowed(refused, arguments):
    pattern = ".*".join(map(re.escape, NUMBERS[arguments].split("…")))
    assert re.search(pattern, refused(*arguments.split()))


BAD_FILES = {
    "nothing": "there is no file '{path}'",
    ".": "there is no file",
    "nobody": "split 'valid' is empty",
    "code": "was refused: its pickle asks for 'posix.mkdir'",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_cannot_be_used(refused, bad, name):
    message = refused("datasets=[mine]", f"dataset.mine.path={bad / name}")
    assert BAD_FILES[name].format(path=bad / name) in message
    assert str(bad) in message
    assert not (bad / "mark").exists()


def test_labels_outside_the_range_of_the_request(refused, bad, tmp_path):
    mine = ["datasets=[mine]", f"dataset.mine.path={bad / 'good'}"]
    assert "outside [-0.5, 0.5]" in refused(*mine, "dataset.mine.label_scale=0.5")
    assert "outside [-1, 1]" in refused(*mine, "dataset.mine.like=sims")
    # A narrower range is checked although the file is cached.
    make_plan(load_benchmark([f"var_dir={tmp_path / 'var'}", *SMALL, *mine]))
    raw = raw_mmsa(SyntheticSettings("synthetic_mosi", clips=12))
    largest = max(np.abs(split["regression_labels"]).max() for split in raw.values())
    assert "outside" in refused(*mine, f"dataset.mine.label_scale={largest - 0.01:.9f}")


def test_data_without_a_place(refused, tmp_path):
    assert "give data_root=DIR with MOSI/Processed/unaligned_50.pkl below it" in refused("datasets=[mosi]")
    assert "aligned_50.pkl" in refused("datasets=[mosi]", "dataset.mosi.aligned=true")
    absent = tmp_path / "absent"
    assert f"there is no file '{absent}/SIMS/" in refused("datasets=[sims]", f"data_root={absent}")
    assert "has no aligned file" in refused("datasets=[sims]", "dataset.sims.aligned=true")
    assert "dataset.mine.path=FILE" in refused("datasets=[mine]")
    assert "dataset.mine.path=FILE" in refused("datasets=[mine]", "dataset.mine.like=sims")
    for setting in ("clips=60", "size=full"):
        assert "is for synthetic data" in refused("datasets=[mosi]", f"dataset.mosi.{setting}")


def test_no_right_to_write(refused, bad, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("in the way")
    mine = ["datasets=[mine]", f"dataset.mine.path={bad / 'good'}"]
    for reason, folder in (("Not a directory", file / "var"), ("Permission denied", tmp_path / "var")):
        if folder.parent == tmp_path:
            monkeypatch.setattr(Path, "mkdir", Mock(side_effect=PermissionError(13, reason)))
        for more in ([], mine):
            message = refused(*more, var=folder)
            assert str(folder) in message
            assert f"cannot be written: {reason}" in message


@pytest.mark.parametrize("call", ["is_file", "open"])
def test_no_right_to_read(refused, bad, monkeypatch, call):
    allowed = getattr(Path, call)

    def denied(path, *arguments, **options):
        if path.name == "good":
            raise PermissionError(13, "Permission denied")
        return allowed(path, *arguments, **options)

    monkeypatch.setattr(Path, call, denied)
    message = refused("datasets=[mine]", f"dataset.mine.path={bad / 'good'}")
    assert f"{str(bad / 'good')!r} cannot be read: Permission denied" in message


STRANGE = [" ", ".", "..", "a/b", "/", "a\\b", "a\nb", "a\tb", "a" * 201, "é" * 101, "\x7f", "a\udcff"]


@pytest.mark.parametrize("name", STRANGE)
def test_names_that_no_study_can_have(refused, name):
    assert f"study={name!r} is not a valid study name" in refused(f"study={name}")


def test_a_missing_gpu(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "device=cuda" in refused("device=cuda")
    assert (resolve_device("auto"), resolve_device("cpu")) == ("cpu", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [resolve_device(name) for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]


# Plans


@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_profiles_plan(plan, profile):
    arguments = [f"profile={profile}", *QUICK]
    found, config = plan(*arguments), load_benchmark(arguments)
    occlusions = 1 + ("train" in config.occlusion.protocols) * len(config.occlusion.train_ratios or [])
    product = len(config.datasets) * len(config.backbones) * len(config.methods) * len(config.seeds)
    assert len(found.cells) == product * occlusions
    assert len({cell.cell_id for cell in found.cells}) == len(found.cells)
    assert {cell.dataset for cell in found.cells} == set(found.datasets) == set(config.datasets)
    assert found.study == profile
    if profile == "paper":
        wanted = {((0.0,), ratio) for ratio in (0.1, 0.3, 0.5, 0.7)} | {(tuple(np.arange(10) / 10), 0.0)}
        assert {(c.ratios, c.train_ratio) for c in found.cells} == wanted
        for cell in found.cells:
            published = BACKBONES[cell.backbone].published[cell.dataset]
            assert {k: getattr(cell.backbone_settings, k) for k in published} == dict(published)
            assert cell.method_settings == METHODS[cell.method].Settings()


some_ratios = st.lists(st.sampled_from([0.0, -0.0, 0.1, 0.3, 0.5, 1.0]), min_size=1, max_size=5)
SMALL_CONFIG = load_benchmark(SMALL)


@given(
    ratios=some_ratios,
    train_ratios=st.none() | some_ratios,
    protocols=st.sampled_from([["test"], ["train"], ["test", "train"], ["train", "test"]]),
)
def test_cells_of_the_occlusion_protocols(tmp_path_factory, ratios, train_ratios, protocols):
    config = SMALL_CONFIG.copy()
    config.var_dir = str(tmp_path_factory.getbasetemp() / "protocols")
    config.occlusion.ratios, config.occlusion.train_ratios = ratios, train_ratios
    config.occlusion.protocols = protocols
    trained_at = ratios if train_ratios is None else train_ratios
    # Everything that is to be measured: (trained at, tested at).
    wanted = {(0.0, r) for r in ratios} if "test" in protocols else set()
    if "train" in protocols:
        wanted |= {(r, 0.0) for r in trained_at} | {(r, 0.0) for r in ratios if r == 0}
    cells = make_plan(config).cells
    assert [(c.train_ratio, r) for c in cells for r in c.ratios] == sorted(wanted)
    assert len({c.train_ratio for c in cells}) == len(cells), "no training twice"
    assert "-0.0" not in repr([(c.ratios, c.train_ratio) for c in cells])


def test_names_given_twice_give_each_cell_once(plan):
    once = plan(*SMALL, "methods=[none,ms_mix]", "seeds=[1,2]", "backbones=[tfn,lmf]")
    twice = plan(
        *SMALL,
        "datasets=[synthetic_mosi,synthetic_mosi]",
        "methods=[none,ms_mix,none,'ms_mix{}','ms_mix{delta:0.2,sig:true}']",
        "seeds=[1,2,1]",
        "backbones=[tfn,lmf,tfn]",
    )
    assert twice.cells == once.cells
    assert len(once.cells) == 8


def test_variants_are_cells_of_their_own(plan):
    cells = plan(*SMALL, "methods=[ms_mix,'ms_mix{delta:0.4,alpha:1}']", "method.ms_mix.xi2=0.1").cells
    assert [c.method_label for c in cells] == ["ms_mix{xi2:0.1}", "ms_mix{alpha:1.0,delta:0.4,xi2:0.1}"]
    assert [c.method for c in cells] == ["ms_mix", "ms_mix"]


def test_bounds_reach_the_cells(plan):
    bounds = ["train.max_epochs=3", "train.patience=2", "train.max_batches=4", "cell.threads=2"]
    cell = plan(*SMALL, *bounds).cells[0]
    assert (cell.backbone_settings.max_epochs, cell.backbone_settings.early_stop) == (3, 2)
    assert (cell.max_batches, cell.threads) == (4, 2)
    default = plan(*SMALL).cells[0]
    assert default.backbone_settings.max_epochs == BACKBONES["tfn"].Settings().max_epochs
    changes = {"backbone_settings": default.backbone_settings, "max_batches": None, "threads": 1}
    assert dataclasses.replace(cell, **changes) == default


@pytest.mark.parametrize(
    ("like", "metrics", "scale"),
    [("mosi", "mosi", 3), ("mosei", "mosei", 3), ("sims", "sims", 1), ("simsv2", "sims", 1)],
)
def test_like_chooses_metrics_scale_and_backbone_settings(plan, root, like, metrics, scale):
    [path] = (root / metrics.upper() / "Processed").glob("unaligned*")
    given = ["datasets=[mine]", f"dataset.mine.path={path}", f"dataset.mine.like={like}"]
    cell = plan(*SMALL, *given).cells[0]
    assert (cell.dataset, cell.metrics, cell.label_scale) == ("mine", metrics, scale)
    published = BACKBONES["tfn"].published[like]
    assert {k: getattr(cell.backbone_settings, k) for k in published} == dict(published)
    other = plan(*SMALL, *given, "dataset.mine.label_scale=5").cells[0]
    assert (other.metrics, other.label_scale) == ("score", 5.0)
    assert other.backbone_settings == cell.backbone_settings
    if like == "mosi":
        assert plan(*SMALL, *given[:2]).cells[0] == cell, "a new dataset is like MOSI"


def test_simsv2_has_its_own_backbone_settings_and_aligned_is_unlike_unaligned(plan):
    sims, simsv2 = plan(*SMALL, "datasets=[sims,simsv2]").cells
    own = {"dataset": "simsv2", "backbone_settings": simsv2.backbone_settings}
    assert dataclasses.replace(sims, **own) == simsv2, "their files are equal here"
    assert (simsv2.backbone_settings.batch_size, simsv2.backbone_settings.learning_rate) == (128, 0.002)
    like_sims = plan(*SMALL, "datasets=[simsv2]", "dataset.simsv2.like=sims").cells[0]
    assert like_sims == dataclasses.replace(sims, dataset="simsv2"), "as in earlier versions"
    for name in ("mosi", "synthetic_mosi"):
        keys = (f"dataset.{name}.aligned=false", f"dataset.{name}.aligned=true")
        apart, aligned = (plan(*SMALL, f"datasets=[{name}]", key).cells[0] for key in keys)
        assert apart.fingerprint != aligned.fingerprint


def test_data_are_made_once_and_again_when_a_files_bytes_change(root, tmp_path, monkeypatch):
    file = tmp_path / "mine.pkl"
    shutil.copy(root / "MOSI/Processed/unaligned_50.pkl", file)
    given = [*SMALL, "datasets=[synthetic_mosi,mine]", f"dataset.mine.path={file}"]
    config = load_benchmark([f"var_dir={tmp_path / 'var'}", *given])
    first = make_plan(config)
    monkeypatch.setattr("harness.data.prepare.generate", None)
    with monkeypatch.context() as patched:
        patched.setattr("harness.data.prepare.read_mmsa", None)
        assert make_plan(config).cells == first.cells
    shutil.copy(root / "MOSEI/Processed/unaligned_50.pkl", file)
    changed = make_plan(config)
    before, after = ({cell.dataset: cell.fingerprint for cell in made.cells} for made in (first, changed))
    assert [name for name in before if before[name] != after[name]] == ["mine"]
    assert changed.datasets["mine"].folder != first.datasets["mine"].folder
    [truth] = (tmp_path / "var" / "cache" / "data").glob("*.truth.npz")
    assert set(np.load(truth)) >= {f"{split}/a" for split in SPLITS}


def test_a_plan_is_described_in_words(plan):
    arguments = [*SMALL, "methods=[none,'ms_mix{delta:0.4}']", "seeds=[7,8]", "occlusion.ratios=[0,0.5]"]
    text = describe(plan(*arguments))
    named = ("synthetic_mosi", "tfn", "none, ms_mix{delta:0.4}", "7, 8", "0.0, 0.5")
    for expected in ("4 cells", "synthetic stand-in", *named):
        assert expected in text
    assert "synthetic" not in describe(plan(*SMALL, "datasets=[mosi]"))
    # Stores reject long texts, so a study must not list thousands of seeds.
    text = describe(plan(*SMALL, f"seeds={list(range(2 * MOST_NAMES))}"))
    assert "Seeds: 0, 1, 2, " in text
    assert f", {MOST_NAMES - 1} and {MOST_NAMES} more. Tests at" in text
