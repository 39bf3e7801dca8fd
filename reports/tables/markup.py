"""Dialects of tables: how Markdown and LaTeX write any text, signs and marks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.errors import visible


@dataclass(frozen=True)
class Dialect:
    """How a format writes names, our typographic signs, and the best, the second and any other value."""

    escape: Callable[[str], str]
    emphasis: tuple[str, str, str]
    written: Mapping[str, str]

    def text(self, text: str) -> str:
        """Any text, escaped, with its signs as the format writes them."""
        return self.signs(self.escape(text))

    def signs(self, text: str) -> str:
        """A text of the format's own with its signs as the format writes them."""
        for sign, written in self.written.items():
            text = text.replace(sign, written)
        return text


def _escape_markdown(text: str) -> str:
    html = visible(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", html)


_LATEX_SIGNS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # A row that starts with one of these two would be read as an argument of the line break before it.
    "[": "{[}",
    "*": "{*}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX_SIGNS.get(sign, sign) for sign in visible(" ".join(text.split())))


MARKDOWN = Dialect(_escape_markdown, ("**{}**", "<u>{}</u>", "{}"), {})
LATEX = Dialect(
    _escape_latex,
    (r"\textbf{{{}}}", r"\underline{{{}}}", "{}"),
    {
        "±": r"$\pm$",
        "\u2013": "--",
        "†": r"\dag{}",
        "‡": r"\ddag{}",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "⁺": "$^{+}$",
        "⁻": "$^{-}$",
        "×": r"$\times$",
    },
)
