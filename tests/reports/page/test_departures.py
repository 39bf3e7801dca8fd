"""Departures from the papers, as the report lists them."""

from backbones import transformer
from methods import multimix
from reports.page.departures import departures, notes_of


def test_departures_are_those_of_the_cards():
    notes = notes_of("Title.\n\nNOTE[DIFF] one,\nand more.\nNOTE[DIFF] two.\n\nnot this\n")
    assert notes == ["one, and more.", "two."]
    found = dict(departures(["ms_mix[sass]", "none", "mine", "ms_mix{delta:0.4}"], ["misa[bert]", "yours"]))
    assert set(found) == {"MS-Mix", "MISA"}
    assert any("delta = 0.2" in note for note in found["MS-Mix"])
    assert all("NOTE[DIFF]" not in note for texts in found.values() for note in texts)
    # PowMix imports a function from MultiMix's module; MulT and GLoMo share the blocks of the transformer.
    shared = dict(departures(["powmix", "multimix"], ["mult", "glomo"]))
    assert not set(shared.get("PowMix", ())) & set(notes_of(multimix.__doc__))
    assert set(notes_of(transformer.__doc__)) <= set(shared["MulT"]) & set(shared["GLoMo"])
