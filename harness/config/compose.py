"""Typed configuration of a command: YAML files composed by Hydra, then ``KEY=VALUE`` overrides.

The YAML files are in `harness/conf`. The types come from `harness.config.schema` and from the settings
dataclasses of methods and backbones.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from harness import plugins
from harness.config.grammar import Placed, located, parse, parse_value, split_variant
from harness.config.schema import (
    CollectConfig,
    Config,
    DatasetConfig,
    PredictConfig,
    ReportConfig,
    ReportSettings,
    SweepCommand,
)
from harness.config.study_file import OPEN_GROUPS, expand, study_file_text
from harness.databases import redact, without_secrets
from harness.errors import UserError, one_line, unknown
from harness.metrics import DIRECTION

GROUPS = {"profile": ("quick", "paper"), "launcher": ("inline", "processes", "ray")}
MATRICES = ("full", "ablation")


def load_benchmark(arguments: Sequence[str]) -> Config:
    """Compose the configuration of a benchmark; raises UserError."""
    config = _compose(Config, arguments)
    if config.matrix == "ablation":
        config.methods = _ablation(config.methods if "methods" in given_keys(arguments) else ["ms_mix"])
    return config


def load_sweep(arguments: Sequence[str]) -> Config:
    """Compose the configuration of a sweep; raises UserError.

    ``param`` and ``tune`` are short for ``sweep.param`` and ``sweep.tune``. ``datasets``, ``backbones`` and
    ``seeds`` default to the values in ``sweep``.
    """
    config = _compose(SweepCommand, arguments)
    if config.matrix != "full":
        raise UserError(f"A sweep gets its variants from a search space; leave out matrix={config.matrix}.")
    with open_dict(config):
        for name in ("param", "tune"):
            value = config.pop(name)
            config.sweep[name] = config.sweep[name] if value is None else value
    for name in {"datasets", "backbones", "seeds"} - given_keys(arguments):
        config[name] = config.sweep[name]
    return config


def load_report(arguments: Sequence[str]) -> ReportConfig:
    """Compose the configuration of a report command; raises UserError."""
    config: ReportConfig = _of_study(ReportConfig, arguments)
    _check_report(config.report)
    return config


def load_collect(arguments: Sequence[str]) -> CollectConfig:
    """Compose the configuration of `harness.collect`; raises UserError."""
    config: CollectConfig = _of_study(CollectConfig, arguments)
    return config


def load_predict(arguments: Sequence[str]) -> PredictConfig:
    """Compose the configuration of `harness.predict`; raises UserError."""
    config: PredictConfig = _of_stored(PredictConfig, arguments)
    for key, value in (("run", "RUN_ID"), ("data", "FILE"), ("out", "FILE.csv")):
        if not config[key]:  # type: ignore[index]
            raise UserError(f"The setting {key!r} is missing; give {key}={value}.")
    if config.device not in ("cpu", "cuda"):
        raise unknown("device", config.device, ("cpu", "cuda"))
    return config


def _of_study(schema: type[Any], arguments: Sequence[str]) -> Any:
    """Compose the configuration of a command on a study that exists; raises UserError."""
    config = _of_stored(schema, arguments)
    if not config.study:
        raise UserError("The study is missing; give study=NAME.")
    return config


def _of_stored(schema: type[Any], arguments: Sequence[str]) -> Any:
    """Compose the configuration of a command that trains nothing; raises UserError."""
    config = OmegaConf.structured(schema)
    # A study file also holds what other commands read.
    known = [
        (key, text)
        for key, text in _pairs(expand(arguments))
        if not isinstance(text, Placed) or key.split(".")[0] in config
    ]
    apply(config, known)
    if config.plugins:
        plugins.use(config.plugins)
    return config


def report_settings(arguments: Sequence[str]) -> ReportSettings:
    """Return the settings of a report among the arguments of a benchmark; raises UserError."""
    config = OmegaConf.create({"report": OmegaConf.structured(ReportSettings)})
    apply(config, [(key, value) for key, value in _pairs(arguments) if key.startswith("report.")])
    _check_report(config.report)
    return config.report


def resolved_study_file(config: Config) -> str:
    """Return a study file from which a benchmark's configuration comes again, without its profile."""
    return study_file_text(config, _defaults(Config, (), plugins.loaded()))


