"""Search spaces: their files, their effect on a cell, and the errors for invalid files."""

import dataclasses
import itertools
import json
import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbones import BACKBONES
from backbones.base import BackboneSettings, resolve_settings
from harness.config.compose import load_benchmark, settings_of
from harness.errors import UserError
from harness.matrix import Cell
from methods import METHODS
from sweeps.space import Range, Space
from sweeps.space_file import FOLDER, PARAMS, load_space, read_space
from tests.support.builders import quick_settings

SPACES = (*PARAMS, *METHODS)

SCALES = {"mosi": 3.0, "mosei": 3.0, "sims": 1.0}
FILES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
GRIDS = ("delta", "xi", "alpha", "heads")
TPE = "method: ms_mix\nsampler: tpe\n"
GRID = "method: ms_mix\nsampler: grid\n"


def make_cell(method, backbone="tfn", like="mosi", quick=False, changed=None, **settings):
    """A cell of one method on one backbone, with the published or the quick profile's settings."""
    entry, own = BACKBONES[backbone], quick_settings().get(backbone, {}) if quick else {}
    resolved = resolve_settings(entry, entry.Settings(**{**own, **(changed or {})}), like)
    chosen = METHODS[method].Settings(**settings)
    return Cell(like, like, SCALES[like], "0123456789abcdef", backbone, resolved, method, chosen, 1111)


def edges(values):
    """The choices, or the ends of a range and a number between them."""
    if not isinstance(values, Range):
        return list(values)
    middle = values.exact((values.low * values.high) ** 0.5 if values.log else (values.low + values.high) / 2)
    return [values.low, middle, values.high]


def differing(a, b):
    """Names of the fields in which two dataclasses differ."""
    return {f.name for f in dataclasses.fields(a) if getattr(a, f.name) != getattr(b, f.name)}


def same(a, b):
    """Whether two cells are equal, down to the types of all numbers."""
    return a == b and a.cell_id == b.cell_id


def read(folder, text):
    """The search space in a file with this text."""
    path = folder / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_space(path)


# A method without a space is allowed; these have one.
TUNABLE = [method for method in METHODS if method in FILES]
SHIPPED = {"none", "duplicate", "mixup", "manifold_mixup", "c_mixup", "multimix", "advmixup", "powmix"}
SHIPPED |= {"ms_mix", "ms_mix_released", "av_mc"}


def test_each_method_and_each_figure_has_a_space_and_methods_the_same_ranges():
    assert (*GRIDS, "all", *TUNABLE) == SPACES
    assert sorted([*FILES, "all"]) == sorted(SPACES)
    assert set(TUNABLE) >= SHIPPED, "make tune METHOD=NAME needs sweeps/spaces/NAME.yaml"
    for name in FILES:
        space = load_space(name)
        assert space.name == name
        assert (space.method, space.sampler) == (("ms_mix", "grid") if name in GRIDS else (name, "tpe"))
        settings = METHODS[space.method].Settings
        fixed = {*settings.components, "mode", "mix_loss", "only"}
        fields = {f.name for f in dataclasses.fields(settings)} - fixed
        assert set(space.settings) <= fields
        # Only xi2 * beta enters the loss, and xi2 is varied.
        assert name != "ms_mix" or set(space.settings) == fields - {"beta"}
    assert load_space("all") == load_space("ms_mix")
    settings = [load_space(name).settings for name in TUNABLE if name != "none"]
    assert {values["xi1"] for values in settings} == {Range(0.1, 2.0, log=True)}
    alphas = {values["alpha"] for values in settings if "alpha" in values}
    assert alphas == {Range(0.1, 8.0, log=True), (None, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)}
    default, *sigmas = load_space("c_mixup").settings["sigma"]
    assert default is None, "a sixth of the largest label"
    for scale in SCALES.values():
        assert min(sigmas) < scale / 6 < scale < max(sigmas)
        assert scale / 6 not in sigmas


