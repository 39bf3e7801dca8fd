"""From the command line to a typed configuration: Hydra composes, one small function guards it.

Hydra's Compose API puts together `harness/conf` (config, datasets, launcher, profile); the types come from
`schema` and from the dataclasses of methods and backbones; overrides of the form ``KEY=VALUE`` are applied
last. Text keys (names, paths, URIs) take their value as it stands.

The registries are imported inside functions: with them comes torch, and most mistakes are told without it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from harness.config.schema import Config, DatasetConfig, ReportConfig, SweepCommand
from harness.databases import redact, without_secrets
from harness.errors import UserError, one_line, unknown

GROUPS = {"profile": ("quick", "paper"), "launcher": ("inline", "processes", "ray")}
TEXT_KEYS = re.compile(
    r"study|var_dir|data_root|tuned|out|predictions|bert\.model|tracking\.uri|ledger\.uri|launcher\.address"
    r"|dataset\.[^.]+\.(path|file_\w+)|param|tune|sweep|sweep\.(param|tune|name|storage|tuned_dir)"
)
MATRICES = ("full", "ablation")
OPEN_GROUPS = ("dataset", "method", "backbone")  # their names come from files and registries
NAME_LISTS = ("methods", "backbones", "datasets", "sweep.backbones", "sweep.datasets")
VALUE_LISTS = (
    "seeds",
    "occlusion.ratios",
    "occlusion.protocols",
    "occlusion.train_ratios",
    "sweep.seeds",
    "sweep.prune_at",
)
KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")
INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
BRACKETS = {"{": "}", "[": "]", "(": ")"}
SCALARS = (str, int, float, type(None))
READABLE = "a number, true, false, null, a name, or a list of them like [1,2] is needed"


def load_benchmark(arguments: Sequence[str]) -> Config:
    """Compose the benchmark's configuration; raises UserError."""
    config = _compose(Config, arguments)
    if config.matrix == "ablation":
        config.methods = ablation(config.methods if "methods" in given_keys(arguments) else ["ms_mix"])
    return config


def load_sweep(arguments: Sequence[str]) -> Config:
    """Compose the configuration of a sweep; raises UserError.

    ``param`` and ``tune`` stand for ``sweep.param`` and ``sweep.tune``. What is not given of ``datasets``,
    ``backbones`` and ``seeds`` is the sweep's own.
    """
    config = _compose(SweepCommand, arguments)
    if config.matrix != "full":
        raise UserError(f"matrix={config.matrix} is no sweep; what is tried comes from the search space.")
    with open_dict(config):
        for name in ("param", "tune"):
            asked = config.pop(name)
            config.sweep[name] = config.sweep[name] if asked is None else asked
    for name in {"datasets", "backbones", "seeds"} - given_keys(arguments):
        config[name] = config.sweep[name]
    return config


def given_keys(arguments: Sequence[str]) -> set[str]:
    """The settings that are given, whatever their values; raises UserError."""
    return {key for key, _ in parse(arguments)}


def _compose(schema_of: type[Config], arguments: Sequence[str]) -> Any:
    """What is common to all commands that train."""
    pairs = parse(arguments)
    chosen = {key: value for key, value in pairs if key in GROUPS}
    for key, value in chosen.items():
        if value not in GROUPS[key]:
            raise unknown(key, value, GROUPS[key])
    _check_keys(schema_of, pairs)
    with initialize_config_module("harness.conf", version_base="1.3"):
        composed = compose("config", [f"{key}={value}" for key, value in chosen.items()])
    from backbones import BACKBONES
    from methods import METHODS

    schema = OmegaConf.structured(schema_of)
    for name, method in METHODS.items():
        schema.method[name] = writable(method.Settings())
    for name, backbone in BACKBONES.items():
        schema.backbone[name] = writable(backbone.Settings())
    for name in composed.dataset:
        schema.dataset[name] = DatasetConfig()
    OmegaConf.set_struct(schema, True)
    config = OmegaConf.merge(schema, composed)
    apply(config, [(key, value) for key, value in pairs if key not in GROUPS])
    config.study = config.study or chosen.get("profile", "benchmark")
    if config.matrix not in MATRICES:
        raise unknown("matrix", config.matrix, MATRICES)
    return config