def given_keys(arguments: Sequence[str]) -> set[str]:
    """Return the keys of ``KEY=VALUE`` arguments; raises UserError."""
    return {key for key, _ in parse(arguments)}


def apply(config: DictConfig, pairs: Iterable[tuple[str, str]]) -> None:
    """Set ``(key, text)`` pairs in a typed configuration; an unknown dataset name adds a dataset."""
    for key, text in pairs:
        with located(text):
            _apply(config, key, text)


def _apply(config: DictConfig, key: str, text: str) -> None:
    parts = key.split(".")
    if parts[0] == "dataset" and len(parts) > 2 and "dataset" in config:
        with open_dict(config.dataset):
            config.dataset.setdefault(parts[1], DatasetConfig())
    margin = parts[:2] == ["report", "equal_within"] and len(parts) == 3
    _check_key(config, parts[: 2 if margin else None], group=margin)
    value = parse_value(key, text)
    try:
        OmegaConf.update(config, key, value, merge=True, force_add=margin)
    except (OmegaConfBaseException, ValueError) as error:
        reason = without_secrets(one_line(error), text)
        raise UserError(f"{key}={redact(text)!r} is not allowed: {reason}.") from None


def settings_of(config: DictConfig, kind: str, name: str, changes: dict[str, Any]) -> Any:
    """Return the frozen settings of a method or backbone with ``changes`` applied; raises UserError."""
    node = config[kind][name]
    for key in changes:
        if key not in node:
            raise unknown(f"setting of {kind} {name}", key, node.keys())
    try:
        return OmegaConf.to_object(OmegaConf.merge(node, changes))
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{kind}.{name}: {one_line(error)}.") from None


def path_of(text: str) -> Path:
    """Convert text to a path and expand a leading ``~/``."""
    return Path(text).expanduser() if text.startswith("~/") else Path(text)


def var_path(config: Any) -> Path:
    """Return the folder of databases, artifacts, reports and caches; raises UserError."""
    if not config.var_dir:
        raise UserError("var_dir is empty; give the folder for results, as in var_dir=var.")
    try:
        config.var_dir.encode()
    except UnicodeEncodeError:
        # Databases and links store the path as UTF-8.
        raise UserError(f"var_dir={config.var_dir!r} is not valid UTF-8; give another folder.") from None
    return path_of(config.var_dir)


def writable(settings: Any) -> DictConfig:
    """Convert a dataclass to a typed node that accepts overrides."""
    # OmegaConf makes the node of a frozen dataclass read-only; `to_object` returns a frozen one again.
    node = OmegaConf.structured(settings)
    OmegaConf.set_readonly(node, False)
    return node


def _compose(schema_of: type[Config], arguments: Sequence[str]) -> Any:
    """Compose the configuration of a command that trains cells; raises UserError."""
    pairs = _pairs(arguments)
    groups = {key: value for key, value in pairs if key in GROUPS}
    for key, value in groups.items():
        with located(value):
            if value not in GROUPS[key]:
                raise unknown(key, value, GROUPS[key])
    _check_keys(schema_of, pairs)
    # Before the schema, which has the settings of every registered method and backbone.
    plugins.use(parse_value("plugins", dict(pairs).get("plugins", "")))
    defaults = _defaults(schema_of, tuple(groups.items()), plugins.loaded())  # type: ignore[arg-type]
    config = copy.deepcopy(defaults)
    apply(config, [(key, value) for key, value in pairs if key not in GROUPS])
    _check_report(config.report)
    config.study = config.study or groups.get("profile", "benchmark")
    if config.matrix not in MATRICES:
        raise unknown("matrix", config.matrix, MATRICES)
    return config


@functools.cache
def _defaults(
    schema_of: type[Config], groups: tuple[tuple[str, str], ...], own: tuple[plugins.Plugin, ...]
) -> DictConfig:
    """Compose the YAML files of the given groups, with the types of all settings; must not be changed.

    own: the plugins in use, which are part of the cache's key.
    """
    with initialize_config_module("harness.conf", version_base="1.3"):
        composed = compose("config", [f"{key}={value}" for key, value in groups])
    config = OmegaConf.merge(_schema(schema_of, composed.dataset), composed)
    assert isinstance(config, DictConfig)
    return config


