"""YAML that people write or edit, read as plain values and within bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

MOST_YAML = 2**16


class _Loader(yaml.SafeLoader):
    """Refuses aliases, by which a short text can stand for an endless value, and unprintable text."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(None, None, "an alias of another value", event.start_mark)
        return super().compose_node(parent, index)

    def construct_scalar(self, node: Any) -> Any:
        text = super().construct_scalar(node)
        if not all(c.isprintable() or c.isspace() for c in text):
            raise yaml.MarkedYAMLError(None, None, "a character that cannot be shown", node.start_mark)
        return text


def compose_yaml(text: str | bytes) -> yaml.Node | None:
    """The nodes of a YAML text; raises what `load_yaml` does."""
    node: yaml.Node | None = _read(text, _Loader.get_single_node)
    return node


def load_yaml(text: str | bytes) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: it is no YAML, or holds an alias or an unprintable character.
        ValueError: it is too long, nested too deeply, or holds an invalid number or date.
    """
    return _read(text, _Loader.get_single_data)


def _read(text: str | bytes, read: Callable[[_Loader], Any]) -> Any:
    if len(text) > MOST_YAML:
        raise ValueError(f"it has more than {MOST_YAML} characters")
    try:
        return read(_Loader(text))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (TypeError, LookupError, AttributeError) as error:
        # PyYAML lets through what its readers of numbers and dates raise.
        raise ValueError(f"it holds a value that cannot be read ({error})") from None
