"""Parser of ``KEY=VALUE`` arguments: values, lists and variants of methods.

Values follow Hydra's grammar, except that keys for text (names, paths, URIs) take their value verbatim.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from harness.databases import redact
from harness.errors import UserError, unknown

TEXT_KEYS = re.compile(
    r"study|run|data|var_dir|data_root|tuned|out|predictions|curves|report\.claims|bert\.model|tracking\.uri|ledger\.uri|launcher\.address"
    r"|dataset\.[^.]+\.(path|file_\w+)|param|tune|sweep|sweep\.(param|tune|name|storage|tuned_dir)"
)
NAME_LISTS = ("methods", "backbones", "datasets", "plugins", "sweep.backbones", "sweep.datasets")
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


class Placed(str):
    """A text that knows its place in a file."""

    def __new__(cls, text: str, place: str) -> Placed:
        """Build it from a text and its file and line."""
        placed = super().__new__(cls, text)
        placed.place = place
        return placed

    place: str


@contextlib.contextmanager
def located(text: str) -> Iterator[None]:
    """Begin the errors of a text with its place in a file, if it has one."""
    try:
        yield
    except UserError as error:
        if isinstance(text, Placed):
            raise UserError(f"{text.place}: {error}") from None
        raise


def parse(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Split ``KEY=VALUE`` arguments; raises UserError, also for Hydra's settings and for interpolations."""
    pairs = []
    for argument in arguments:
        with located(argument):
            key, value = _pair(argument)
        pairs.append((key, Placed(value, argument.place) if isinstance(argument, Placed) else value))
    return pairs


def _pair(argument: str) -> tuple[str, str]:
    key, equals, value = argument.partition("=")
    if not equals or not KEY.fullmatch(key):
        raise UserError(
            f"Cannot parse {redact(argument)!r}; give settings as KEY=VALUE, e.g. seeds=[1111,1112]."
        )
    if key == "hydra" or key.startswith("hydra."):
        raise UserError(f"{key!r} is a setting of Hydra, which cannot be changed here; leave it out.")
    if "${" in value:
        raise UserError(
            f"{redact(argument)!r} contains '${{...}}'; interpolations are not allowed, give the value."
        )
    return key, value


def parse_value(key: str, text: str) -> Any:
    """Parse the value of a setting; a list may also be written ``a`` or ``a,b``; raises UserError."""
    value = str(text) if TEXT_KEYS.fullmatch(key) else _elements_or_value(key, text)
    if not is_plain(value):
        raise _unreadable(key, text)
    return value


def is_plain(value: Any) -> bool:
    """Check whether a value is a scalar or a flat list of scalars."""
    elements = value if isinstance(value, list) else [value]
    # "???" is OmegaConf's marker for a missing value.
    return all(isinstance(element, SCALARS) and element != "???" for element in elements)


def split_list(key: str, text: str) -> list[str]:
    """Split ``a``, ``a,b`` or ``[a,b]`` at commas outside brackets and quotes; raises UserError."""
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
    parts = _split_commas(inner)
    if parts is None:
        raise UserError(f"{key}={text!r} has an unmatched bracket or quote; write {key}=[a,b].")
    elements = [_unquoted(part.strip()) for part in parts]
    if elements == [""]:
        return []
    if "" in elements:
        raise UserError(f"{key}={text!r} has an empty element; write {key}=[a,b].")
    return elements


def split_variant(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``name[component,...]{key:value}`` into the name and its settings; raises UserError.

    Square brackets list the components that stay on; the method's other components are switched off.
    """
    # Imported here because the registry loads torch, and most errors are reported before.
    from methods import METHODS

    head, brace, rest = text.partition("{")
    name, bracket, components = head.partition("[")
    name, switched = name.strip(), {}
    if bracket and name in METHODS:
        switched = _components_off(text, name, components.strip())
    elif bracket:
        raise unknown("method", name, METHODS)
    if not brace:
        return name, switched
    try:
        settings = _hydra_value("methods", brace + rest)
    except UserError:
        settings = None
    if not isinstance(settings, dict) or not all(is_plain(value) for value in settings.values()):
        raise UserError(f"Cannot parse the variant {text!r}; write it like 'ms_mix{{delta:0.4,alpha:1}}'.")
    return name, {**switched, **{str(key): value for key, value in settings.items()}}


def split_backbone(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``name{key:value}`` into a backbone's name and its settings; raises UserError."""
    name, brace, rest = text.partition("{")
    if not brace:
        return text, {}
    try:
        settings = _hydra_value("backbones", brace + rest)
    except UserError:
        settings = None
    if not isinstance(settings, dict) or not settings or not all(map(is_plain, settings.values())):
        raise UserError(f"Cannot parse the variant {text!r}; write it like 'tfn{{learning_rate:0.0005}}'.")
    return name.strip(), {str(key): value for key, value in settings.items()}


def _components_off(text: str, method: str, inner: str) -> dict[str, Any]:
    """Return the components to switch off; ``inner`` lists the ones that stay on, as ``a,b]``."""
    from methods import METHODS

    components = METHODS[method].Settings.components
    if not components or not inner.endswith("]"):
        example = f"like '{method}[{','.join(components[:2])}]'" if components else f"as {method!r}"
        raise UserError(f"Cannot parse the variant {text!r}; write it {example}.")
    on = [name.strip() for name in inner[:-1].split(",") if name.strip()]
    for name in on:
        if name not in components:
            raise unknown(f"component of {method}", name, components)
    return {name: False for name in components if name not in on}


def _elements_or_value(key: str, text: str) -> Any:
    if key not in NAME_LISTS + VALUE_LISTS or text.strip() == "null":
        return _hydra_value(key, text)
    elements = split_list(key, text)
    if key in NAME_LISTS:
        return elements
    # Hydra's parser takes 0.3 ms per element, and a list may have thousands of seeds.
    return [int(e) if INTEGER.fullmatch(e) else _hydra_value(key, e) for e in elements]


def _hydra_value(key: str, text: str) -> Any:
    try:
        override = OverridesParser.create().parse_override(f"value={text}")
        is_sweep, value = override.is_sweep_override(), override.value()
    except HydraException:
        raise _unreadable(key, text) from None
    if is_sweep:
        raise UserError(f"{key}={redact(text)!r} gives several values; give one.")
    return value


def _unreadable(key: str, text: str) -> UserError:
    return UserError(
        f"{key}={redact(text)!r} cannot be parsed; give a number, true, false, null, a name, or a list of "
        "these like [1,2]."
    )


def _split_commas(text: str) -> list[str] | None:
    """Split at commas outside brackets and quotes; return None if a bracket or quote is unmatched."""
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