def test_the_points_of_the_figures():
    xis = [0.1, 0.3, 0.5, 0.7, 0.9]
    wanted = {
        "delta": [{"delta": float(f"0.{i}")} for i in range(10)],
        "xi": [{"xi1": a, "xi2": b} for a in xis for b in xis],
        "alpha": [{"alpha": a} for a in (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)],
        "heads": [{"heads": h, "attention": a} for h in (1, 2, 4, 8) for a in ("tokens", "batch")],
    }
    for name in GRIDS:  # the same types, and in this order
        assert json.dumps(load_space(name).points()) == json.dumps(wanted[name])


@pytest.mark.parametrize("name", FILES)
def test_defaults_change_nothing_and_every_edge_is_valid_and_changes_what_it_names(name):
    space = load_space(name)
    for place in itertools.product(BACKBONES, SCALES, (False, True)):
        cell = make_cell(space.method, *place)
        fitting = space.for_backbone(cell)
        default = fitting.default(cell)
        assert list(default) == list(fitting.parameters)
        assert same(fitting.apply(cell, default), cell)
        for field, values in fitting.settings.items():
            for value in edges(values):
                applied = fitting.apply(cell, {field: value})
                new, own = (getattr(c.method_settings, field) for c in (applied, cell))
                assert (json.dumps(new) if isinstance(new, list) else new) == value
                assert own is None or type(new) is type(own)
                assert differing(applied.method_settings, cell.method_settings) <= {field}
                assert differing(applied, cell) <= {"method_settings"}
        for kind, values in fitting.backbone.items():
            for factor in edges(values):
                applied = fitting.apply(cell, {f"{kind}_factor": factor})
                assert differing(applied, cell) == (set() if factor == 1 else {"backbone_settings"})


def test_a_value_that_the_space_does_not_hold_is_left_out_of_the_default():
    space = load_space("ms_mix")
    cell = make_cell("ms_mix", delta=0.33, alpha=20.0, heads=2, xi1=0.123456, sal=False, mode="replace")
    assert set(space.parameters) - set(space.default(cell)) == {"delta", "alpha", "xi1"}
    assert space.default(cell)["heads"] == 2
    assert load_space("alpha").default(cell) == {}
    assert same(space.apply(cell, space.default(cell)), cell)


@pytest.mark.parametrize(
    ("method", "asked", "values"),
    [
        ("ms_mix", {"alpha": 8, "attention": "batch"}, {"alpha": 8.0, "attention": "batch"}),
        ("ms_mix", {"delta": 0, "xi1": 2}, {"delta": -0.0, "xi1": 2}),
        ("ms_mix", {"delta": 0.35}, {"delta": 7 * 0.05}),
        ("c_mixup", {"sigma": 1}, {"sigma": 1}),
        ("manifold_mixup", {"layers": [0, 1, 2]}, {"layers": "[0, 1, 2]"}),
        ("mixup", {"per_sample": True}, {"per_sample": True}),
        ("powmix", {"max_subset": 5, "n_ratio": 1}, {"max_subset": 5.2, "n_ratio": 1}),
    ],
)
def test_settings_make_the_same_cell_as_on_the_command_line(method, asked, values):
    cell = make_cell(method)
    settings = settings_of(load_benchmark([]), "method", method, asked)
    assert same(load_space(method).apply(cell, values), dataclasses.replace(cell, method_settings=settings))


def test_integers_in_a_file_make_the_cells_of_floats_and_missing_and_infinite_values_are_choices(tmp_path):
    space = read(tmp_path, GRID + "settings:\n  alpha: [1, 2, 4]\n  delta: [-0.0, 0.5, 1]\n")
    assert json.dumps(space.points()[:2]) == json.dumps([{"alpha": 1.0, "delta": x} for x in (0.0, 0.5)])
    space = read(tmp_path, TPE + "settings:\n  alpha: {low: 1, high: 8}\n  xi1: {low: 1, high: 2.5}\n")
    assert [space.parameters[name].integer for name in ("alpha", "xi1")] == [True, False]
    assert json.dumps(space.to_json()["settings"]["xi1"]["low"]) == "1.0"
    assert json.dumps(space.default(make_cell("ms_mix", xi1=1.0))) == '{"alpha": 2, "xi1": 1.0}'
    assert same(space.apply(make_cell("ms_mix"), {"alpha": 3}), make_cell("ms_mix", alpha=3.0))
    space = read(tmp_path, "method: c_mixup\nsampler: grid\nsettings: {sigma: [null, 0, .inf]}\n")
    assert space.points() == [{"sigma": None}, {"sigma": 0.0}, {"sigma": float("inf")}]
    assert json.loads(json.dumps(space.to_json())) == space.to_json()
    for point in space.points():
        assert space.apply(make_cell("c_mixup"), point).method_settings.sigma == point["sigma"]
    space = load_space("ms_mix")
    with pytest.raises(AssertionError, match="a cell of mixup in a space of ms_mix"):
        space.apply(make_cell("mixup"), {})


