"""Study files: YAML with the settings of a command, which stand for the same ``KEY=VALUE`` arguments.

``python -m harness.benchmark study.yaml seeds=[1]`` takes the settings of the file first, so those of the
command line win. Keys may be nested or dotted, and a variant may be written as a mapping::

    study: mine
    methods: [none, ms_mix: {delta: 0.4}]
    train: {max_epochs: 20}
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from harness.config.grammar import TEXT_KEYS, Placed
from harness.config.safe_yaml import check_keys_once, compose_yaml, load_yaml, reason_of
from harness.config.schema import DatasetConfig
from harness.errors import UserError, file_error

ENDINGS = (".yaml", ".yml")
# Where and how a study runs, which others do elsewhere, and what a benchmark does not read.
_APART = ("var_dir", "tracking", "ledger", "launcher", "jobs", "jobs_per_gpu", "shard", "retry", "sweep")
_ALWAYS = ("study", "datasets", "backbones", "methods", "seeds")
OPEN_GROUPS = ("dataset", "method", "backbone")  # the names in them come from files and registries
_WORD = re.compile(r"[\w.+-]+")


def is_study_file(argument: str) -> bool:
    """Return whether an argument names a study file."""
    return "=" not in argument and argument.endswith(ENDINGS)


def expand(arguments: Sequence[str]) -> list[str]:
    """Replace study files by their settings, and put those of the command line last; raises UserError.

    A study without a name is named after the first file.
    """
    files = [Path(text) for text in arguments if is_study_file(text)]
    settings: list[str] = [setting for file in files for setting in read_study_file(file)]
    settings += [text for text in arguments if not is_study_file(text)]
    if files and not any(text.startswith("study=") for text in settings):
        settings.insert(0, Placed(f"study={files[0].stem}", str(files[0])))
    return settings


def read_study_file(path: Path) -> list[Placed]:
    """Return the settings of a file as ``KEY=VALUE``, each with its file and line; raises UserError."""
    try:
        text = path.read_bytes()
        load_yaml(text)
        tree = compose_yaml(text)
    except OSError as error:
        raise file_error(f"Study file {str(path)!r}", "read", error) from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"Study file {str(path)!r} is no YAML ({reason_of(error)}).") from None
    try:
        check_keys_once(tree)
    except UserError as error:
        raise UserError(f"Study file {str(path)!r} has a {error}") from None
    if not isinstance(tree, yaml.MappingNode):
        raise UserError(f"Study file {str(path)!r} must hold settings, as in 'seeds: [1111, 1112]'.")
    return [
        Placed(f"{key}={value}", f"{path}, line {line}") for key, value, line in _settings(tree, "", path)
    ]


def _settings(node: yaml.MappingNode, prefix: str, path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield the key, text and line of each setting in a mapping."""
    for name, value in node.value:
        line = value.start_mark.line + 1
        if not isinstance(name, yaml.ScalarNode):
            raise UserError(f"Study file {str(path)!r}, line {line}: a key must be a name.")
        key = f"{prefix}{name.value}"
        if isinstance(value, yaml.MappingNode):
            yield from _settings(value, f"{key}.", path)
        elif isinstance(value, yaml.SequenceNode):
            yield key, f"[{','.join(map(_element, value.value))}]", line
        else:
            yield (
                key,
                value.value if TEXT_KEYS.fullmatch(key) and not _is_null(value) else _scalar(value),
                line,
            )


def _element(node: yaml.Node) -> str:
    """Return the text of a list's element; ``ms_mix: {delta: 0.4}`` is a variant."""
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node)
    pairs = [(name.value, value) for name, value in node.value]
    if len(pairs) == 1 and isinstance(pairs[0][1], yaml.MappingNode):
        name, changes = pairs[0]
        return name + _scalar(changes)
    return _scalar(node)


def _scalar(node: yaml.Node) -> str:
    """Return a node's text in the grammar of the command line."""
    if isinstance(node, yaml.MappingNode):
        return "{" + ",".join(f"{_scalar(name)}:{_scalar(value)}" for name, value in node.value) + "}"
    if isinstance(node, yaml.SequenceNode):
        return "[" + ",".join(map(_scalar, node.value)) + "]"
    if _is_null(node):
        return "null"
    if node.tag.endswith(":bool"):
        return "true" if node.value.lower() in ("true", "yes", "on") else "false"
    text = str(node.value)
    quoted = not _WORD.fullmatch(text) and not re.search(r"[{\[']", text)
    return f"'{text}'" if quoted else text


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag.endswith(":null"))


def study_file_text(config: Any, defaults: Any) -> str:
    """Return a study file with the settings that differ from the defaults, but not where the study runs.

    It always names data sets, backbones, methods and seeds, and has no settings of any others.
    """
    mine, usual = (OmegaConf.to_container(one) for one in (config, defaults))
    assert isinstance(mine, dict)
    assert isinstance(usual, dict)
    mine["matrix"] = "full"  # the methods of an ablation are listed
    fresh = dataclasses.asdict(DatasetConfig())
    usual["dataset"] = {name: usual["dataset"].get(name, fresh) for name in mine["dataset"]}
    kept = {key: mine.pop(key) for key in _ALWAYS}
    for kind in OPEN_GROUPS:
        used = {re.split(r"[\[{]", text)[0] for text in kept[f"{kind}s"]}
        mine[kind] = {name: settings for name, settings in mine[kind].items() if name in used}
    rest = {key: value for key, value in mine.items() if key not in _APART}
    kept |= _differences(rest, usual)
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)


def _differences(mine: Mapping[str, Any], usual: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in mine.items():
        before = usual.get(key) if isinstance(usual, dict) else None
        if isinstance(value, dict):
            inner = _differences(value, before)
            found |= {key: inner} if inner else {}
        elif value != before:
            found[key] = value
    return found
