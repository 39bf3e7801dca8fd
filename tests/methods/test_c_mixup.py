"""C-Mixup: which partners, with what probability."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.c_mixup import draw_partners, partner_probabilities
from tests.support.builders import make_labels, make_method

finite = st.floats(-3, 3, width=32)
sigmas = st.sampled_from([0.0, 5e-324, 1e-300, 1e-9, 0.01, 0.5, 3.0, 1e9, 1e300, math.inf])


def slow_probabilities(labels: list[float], sigma: float) -> np.ndarray:
    """Row by row, each exponent in turn; sigma = 0 is written out."""
    table = np.zeros((len(labels), len(labels)))
    for i, y_i in enumerate(labels):
        for j, y_j in enumerate(labels):
            if y_i == y_j:
                table[i, j] = 1.0
            elif sigma > 0:
                ratio = abs(y_i - y_j) / sigma
                table[i, j] = math.exp(-ratio * ratio / 2) if ratio < 1e3 else 0.0
        table[i] /= sum(table[i])
    return table


@given(st.lists(finite, min_size=1, max_size=9), sigmas)
def test_probabilities_equal_a_loop(labels, sigma):
    made = partner_probabilities(np.array(labels, np.float32), sigma)
    np.testing.assert_allclose(made, slow_probabilities(labels, sigma), atol=1e-12)
    np.testing.assert_allclose(made.sum(1), 1)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_default_sigma_is_a_sixth_of_the_label_range(scale):
    labels = make_labels(64, scale).numpy()

    def draws(**options):
        method = make_method("c_mixup", scale=scale, **options)
        return [method.draw(np.random.default_rng(seed), labels).arrays for seed in range(5)]

    def distance(arrays):
        return np.mean([abs(np.subtract(*labels[draw["indices"]].T)).mean() for draw in arrays])

    default = draws()
    for first, second in zip(default, draws(sigma=scale / 6), strict=True):
        np.testing.assert_array_equal(first["indices"], second["indices"])
        np.testing.assert_array_equal(first["weights"], second["weights"])
        np.testing.assert_array_equal(first["indices"][:, 0], np.arange(64))
        assert len(np.unique(first["weights"][:, 0])) == 1, "one lambda per batch"
    assert distance(default) < 0.5 * distance(draws(sigma=math.inf))
    assert len({float(draw["weights"][0, 0]) for draw in default}) == 5


@pytest.mark.parametrize("sigma", [0.3, 1.0, math.inf])
def test_partners_are_drawn_with_their_probabilities(sigma):
    labels = np.array([-3.0, -1.0, -1.0, 0.2, 1.5, 3.0], np.float32)
    method, wanted = make_method("c_mixup", sigma=sigma), slow_probabilities(list(labels), sigma)
    generator, counts = np.random.default_rng(0), np.zeros((6, 6))
    for _ in range(3000):
        i, j = method.draw(generator, labels).arrays["indices"].T
        counts[i, j] += 1
    error = np.sqrt(wanted * (1 - wanted) / 3000)
    assert (abs(counts / 3000 - wanted) <= 5 * error + 1e-9).all()


class Extreme:
    """A generator whose random numbers are all the same."""

    def __init__(self, value: float):
        self.value = value

    def random(self, n: int) -> np.ndarray:
        return np.full(n, self.value)


@given(st.lists(finite, min_size=1, max_size=9), sigmas, st.sampled_from([0.0, 0.5, 1 - 2**-53]))
def test_a_partner_is_never_impossible(labels, sigma, value):
    probabilities = partner_probabilities(np.array(labels, np.float32), sigma)
    partners = draw_partners(Extreme(value), probabilities)
    assert (probabilities[np.arange(len(labels)), partners] > 0).all()


@pytest.mark.parametrize("sigma", [0.0, 5e-324, 1e-200, 1e-9, 0.1])
def test_overflow_and_underflow_are_expected(sigma):
    with np.errstate(all="raise"):
        partner_probabilities(np.array([-3.0, 0.0, 0.5, 3.0], np.float32), sigma)
