"""What a study stores of its data sets."""

import pytest

from backbones.batch import MODALITIES
from harness.study.description import absent_modalities
from tests.harness.data.test_mmsa import drop_keys, make_content, read


@pytest.mark.parametrize("m", MODALITIES)
def test_a_modality_that_is_not_in_the_file_is_absent(m):
    content = make_content(with_tokens=False)
    assert absent_modalities(read(content)) == []
    content = make_content(with_tokens=False)
    drop_keys(m)(content)
    assert absent_modalities(read(content)) == [m]


def test_token_ids_are_text():
    content = make_content()
    drop_keys("text")(content)
    assert absent_modalities(read(content)) == []
