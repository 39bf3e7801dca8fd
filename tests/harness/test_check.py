"""The rules of `harness.check` hold for shipped code and see every fault; templates keep them."""

import pytest

from backbones import BACKBONES
from harness import plugins
from harness.check import backbones, methods
from harness.check.__main__ import main as check
from harness.check.rule import verdicts
from harness.new.__main__ import main as new
from harness.plugins import use
from methods import METHODS

MIXING = [name for name in METHODS if name != "none"]


@pytest.fixture(autouse=True)
def _unloaded():
    """Take the plugins out of the registries after each test."""
    yield
    plugins.load(())


def faults(cls, rules):
    """Map the sentence of each broken rule to its fault, hints included."""
    return {verdict.rule.sentence: verdict.fault for verdict in verdicts(cls, rules, "") if verdict.fault}


@pytest.mark.parametrize("name", MIXING)
def test_shipped_methods_keep_the_rules(name):
    broken = faults(METHODS[name], methods.RULES)
    # A control draws nothing and mixes nothing; the release's 3-D function extrapolates, as its card says.
    expected = {
        "duplicate": {"other generators give other draws", "some row is mixed in some modality"},
        "ms_mix_released": {"weights lie in [0, 1] and sum to 1"},
    }
    assert broken.keys() == expected.get(name, set()), broken


def test_none_keeps_the_rules_but_the_hints():
    assert not [v for v in verdicts(METHODS["none"], methods.RULES, "") if v.failed]


QUICK = ("lmf", "misa", "tfn")  # the others have layers of attention, which are several times as slow


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in BACKBONES]
)
def test_shipped_backbones_keep_the_rules(name):
    assert not faults(BACKBONES[name], backbones.RULES)


HEAD = """
import numpy as np
import torch
from dataclasses import dataclass, replace
from methods.base import Draw, Method, MethodSettings, pair_weights, mix


@dataclass(frozen=True)
class MySettings(MethodSettings):
    components = ("part",)
    part: bool = True
    share: float = 0.5


class Mine(Method):
    name = "mine"
    Settings = MySettings

    def draw(self, generator, labels):
        n = len(labels)
        lam = generator.beta(2, 2, n)
        pairs = np.stack([np.arange(n), generator.permutation(n)], 1)
        DRAW
        return Draw(1, {"indices": pairs, "weights": pair_weights(lam)})

    def forward(self, latents, labels, draw, network=None):
        mixed = super().forward(latents, labels, draw, network)
        FORWARD
        return mixed
"""
CASES = [
    ("settings refuse NaN", "", "", "Settings.share must be checked in __post_init__, got no error for NaN."),
    (
        "a layer of",
        "return Draw(3, {'indices': pairs, 'weights': pair_weights(lam)})",
        "",
        "Draw.layer must be 0",
    ),
    ("equal generators", "lam = np.random.default_rng().uniform(size=n)", "", "got two different draws."),
    (
        "other generators",
        "pairs, lam = np.stack([np.arange(n)] * 2, 1), lam * 0 + 1",
        "",
        "got 8 equal draws.",
    ),
    ("global random", "np.random.rand()", "", "the global generators must stay as they are"),
    ("global random", "", "torch.rand(1)", "the global generators must stay as they are"),
    ("1, 2 and 3", "1 / (n - 1)", "", "ZeroDivisionError: division by zero (line 23)."),
    (
        "shapes fit",
        "",
        "mixed = replace(mixed, labels=mixed.labels[:, None])",
        "labels of vectors must have the",
    ),
    (
        "members are",
        "",
        "mixed = replace(mixed, indices=mixed.indices + 1)",
        "indices of vectors must be rows of",
    ),
    (
        "weights lie",
        "",
        "mixed = replace(mixed, label_weights=draw['weights'] * 2)",
        "label_weights of vectors must",
    ),
    (
        "are what indices",
        "",
        "mixed = replace(mixed, labels=mixed.labels + 1)",
        "labels of vectors must be what",
    ),
    ("equal arguments", "", "latents.values['text'].data.add_(1)", "the input text must stay as it is"),
    (
        "gradients",
        "",
        "mixed = replace(mixed, labels=mixed.labels * latents.values['text'].mean())",
        "labels must",
    ),
    (
        "give no NaN",
        "",
        "mixed.latents.values['text'].div_(latents.values['text'].std())",
        "must be finite where",
    ),
    ("some row is", "lam = lam * 0 + 1", "", "must be mixed somewhere, in one modality at least"),
]


