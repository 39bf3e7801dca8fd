"""Escaping and emphasis of table cells in Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.errors import visible


@dataclass(frozen=True)
class Dialect:
    """A format's escaping, its templates for best, second-best and other values, and its special signs."""

    escape: Callable[[str], str]
    emphasis: tuple[str, str, str]
    written: Mapping[str, str]

    def text(self, text: str) -> str:
        """Escape a text, and replace typographic signs."""
        return self.signs(self.escape(text))

    def signs(self, text: str) -> str:
        """Replace typographic signs (±, ↑, ...) in a text of this format."""
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
    # At the start of a row, LaTeX would read "[" or "*" as an argument of the preceding line break.
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
        "⁼": "$^{=}$",
        "×": r"$\times$",
        "²": "$^{2}$",
    },
)
