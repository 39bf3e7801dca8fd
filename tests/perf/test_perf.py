"""The speed report: what it measures is what trains; bounds; turns of two sides. No clock is judged."""

import json
import subprocess

import pytest
import torch

from backbones import BACKBONES
from backbones.base import resolve_settings
from backbones.batch import MODALITIES, Latents
from harness.data.store import save_dataset
from harness.data.synthetic import SyntheticSettings, generate
from harness.errors import UserError
from harness.train.splits import ResidentSplit
from tests.perf import __main__ as report
from tests.perf import against, child, compare, growth, steps
from tests.perf.child import Child, ChildError
from tests.perf.draw import draw
from tests.perf.reference import MODELS, WIDTHS, PlainTraining
from tests.perf.rows import Part, Row, markdown, readable
from tests.perf.subjects import Training, plain
from tests.support.builders import make_sizes


@pytest.fixture(scope="module")
def dataset():
    return generate(SyntheticSettings("synthetic_mosi", "quick", 60, False, 0))[0]


@pytest.fixture(scope="module")
def data(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "stored"
    save_dataset(dataset, folder)
    return str(folder)


# The plain reference is the same model


def our_weights(name, plain_model):
    """The reference's weights under this project's names."""
    state = plain_model.state_dict()
    renamed = {}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if name == "mult":
            renamed |= mult_weight(key, value, state)
        elif head in MODALITIES:
            renamed[f"subnets.{key}"] = value
        elif name == "tfn":
            new = {"first": "post_fusion_1", "second": "post_fusion_2", "third": "output"}[head]
            renamed[f"{new}.{rest}"] = value
        else:
            renamed[key] = value
    return renamed


def mult_weight(key, value, state):
    outer = {"first": "residual_1", "second": "residual_2"}
    head, _, rest = key.partition(".")
    if head in outer:
        return {f"{outer[head]}.{rest}": value}
    if ".query." in key:
        parts = [state[key.replace(".query.", f".{part}.")] for part in ("query", "key", "value")]
        return {rename(key).replace(".query.", ".projection."): torch.cat(parts)}
    return {} if ".key." in key or ".value." in key else {rename(key): value}


def rename(key):
    for number in (0, 1):
        key = key.replace(f".norms.{number}.", f".norm_{number + 1}.")
    for target in MODALITIES:
        for source in MODALITIES:
            key = key.replace(f"cross.{target}_{source}.", f"cross.{target}_from_{source}.")
    return key


@pytest.mark.parametrize("name", MODELS)
def test_the_reference_computes_what_the_backbone_does(name):
    torch.manual_seed(0)
    reference = MODELS[name]().eval()
    sizes = make_sizes(tuple(WIDTHS.values()), (6, 9, 12))
    kind = BACKBONES[name]
    ours = kind(resolve_settings(kind, kind.Settings(padding="reference"), "mosi"), sizes).eval()
    missing, unexpected = ours.load_state_dict(our_weights(name, reference), strict=False)
    assert not unexpected
    assert set(missing) <= {"output_range", "output_shift"}
    features = {m: torch.randn(3, sizes.steps[m], width) for m, width in WIDTHS.items()}
    lengths = {m: torch.full((3,), sizes.steps[m]) for m in WIDTHS}
    with torch.no_grad():
        latents = ours.encode(Latents(features, lengths))
        made = ours.head(ours.fuse(latents, 3).representation)
        torch.testing.assert_close(made, reference(features), atol=2e-5, rtol=1e-4)


# What measuring processes run


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_parts_of_a_step_make_it_up(dataset, backbone):
    found = Training(dataset, backbone, 1, {}).measure(method="ms_mix", steps=2, evaluate=True)
    parts = sum(found[f"{part}_s"] for part in steps.PARTS)
    assert parts == pytest.approx(found["step_s"])
    assert all(found[f"{part}_s"] > 0 for part in steps.PARTS)
    assert 0 < found["valid_forward_s"] < found["valid_s"]
    assert found["peak_mb"] > 50
    assert 0 < steps.harness_share(found) < 100


def test_sizes_are_what_is_asked_for(dataset):
    training = Training(dataset, "lmf", 1, {})
    whole, few = training.measure(steps=1), training.measure(steps=1, clips=20)
    assert (whole["steps"], few["steps"]) == (-(-len(dataset.splits["train"]) // 64), 1)
    assert training.measure(steps=1, fraction=0.5, padded=False)["step_s"] > 0


def test_the_reference_trains_on_the_same_batches(dataset, data):
    """Widths of the quick data differ, so its model is made to fit; what it is given is looked at."""
    seen, threads = [], torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlainTraining, "step", lambda self, features, labels: seen.append(labels.tolist()))
        patch.setattr(ResidentSplit, "take", taken(seen_by_us := []))
        assert plain(data, "lmf", threads)(steps=1)["steps"] == 1
        Training(dataset, "lmf", threads, {}).measure(steps=1, warm_up=0)
    assert seen == seen_by_us


def taken(seen):
    plain_take = ResidentSplit.take

    def take(self, index):
        batch = plain_take(self, index)
        seen.append(batch.labels.tolist())
        return batch

    return take


# Processes


def test_a_child_answers_in_turn(data):
    with Child("tests.perf.subjects:ours", {"data": data, "backbone": "lmf", "threads": 1}) as measuring:
        first, second = measuring.ask(steps=1), measuring.ask(steps=1, method="ms_mix")
    assert first["steps"] == second["steps"]
    assert second["method_s"] > 0


def test_a_child_that_dies_says_why(data):
    with pytest.raises(ChildError, match="KeyError: 'lmff'"):
        Child("tests.perf.subjects:ours", {"data": data, "backbone": "lmff", "threads": 1}).__enter__()


# The report


def test_bounds():
    assert Row("a", 1.0, "s", 1.0).holds
    assert not Row("a", 1.1, "s", 1.0).holds
    assert Row("a", 1.1, "times", 1.0, least=True).holds
    assert not Row("a", 0.9, "times", 1.0, least=True).holds
    assert not Row("a", float("nan"), "s", 1.0).holds
    assert Row("a", float("nan"), "s").holds
    text = "\n".join(markdown([Part("p", "Title", "How.", (Row("a", 0.9, "times", 1.0, least=True),))]))
    assert "| a | 0.900 | times | ≥ 1 BROKEN |" in text
    assert [readable(x) for x in (1234.5, 12.34, 0.01234, 0)] == ["1234", "12.3", "0.0123", "0"]


def test_exponents():
    assert growth.exponent((1, 2, 4), [3.0, 6.0, 12.0]) == pytest.approx(1)
    assert growth.exponent((0.5, 1), [1.0, 4.0]) == pytest.approx(2)


def test_ratios_are_medians_over_rounds():
    theirs, ours = ([{"step_s": s} for s in times] for times in ((4.0, 9.0, 2.0), (2.0, 3.0, 2.0)))
    assert against.ratio(theirs, ours) == 2


FOUND = {f"{part}_s": 0.1 for part in steps.PARTS} | {"step_s": 0.6, "steps": 10, "peak_mb": 100.0}
FOUND |= {"valid_s": 0.5, "valid_forward_s": 0.4}


class Ready:
    """Stands for a measuring process; everything takes as long as `FOUND` says, the reference's a second."""

    def __init__(self, factory, arguments, as_worker=True, root=child.ROOT):
        self.found = FOUND if factory.endswith(":ours") else {**FOUND, "step_s": 1.8}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, **_):
        return self.found

    def begin(self, **_):
        pass

    end = ask


@pytest.fixture
def ready(monkeypatch):
    for module in (against, steps, growth, compare):
        monkeypatch.setattr(module, "Child", Ready)


def test_the_part_against_the_reference(ready):
    part = against.measure("")
    rows = {row.name: row for row in part.rows}
    assert rows["tfn, ratio"].value == pytest.approx(3)
    assert rows["tfn, two processes at once, ratio"].value == pytest.approx(6)
    assert (rows["lmf, reference"].value, rows["lmf, ours"].value) == pytest.approx((18, 6))
    broken = {row.name for row in part.rows if not row.holds}
    assert broken == {
        "mult without dropout, ratio",
        "mult without dropout, no step is padding, ratio to the reference with dropout",
    }


def test_the_parts_of_an_epoch(ready):
    whole, shares = steps.measure("", ["tfn"], ["none", "mixup"])
    assert [row.value for row in whole.rows] == pytest.approx([600, 6.5, 100] * 2)
    rows = {row.name: row.value for row in shares.rows}
    # Of 6.5 s: ten steps with four parts of arithmetic, 0.1 s each, and 0.4 s of evaluation's passes.
    assert rows["tfn, harness"] == pytest.approx(100 * (1 - 4.4 / 6.5))
    assert rows["tfn, forward"] == pytest.approx(100 / 6.5)


def test_growth_of_what_does_not_grow(ready):
    part = growth.measure("", ["tfn"])
    exponents = [row.value for row in part.rows if row.name.endswith("exponent")]
    assert exponents == [0, 0]


def test_the_picture_has_a_panel_for_each_part(ready, tmp_path):
    parts = [
        against.measure("", dict.fromkeys(against.ROUNDS, 1)),
        *steps.measure("", ["tfn", "lmf"], ["none", "ms_mix"]),
    ]
    parts.append(growth.measure("", ["tfn", "lmf"]))
    draw(parts, tmp_path / "perf.png")
    assert (tmp_path / "perf.png").stat().st_size > 20_000
    draw([Part("cells", "Cells", "", ())], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(("value", "status"), [(1.0, 0), (3.0, 1)])
def test_the_command_writes_all_and_ends_with_its_verdict(tmp_path, monkeypatch, capsys, value, status):
    made = Part("cells", "Cells", "How.", (Row("a", value, "s", 2.0),))
    monkeypatch.setattr(report, "stored_data", lambda var_dir: "")
    monkeypatch.setattr(report, "PARTS", {"cells": lambda data: iter([made])})
    assert report.main([f"--var-dir={tmp_path}"]) == status
    assert ("BROKEN" in capsys.readouterr().out) == bool(status)
    stored = json.loads((tmp_path / "perf" / "perf.json").read_text())
    assert stored["parts"][0]["rows"][0]["value"] == value
    assert stored["machine"]["torch"] == torch.__version__
    assert "| a |" in (tmp_path / "perf" / "perf.md").read_text()


def test_what_was_measured_before_is_kept(tmp_path):
    first, second = (Part(name, name, "How.", (Row(name, 1.0, "s", 2.0),)) for name in ("cells", "trials"))
    report.write([first], tmp_path)
    again = Part("trials", "trials", "How.", (Row("trials", 3.0, "s"),))
    for parts in ([second], [again]):
        report.write(parts, tmp_path)
    machine = json.loads((tmp_path / "perf.json").read_text())["machine"]
    assert report.kept(tmp_path / "perf.json", machine) == {"cells": first, "trials": again}
    assert report.kept(tmp_path / "perf.json", {**machine, "cores": 0}) == {}
    report.write([second], tmp_path, base="HEAD")
    assert list(report.kept(tmp_path / "compare.json", machine)) == ["trials"]
    (tmp_path / "perf.json").write_text("[]")
    assert report.kept(tmp_path / "perf.json", machine) == {}


@pytest.mark.parametrize(("given", "sentence"), [("--only=stepz", "Did you mean 'steps'?")])
def test_bad_input(given, sentence, capsys):
    assert report.main([given]) == 2
    assert sentence in capsys.readouterr().err


# Two checkouts


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of two revisions, whose perf is this one's."""
    root = tmp_path / "repository"
    (root / "perf").mkdir(parents=True)
    monkeypatch.setattr(compare, "ROOT", root)

    def git(*arguments):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(root), *names, *arguments], check=True, capture_output=True)

    git("init", "-q")
    for number in (1, 2):
        (root / "perf" / "subjects.py").write_text(str(number))
        (root / "code.py").write_text(str(number))
        git("add", ".")
        git("commit", "-qm", "a")
    return root


def test_a_base_is_another_revision_with_this_measurement(repository):
    with compare.checkout("HEAD~1") as root:
        assert (root / "code.py").read_text() == "1"
        assert (root / "perf" / "subjects.py").read_text() == "2"
    assert not root.exists()
    listed = subprocess.run(["git", "-C", repository, "worktree", "list"], capture_output=True, text=True)
    assert len(listed.stdout.splitlines()) == 1


def test_an_unknown_revision_is_refused(repository):
    with pytest.raises(UserError, match="BASE=nowhere cannot be checked out"), compare.checkout("nowhere"):
        pass


def test_ratios_of_two_checkouts(repository, ready):
    part = compare.measure("", "HEAD~1", ["tfn"], rounds=1)
    assert {row.name for row in part.rows} >= {"tfn, none, epoch", "tfn, ms_mix, peak memory"}
    assert all(row.value == 1 for row in part.rows)
