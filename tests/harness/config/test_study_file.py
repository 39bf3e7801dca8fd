"""Study files stand for the same arguments, and the resolved file for the same cells."""

import pytest
import yaml

from harness.benchmark import main as benchmark
from harness.config.compose import load_benchmark, load_report, resolved_study_file
from harness.config.study_file import expand
from harness.errors import UserError
from harness.plan import make_plan
from tests.support.paths import ROOT

EXAMPLES = sorted((ROOT / "harness" / "conf" / "examples").glob("*.yaml"))
SMALL = [
    *("dataset.synthetic_mosi.clips=60", "dataset.synthetic_sims.clips=60", "train.max_epochs=1"),
    *("seeds=[1]", "report=false", "launcher=inline"),
]


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("seeds: [1, 2]", ["seeds=[1,2]"]),
        ("seeds: 1", ["seeds=1"]),
        ("train: {max_epochs: 3, patience: null}", ["train.max_epochs=3", "train.patience=null"]),
        ("train.max_epochs: 3", ["train.max_epochs=3"]),
        ("tuned: ~", ["tuned=null"]),
        ("report: no", ["report=false"]),
        ("compile: true", ["compile=true"]),
        ("methods: [none, ms_mix: {delta: 0.4, sal: false}]", ["methods=[none,ms_mix{delta:0.4,sal:false}]"]),
        ("methods: ['ms_mix{delta:0.4,sal:false}']", ["methods=[ms_mix{delta:0.4,sal:false}]"]),
        ("methods: ['ms_mix[sass,sig]']", ["methods=[ms_mix[sass,sig]]"]),
        ("methods:\n- none\n- mixup", ["methods=[none,mixup]"]),
        ("method: {manifold_mixup: {layers: [0, 1]}}", ["method.manifold_mixup.layers=[0,1]"]),
        ("backbone.tfn.learning_rate: 1e-3", ["backbone.tfn.learning_rate=1e-3"]),
        ("report: {equal_within: {mae: 0.02}}", ["report.equal_within.mae=0.02"]),
        ("occlusion: {ratios: [0, .5]}", ["occlusion.ratios=[0,.5]"]),
        ("launcher: inline", ["launcher=inline"]),
        ("profile: quick", ["profile=quick"]),
        ("dataset: {x: {path: 'a b, [c]', like: sims}}", ["dataset.x.path=a b, [c]", "dataset.x.like=sims"]),
        ("data_root: 'null'", ["data_root=null"]),
        ("sweep: {}", []),
    ],
)  # fmt: skip
def test_a_file_stands_for_the_same_arguments(text, arguments, write):
    assert expand([write("study: s\n" + text)]) == ["study=s", *arguments]


def test_a_file_and_its_arguments_compose_alike(write):
    text = "study: s\nprofile: quick\nmethods: [none, ms_mix: {delta: 0.4}]\ntrain: {max_epochs: 2}"
    arguments = ["study=s", "profile=quick", "methods=[none,ms_mix{delta:0.4}]", "train.max_epochs=2"]
    assert load_benchmark(expand([write(text)])) == load_benchmark(arguments)


def test_the_command_line_wins_and_a_file_names_the_study(write):
    path = write("seeds: [1, 2]\nprofile: quick\ntrain.max_epochs: 4")
    config = load_benchmark(expand(["seeds=[3]", path, "train.max_epochs=5"]))
    assert (config.study, config.seeds, config.train.max_epochs) == ("mine", [3], 5)
    assert load_benchmark(expand([path, "study=other"])).study == "other"
    both = expand([write("seeds: [1]", "a.yaml"), write("seeds: [2]", "b.yml")])
    assert (load_benchmark(both).study, load_benchmark(both).seeds) == ("a", [2])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds: [1]\ntrain:\n  max_epoch: 3", "line 3: Unknown setting 'train.max_epoch'; "),
        ("train:\n  max_epoch: 3", "Did you mean 'train.max_epochs'?"),
        ("a: 1", "line 1: Unknown setting 'a'"),
        ("\ntrain.max_epochs: two", "line 2: train.max_epochs='two' is not allowed"),
        ("profile: quik", "line 1: Unknown profile 'quik'; allowed: paper, quick. Did you mean 'quick'?"),
        ("seeds: [[1]]", "line 1: seeds="),
        ("study: '${x}'", "line 1: "),
        ("hydra: {run: 1}", "line 1: 'hydra.run' is a setting of Hydra"),
        ("seeds: [1]\nseeds: [2]", "duplicate key 'seeds' in line 2"),
        ("seeds: [1", "is no YAML (line 1"),
        ("a: &x 1\nb: *x", "aliases are not allowed"),
        ("[1]: 2", "is no YAML"),
        ("- seeds", "must hold settings, as in 'seeds: [1111, 1112]'"),
        ("", "must hold settings"),
    ],
)
def test_an_error_names_file_and_line(text, words, write, capsys):
    path = write(text)
    assert benchmark([path, "study=s"]) == 2
    said = capsys.readouterr().err
    assert path in said
    assert words in said
    assert said.count("\n") == 1