def _pairs(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Parse arguments; ``report=false`` is short for ``report.build=false``."""
    return [("report.build" if key == "report" else key, value) for key, value in parse(arguments)]


def _check_report(settings: ReportSettings) -> None:
    for metric, margin in settings.equal_within.items():
        if metric not in DIRECTION:
            raise unknown("metric of report.equal_within", str(metric), DIRECTION)
        if not 0 < margin < math.inf:
            raise UserError(f"report.equal_within.{metric} must be a positive number, got {margin}.")


def _schema(schema_of: type[Config], datasets: Iterable[str]) -> DictConfig:
    """Build the schema of all settings, including those of registered methods and backbones."""
    # Imported here because the registries load torch, and most errors are reported before.
    from backbones import BACKBONES
    from methods import METHODS

    schema = OmegaConf.structured(schema_of)
    for name, method in METHODS.items():
        schema.method[name] = writable(method.Settings())
    for name, backbone in BACKBONES.items():
        schema.backbone[name] = writable(backbone.Settings())
    for name in datasets:
        schema.dataset[name] = DatasetConfig()
    OmegaConf.set_struct(schema, True)
    return schema


def _ablation(methods: Iterable[str]) -> list[str]:
    """List every combination of each method's components, all components on first; raises UserError."""
    from harness.matrix import method_label
    from methods import METHODS

    labels = []
    for method in methods:
        name, changes = split_variant(method)
        components = METHODS[name].Settings.components if name in METHODS else ()
        if not components:
            names = [key for key, value in METHODS.items() if value.Settings.components]
            raise unknown("method with components to switch off, for matrix=ablation,", name, names)
        for states in itertools.product((True, False), repeat=len(components)):
            switched = {c: False for c, on in zip(components, states, strict=True) if not on}
            labels.append(method_label(name, {**changes, **switched}, components))
    return list(dict.fromkeys(labels))


def _check_keys(schema_of: type[Config], pairs: Iterable[tuple[str, str]]) -> None:
    """Raise UserError for a key that the schema rules out without the registries."""
    schema = _bare_schema(schema_of)  # type: ignore[arg-type]
    for key, text in pairs:
        parts = key.split(".")
        if key not in GROUPS and parts[0] not in OPEN_GROUPS and parts[:2] != ["report", "equal_within"]:
            with located(text):
                _check_key(schema, parts)


@functools.cache
def _bare_schema(schema_of: type[Config]) -> DictConfig:
    """Return the schema without the settings of datasets, methods and backbones; it must not be changed."""
    schema = OmegaConf.structured(schema_of)
    assert isinstance(schema, DictConfig)
    return schema


def _check_key(config: DictConfig, parts: list[str], group: bool = False) -> None:
    node: Any = config
    for depth, part in enumerate(parts):
        prefix = ".".join(parts[:depth])
        if not isinstance(node, DictConfig):
            raise UserError(f"{prefix} is a single setting and has no {part!r}.")
        if part not in node:
            raise _unknown_key(config, ".".join(parts[: depth + 1]), prefix, [str(key) for key in node])
        node = node[part]
    if isinstance(node, DictConfig) and not group:
        raise UserError(
            f"{'.'.join(parts)} is a group of settings ({', '.join(node.keys())}); set one of them, as in "
            f"{_first_setting('.'.join(parts), node)}=VALUE."
        )


def _first_setting(key: str, node: Any) -> str:
    """Return the first single setting in a group."""
    if not isinstance(node, DictConfig):
        return key
    name = str(next(iter(node)))
    return _first_setting(f"{key}.{name}", node[name])


def _unknown_key(config: DictConfig, key: str, prefix: str, allowed: list[str]) -> UserError:
    groups = GROUPS if "launcher" in config else {}
    if key in groups:
        return UserError(f"{key} has no single settings; choose it as a whole, as in {key}={GROUPS[key][0]}.")
    if prefix:
        return unknown("setting", key, [f"{prefix}.{name}" for name in allowed])
    # A benchmark does not read the settings of sweeps, so none is suggested.
    parents = [name for name in allowed if isinstance(config[name], DictConfig) and key in config[name]]
    nested = [f"{name}.{key}" for name in parents if name != "sweep" or "param" in allowed]
    if nested:
        return UserError(f"Unknown setting {key!r}. Did you mean {' or '.join(map(repr, nested))}?")
    return unknown("setting", key, {*allowed, *groups})