def test_factors_that_cannot_act_are_left_out_and_a_space_of_nothing_is_refused():
    space = load_space("none")
    for backbone, like in itertools.product(BACKBONES, SCALES):
        cell = make_cell("none", backbone, like)
        acts = space.apply(cell, {"dropout_factor": 0.0}) != cell
        wanted = ["learning_rate_factor", "dropout_factor"] if acts else ["learning_rate_factor"]
        assert list(space.for_backbone(cell).parameters) == wanted
    silent = make_cell("none", "lmf", changed={"audio_dropout": 0.0, "vision_dropout": 0.0})
    assert "dropout" not in space.for_backbone(silent).backbone
    loud = make_cell("none", "lmf", changed={"audio_dropout": 0.0, "vision_dropout": 0.1})
    assert "dropout" in space.for_backbone(loud).backbone
    space = Space("mine", "none", "grid", backbone={"dropout": (0.5, 1.0)})
    with pytest.raises(UserError, match=r"^No parameter of the search space mine has an effect on lmf\.$"):
        space.for_backbone(silent)
    space = dataclasses.replace(space, method="mixup", settings={"xi1": (0.5,)})
    assert space.for_backbone(make_cell("mixup", "almt")).parameters == {"xi1": (0.5,)}


def test_factors_go_by_names_and_cap_a_dropout_but_never_below_its_own_value():
    @dataclasses.dataclass(frozen=True)
    class Settings(BackboneSettings):
        text_learning_rate: float = 0.01
        factor_lr: float = 0.1
        learning_rate_decay: float = 0.5
        dropout: float = 0.3
        text_dropout: float = 0.8
        audio_dropout: float = 0.95
        dropout_hidden: int = 3

    own = Settings(batch_size=8, learning_rate=0.001, weight_decay=0.0)
    space, cell = load_space("none"), dataclasses.replace(make_cell("none"), backbone_settings=own)
    found = space.apply(cell, {"learning_rate_factor": 2, "dropout_factor": 1.5})
    wanted = {"learning_rate": 0.002, "text_learning_rate": 0.02, "factor_lr": 0.2}
    wanted |= {"dropout": 0.45, "text_dropout": 0.9}
    assert found.backbone_settings == dataclasses.replace(own, **wanted)
    assert same(space.apply(cell, space.default(cell)), cell)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("ms_mix", {"delta": 1.5}, "delta must be in [-1, 1]"),
        ("ms_mix", {"xi1": "much"}, "'much' is not of type float"),
        ("ms_mix", {"xi1": float("nan")}, "xi1 must be >= 0 and finite"),
        ("ms_mix", {"delta": float("nan")}, "cannot be applied"),
        ("manifold_mixup", {"layers": "[0, 3]"}, "layers must be"),
        ("manifold_mixup", {"layers": [0.5]}, "0.5 is not of type int"),
        ("none", {"learning_rate_factor": float("inf")}, "learning_rate must be >= 0 and finite"),
        ("none", {"dropout_factor": -1.0}, "_dropout must be in [0, 1)"),
        ("none", {"learning_rate": 2.0}, "Did you mean 'learning_rate_factor'?"),
    ],
)
def test_what_settings_refuse_is_one_sentence(name, values, words):
    with pytest.raises(UserError) as error:
        load_space(name).apply(make_cell(name), values)
    assert words in str(error.value)
    assert re.fullmatch(".*[.?]", str(error.value))


