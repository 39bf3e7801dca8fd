"""The card of every method and backbone: a module docstring with a fixed structure."""

import inspect
import sys

import pytest

from backbones import BACKBONES
from methods import METHODS

# Nothing but their abstracts was available; no table may pass them off as the original.
RECONSTRUCTIONS = ("advmixup", "powmix")
HEADINGS = {
    "method": ("How to use", "Suggested settings", "When it hurts", "Attribution"),
    "backbone": ("What it computes", "Mix point (layer 1)", "Losses", "Defaults"),
}


def card_of(kind: type) -> list[str]:
    """The lines of the docstring of the module that a class is defined in."""
    return (inspect.getdoc(sys.modules[kind.__module__]) or "").splitlines()


def faults(card: list[str], title: str, headings: tuple[str, ...]) -> list[str]:
    """What a card lacks: a first line that begins with its name, at most 40 lines, headings in order."""
    found = [] if card and card[0].lower().startswith(f"{title.lower()}: ") else ["its name"]
    if len(card) > 40:
        found.append(f"{len(card)} lines")
    places = [next((k for k, line in enumerate(card) if line.startswith(h)), None) for h in headings]
    found += [heading for heading, place in zip(headings, places, strict=True) if place is None]
    known = [place for place in places if place is not None]
    return found if known == sorted(known) else [*found, "order"]


@pytest.mark.parametrize("name", [*METHODS, *BACKBONES])
def test_cards(name):
    if name in METHODS:
        assert not faults(card_of(METHODS[name]), name, HEADINGS["method"])
    else:
        assert not faults(card_of(BACKBONES[name]), BACKBONES[name].title, HEADINGS["backbone"])


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_named_and_reconstructions_say_so(name):
    first, title = card_of(METHODS[name])[0], METHODS[name].title
    assert METHODS[name].name == name
    assert METHODS[name].citation
    assert ("reconstruction" in first) == (name in RECONSTRUCTIONS)
    assert title.endswith("(reconstruction)") == (name in RECONSTRUCTIONS)
    assert any("NOTE[DIFF]" in line for line in card_of(METHODS[name])) or name == "none"


def test_a_faulty_card_is_seen():
    headings = ("How to use", "Attribution")
    good = ["toy: a card.", "", "How to use: so.", "Attribution: mine."]
    assert not faults(good, "toy", headings)
    assert faults([], "toy", headings) == ["its name", *headings]
    assert faults(good, "joy", headings) == ["its name"]
    assert faults(good + ["x"] * 37, "toy", headings) == ["41 lines"]
    assert faults([*good[:2], good[3], good[2]], "toy", headings) == ["order"]
    assert faults(good[:3], "toy", headings) == ["Attribution"]