def test_a_file_that_is_absent_or_no_yaml_file(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml' cannot be read: No such file"):
        expand([str(tmp_path / "nowhere.yaml")])
    with pytest.raises(UserError, match=r"Cannot parse 'study\.json'"):
        load_benchmark(expand(["study.json"]))


def test_report_commands_read_what_they_know(write):
    config = load_report(
        [write("study: s\nvar_dir: there\nseeds: [1]\nreport: {baseline: mixup}"), "gain=0.1"]
    )
    assert (config.study, config.var_dir, config.report.baseline, config.gain) == ("s", "there", "mixup", 0.1)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_say_how_to_run_them_and_resolve_to_the_same_cells(path, tmp_path):
    asked = f"# python -m harness.benchmark {path.relative_to(ROOT)}"
    assert any(line.startswith(asked) for line in path.read_text().splitlines()[:2])
    more = [*SMALL, f"var_dir={tmp_path}"]
    more += ["datasets=[synthetic_mosi]"] if path.stem == "own_data" else []
    config = load_benchmark(expand([str(path), *more]))
    resolved = tmp_path / "study.yaml"
    resolved.write_text(resolved_study_file(config))
    again = load_benchmark(expand([str(resolved), f"var_dir={tmp_path}"]))
    assert [c.cell_id for c in make_plan(again).cells] == [c.cell_id for c in make_plan(config).cells]
    assert resolved_study_file(again) == resolved_study_file(config)


@pytest.mark.parametrize("more", [["profile=quick"], ["profile=quick", "matrix=ablation"], ["profile=paper"]])
def test_the_resolved_file_needs_no_profile(more):
    text = resolved_study_file(load_benchmark([*more, "tracking.uri=postgresql://u:secret@h/d", "jobs=3"]))
    assert "secret" not in text
    assert "profile" not in yaml.safe_load(text)
    assert not {"var_dir", "jobs", "tracking"} & set(yaml.safe_load(text))
    whole = load_benchmark([*more])
    tree = yaml.safe_load(text)
    assert (tree["methods"], tree["seeds"]) == (list(whole.methods), list(whole.seeds))
    if "profile=quick" in more:
        assert tree["backbone"]["tfn"]["max_epochs"] == 30


def test_a_study_stores_its_resolved_file_and_a_dry_run_trains_nothing(var_dir, write, capsys, monkeypatch):
    monkeypatch.setattr("reports.page.report.FIGURES", ())
    path = write(
        "study: s\nprofile: quick\ndatasets: [synthetic_mosi]\nmethods: [none, mixup]\nbackbones: [lmf]"
    )
    given = [path, f"var_dir={var_dir}", *SMALL]
    assert benchmark([*given, "--dry-run", "backbones=[lmf,tfn]"]) == 0
    said = capsys.readouterr().out
    assert "4 of 4 cells would be trained." in said
    assert "Not measured yet: lmf on synthetic_mosi, tfn on synthetic_mosi;" in said
    assert benchmark([*given, "report=true"]) == 0
    monkeypatch.setattr("harness.launchers.job.train", None)
    capsys.readouterr()
    assert benchmark([*given, "--dry-run", "seeds=[1,2]", "backbones=[lmf,tfn]"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "6 of 8 cells would be trained. They take more than " in said
    assert "Not measured yet: tfn on synthetic_mosi;" in said
    folder = var_dir / "reports" / "s"
    assert "study.yaml" in (folder / "index.html").read_text()
    assert benchmark([str(folder / "study.yaml"), f"var_dir={var_dir}", "report=false"]) == 0
    assert "All 2 cells of study 's' are done." in capsys.readouterr().out