@st.composite
def stepped(draw):
    """A range of short decimals with a step."""
    digits = draw(st.integers(0, 3))
    step = draw(st.integers(1, 50))
    low, count = draw(st.integers(-100, 100)), draw(st.integers(0, 60))
    exact = [Decimal(low + i * step).scaleb(-digits) for i in range(count + 1)]
    return Range(float(exact[0]), float(exact[-1]), step=float(Decimal(step).scaleb(-digits))), exact


@given(stepped(), st.data())
def test_a_stepped_range_holds_exactly_its_decimals(found, data):
    kind, exact = found
    index = data.draw(st.integers(0, len(exact) - 1))
    noisy = kind.low + index * kind.step  # as samplers compute it
    assert kind.exact(noisy) == float(str(exact[index]))
    assert kind.holds(float(exact[index]))
    assert not kind.holds(kind.low + (index + 0.5) * kind.step)
    assert not kind.holds(kind.high + kind.step)
    assert not kind.holds(kind.low - kind.step)


@given(st.floats(0.001, 1000), st.floats(0.001, 1000), st.floats(0, 1), st.booleans())
def test_a_range_without_step_holds_four_digits(a, b, share, log):
    low, high = sorted(float(f"{x:.4g}") for x in (a, b))
    kind = Range(low, high, log)
    value = low + share * (high - low)
    exact = kind.exact(value)
    assert low <= exact <= high
    assert kind.holds(exact)
    assert kind.exact(exact) == exact
    assert abs(exact - value) <= 0.0005 * value * 1.001
    assert len(Decimal(str(exact)).normalize().as_tuple().digits) <= 4
    assert kind.holds(value) == (exact == value)


def test_a_range_is_of_integers_where_both_ends_are_and_then_holds_nothing_else():
    steps = Range(2, 8, step=2)
    assert steps.holds(4.0)
    assert not any(map(steps.holds, (None, True, "2", float("nan"), float("inf"), 2.5, 1, 9)))
    assert [Range(*ends).integer for ends in ((1, 3), (1, 3.0), (1.0, 3))] == [True, False, False]
    assert Range(1, 3.5).exact(2.25) == 2.25


@given(st.integers(-50, 50), st.integers(0, 100), st.floats(0, 1))
def test_a_range_of_integers_holds_integers(low, width, share):
    kind = Range(low, low + width)
    value = kind.exact(low + share * width)
    assert type(value) is int
    assert abs(value - (low + share * width)) <= 0.5
    assert [i for i in range(low - 3, low + width + 4) if kind.holds(i)] == list(range(low, low + width + 1))


@given(
    st.dictionaries(st.sampled_from("abcde"), st.lists(st.integers(), min_size=1, max_size=4, unique=True))
)
def test_points_are_nested_loops_the_first_outermost_and_factors_innermost(lists):
    points = [{}]
    for key, values in {**lists, "dropout_factor": [0.0, 1.0]}.items():
        points = [{**point, key: value} for point in points for value in values]
    settings = {key: tuple(values) for key, values in lists.items()}
    space = Space("mine", "ms_mix", "grid", settings, {"dropout": (0.0, 1.0)})
    assert [list(point.items()) for point in space.points()] == [list(point.items()) for point in points]


def test_the_description_is_json_and_tells_spaces_apart():
    for values in (values for name in FILES for values in load_space(name).parameters.values()):
        assert isinstance(values, Range) or {type(v) for v in values} <= {type(None), bool, int, float, str}
    space = Space("mine", "mixup", "tpe", {"xi1": Range(0.1, 1.0)}, {"dropout": (0.5,)})
    changes = [{}, {"name": "other"}, {"method": "c_mixup"}, {"sampler": "grid"}]
    changes += [{"backbone": {"dropout": (1.0,)}}, {"backbone": {"learning_rate": (0.5,)}}]
    for values in (Range(0.2, 1.0), Range(0.1, 2.0), Range(0.1, 1.0, True), Range(0.1, 1.0, step=0.1)):
        changes.append({"settings": {"xi1": values}})
    spaces = [*map(load_space, FILES), *(dataclasses.replace(space, **change) for change in changes)]
    descriptions = [space.to_json() for space in spaces]
    assert json.loads(json.dumps(descriptions)) == descriptions
    assert len({json.dumps(description) for description in descriptions}) == len(spaces)


