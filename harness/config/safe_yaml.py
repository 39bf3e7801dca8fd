"""Safe loading of YAML files that users write or edit: plain values only, with limits on size and depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from harness.errors import UserError

MOST_YAML = 2**16


class _Loader(yaml.SafeLoader):
    """YAML loader that rejects aliases and unprintable text."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        # Aliases can expand a short text to an exponentially large value.
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(None, None, "aliases are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_scalar(self, node: Any) -> Any:
        text = super().construct_scalar(node)
        if not all(c.isprintable() or c.isspace() for c in text):
            raise yaml.MarkedYAMLError(None, None, "unprintable character", node.start_mark)
        return text


def compose_yaml(text: str | bytes) -> yaml.Node | None:
    """Parse a YAML text into its node tree; raises the same errors as `load_yaml`."""
    node: yaml.Node | None = _read(text, _Loader.get_single_node)
    return node


def load_yaml(text: str | bytes) -> Any:
    """Load the value of a YAML text.

    Raises:
        yaml.YAMLError: The text is not YAML, or contains an alias or an unprintable character.
        ValueError: The text is too long or too deeply nested, or contains an invalid number or date.
    """
    return _read(text, _Loader.get_single_data)


def check_keys_once(node: yaml.Node | None) -> None:
    """Raise UserError for a duplicate key in a mapping; YAML would silently use the last one."""
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if str(key.value) in keys:
                raise UserError(f"duplicate key {key.value!r} in line {key.start_mark.line + 1}.")
            keys.add(str(key.value))
            check_keys_once(value)
    if isinstance(node, yaml.SequenceNode):
        for value in node.value:
            check_keys_once(value)


def reason_of(error: Exception) -> str:
    """Return why a text is not YAML, with the line if it is known. error: of `load_yaml`."""
    mark = getattr(error, "problem_mark", None)
    reason = f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else str(error)
    return reason.splitlines()[0]


def _read(text: str | bytes, read: Callable[[_Loader], Any]) -> Any:
    if len(text) > MOST_YAML:
        raise ValueError(f"it has more than {MOST_YAML} characters")
    try:
        return read(_Loader(text))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (TypeError, LookupError, AttributeError) as error:
        # PyYAML does not wrap the errors of its constructors for numbers and dates.
        raise ValueError(f"it holds a value that cannot be read ({error})") from None
