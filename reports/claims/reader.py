"""Reader of files of claims: those beside this module, and the user's (``report.claims=FILE``).

    source: Zhu et al., MS-Mix, arXiv 2510.11579, abstract
    claims:
    - id: ms_mix.better               # unique over all files
      claim: MS-Mix predicts better than Mixup.
      kind: better
      method: ms_mix                  # as in methods=[...]
      than: [mixup]
      metric: mae                     # one or several; default: mae
      datasets: [mosi]                # default: all of the study; so for backbones

Kinds: ``better``; ``component`` (``without: [sass]``: better than without this component); ``robust``
(``than``, ``ratio: 0.5``: occlusion of this share costs it less); ``diagnostic`` (``than``, ``metric:
mix_opposite_rate``, ``is: lower`` or ``higher``: a statistic of mixing in the last epoch); ``correlates``
(``metric: intensity_text_truth``: above 0); ``closer`` (``than``: mixed latents closer to the clean ones). A
claim is about each of its metrics, methods and data sets: it fails if it fails for one of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.config.compose import path_of
from harness.config.grammar import split_variant
from harness.config.safe_yaml import check_keys_once, compose_yaml, load_yaml, reason_of
from harness.errors import UserError, unknown
from harness.metrics import DIRECTION
from methods import METHODS
from reports.claims.claim import KINDS, Claim
from reports.names import base_method

FILES = tuple(Path(__file__).with_name(f"{name}.yaml") for name in ("ms_mix", "powmix", "c_mixup"))
COMMON = ("id", "claim", "kind", "method", "source", "datasets", "backbones")
NEEDED: Mapping[str, tuple[str, ...]] = {
    "better": ("than",),
    "component": ("without",),
    "robust": ("than", "ratio"),
    "diagnostic": ("than", "metric", "is"),
    "correlates": ("metric",),
    "closer": ("than",),
}
"""Kind -> the keys that it needs besides id, claim, kind and method."""
WITHOUT_METRIC = ("closer",)
WATCHED = {
    "diagnostic": (re.compile(r"mix_\w+"), "a statistic such as mix_opposite_rate"),
    "correlates": (
        re.compile(r"intensity_(text|audio|vision)_(truth|label|partial)"),
        "intensity_text|audio|vision_truth|label|partial",
    ),
}
ID = re.compile(r"[\w.-]+")


def read_claims(own: str | None = None) -> list[Claim]:
    """Return the claims that come with the project, then those of the user's file; raises UserError."""
    paths = [*FILES, *([] if own is None else [path_of(own)])]
    claims = [claim for path in paths for claim in read_file(path)]
    seen: set[str] = set()
    for claim in claims:
        if claim.id in seen:
            raise UserError(f"Claims {own}: the id {claim.id!r} is taken; choose another.")
        seen.add(claim.id)
    return claims


def read_file(path: Path) -> list[Claim]:
    """Return the claims of a file; raises UserError if it is missing or invalid."""
    try:
        content = _mapping("A file of claims", _content(path), ("source", "claims"))
        source, entries = _text("source", content.get("source", "")), content.get("claims")
        if not isinstance(entries, list) or not entries:
            raise UserError(f"claims must be a list of at least one claim, got {entries!r}.")
        return [_claim(entry, source, number) for number, entry in enumerate(entries, 1)]
    except UserError as error:
        raise UserError(f"Claims {path}: {error}") from None


def _content(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        check_keys_once(compose_yaml(text))
        return load_yaml(text)
    except OSError as error:
        raise UserError(f"the file cannot be read ({error.strerror}); give another report.claims.") from None
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"the file cannot be read as YAML ({reason_of(error)}).") from None


def _claim(entry: Any, source: str, number: int) -> Claim:
    """Build a claim from its entry, the ``number``-th of its file."""
    name = entry.get("id", number) if isinstance(entry, dict) else number
    try:
        return _checked(entry, source)
    except UserError as error:
        raise UserError(f"claim {name}: {error}") from None


def _checked(entry: Any, source: str) -> Claim:
    kind = _kind(entry)
    allowed = [*COMMON, *NEEDED[kind], *(() if kind in WITHOUT_METRIC else ("metric",))]
    _mapping(f"a claim of kind {kind}", entry, dict.fromkeys(allowed))
    for key in ("id", "claim", "method", *NEEDED[kind]):
        if key not in entry:
            raise UserError(f"the key {key!r} is missing.")
    method = _method(_text("method", entry["method"]))
    return Claim(
        id=_id(entry["id"]),
        source=_text("source", entry.get("source", source)),
        sentence=_text("claim", entry["claim"]),
        kind=kind,
        method=method,
        than=tuple(map(_method, _texts("than", entry.get("than", [])))),
        without=_components(method, _texts("without", entry.get("without", []))),
        metrics=_metrics(kind, entry),
        ratio=_ratio(entry.get("ratio", 0.5)),
        lower=_is_lower(entry.get("is", "lower")),
        datasets=_texts("datasets", entry.get("datasets", [])),
        backbones=_texts("backbones", entry.get("backbones", [])),
    )


def _mapping(where: str, content: Any, allowed: Iterable[str]) -> dict[str, Any]:
    names = list(allowed)
    if not isinstance(content, dict):
        raise UserError(f"{where} must be a mapping of {', '.join(names)}, got {content!r}.")
    for key in content:
        if key not in names:
            raise unknown("key", str(key), names)
    return content


def _kind(entry: Any) -> str:
    if not isinstance(entry, dict):
        raise UserError(f"a claim must be a mapping of id, claim, kind, method, ..., got {entry!r}.")
    kind = entry.get("kind")
    if kind not in KINDS:
        raise unknown("kind", str(kind), KINDS)
    return str(kind)


def _id(value: Any) -> str:
    text = _text("id", value)
    if not ID.fullmatch(text):
        raise UserError(f"id must have letters, digits, '.', '_' and '-' only, got {text!r}.")
    return text


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not (value.strip() or key == "source"):
        raise UserError(f"{key} must be a text, got {value!r}.")
    return " ".join(value.split())


def _texts(key: str, value: Any) -> tuple[str, ...]:
    """Return one text or a list of distinct texts as a tuple."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) and one.strip() for one in values) or len(set(values)) < len(values):
        raise UserError(f"{key} must be a list of different texts, got {value!r}.")
    return tuple(values)


def _method(label: str) -> str:
    if base_method(label) not in METHODS:
        raise unknown("method", base_method(label), METHODS)
    split_variant(label)
    return label


def _components(method: str, names: Collection[str]) -> tuple[str, ...]:
    known = METHODS[base_method(method)].Settings.components
    for name in names:
        if name not in known:
            raise unknown(f"component of {base_method(method)}", name, known)
    return tuple(names)


def _metrics(kind: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    names = _texts("metric", entry.get("metric", "mae"))
    pattern, example = WATCHED.get(kind, (None, ""))
    for name in names:
        if pattern is None and name not in DIRECTION:
            raise unknown("metric", name, DIRECTION)
        if pattern is not None and not pattern.fullmatch(name):
            raise UserError(f"metric must be {example}, got {name!r}.")
    return names


def _ratio(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise UserError(f"ratio must be above 0 and at most 1, got {value!r}.")
    return float(value)


def _is_lower(value: Any) -> bool:
    if value not in ("lower", "higher"):
        raise UserError(f"is must be lower or higher, got {value!r}.")
    return bool(value == "lower")