WRONG = {
    "nothing": ("", "must be a mapping of method, sampler, settings, backbone, got None"),
    "broken": ("method: [ms_mix\nsampler: tpe", "cannot be read as YAML (line 2: "),
    "binary": (b"\xff\xfe\x00\x80", "cannot be read as YAML"),
    "control characters": (b"method: \x00", "cannot be read as YAML"),
    "an object": ("!!python/object/apply:os.system [true]", "cannot be read as YAML"),
    "no such date": ("method: 2024-13-45", "cannot be read as YAML"),
    "an alias of itself": (TPE + "settings: {delta: &a [*a]}", "(line 3: aliases are not allowed)"),
    "too deep": ("[" * 2000, "nested too deeply"),
    "an unknown key": (TPE + "setings: {delta: [0.1]}", "Did you mean 'settings'?"),
    "a key that is no text": (TPE + "1: 2", "Unknown key '1'"),
    "an unknown method": ("method: ms_mx\nsampler: tpe", "Did you mean 'ms_mix'?"),
    "an unknown sampler": ("method: ms_mix\nsampler: gird", "Did you mean 'grid'?"),
    "nothing to vary": (TPE, "must name at least one parameter"),
    "settings as a list": (TPE + "settings: [delta]", "settings must be a mapping of"),
    "an unknown field": (TPE + "settings: {dleta: [0.1]}", "Unknown setting of ms_mix 'dleta'"),
    "no field": (TPE + "settings: {components: [sass]}", "Unknown setting of ms_mix 'components'"),
    "a single value": (TPE + "settings: {delta: 0.1}", "settings.delta must be a list"),
    "an empty list": (TPE + "settings: {delta: []}", "settings.delta must be a list"),
    "a value twice": (TPE + "settings: {delta: [0, 0.5, 0.0]}", "must be different"),
    "a key twice": (TPE + "settings: {delta: [0.1], delta: [0.2]}", "duplicate key 'delta' in line 3"),
    "a text as number": (TPE + "settings: {delta: ['0.1']}", "settings.delta: '0.1' is not of type float"),
    "truth as number": (TPE + "settings: {delta: [true]}", "True is not of type float"),
    "a fraction as integer": (TPE + "settings: {heads: [2.0]}", "2.0 is not of type int"),
    "truth as integer": (TPE + "settings: {heads: [true]}", "True is not of type int"),
    "a huge number": (TPE + f"settings: {{delta: [{10**400}]}}", "too large"),
    "a refused value": (TPE + "settings: {delta: [0.1, 1.5]}", "delta must be in [-1, 1]"),
    "a refused end": (TPE + "settings: {delta: {low: 0.0, high: 2.0}}", "delta must be in [-1, 1], got 2.0"),
    "refused together": (
        "method: multimix\nsampler: tpe\nsettings: {alpha_low: [0.1, 3.0], alpha_high: [2.0, 4.0]}",
        "alpha_high must be at least alpha_low",
    ),
    "no list of layers": ("method: manifold_mixup\nsampler: tpe\nsettings: {layers: [0, 1]}", "0 is not"),
    "low above high": (TPE + "settings: {delta: {low: 0.5, high: 0.1}}", "low must be at most high"),
    "no high": (TPE + "settings: {delta: {low: 0.5}}", "needs numbers for low and high"),
    "no low": (TPE + "settings: {delta: {high: 0.5}}", "needs numbers for low and high"),
    "1e-3, a text in YAML": (TPE + "settings: {delta: {low: 1e-3, high: 0.5}}", "1.0e-3, not 1e-3"),
    "an endless range": (TPE + "settings: {xi1: {low: 0.0, high: .inf}}", "both finite"),
    "log from zero": (TPE + "settings: {xi1: {low: 0.0, high: 1.0, log: true}}", "low > 0 and no step"),
    "log with step": (TPE + "settings: {xi1: {low: 0.1, high: 1.0, log: true, step: 0.1}}", "no step"),
    "log as number": (TPE + "settings: {xi1: {low: 0.1, high: 1.0, log: 1}}", "log must be true or false"),
    "a step of zero": (TPE + "settings: {xi1: {low: 0.1, high: 1.0, step: 0}}", "step must be > 0"),
    "a step too far": (TPE + "settings: {xi1: {low: 0.1, high: 1.0, step: 0.2}}", "whole steps apart"),
    "a broken step": (TPE + "settings: {heads: {low: 2, high: 8, step: 1.5}}", "an integer if low and"),
    "too many digits": (TPE + "settings: {xi1: {low: 0.12345, high: 1.0}}", "at most 4 significant digits"),
    "an unknown key of a range": (TPE + "settings: {xi1: {low: 0.1, hihg: 1.0}}", "Did you mean 'high'?"),
    "a range of texts": (TPE + "settings: {attention: {low: 0.1, high: 1.0}}", "0.1 is not of type str"),
    "a grid with a range": (GRID + "settings: {delta: {low: 0.1, high: 0.5}}", "takes lists only"),
    "an unknown factor": (TPE + "backbone: {dropot: [0.5]}", "Did you mean 'dropout'?"),
    "a factor below zero": (TPE + "backbone: {dropout: [1.0, -0.5]}", "got -0.5"),
    "a rate of zero": (TPE + "backbone: {learning_rate: {low: 0.0, high: 1.0}}", "finite and > 0"),
    "an endless factor": (TPE + "backbone: {learning_rate: [1.0, .inf]}", "must be finite"),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_told_what_is_wrong_in_one_sentence(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    assert words in str(error.value)
    assert re.fullmatch(r"Search space \S+mine\.yaml: .*[.?]", str(error.value))


def test_a_name_that_is_neither_known_nor_a_files_is_told_the_known_ones(tmp_path, monkeypatch):
    for name in ("", "../spaces/delta", "ALL", "detla"):
        with pytest.raises(UserError, match=r"^Unknown search space ") as error:
            load_space(name)
        assert all(known in str(error.value) for known in SPACES)
    assert str(error.value).endswith(" Did you mean 'delta'?")
    for name in (str(tmp_path / "none.yaml"), "none.yml", "~/no such folder/none.yaml"):
        with pytest.raises(UserError) as error:
            load_space(name)
        assert str(error.value).startswith(f"Search space {Path(name).expanduser()}: There is no such file; ")
        assert str(error.value).endswith("; give another path, or one of param=delta|xi|alpha|heads|all.")
    monkeypatch.setattr("sweeps.space_file.METHODS", {**METHODS, "new": METHODS["mixup"]})
    monkeypatch.setitem(METHODS, "new", METHODS["none"])
    with pytest.raises(
        UserError, match=r"new\.yaml: There is no such file; write it like the others in this folder"
    ):
        load_space("new")
    with pytest.raises(UserError, match="cannot be read"):
        read_space(tmp_path)


@pytest.mark.parametrize("name", ["of.mine.yml", "delta.yaml"])
def test_a_name_with_an_ending_is_a_path_and_names_the_space_by_the_files_stem(name, tmp_path, monkeypatch):
    home, here = tmp_path / "home", tmp_path / "here"
    for folder, method in ((home, "mixup"), (here, "c_mixup")):
        folder.mkdir()
        (folder / name).write_text(f"method: {method}\nsampler: grid\nsettings: {{xi1: [0.25]}}\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    for path, method in ((f"~/{name}", "mixup"), (str(home / name), "mixup"), (name, "c_mixup")):
        assert load_space(path) == Space(name.rpartition(".")[0], method, "grid", {"xi1": (0.25,)}, {})
    assert load_space("delta").method == "ms_mix"
