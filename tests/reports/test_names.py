"""Names that people know stand where a reader looks; those of the registries are told apart."""

import pytest

from backbones import BACKBONES
from harness.config.schema import METRICS_OF
from methods import METHODS
from reports.names import backbone_name, component_name, dataset_name, method_name, proper_name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("ms_mix", "MS-Mix"),
        ("ms_mix[sass,sig]{delta:0.4}", "MS-Mix[sass,sig]{delta:0.4}"),
        ("powmix{tuned}", "PowMix{tuned}"),
        ("ms_mix_released", "MS-Mix (released code)"),
        ("none", "none"),
        ("none (published)", "none (published)"),
        ("tfn", "TFN"),
        ("misa[bert]", "MISA[bert]"),
        ("mosi", "CMU-MOSI"),
        ("simsv2", "CH-SIMS v2"),
        ("synthetic_mosei", "synthetic MOSEI"),
        ("synthetic_mine", "synthetic_mine"),
        ("my method", "my method"),
        ("", ""),
    ],
)
def test_a_name_is_the_one_that_people_know(name, shown):
    assert proper_name(name) == shown


def test_no_two_names_become_one():
    names = [*METHODS, *BACKBONES, *METRICS_OF, *(f"synthetic_{name}" for name in METRICS_OF)]
    assert len(set(map(proper_name, names))) == len(set(names))
    for one, registry in ((method_name, METHODS), (backbone_name, BACKBONES), (dataset_name, METRICS_OF)):
        assert all(one(name) == proper_name(name) for name in registry)


def test_components_are_named_as_in_their_papers():
    assert component_name("sass") == "SASS"
    assert component_name("cross_modal_labels") == "cross modal labels"
