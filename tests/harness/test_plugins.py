"""Methods and backbones from the user's files: registration, refusals, edits, launchers, sweeps, reports."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from backbones import BACKBONES
from harness import catalog, plugins
from harness.benchmark import main as benchmark
from harness.code import code_hash
from harness.collect import main as collect
from harness.config.compose import load_benchmark, resolved_study_file
from harness.config.study_file import expand
from harness.errors import UserError
from harness.launchers.base import Job
from harness.launchers.worker import pack_job, read_job
from harness.tracking.codes import plugin_changes
from harness.tracking.tracker import Tracker
from methods import METHODS
from reports.build import main as build
from reports.figures.parts import style
from reports.names import backbone_name, method_name
from sweeps.run import main as sweep
from sweeps.space_file import load_space
from tests.support.drivers.driving import exported
from tests.support.paths import ROOT

SPACE = "method: my_mix\nsampler: tpe\nsettings:\n  alpha: {low: 0.5, high: 2.0}\n"
SMALL = (
    "datasets=[synthetic_mosi]",
    "dataset.synthetic_mosi.clips=60",
    "seeds=[1111]",
    "train.max_epochs=1",
    "occlusion.ratios=[0]",
    "launcher=inline",
)


@pytest.fixture(autouse=True)
def _unloaded():
    """Take the plugins out of the registries after each test."""
    yield
    plugins.load(())


@pytest.fixture
def own(tmp_path):
    """Return a folder with copies of mixup and LMF under names of their own, and a search space."""
    method = (ROOT / "methods" / "mixup.py").read_text()
    method = method.replace('name = "mixup"', 'name = "my_mix"\n    colour = "#123456"')
    (tmp_path / "my_mix.py").write_text(method.replace('title = "Mixup"', 'title = "My Mix"'))
    backbone = (ROOT / "backbones" / "lmf.py").read_text()
    backbone = backbone.replace('name = "lmf"', 'name = "my_lmf"').replace(
        'title = "LMF"', 'title = "My LMF"'
    )
    (tmp_path / "my_lmf.py").write_text(backbone)
    (tmp_path / "my_mix.yaml").write_text(SPACE)
    return tmp_path


def given(folder):
    """Return the setting that uses both plugins of the folder."""
    return f"plugins=[{folder / 'my_mix.py'},{folder / 'my_lmf.py'}]"


def test_plugins_stand_in_the_registries_while_they_are_in_use(own, capsys):
    shipped = list(METHODS), list(BACKBONES)
    assert catalog.main([given(own)]) == 0
    assert "my_mix  My Mix: convex combinations of inputs" in (shown := capsys.readouterr().out)
    assert str(own / "my_mix.py") in shown
    assert (list(METHODS)[-1], list(BACKBONES)[-1]) == ("my_mix", "my_lmf")
    plugins.use([])
    assert (list(METHODS), list(BACKBONES)) == shipped


def test_a_job_brings_the_code_of_its_plugins(own):
    plugins.use([str(own / "my_mix.py")])
    payload = pack_job(Job(METHODS["my_mix"].Settings(alpha=0.5), "data", "cpu"))
    plugins.load(())
    for name in [name for name in sys.modules if name.startswith(plugins.PREFIX)]:
        del sys.modules[name]
    (own / "my_mix.py").unlink()
    assert read_job(payload).cell == METHODS["my_mix"].Settings(alpha=0.5)


def test_the_search_space_stands_beside_the_file_or_in_the_class(own):
    file = own / "my_mix.py"
    plugins.use([str(file)])
    assert (load_space("my_mix").settings["alpha"].low, load_space("my_mix").sampler) == (0.5, "tpe")
    space = '\n    space = {"settings": {"alpha": {"low": 0.25, "high": 1.0}}}'
    file.write_text(file.read_text().replace('name = "my_mix"', 'name = "my_mix"' + space))
    plugins.use([str(file)])
    assert load_space("my_mix").settings["alpha"].low == 0.25


def test_a_search_space_that_is_missing_or_of_another_method_is_refused(own):
    plugins.use([str(own / "my_mix.py")])
    (own / "my_mix.yaml").write_text(SPACE.replace("my_mix", "mixup"))
    with pytest.raises(UserError, match=f"in {own / 'my_mix.yaml'} must be one of method my_mix, got mixup."):
        load_space("my_mix")
    (own / "my_mix.yaml").unlink()
    with pytest.raises(UserError, match=f"no search space; write {own / 'my_mix.yaml'}, or a class"):
        load_space("my_mix")


def test_an_edit_changes_the_hash_and_a_comment_does_not(own):
    file, hashes = own / "my_mix.py", []
    text = file.read_text()
    for content in (text, text + "# A comment.\n", text.replace("alpha: float = 1.0", "alpha: float = 2.0")):
        file.write_text(content)
        plugins.use([str(file)])
        hashes.append(code_hash(METHODS["my_mix"]))
    assert hashes[0] == hashes[1] != hashes[2]
    old = {"method": "my_mix", "method_code": hashes[0], "backbone": "lmf", "backbone_code": "0" * 16}
    assert plugin_changes(old) == ["my_mix"], "edited shipped code is not trained anew by itself"


GOOD = "from methods.mixup import Mixup\nclass Mine(Mixup):\n    name = 'mine'\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def f(:\n", "FILE, line 1: SyntaxError: "),
        ("import numpy\nimport no_such_package\n", "FILE, line 2: ModuleNotFoundError: No module named"),
        ("x = 1\n1 / 0\n", "FILE, line 2: ZeroDivisionError: division by zero."),
        ("import sys\nsys.exit(3)\n", "FILE, line 2: SystemExit: 3."),
        ("", "FILE defines no method or backbone. Derive a class from methods.base.Method"),
        (
            GOOD.replace("    name = 'mine'", "    pass"),
            "no method or backbone; Mine has no attribute 'name'.",
        ),
        (GOOD.replace("'mine'", "'My Mix'"), "FILE, line 2: Mine.name must be lower-case letters, "),
        (GOOD.replace("'mine'", "3"), "Mine.name must be lower-case letters, digits and _, starting with a"),
        (GOOD + "    title = 3\n", "Mine.title must be a text, got 3."),
        (GOOD + "    colour = 'red'\n", "Mine.colour must be written \"#rrggbb\", got 'red'."),
        (GOOD + "    space = 3\n", "Mine.space must be a mapping, see sweeps/space_file.py, got 3."),
        (
            GOOD + "    class Settings:\n        pass\n",
            "Mine.Settings must be a frozen dataclass derived from",
        ),
        (GOOD.replace("mixup import Mixup", "base import Method as Mixup"), "Mine.draw must be defined, got"),
        (
            "from backbones.lmf import LMF\nclass Mine(LMF):\n    name = 'mine'\n    published = {}\n",
            "Mine.published must give a value for mosi to every setting whose default is None",
        ),
        (GOOD.replace("'mine'", "'ms_mix'"), "'ms_mix' is used twice: in ROOT/methods/ms_mix.py and FILE."),
        (GOOD.replace("'mine'", "'tfn'"), "'tfn' is used twice: in ROOT/backbones/tfn.py and FILE."),
    ],
)
def test_a_broken_plugin_is_one_sentence(tmp_path, capsys, text, sentence):
    file, before = tmp_path / "bad.py", dict(METHODS)
    file.write_text(text)
    assert benchmark([f"plugins=[{file}]", f"var_dir={tmp_path / 'var'}"]) == 2
    error = capsys.readouterr().err
    assert sentence.replace("FILE", str(file)).replace("ROOT", str(ROOT)) in error
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert before == METHODS


def test_two_plugins_of_one_name_are_refused_with_both_paths(tmp_path):
    files = [tmp_path / "one.py", tmp_path / "two.py"]
    for number, file in enumerate(files):
        file.write_text(GOOD + f"# {number}\n")
    with pytest.raises(UserError, match=f"'mine' is used twice: in {files[0]} and {files[1]}."):
        plugins.use(map(str, files))
    plugins.use([str(files[0]), str(files[0])])
    assert "mine" in METHODS


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing.py", "The plugin 'missing.py' cannot be read: No such file or directory."),
        ("my_mix", "The plugin 'my_mix' is no Python file; give a path that ends in .py."),
        ("a/b.txt", "The plugin 'a/b.txt' is no Python file; give a path that ends in .py."),
    ],
)
def test_what_is_no_file_is_refused(name, sentence):
    with pytest.raises(UserError) as error:
        plugins.use([name])
    assert str(error.value) == sentence


def test_an_installed_package_brings_plugins(tmp_path, monkeypatch):
    (tmp_path / "my_package.py").write_text(GOOD)
    info = tmp_path / "my_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nmine = my_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins.use(["mine"])
    assert METHODS["mine"].__module__ == "my_package"
    with pytest.raises(UserError, match=r"Unknown plugin of the entry point group .* Did you mean 'mine'\?"):
        plugins.use(["mien"])


@pytest.mark.slow
def test_a_study_of_plugins_has_the_bits_of_shipped_code_and_a_report_without_the_files(own, capsys):
    var, files = own / "var", given(own)
    matrix = [*SMALL, f"var_dir={var}", "study=s", "method.mixup.alpha=1"]
    assert benchmark([*matrix, files, "backbones=[lmf,my_lmf]", "methods=[none,mixup,my_mix]"]) == 0
    scores = exported(var)[0].set_index(["backbone", "method", "split", "metric"])["value"]
    scores = scores[[key[2] != "cell" for key in scores.index]]
    for backbone, method in (("my_lmf", "mixup"), ("lmf", "my_mix"), ("my_lmf", "my_mix")):
        pd.testing.assert_series_equal(scores[backbone, method], scores["lmf", "mixup"], check_exact=True)
    capsys.readouterr()
    assert benchmark([*matrix, files, "backbones=[my_lmf]", "methods=[none,my_mix]", "report=false"]) == 0
    assert "All 2 cells of study 's' are done." in capsys.readouterr().out
    hashes = {name: code_hash({**METHODS, **BACKBONES}[name]) for name in ("my_mix", "my_lmf")}
    plugins.load(())
    (own / "my_mix.py").rename(own / "gone.py")
    assert build([f"var_dir={var}", "study=s"]) == 0
    assert (method_name("my_mix"), backbone_name("my_lmf")) == ("My Mix", "My LMF")
    assert style.colour("my_mix") == "#123456"
    page = (var / "reports" / "s" / "index.html").read_text()
    assert all(f"({name}.py, {value})" in page for name, value in hashes.items())
    assert "My Mix" in page


@pytest.mark.slow
def test_an_edit_trains_the_plugins_cells_anew_and_nothing_else(own, capsys):
    matrix = [*SMALL, f"var_dir={own / 'var'}", "study=s", "report=false", given(own)]
    matrix += ["backbones=[lmf]", "methods=[mixup,my_mix]"]
    assert benchmark(matrix) == 0
    file = own / "my_mix.py"
    file.write_text(file.read_text().replace("alpha, n if", "alpha / 2, n if"))
    before = Tracker(None, own / "var", "s").complete()
    assert benchmark(matrix) == 0
    after = Tracker(None, own / "var", "s").complete()
    changed = {run.tags["method"] for cell, run in after.items() if run.run_id != before[cell].run_id}
    assert changed == {"my_mix"}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["inline", "processes", "ray"])
def test_every_command_takes_plugins_on_every_launcher(own, launcher):
    settings = [
        *SMALL[:-1],
        f"launcher={launcher}",
        "jobs=1",
        given(own),
        f"var_dir={own / 'var'}",
        "study=s",
    ]
    settings += ["backbones=[my_lmf]", "report=false"]
    tune = ["tune=my_mix", "sweep.trials=1", "sweep.prune_at=[]"]
    # A process of its own, as Ray changes signal handlers and the environment.
    for module, more in (("harness.benchmark", ["methods=[none,my_mix,mixup]"]), ("sweeps.run", tune)):
        done = subprocess.run(
            [sys.executable, "-m", module, *settings, *more],
            cwd=ROOT,
            env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (own / "var" / "tuned").is_dir()
    scores = exported(own / "var")[0]
    mae = scores[(scores["split"] == "test") & (scores["metric"] == "mae")].set_index("method")["value"]
    assert mae["my_mix"] == mae["mixup"]
    assert np.isfinite(mae).all()


@pytest.mark.slow
def test_a_plugin_has_an_ablation_and_a_sweep_of_a_file(own):
    text = (ROOT / "methods" / "ms_mix.py").read_text().replace('name = "ms_mix"', 'name = "my_ms"')
    (own / "my_ms.py").write_text(text)
    (own / "some.yaml").write_text("method: my_ms\nsampler: grid\nsettings:\n  delta: [0.2]\n")
    matrix = [*SMALL, f"var_dir={own / 'var'}", "study=s", "report=false", f"plugins=[{own / 'my_ms.py'}]"]
    matrix += ["backbones=[lmf]"]
    assert benchmark([*matrix, "matrix=ablation", "methods=[my_ms]"]) == 0
    assert len(Tracker(None, own / "var", "s").complete()) == 8
    assert sweep([*matrix, f"param={own / 'some.yaml'}"]) == 0


def test_a_study_file_names_plugins_and_its_resolved_form_does_too(own):
    file = own / "study.yaml"
    file.write_text(f"plugins: ['{own / 'my_mix.py'}']\nmethods: [none, my_mix: {{alpha: 0.5}}]\n")
    config = load_benchmark(expand([str(file)]))
    again = own / "again.yaml"
    again.write_text(resolved_study_file(config))
    assert load_benchmark(expand([str(again)])).plugins == config.plugins == [str(own / "my_mix.py")]
    assert list(METHODS)[-1] == "my_mix"


@pytest.mark.slow
def test_shards_with_plugins_are_collected(own, capsys):
    var = f"var_dir={own / 'var'}"
    matrix = [*SMALL, var, "study=s", given(own), "backbones=[my_lmf]", "methods=[none,my_mix]"]
    assert benchmark([*matrix, "shard=1/1"]) == 0
    plugins.load(())
    assert collect(["study=s", var, given(own)]) == 0
    assert len(Tracker(None, own / "var", "s").complete()) == 2
    plugins.load(())
    assert build([var, "study=s"]) == 0
    assert "My Mix" in (own / "var" / "reports" / "s" / "index.html").read_text()
