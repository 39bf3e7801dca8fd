"""From the command line to a typed configuration: accepted and rejected arguments, and error messages."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

import harness
from backbones import BACKBONES
from backbones.base import KINDS, resolve_settings
from harness.config.compose import (
    GROUPS,
    apply,
    load_benchmark,
    load_report,
    load_sweep,
    report_settings,
    settings_of,
)
from harness.config.grammar import (
    NAME_LISTS,
    TEXT_KEYS,
    VALUE_LISTS,
    parse,
    parse_value,
    split_list,
    split_variant,
)
from harness.errors import UserError
from harness.launchers.choose import LAUNCHERS
from methods import METHODS

PROFILES = sorted(file.stem for file in (Path(harness.__file__).parent / "conf" / "profile").glob("*.yaml"))
DEFAULT = load_benchmark(["dataset.mine.path=FILE"])
UNTOUCHED = DEFAULT.copy()
LISTS = [*NAME_LISTS, *VALUE_LISTS]


def changed(*arguments: str) -> DictConfig:
    """The default configuration with some settings changed, without composing it again."""
    config = DEFAULT.copy()
    apply(config, parse(arguments))
    return config


def refusal(*arguments: str, load=None) -> str:
    """Return the error message for these arguments."""
    return refused(lambda: load(arguments) if load else apply(UNTOUCHED, parse(arguments)))


def refused(call) -> str:
    """Return the error message of a call."""
    with pytest.raises(UserError) as caught:
        call()
    return one_line(caught.value)


def one_line(error: UserError) -> str:
    text = str(error)
    assert text.splitlines() == [text]
    assert text.endswith((".", "?"))
    return text


def leaves(node: DictConfig, prefix: str = "") -> dict[str, object]:
    """Every single setting by its dotted key."""
    found = {}
    for name, value in node.items():
        group = isinstance(value, DictConfig)
        found |= leaves(value, f"{prefix}{name}.") if group else {f"{prefix}{name}": value}
    return found


LEAVES = leaves(DEFAULT)


# What is accepted


def test_the_groups_are_the_profiles_and_launchers_that_exist():
    assert sorted(GROUPS["profile"]) == PROFILES
    assert set(GROUPS["launcher"]) == set(LAUNCHERS)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_composes_with_every_launcher(profile):
    for launcher in GROUPS["launcher"]:
        config = load_benchmark([f"profile={profile}", f"launcher={launcher}"])
        assert config.launcher.name == launcher
        assert config.study == profile
        assert set(config.method) == set(METHODS)
        assert set(config.backbone) == set(BACKBONES)
        assert set(config.datasets) <= set(config.dataset)


def test_the_paper_profile_has_the_published_matrix_and_the_settings_of_the_classes():
    config = load_benchmark(["profile=paper"])
    assert list(config.datasets) == ["mosi", "mosei", "sims"]
    assert list(config.seeds) == [1111, 1112, 1113, 1114, 1115]
    assert list(config.occlusion.ratios) == [k / 10 for k in range(10)]
    assert list(config.occlusion.protocols) == ["test", "train"]
    assert list(config.occlusion.train_ratios) == [0.1, 0.3, 0.5, 0.7]
    for kind, registry in {"method": METHODS, "backbone": BACKBONES}.items():
        for name, entry in registry.items():
            made, other = (settings_of(c, kind, name, {}) for c in (config, DEFAULT))
            assert made == other == entry.Settings()
            with pytest.raises(dataclasses.FrozenInstanceError):
                made.xi1 = 1


def test_an_override_wins_over_the_profile_whatever_the_order():
    quick = load_benchmark(["profile=quick"])
    for arguments in (["profile=quick", "seeds=[7]"], ["seeds=[7]", "profile=quick"]):
        config = load_benchmark(arguments)
        assert list(config.seeds) == [7]
        assert config.backbone == quick.backbone


AWKWARD = "a=b,c 'd' [e] (f) {g} #h ~i ;j $k \"l\" \\m é数.pkl"
DOCUMENTED = {
    f"data_root={AWKWARD}": AWKWARD,
    f"study={AWKWARD}": AWKWARD,
    "occlusion.ratios=[0,0.5]": [0.0, 0.5],
    "occlusion.train_ratios=null": None,
    "train.max_epochs=2": 2,
    "dataset.mosi.aligned=true": True,
    f"dataset.new.path=~/{AWKWARD}": f"~/{AWKWARD}",
    "dataset.new.label_scale=3": 3.0,
    "dataset.new.like=mosei": "mosei",
    "method.manifold_mixup.layers=[0,1,2]": [0, 1, 2],
    "tracking.uri=postgresql://user:pass@host/db?a=b": "postgresql://user:pass@host/db?a=b",
    "ledger.uri=sqlite:////tmp/a b.db": "sqlite:////tmp/a b.db",
    "sweep.name=1e5": "1e5",
    "sweep.tuned_dir=a, [b]": "a, [b]",
    "sweep.seeds=1,2": [1, 2],
    "seeds=1111": [1111],
    "seeds= [ 1111 , '1112' ] ": [1111, 1112],
    "sweep.prune_at=0.1,0.5": [0.1, 0.5],
    "sweep.prune_at=[]": [],
    "sweep.backbones=tfn,lmf": ["tfn", "lmf"],
    **{f"method.{name}.xi1=0.25": 0.25 for name in METHODS},
}


def test_documented_settings_are_accepted():
    for argument, value in DOCUMENTED.items():
        assert OmegaConf.select(changed(argument), argument.partition("=")[0]) == value
    last = {argument.partition("=")[0]: value for argument, value in DOCUMENTED.items()}
    together = load_benchmark(list(DOCUMENTED))
    assert {key: OmegaConf.select(together, key) for key in last} == last


def test_every_setting_takes_its_own_value_again():
    given = {key: list(value) if OmegaConf.is_list(value) else value for key, value in LEAVES.items()}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
    again = leaves(changed(*(f"{key}={text}" for key, text in texts.items())))
    wanted = {key: "null" if v is None and TEXT_KEYS.fullmatch(key) else v for key, v in LEAVES.items()}
    assert again == wanted
    assert {key: type(value) for key, value in again.items()} == {k: type(v) for k, v in wanted.items()}


def test_the_study_is_named_after_the_profile_by_default():
    assert load_benchmark([]).study == load_benchmark(["study="]).study == "benchmark"
    assert load_benchmark(["profile=quick"]).study == "quick"
    assert load_benchmark(["profile=quick", "study=mine"]).study == "mine"


def test_a_study_that_looks_like_a_value_stays_text():
    for text in ("1e5", "2024_01", "null", "true", "007", "1.50", "[a]", "off", "0x1F", " a "):
        assert changed(f"study={text}").study == load_report([f"study={text}"]).study == text


# Any text, and text made of the characters that mean something to a shell or to Hydra.
awkward_text = st.text(min_size=1) | st.text("=,'[({#~;$\"\\%&!*?:@é数😀 a1", min_size=1)


@given(text=awkward_text)
def test_text_keys_keep_every_character(text):
    assume("${" not in text and text != "???")
    keys = ["study", "var_dir", "out", "predictions", "tracking.uri"]
    report = load_report([f"{key}={text}" for key in keys])
    assert [OmegaConf.select(report, key) for key in keys] == [text] * 5
    keys = ["study", "var_dir", "data_root", "ledger.uri", "dataset.mine.path", "dataset.mine.file_aligned"]
    config = changed(*(f"{key}={text}" for key in keys))
    assert [OmegaConf.select(config, key) for key in keys] == [text] * 6


# Lists and variants

names = st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True)
numbers = st.floats(0, 1)
values = numbers.map(repr) | st.sampled_from(["true", "null", "[1,2]", "x"])
variants = st.builds(
    lambda name, pairs: name + "{" + ",".join(f"{k}:{v}" for k, v in pairs.items()) + "}",
    names,
    st.dictionaries(names, values, max_size=3),
)


@given(
    elements=st.lists(names | variants, min_size=1, max_size=5),
    quote=st.sampled_from(["", "'", '"']),
    comma=st.sampled_from([",", ", ", " , "]),
    closed=st.booleans(),
)
def test_lists_are_split_at_top_level_commas_only(elements, quote, comma, closed):
    text = comma.join(f"{quote}{element}{quote}" for element in elements)
    assert split_list("methods", f"[{text}]" if closed else text) == elements


def test_components_in_square_brackets_are_those_that_are_on():
    assert split_variant("none") == split_variant("none{}") == ("none", {})
    assert split_variant("x{a: 0.5, b: 1}") == ("x", {"a": 0.5, "b": 1})
    assert list(changed("methods='ms_mix{delta:0.4,alpha:1}',none").methods) == [
        "ms_mix{delta:0.4,alpha:1}",
        "none",
    ]
    assert split_variant("ms_mix[sass, sig]{delta:0.4}") == ("ms_mix", {"sal": False, "delta": 0.4})
    assert split_variant("ms_mix[]") == ("ms_mix", {"sass": False, "sig": False, "sal": False})
    assert split_variant("ms_mix[sal,sig,sass]") == ("ms_mix", {})
    assert list(changed("methods=[ms_mix[sass,sig],none]").methods) == ["ms_mix[sass,sig]", "none"]
    for text, sentence in {
        "ms_mix[sas]": "Did you mean 'sass'?",
        "none[x]": "write it as 'none'",
        "ms_mix[sass": "write it like 'ms_mix[sass,sig]'",
        "mx_mix[sass]": "Did you mean 'ms_mix'?",
    }.items():
        assert sentence in refused(lambda text=text: split_variant(text))


def test_the_ablation_is_every_combination_of_the_components():
    given = load_benchmark(["matrix=ablation", "profile=quick"]).methods
    found = [settings_of(DEFAULT, "method", *split_variant(method)) for method in given]
    states = [(s.sass, s.sig, s.sal) for s in found]
    assert given[0] == "ms_mix"
    assert sorted(states) == sorted(itertools.product((True, False), repeat=3))
    assert all(dataclasses.replace(s, sass=True, sig=True, sal=True) == found[0] for s in found)
    varied = load_benchmark(["matrix=ablation", "methods=[ms_mix{delta:0.4}]"]).methods
    assert len(varied) == 8
    assert all(split_variant(method)[1]["delta"] == 0.4 for method in varied)
    assert "'none'; allowed: " in refusal("matrix=ablation", "methods=[none]", load=load_benchmark)
    assert "Did you mean 'ablation'?" in refusal("matrix=ablated", load=load_benchmark)


@pytest.mark.parametrize("key", LISTS)
def test_malformed_lists(key):
    for text in ("", "[]", " [ ] "):
        assert parse_value(key, text) == []
    for text in ("[1", "1]", "[1,2", "1}", "{1", "[(1]", "[1)]", "[1],[2]", "'1", '[1,"2]', "[{1]}"):
        assert f"{key}={text!r} has an unmatched bracket or quote" in refusal(f"{key}={text}")
    for text in (",", "1,", ",1", "[1,]", "[,1]", "[1,,2]", "1, ,2", "[1,'']", '[1," "]'):
        assert refusal(f"{key}={text}").startswith(f"{key}={text!r} has an empty element")


UNREADABLE = (
    "ms_mix{ ms_mix{delta} ms_mix{delta:} ms_mix{delta:1}x ms_mix{delta:1}{alpha:1} ms_mix{delta:{a:1}} "
    "ms_mix{delta:[[1]]} ms_mix{delta:???} ms_mix{delta:choice(1,2)} ms_mix{delta:1,,alpha:1} ms_mix{delta=1}"
)


WRONG_SETTINGS = {
    "ms_mix{delt:1}": "Did you mean 'delta'?",
    "ms_mix{1:2}": "Unknown setting of method ms_mix '1'",
    "ms_mix{delta:x}": "'x'",
    "ms_mix{delta:null}": "None",
    "ms_mix{delta:true}": "True",
    "ms_mix{heads:4.5}": "4.5",
    "ms_mix{xi1:-1}": "xi1 must be >= 0 and finite, got -1",
}


def test_variants_that_cannot_be_used():
    for variant in UNREADABLE.split():
        assert repr(variant) in refused(lambda variant=variant: split_variant(variant))
    for variant, words in WRONG_SETTINGS.items():
        parts = split_variant(variant)
        assert words in refused(lambda parts=parts: settings_of(DEFAULT, "method", *parts))


# Sweeps


def test_a_sweep_has_its_own_matrix_unless_it_is_given():
    whole = {"datasets": ["synthetic_mosi"], "backbones": ["misa"], "seeds": [1111, 1112]}
    matrices = {"quick": whole, "paper": {**whole, "datasets": ["mosi"]}, None: whole}
    for profile, matrix in matrices.items():
        chosen = [] if profile is None else [f"profile={profile}"]
        config, plain = load_sweep(["param=delta", *chosen]), load_benchmark(chosen)
        assert {key: list(config[key]) for key in matrix} == matrix
        assert config.study == plain.study == (profile or "benchmark")
        assert (config.sweep.param, config.sweep.tune) == ("delta", None)
        rest = set(plain) - {*matrix, "sweep"}
        assert {key: config[key] for key in rest} == {key: plain[key] for key in rest}
        assert set(config) == set(plain), "param and tune are those of the sweep"


MATRIX = {
    "datasets": (["mosi", "sims"], "mosei"),
    "backbones": (["tfn", "lmf"], "mult"),
    "seeds": ([1, 2], 3),
}


@pytest.mark.parametrize("key", MATRIX)
def test_what_is_given_wins_over_the_sweeps_own(key):
    value, other = MATRIX[key]
    text = ",".join(map(str, value))
    both = [f"{key}={text}", f"sweep.{key}={other}"]
    for arguments in ([f"{key}={text}"], [f"sweep.{key}={text}"], both, both[::-1]):
        assert list(load_sweep(arguments)[key]) == value
    for name in {"datasets", "backbones", "seeds"} - {key}:
        assert load_sweep([f"{key}={text}"])[name] == load_sweep([])[name]
    # A default of the benchmark stays.
    assert load_benchmark([f"sweep.{key}={text}"])[key] == load_benchmark([])[key]


def test_param_and_tune_are_the_sweeps():
    assert load_sweep(["tune=powmix"]).sweep.tune == load_sweep(["sweep.tune=powmix"]).sweep.tune == "powmix"
    assert (load_sweep(["param=1e5"]).sweep.param, load_sweep(["tune=a,b"]).sweep.tune) == ("1e5", "a,b")
    config = load_sweep(["param=delta", "sweep.tune=none"])
    assert (config.sweep.param, config.sweep.tune) == ("delta", "none")
    assert (load_sweep([]).sweep.param, load_sweep([]).sweep.tune) == (None, None)


def test_only_a_sweep_takes_param_and_tune():
    for load in (load_benchmark, load_report):
        for key in ("param", "tune"):
            message = refusal("study=a", f"{key}=delta", load=load)
            assert message.startswith(f"Unknown setting {key!r}; allowed: ")
    assert refusal("tuen=none", load=load_sweep).endswith("Did you mean 'tune'?")
    assert refusal("prm=delta", load=load_sweep).endswith("Did you mean 'param'?")
    assert "sweep is a group of settings (param, tune, " in refusal("sweep=delta", load=load_sweep)
    assert "leave out matrix=ablation" in refusal("matrix=ablation", load=load_sweep)
    assert "Did you mean 'ablation'?" in refusal("matrix=ablat", load=load_sweep)


# What is refused


def test_only_key_equals_value_is_read():
    prefixed = ("+seeds=[1]", "++seeds=[1]", "~seeds", "~seeds=[1]", "hydra/launcher=x", "dataset@x=mosi")
    others = ("seeds", "", "=1", "a b=1", "seeds =1", "--jobs=2", "a..b=1", ".a=1", "seeds[0]=1")
    for argument in prefixed + others:
        for load in (load_benchmark, load_report):
            assert refusal("study=x", argument, load=load).startswith(f"Cannot parse {argument!r}; ")
    for key in ("hydra", "hydra.run.dir"):
        for load in (load_benchmark, load_report):
            assert refusal(f"{key}=x", load=load).startswith(f"{key!r} is a setting of Hydra")


@pytest.mark.parametrize("key", ["study", "seeds", "methods", "profile", "dataset.mine.path", "jobs"])
def test_values_that_mean_more_than_themselves(key):
    for value in ("${oc.env:HOME}", "a${study}b", "[${study}]", "${"):
        message = refusal(f"{key}={value}", load=load_benchmark)
        assert message.startswith(f"{f'{key}={value}'!r} contains '${{...}}'")
    assert "'???'" in refusal(f"{key}=???", load=load_benchmark)
    for value in ("1,2", "choice(1,2)", "range(1,3)", "interval(1,2)", "glob(*)") if key == "jobs" else ():
        assert refusal(f"{key}={value}") == f"{key}={value!r} gives several values; give one."


@pytest.mark.parametrize("key", {key.rpartition(".")[0]: key for key in LEAVES}.values())
def test_a_key_is_refused_at_every_depth_where_it_is_misspelt_or_does_not_end(key):
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if parts[0] == "dataset" and depth == 1:
            continue  # any name is a dataset
        wrong, right = (".".join([*parts[:depth], name]) for name in (part + "x", part))
        message = refusal(".".join([wrong, *parts[depth + 1 :]]) + "=1")
        assert message.startswith(f"Unknown setting {wrong!r}; allowed: ")
        assert message.endswith(f"Did you mean {right!r}?")
    assert refusal(f"{key}.more=1") == f"{key} is a single setting and has no 'more'."
    for depth in range(1, len(parts)):
        message = refusal(f"{'.'.join(parts[:depth])}=1")
        assert message.startswith(f"{'.'.join(parts[:depth])} is a group of settings")
        assert parts[depth] in message


@given(st.one_of(st.integers(-(10**20), 10**20).map(str), st.text("+-_01239.e", min_size=1, max_size=6)))
def test_numbers_of_a_list_are_read_as_the_grammar_reads_them(text):
    def result(key, value):
        try:
            return parse_value(key, value)
        except UserError as error:
            return str(error).removeprefix(key)

    one = result("jobs", text)
    assert result("seeds", f"[{text},1]") == (one if isinstance(one, str) and one[0] == "=" else [one, 1])


def test_a_setting_without_its_group_and_a_group_without_its_value():
    for key, meant in {"max_epochs": "'train.max_epochs'", "uri": "'tracking.uri' or 'ledger.uri'"}.items():
        assert refusal(f"{key}=1", load=load_benchmark) == f"Unknown setting {key!r}. Did you mean {meant}?"
    assert refusal("profile.study=a", load=load_benchmark).startswith("profile has no single settings")
    for group, allowed in GROUPS.items():
        for value in ("", "xyz", "[quick]", "inline,processes", "null", "../x", "a=b", "{"):
            message = refusal(f"{group}={value}", load=load_benchmark)
            assert message.startswith(f"Unknown {group} {value!r}; allowed: {', '.join(sorted(allowed))}.")
    assert refusal("profile=quik", load=load_benchmark).endswith("Did you mean 'quick'?")


WRONG_TYPES = {
    "jobs": ["two", "2.5", "true", "", "[1]", "{a:1}", "a=b", "'", "(", "1\n2"],
    "report.build": ["maybe", "", "null"],
    "report.equal_within.mae": ["much", "null"],
    "seeds": ["[a]", "[1.5]", "[true]", "[[1]]", "[{a:1}]", "null", "[null]", "range(1,3)"],
    "occlusion.ratios": ["[0.1,a]", "null"],
    "methods": ["null"],
    "sweep.trials": ["many", "1.5", "null"],
    "sweep.seeds": ["[a]", "null"],
    "sweep.prune_at": ["[a]", "null"],
    "sweep.backbones": ["null"],
    "dataset.mine.label_scale": ["big"],
    "dataset.mine.clips": ["1.5"],
    "backbone.tfn.text_hidden": ["wide", "1.5"],
    "backbone.tfn.early_stop": ["null"],
    "method.ms_mix.sass": ["perhaps", "[true]"],
    "method.ms_mix.delta": ["[1]", "null", "x"],
    "method.manifold_mixup.layers": ["[[1]]", "{a:1}", "[a]", "null"],
}


@pytest.mark.parametrize("key", WRONG_TYPES)
def test_values_of_the_wrong_type_are_refused_and_change_nothing(key):
    before = OmegaConf.to_yaml(UNTOUCHED)
    for value in WRONG_TYPES[key]:
        assert refusal(f"{key}={value}").startswith(f"{key}={value!r} ")
    assert OmegaConf.to_yaml(UNTOUCHED) == before


pieces = st.sampled_from([*"[]{}()'\",:=\\$ .-~!\n", "1", "0.5", "none", "ms_mix", "delta", "null"])


@settings(deadline=None, max_examples=15)
@given(text=st.lists(pieces).map("".join) | st.text(max_size=20))
@pytest.mark.parametrize("key", ["methods", "seeds", "jobs", "device", "method.ms_mix.delta", "dataset", ""])
def test_no_text_breaks_the_reader(key, text):
    try:
        config = changed(f"{key}={text}" if key else text)
        for method in config.methods:
            settings_of(config, "method", "ms_mix", split_variant(method)[1])
    except UserError as error:
        one_line(error)


def test_settings_of_the_report():
    """``report=false`` is short; margins are of known metrics and positive."""
    config = load_benchmark(["report=false", "report.baseline=mixup", "report.equal_within.mae=0.02"])
    assert (config.report.build, config.report.baseline) == (False, "mixup")
    assert dict(config.report.equal_within) == {"mae": 0.02}
    own = report_settings(["profile=quick", "report=true", "report.equal_within.corr=0.1", "seeds=[1]"])
    assert (own.build, own.baseline, dict(own.equal_within)) == (True, None, {"corr": 0.1})
    given = load_report(["study=a", "report.equal_within.acc2=0.01"])
    assert dict(given.report.equal_within) == {"acc2": 0.01}
    for load, more in ((load_benchmark, ()), (load_report, ("study=a",))):
        assert "Did you mean 'mae'" in refusal("report.equal_within.maee=1", *more, load=load)
        for value in ("0", "-1", "nan", "inf"):
            said = refusal(f"report.equal_within.mae={value}", *more, load=load)
            assert said.startswith("report.equal_within.mae must be a positive number, got")
    assert refusal("report=maybe", load=load_benchmark).startswith("report.build='maybe' is not allowed")


def test_reports_know_their_own_settings_only():
    for arguments in ([], ["out=a.csv"], ["study="]):
        assert "study=NAME" in refusal(*arguments, load=load_report)
    for argument in ("datasets=[mosi]", "dataset.x.path=a", "launcher=inline", "profile=quick"):
        message = refusal("study=a", argument, load=load_report)
        allowed = "all, curves, gain, metric, out, plugins, port, predictions, report, study, sweep, sweeps"
        assert f"allowed: {allowed}, tracking, var_dir" in message
    assert refusal("study=a", "ot=x", load=load_report).endswith("Did you mean 'out'?")


# What comes back


def test_overrides_reach_the_settings_and_leave_the_defaults_alone():
    config = changed("method.ms_mix.delta=0.9", "backbone.tfn.text_hidden=5")
    for changes in ({"delta": 0.4, "alpha": 1}, {}):
        made = settings_of(config, "method", "ms_mix", changes)
        assert made == dataclasses.replace(METHODS["ms_mix"].Settings(), **{"delta": 0.9} | changes)
        assert isinstance(made.alpha, float)
    assert settings_of(config, "backbone", "tfn", {}).text_hidden == 5
    assert settings_of(DEFAULT, "method", "ms_mix", {}) == METHODS["ms_mix"].Settings()


@pytest.mark.parametrize("like", KINDS)
@pytest.mark.parametrize("name", BACKBONES)
def test_a_field_left_at_none_takes_the_published_value(name, like):
    backbone = BACKBONES[name]

    def resolved(*arguments):
        return resolve_settings(backbone, settings_of(changed(*arguments), "backbone", name, {}), like)

    published, untouched = backbone.published[like], resolved()
    fields = [f.name for f in dataclasses.fields(backbone.Settings) if f.default is None]
    assert published
    assert {field: getattr(untouched, field) for field in fields} == {f: published[f] for f in fields}
    given_one = f"backbone.{name}.{fields[0]}=3"
    assert resolved(given_one) == dataclasses.replace(untouched, **{fields[0]: 3})
    assert resolved(given_one, f"backbone.{name}.{fields[0]}=null") == untouched


def test_nothing_is_written_and_hydra_is_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (["profile=paper", "study=a", "var_dir=v"], ["seeds=[1"], ["profile=x"], ["+a=1"]):
        with contextlib.suppress(UserError):
            load_benchmark(arguments)
        assert list(tmp_path.iterdir()) == []
        assert not GlobalHydra.instance().is_initialized()
