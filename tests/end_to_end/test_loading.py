"""No source file calls an unsafe loader, except the two files named here."""

import pytest

from tests.support.loading import unsafe_loads
from tests.support.paths import ROOT

PACKAGES = ("harness", "methods", "backbones", "sweeps", "reports", "tests/perf")
ALLOWED = {
    # Jobs and results between a driver and the workers that it started itself, through their own pipes.
    "harness/launchers/worker.py": {"pickle.loads"},
    # The interpreter's unpickler, with a short list of instructions and of names.
    "harness/data/mmsa/unpickle.py": {"pickle._Unpickler", "pickle._Unpickler.dispatch"},
}
CONSTANTS = {f"pickle.{name}" for name in ("PROTO", "REDUCE", "BUILD", "SETITEM", "SETITEMS", "ADDITEMS")}
CONSTANTS |= {"pickle.FROZENSET", "pickle.BYTEARRAY8"}
UNSAFE = {
    "import pickle as p\np.loads(b)": "pickle.loads",
    "from pickle import loads as read\nread(b)": "pickle.loads",
    "import pickle\nread = pickle.loads": "pickle.loads",
    "import pickle\npickle.Unpickler(f).load()": "pickle.Unpickler",
    "import joblib\njoblib.load(f)": "joblib.load",
    "import numpy as np\nnp.load(f)": "numpy.load",
    "import numpy as np\nnp.load(f, allow_pickle=maybe)": "numpy.load",
    "import numpy as np\nread = np.load": "numpy.load",
    "import torch\ntorch.load(f, weights_only=False)": "torch.load",
    "import torch\ntorch.jit.load(f)": "torch.jit.load",
    "import yaml\nyaml.load(f, Loader=yaml.SafeLoader)": "yaml.load",
    "import yaml\nclass L(yaml.Loader): pass": "yaml.Loader",
    "def f():\n    exec(text)": "exec",
    "AutoModel.from_pretrained(folder)": "AutoModel.from_pretrained",
    "AutoModel.from_pretrained(folder, trust_remote_code=True)": "AutoModel.from_pretrained",
}
SAFE = (
    "import numpy as np\nnp.load(f, allow_pickle=False)",
    "import torch\ntorch.load(f, weights_only=True)",
    "import yaml\nyaml.safe_load(f)\nclass L(yaml.SafeLoader): pass",
    "import pickle\npickle.dumps(x)\npickle.Pickler(f)",
    "import json\njson.load(f)",
    "model.eval()",
    "AutoModel.from_pretrained(folder, trust_remote_code=False)",
)


def test_no_source_file_loads_what_could_carry_code_but_the_exceptions():
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    found = {}
    for file in files:
        name = file.relative_to(ROOT).as_posix()
        found[name] = {what for _, what in unsafe_loads(file.read_text(encoding="utf-8"))} - CONSTANTS
    assert {name: loads for name, loads in found.items() if loads} == ALLOWED
    assert {name.partition("/")[0] for name in found} == {name.partition("/")[0] for name in PACKAGES}


@pytest.mark.parametrize("text", UNSAFE)
def test_unsafe_calls_are_found(text):
    assert UNSAFE[text] in [what for _, what in unsafe_loads(text)]


@pytest.mark.parametrize("text", SAFE)
def test_safe_calls_are_not(text):
    assert unsafe_loads(text) == []
