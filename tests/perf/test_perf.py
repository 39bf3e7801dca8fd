"""The speed report measures training, checks bounds and alternates between sides. No test judges a clock."""

import contextlib
import inspect
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from backbones.batch import MODALITIES, Latents
from harness.data.store import load_dataset, save_dataset
from harness.data.synthetic import SyntheticSettings, generate
from harness.errors import UserError
from harness.train import step
from harness.train.splits import ResidentSplit
from methods import METHODS
from tests.perf import __main__ as report
from tests.perf import steps as subjects
from tests.perf import turns
from tests.perf.bounds import Measurement, Section, draw, markdown
from tests.perf.child import Child, ChildError, timed, watched
from tests.perf.reference import MODELS, WIDTHS
from tests.support.builders import MIXING, make_backbone, make_batch, make_sizes
from tests.support.inline_child import InlineChild


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "stored"
    save_dataset(generate(SyntheticSettings("synthetic_mosi", "quick", 60, False, 0))[0], folder)
    return str(folder)


@pytest.fixture(autouse=True)
def one_thread():
    """Measurements set the number of threads of their process."""
    yield
    torch.set_num_threads(1)


# The plain reference is the same model


SUBNETS = {r"^(text|audio|vision)\.": r"subnets.\1."}
NAMES = {
    "tfn": SUBNETS | {"^first": "post_fusion_1", "^second": "post_fusion_2", "^third": "output"},
    "lmf": SUBNETS,
    "mult": {
        **{"^first": "residual_1", "^second": "residual_2", "norms.0": "norm_1", "norms.1": "norm_2"},
        **{r"^cross\.([a-z]+)_": r"cross.\1_from_", r"\.query\.": ".projection."},
    },
}


def our_weights(name, state):
    """The reference's weights under this project's names."""
    renamed = {}
    for key, value in state.items():
        if ".query." in key:
            parts = [state[key.replace("query", part)] for part in ("query", "key", "value")]
            renamed[key] = torch.cat(parts)
        elif ".key." not in key and ".value." not in key:
            renamed[key] = value
    for pattern, ours in NAMES[name].items():
        renamed = {re.sub(pattern, ours, key): value for key, value in renamed.items()}
    return renamed


@pytest.mark.parametrize("name", MODELS)
def test_the_reference_computes_what_the_backbone_does(name):
    torch.manual_seed(0)
    reference = MODELS[name]().eval()
    sizes = make_sizes(tuple(WIDTHS.values()), (6, 9, 12))
    ours = make_backbone(name, sizes, padding="reference").eval()
    missing, unexpected = ours.load_state_dict(our_weights(name, reference.state_dict()), strict=False)
    assert not unexpected
    assert set(missing) <= {"output_range", "output_shift"}
    features = {m: torch.randn(3, sizes.steps[m], width) for m, width in WIDTHS.items()}
    lengths = {m: torch.full((3,), sizes.steps[m]) for m in WIDTHS}
    with torch.no_grad():
        latents = ours.encode(Latents(features, lengths))
        made = ours.head(ours.fuse(latents, 3).representation)
        torch.testing.assert_close(made, reference(features), atol=2e-5, rtol=1e-4)


# What measuring processes run


def test_the_parts_of_a_step_make_it_up(data):
    times = subjects.ours(data, "lmf", method="ms_mix", steps=2, evaluate=True)
    parts = [times[f"{part}_s"] for part in turns.STEP_PARTS]
    assert sum(parts) == pytest.approx(times["step_s"])
    assert min(parts) > 0
    assert 0 < times["valid_forward_s"] < times["valid_s"]
    assert times["peak_mb"] > 50


def test_a_step_divides_into_parts_that_do_not_overlap(data, monkeypatch):
    """Mixing is timed with the losses, and drawing before them."""
    spent = {"data": 2.0, "losses": 10.0, "mixing": 4.0, "draw": 2.0, "backward": 6.0, "optimizer": 1.0}
    monkeypatch.setattr(subjects, "watched", lambda **calls: contextlib.nullcontext(spent))
    times = subjects.ours(data, "lmf", steps=1)
    parts = ("data", "method", "forward", "backward", "optimizer")
    assert [times[f"{part}_s"] for part in parts] == [2, 6, 6, 6, 1]