@pytest.mark.parametrize(("rule", "draw", "forward", "fault"), CASES)
def test_each_rule_sees_its_fault(tmp_path, rule, draw, forward, fault):
    file = tmp_path / "mine.py"
    file.write_text(HEAD.replace("DRAW", draw).replace("FORWARD", forward))
    use([str(file)])
    found = verdicts(METHODS["mine"], methods.RULES, str(file))
    assert fault in next(verdict.fault for verdict in found if rule in verdict.rule.sentence)


def test_a_method_of_near_partners_or_of_text_alone_is_honest(tmp_path):
    file = tmp_path / "mine.py"
    near = "pairs = np.stack([np.arange(n), np.argsort(np.argsort(labels))], 1)"
    text = "mixed = mix(latents, labels, draw['indices'], {m: draw['weights'] if m == 'text' else "
    text += "(draw['weights'] * 0 + torch.tensor([1.0, 0.0])) for m in latents.values}, draw['weights'])"
    checked = (
        "    def __post_init__(self):\n        super().__post_init__()\n        if not self.share >= 0:\n"
    )
    checked += "            raise ValueError(f'share must be >= 0, got {self.share}')\n"
    content = HEAD.replace("    share: float = 0.5\n", "    share: float = 0.5\n\n" + checked)
    file.write_text(content.replace("DRAW", near).replace("FORWARD", text))
    use([str(file)])
    assert not faults(METHODS["mine"], methods.RULES)


@pytest.mark.parametrize("kind", ["method", "backbone"])
def test_a_template_keeps_every_rule(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    assert new([kind, "my_own"]) == 0
    assert capsys.readouterr().out.endswith("check it with python -m harness.check my_own.py\n")
    assert check(["my_own.py"]) == 0
    shown = capsys.readouterr().out
    assert "WRONG" not in shown
    assert "hint" not in shown
    assert "All rules hold. Next: python -m harness.benchmark plugins=[my_own.py] " in shown


def test_check_names_lines_that_wait_for_the_device_and_counts_what_is_broken(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(HEAD.replace("DRAW", "").replace("FORWARD", "mixed.labels.sum().item()"))
    assert check([str(file)]) == 1
    shown = capsys.readouterr().out
    line = file.read_text().splitlines().index("        mixed.labels.sum().item()") + 1
    assert f"each of these calls waits until the device is done: item in line {line}." in shown
    assert shown.endswith("1 broken.\n")


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        (check, [], "Give one file, as in python -m harness.check my_mix.py; got 0."),
        (check, ["none.py"], "The plugin 'none.py' cannot be read: No such file or directory."),
        (new, ["method"], "Give a kind and a name, as in python -m harness.new method my_mix."),
        (
            new,
            ["metod", "a"],
            "Unknown kind of plugin 'metod'; allowed: backbone, method. Did you mean 'method'?",
        ),
        (
            new,
            ["method", "My"],
            "A name has lower-case letters, digits and _, and starts with a letter, got 'My'.",
        ),
        (new, ["method", "tfn"], "'tfn' is the name of a shipped method or backbone; choose another one."),
        (new, ["method", "taken"], "taken.py exists already; choose another name, or move it away."),
    ],
)
def test_wrong_requests(tmp_path, monkeypatch, capsys, command, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.py").touch()
    assert command(arguments) == 2
    assert capsys.readouterr().err == f"Error: {sentence}\n"