def ablation(methods: Iterable[str]) -> list[str]:
    """Every combination of the components of methods, all of them on first; raises UserError."""
    from harness.matrix import method_label
    from methods import METHODS

    found = []
    for method in methods:
        name, changes = split_variant(method)
        components = METHODS[name].Settings.components if name in METHODS else ()
        if not components:
            able = [key for key, value in METHODS.items() if value.Settings.components]
            raise unknown("method with components to switch off, for matrix=ablation,", name, able)
        for states in itertools.product((True, False), repeat=len(components)):
            switched = {c: False for c, on in zip(components, states, strict=True) if not on}
            found.append(method_label(name, {**changes, **switched}, components))
    return list(dict.fromkeys(found))


def load_report(arguments: Sequence[str]) -> ReportConfig:
    """Compose the configuration of the report commands; raises UserError."""
    config = OmegaConf.structured(ReportConfig)
    apply(config, parse(arguments))
    if not config.study:
        raise UserError("Which study? Give study=NAME.")
    return config


def parse(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Split ``KEY=VALUE`` arguments; refuses Hydra's prefixes, its own settings and interpolations."""
    pairs = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not KEY.fullmatch(key):
            raise UserError(
                f"Cannot read {redact(argument)!r}; settings are given as KEY=VALUE, e.g. seeds=[1111,1112]."
            )
        if key == "hydra" or key.startswith("hydra."):
            raise UserError(f"{key!r} is no setting of this program; Hydra's own settings cannot be changed.")
        if "${" in value:
            shown = redact(argument)
            raise UserError(f"{shown!r} holds '${{...}}'; interpolations are not allowed in settings.")
        pairs.append((key, value))
    return pairs


def apply(config: DictConfig, pairs: Iterable[tuple[str, str]]) -> None:
    """Set values in a typed configuration; a new dataset name makes a new dataset."""
    for key, text in pairs:
        parts = key.split(".")
        if parts[0] == "dataset" and len(parts) > 2 and "dataset" in config:
            with open_dict(config.dataset):
                config.dataset.setdefault(parts[1], DatasetConfig())
        _check_key(config, parts)
        value = text if TEXT_KEYS.fullmatch(key) else parse_value(key, text)
        if not is_plain(value):
            raise UserError(f"{key}={redact(text)!r} cannot be read; {READABLE}.")
        try:
            OmegaConf.update(config, key, value, merge=True)
        except (OmegaConfBaseException, ValueError) as error:
            reason = without_secrets(one_line(error), text)
            raise UserError(f"{key}={redact(text)!r} does not fit: {reason}.") from None


def parse_value(key: str, text: str) -> Any:
    """Read a value in Hydra's grammar; list keys also as ``a`` or ``a,b``, split at top-level commas."""
    if key not in NAME_LISTS + VALUE_LISTS or text.strip() == "null":
        return _grammar(key, text)
    elements = split_list(key, text)
    if key in NAME_LISTS:
        return elements
    # The grammar takes 0.3 ms for each, and there may be thousands of seeds.
    return [int(e) if INTEGER.fullmatch(e) else _grammar(key, e) for e in elements]


def split_list(key: str, text: str) -> list[str]:
    """Split ``a``, ``a,b`` or ``[a,b]`` at the commas outside of brackets and quotes; raises UserError."""
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
    parts = _split_commas(inner)
    if parts is None:
        raise UserError(f"{key}={text!r} has a bracket or quote without its partner; write {key}=[a,b].")
    elements = [_unquoted(part.strip()) for part in parts]
    if elements == [""]:
        return []
    if "" in elements:
        raise UserError(f"{key}={text!r} has an empty element; write {key}=[a,b].")
    return elements


def split_variant(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``name[component,...]{key:value}`` into the name and its settings; raises UserError.

    Components of the method that the square brackets do not name are switched off.
    """
    from methods import METHODS

    head, brace, rest = text.partition("{")
    name, bracket, named = head.partition("[")
    name, switched = name.strip(), {}
    if bracket and name in METHODS:
        switched = _components(text, name, named.strip())
    elif bracket:
        raise unknown("method", name, METHODS)
    if not brace:
        return name, switched
    try:
        settings = _grammar("methods", brace + rest)
    except UserError:
        settings = None
    if not isinstance(settings, dict) or not all(is_plain(value) for value in settings.values()):
        raise UserError(f"Cannot read the variant {text!r}; write it like 'ms_mix{{delta:0.4,alpha:1}}'.")
    return name, {**switched, **{str(key): value for key, value in settings.items()}}


def _components(text: str, method: str, named: str) -> dict[str, Any]:
    """The components to be switched off, from ``a,b]``, those that stay on."""
    from methods import METHODS

    components = METHODS[method].Settings.components
    if not components or not named.endswith("]"):
        example = f"like '{method}[{','.join(components[:2])}]'" if components else f"as {method!r}"
        raise UserError(f"Cannot read the variant {text!r}; write it {example}.")
    on = [name.strip() for name in named[:-1].split(",") if name.strip()]
    for name in on:
        if name not in components:
            raise unknown(f"component of {method}", name, components)
    return {name: False for name in components if name not in on}


def settings_of(config: DictConfig, kind: str, name: str, changes: dict[str, Any]) -> Any:
    """The frozen settings of a method or backbone with some changed; raises UserError."""
    node = config[kind][name]
    for key in changes:
        if key not in node:
            raise unknown(f"setting of {kind} {name}", key, node.keys())
    try:
        return OmegaConf.to_object(OmegaConf.merge(node, changes))
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{kind}.{name}: {one_line(error)}.") from None


def path_of(text: str) -> Path:
    """A path as given, with a leading ``~/`` expanded."""
    return Path(text).expanduser() if text.startswith("~/") else Path(text)


def writable(settings: Any) -> DictConfig:
    """A typed node of a dataclass that takes overrides."""
    # A frozen dataclass arrives read-only; `to_object` freezes it again.
    node = OmegaConf.structured(settings)
    OmegaConf.set_readonly(node, False)
    return node


def _check_keys(schema_of: type[Config], pairs: Iterable[tuple[str, str]]) -> None:
    """Raise UserError for a key that is wrong whatever the registries hold."""
    schema = OmegaConf.structured(schema_of)
    for key, _ in pairs:
        parts = key.split(".")
        if key not in GROUPS and parts[0] not in OPEN_GROUPS:
            _check_key(schema, parts)


def _check_key(config: DictConfig, parts: list[str]) -> None:
    node: Any = config
    for depth, part in enumerate(parts):
        prefix = ".".join(parts[:depth])
        if not isinstance(node, DictConfig):
            raise UserError(f"{prefix} is a single setting, so it has no {part!r}.")
        if part not in node:
            raise _unknown_key(config, ".".join(parts[: depth + 1]), prefix, [str(key) for key in node])
        node = node[part]
    if isinstance(node, DictConfig):
        raise UserError(
            f"{'.'.join(parts)} is a group of settings ({', '.join(node.keys())}); set one of them."
        )


def _unknown_key(config: DictConfig, key: str, prefix: str, allowed: list[str]) -> UserError:
    groups = GROUPS if "launcher" in config else {}
    if key in groups:
        return UserError(f"{key} is chosen as a whole, as in {key}={GROUPS[key][0]}.")
    if prefix:
        return unknown("setting", key, [f"{prefix}.{name}" for name in allowed])
    # Settings of sweeps are no use to a benchmark.
    held = [name for name in allowed if isinstance(config[name], DictConfig) and key in config[name]]
    nested = [f"{name}.{key}" for name in held if name != "sweep" or "param" in allowed]
    if nested:
        return UserError(f"Unknown setting {key!r}. Did you mean {' or '.join(map(repr, nested))}?")
    return unknown("setting", key, {*allowed, *groups})


def _split_commas(text: str) -> list[str] | None:
    """Split at the commas outside of brackets and quotes; None where one of those lacks its partner."""
    parts, closing, quote = [""], "", ""
    for character in text:
        if quote:
            quote = quote.replace(character, "")
        elif character in "'\"":
            quote = character
        elif character in BRACKETS:
            closing += BRACKETS[character]
        elif character in BRACKETS.values():
            if not closing.endswith(character):
                return None
            closing = closing[:-1]
        elif character == "," and not closing:
            parts.append("")
            continue
        parts[-1] += character
    return None if quote or closing else parts


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1].strip() if quoted else text


def _grammar(key: str, text: str) -> Any:
    try:
        override = OverridesParser.create().parse_override(f"value={text}")
        several, value = override.is_sweep_override(), override.value()
    except HydraException:
        raise UserError(f"{key}={redact(text)!r} cannot be read; {READABLE}.") from None
    if several:
        raise UserError(f"{key}={redact(text)!r} gives several values; one is expected.")
    return value


def is_plain(value: Any) -> bool:
    """Whether a value is a scalar or a flat list of scalars; "???" would mean "missing" to OmegaConf."""
    elements = value if isinstance(value, list) else [value]
    return all(isinstance(element, SCALARS) and element != "???" for element in elements)