def test_sizes_are_what_is_asked_for(data, monkeypatch):
    monkeypatch.setattr(turns, "Child", InlineChild)
    dataset = load_dataset(data)
    with turns.ours(data, "lmf") as child:
        assert child.ask(steps=1)["steps"] == -(-len(dataset.splits["train"]) // 64)
        assert child.ask(steps=1, size={"clips": 20, "fraction": 0.5, "padded": False})["steps"] == 1
    for padded in (True, False):
        split = subjects.resized(dataset, 20, 0.5, padded).splits["train"]
        for m in MODALITIES:
            most = round(dataset.splits["train"].features[m].shape[1] / 2)
            stated = np.ceil(dataset.splits["train"].lengths[m][:20] / 2)
            assert split.features[m].shape[:2] == (20, most)
            np.testing.assert_array_equal(split.lengths[m], stated.clip(1, most) if padded else most)


def test_the_reference_trains_on_the_same_batches(data, monkeypatch):
    """Widths of the quick data differ, so the reference's steps are only recorded."""
    reference_labels, our_labels, take = [], [], ResidentSplit.take

    def recorded(self, index):
        batch = take(self, index)
        our_labels.append(batch.labels.tolist())
        return batch

    monkeypatch.setattr(subjects, "plain_step", lambda *given: reference_labels.append(given[-1].tolist()))
    monkeypatch.setattr(ResidentSplit, "take", recorded)
    assert subjects.plain(data, "lmf", 1, steps=1)["steps"] == 1
    subjects.ours(data, "lmf", steps=1, warm_up=0)
    assert reference_labels == our_labels


@pytest.mark.parametrize("name", ["mixup", "advmixup"])
def test_own_work_is_the_step_without_the_given_mixed_examples(name, data, monkeypatch):
    """A full step takes 3 s and a replayed one 2 s here; the replayed one calls no method."""
    clock, calls = iter(x for start in range(0, 100, 10) for x in (start, start + 3, start, start + 2)), []
    monkeypatch.setattr(subjects.time, "process_time", lambda: next(clock))
    forward = METHODS[name].forward
    monkeypatch.setattr(METHODS[name], "forward", lambda *given: calls.append(1) or forward(*given))
    measured = subjects.method_cost(data, "lmf", name, rounds=2)
    assert measured == {"step_s": 3, "own": pytest.approx(1 / 3)}
    assert len(calls) == subjects.WARM_UP + 2 + 1, "mixed once for all replays"


@pytest.mark.parametrize("name", ["manifold_mixup", "ms_mix_released"])
def test_given_mixed_examples_have_the_losses_of_their_method_and_no_gradient(name, monkeypatch):
    sizes = make_sizes()
    backbone = make_backbone("lmf", sizes).eval()
    method = METHODS[name](METHODS[name].Settings(), backbone.latent_widths, 3.0)
    batch, made, mix_batch = make_batch(sizes, 6), [], step.mix_batch
    drawn = method.draw(np.random.default_rng(0), batch.labels.numpy())
    monkeypatch.setattr(step, "mix_batch", lambda *given: made.append(mix_batch(*given)) or made[0])
    expected = step.step_losses(backbone, method, batch, drawn)
    mixed = subjects.detached(made[0])
    monkeypatch.setattr(step, "mix_batch", lambda *_: mixed)
    for a, b in zip(expected, step.step_losses(backbone, method, batch, drawn), strict=True):
        torch.testing.assert_close(a, b)
    tensors = [*mixed.latents.values.values(), mixed.labels, mixed.penalty, mixed.label_weights]
    assert not any(x.requires_grad for x in tensors)


# Processes


def test_a_child_answers_in_turn_as_a_worker_and_says_why_it_dies():
    command = [sys.executable, "-c", "import os; exit(int(os.environ.get('OMP_NUM_THREADS', 7)))"]
    with Child("tests.perf.child:run", command=command) as measuring:
        first, second = measuring.ask(status=1), measuring.ask(status=1)
        assert first["started"] < second["started"]
        with pytest.raises(ChildError) as death:
            measuring.ask(status=3)
    assert str(death.value).splitlines()[-1].startswith("AssertionError: ")


def test_the_cost_of_a_command_is_its_own():
    ours = np.ones(2**24)  # 128 MB
    cost = timed("-c", "pass")
    assert min(cost["s"], cost["cpu_s"]) > 0
    assert 1 < cost["mb"] < ours.nbytes / 2**20
    assert timed("-c", "import sys; x = bytearray(2**28); sys.exit(2)", status=2)["mb"] > 256
    with pytest.raises(ChildError, match="no such thing"):
        timed("-c", "raise SystemExit('no such thing')")


def test_a_stopwatch_adds_up_and_leaves_no_trace():
    class Home:
        square, fail = staticmethod(lambda x: x * x), staticmethod(lambda: 1 / 0)

    before = dict(vars(Home))
    with watched(a=(Home, "square"), b=(Home, "fail"), c=(Home, "__init__")) as spent:
        assert Home.square(3) == 9
        with pytest.raises(ZeroDivisionError):
            Home.fail()
    assert min(spent["a"], spent["b"]) > spent["c"] == 0
    assert vars(Home) == before


# The report


@pytest.mark.parametrize(
    ("value", "unit", "least", "verdict"),
    [
        (1.0, "s", False, "| a | 1 | s | ≤ 1 holds |"),
        (1.1, "s", False, "| a | 1.1 | s | ≤ 1 BROKEN |"),
        (1234.5, "times", True, "| a | 1234 | times | ≥ 1 holds |"),
        (0.01234, "times", True, "| a | 0.0123 | times | ≥ 1 BROKEN |"),
        (float("nan"), "s", False, "| a | nan | s | ≤ 1 BROKEN |"),
    ],
)
def test_a_bound_holds_or_is_broken(value, unit, least, verdict):
    row = Measurement("a", value, unit, 1.0, least)
    assert verdict in list(markdown([Section("p", "Title", "How.", [row])]))
    assert row.holds == verdict.endswith("holds |")
    assert Measurement("a", value, unit).holds, "without a bound"


def test_an_exponent_is_the_power_between_the_ends():
    assert turns.exponent((1, 2, 4), [3.0, 6.0, 12.0]) == pytest.approx(1)
    assert turns.exponent((0.5, 1), [1.0, 4.0]) == pytest.approx(2)


TIMES = {f"{part}_s": 0.1 for part in turns.STEP_PARTS} | {"step_s": 0.6, "steps": 10, "peak_mb": 100.0}
TIMES |= {"valid_s": 0.5, "valid_forward_s": 0.4, "own": 0.12}


class ReadyChild(InlineChild):
    """Stands for a measuring process; a step takes 0.6 s, one of the reference 1.8 s."""

    def end(self):
        inspect.signature(self.function).bind(**self.request)
        return {**TIMES, "step_s": 1.8} if self.function is subjects.plain else TIMES


@pytest.fixture
def ready(monkeypatch):
    monkeypatch.setattr(turns, "Child", ReadyChild)
    monkeypatch.setattr(turns, "BACKBONES", ["tfn"])


def test_the_sections_of_training_hold_their_bounds_against_what_is_measured(ready):
    sections = [one for part in ("reference", "steps", "methods", "growth") for one in report.PARTS[part]("")]
    rows = {row.name: row for section in sections for row in section.rows}
    assert (rows["lmf, reference"].value, rows["lmf, ours"].value) == pytest.approx((18, 6))
    assert rows["tfn, ratio"].value == pytest.approx(3)
    assert rows["tfn, two processes at once, ratio"].value == pytest.approx(6)
    steps = [rows[f"tfn, mixup, {what}"].value for what in ("step", "epoch", "peak memory")]
    assert steps == pytest.approx([600, 6.5, 100])
    # Of 6.5 s: ten steps with four parts of arithmetic, 0.1 s each, and 0.4 s of evaluation's passes.
    assert rows["tfn, harness"].value == pytest.approx(100 * (1 - 4.4 / 6.5))
    assert rows["tfn, forward"].value == pytest.approx(100 / 6.5)
    assert [row.value for name, row in rows.items() if name.endswith("exponent")] == [0, 0]
    without = {"advmixup", "ms_mix", "ms_mix_released"}
    assert {name for name, row in rows.items() if not row.holds} == {
        "mult without dropout, ratio",
        "mult without dropout, no step is padding, ratio to the reference with dropout",
        "tfn, harness",
        *(f"{name}, own work" for name in set(MIXING) - without),
    }
    assert sum(row.bound is not None for row in rows.values()) == 3 * 2 + 1 + 4 + 1 + len(MIXING) - 1 + 2


def test_without_bounds_there_is_no_plot(tmp_path):
    draw([Section("compare", "", "", [Measurement("a", 1.0, "times")])], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def section(name, value=1.0):
    return Section(name, name, "How.", [Measurement(name, value, "s", 2.0)])


@pytest.mark.parametrize(("value", "status"), [(1.0, 0), (3.0, 1)])
def test_the_command_writes_all_and_ends_with_its_verdict(tmp_path, monkeypatch, capsys, value, status):
    monkeypatch.setattr(report, "stored_data", lambda var_dir: "")
    monkeypatch.setattr(report, "PARTS", {"cells": lambda data: [section("cells"), section("trials", value)]})
    assert report.main([f"--var-dir={tmp_path}"]) == status
    assert ("BROKEN" in capsys.readouterr().out) == bool(status)
    stored = json.loads((tmp_path / "perf" / "perf.json").read_text())
    assert stored["parts"][1]["rows"][0]["value"] == value
    assert stored["machine"]["torch"] == torch.__version__
    assert "| trials |" in (tmp_path / "perf" / "perf.md").read_text()
    assert (tmp_path / "perf" / "perf.png").stat().st_size > 5_000


def test_what_was_measured_before_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "draw", lambda *_: None)
    again, file = section("trials", 3.0), tmp_path / "perf.json"
    for sections in ([section("cells")], [section("trials")], [again]):
        report.write(sections, tmp_path)
    machine = json.loads(file.read_text())["machine"]
    assert report.earlier_sections(file, machine) == [section("cells"), again]
    assert report.earlier_sections(file, {**machine, "cores": 0}) == []
    report.write([again], tmp_path, base="HEAD")
    assert report.earlier_sections(tmp_path / "compare.json", machine) == [again]
    file.write_text("[]")
    assert report.earlier_sections(file, machine) == []


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        report.main(["--only=cells,stepz"])
    allowed = ", ".join(sorted(report.PARTS))
    said = f"Error: Unknown part 'stepz'; allowed: {allowed}. Did you mean 'steps'?\n"
    assert capsys.readouterr().err == said


# Two checkouts


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of two revisions, each with its own measurement."""
    root = tmp_path / "repository"
    for name in ("perf", "support"):
        (root / "tests" / name).mkdir(parents=True)
    monkeypatch.setattr(turns, "ROOT", root)

    def git(*arguments):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(root), *names, *arguments], check=True, capture_output=True)

    git("init", "-q")
    for number in (1, 2):
        (root / "tests" / "perf" / "subjects.py").write_text(str(number))
        (root / "code.py").write_text(str(number))
        git("add", ".")
        git("commit", "-qm", "a")
    return root


def test_a_base_is_another_revision_with_this_measurement(repository, ready):
    with turns.checkout("HEAD~1") as root:
        assert (root / "code.py").read_text() == "1"
        assert (root / "tests" / "perf" / "subjects.py").read_text() == "2"
    assert not root.exists()
    listed = subprocess.run(["git", "-C", repository, "worktree", "list"], capture_output=True, text=True)
    assert len(listed.stdout.splitlines()) == 1
    with pytest.raises(UserError, match=r"BASE=nowhere cannot be checked out: .*nowhere"):
        turns.compare("", "nowhere")
    [part] = turns.compare("", "HEAD~1")
    assert {row.name for row in part.rows} >= {"tfn, none, epoch", "tfn, ms_mix, peak memory"}
    assert all(row.value == 1 for row in part.rows)
