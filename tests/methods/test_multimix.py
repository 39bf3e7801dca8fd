"""MultiMix: Dirichlet draws at every alpha, members, and the spread of mixed labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, kstest

import methods.multimix as module
from methods.multimix import draw_dirichlet
from tests.support.builders import make_labels, make_method

ALPHAS = [0.0, 5e-324, 1e-300, 1e-5, 0.1, 0.5, 1.0, 2.0, 100.0, 1e5, 1e300]


@given(st.sampled_from(ALPHAS), st.integers(1, 5), st.integers(1, 9), st.integers(0, 99), st.data())
def test_dirichlet_rows_are_weights_of_present_members(alpha, n, k, seed, data):
    members = np.array(data.draw(st.lists(st.integers(1, k), min_size=n, max_size=n)))
    present = np.arange(k) < members[:, None]
    made = draw_dirichlet(np.random.default_rng(seed), np.full(n, alpha), present)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
    assert (made >= 0).all()
    assert not made[~present].any()
    np.testing.assert_allclose(made.sum(1), 1, atol=1e-6)
    if alpha < 1e-200:
        assert ((made == 0) | (made == 1)).all(), "one-hot"
    if alpha > 1e200:
        np.testing.assert_allclose(made[present], np.repeat(1 / members, members), atol=1e-6)


@pytest.mark.parametrize("alpha", [0.02, 0.5, 1.0, 2.0, 30.0])
@pytest.mark.parametrize("members", [2, 5])
def test_dirichlet_has_the_right_distribution(alpha, members):
    """Each weight of a symmetric Dirichlet is Beta(alpha, (members - 1) alpha)."""
    present = np.arange(7) < np.full(4000, members)[:, None]
    made = draw_dirichlet(np.random.default_rng(0), np.full(4000, alpha), present).astype(float)
    points = np.array([1e-5, 1e-3, 0.1, 0.3, 0.5, 0.8, 0.99])
    wanted = beta(alpha, (members - 1) * alpha).cdf(points)
    for member in range(members):
        share = (made[:, member, None] <= points).mean(0)
        assert (abs(share - wanted) <= 4.5 * np.sqrt(wanted * (1 - wanted) / 4000) + 1e-3).all()
    covariance = np.cov(made[:, 0], made[:, 1])
    variance = (members - 1) / members**2 / (members * alpha + 1)
    np.testing.assert_allclose(covariance[0, 0], variance, rtol=0.15)
    np.testing.assert_allclose(covariance[0, 1], -variance / (members - 1), rtol=0.2)


@pytest.mark.parametrize("alpha", [0.0, 1e-5])
def test_each_member_is_as_likely_to_have_all_of_the_weight(alpha):
    present = np.arange(6) < np.full(6000, 4)[:, None]
    made = draw_dirichlet(np.random.default_rng(1), np.full(6000, alpha), present)
    assert (abs(made[:, :4].mean(0) - 0.25) < 0.03).all()


@pytest.mark.parametrize("size", [1, 2, 3, 9])
@pytest.mark.parametrize("members", [None, 2, 5])
def test_members_are_drawn_without_replacement(size, members):
    method = make_method("multimix", examples_per_mixture=members)
    draw = method.draw(np.random.default_rng(0), make_labels(size, 3.0).numpy())
    assert draw.layer == 1
    indices, k = draw.arrays["indices"], min(members or size, size)
    assert indices.shape == draw.arrays["weights"].shape == (size, k)
    assert all(len(set(row)) == k for row in indices.tolist())
    assert ((indices >= 0) & (indices < size)).all()


def test_every_example_is_as_likely_a_member():
    method, labels = make_method("multimix", examples_per_mixture=3), make_labels(8, 3.0).numpy()
    drawn = [method.draw(np.random.default_rng(seed), labels).arrays["indices"] for seed in range(200)]
    counts = np.bincount(np.concatenate(drawn).ravel(), minlength=8) / (200 * 8)
    assert (abs(counts - 3 / 8) < 0.05).all()
    rows = {tuple(row) for row in np.concatenate(drawn).tolist()}
    assert len(rows) > 300, "the rows of a batch have members of their own"


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [({}, 0.5, 2.0), ({"alpha_low": 1.0, "alpha_high": 1.5}, 1.0, 1.5), ({"alpha": 3.0}, 3.0, 3.0)],
)
def test_alpha_is_uniform_and_of_each_row(options, low, high, monkeypatch):
    seen = []
    monkeypatch.setattr(
        module, "draw_dirichlet", lambda g, alpha, present: seen.append(alpha) or np.ones(present.shape)
    )
    make_method("multimix", **options).draw(np.random.default_rng(0), make_labels(2000, 3.0).numpy()[:900])
    (alpha,) = seen
    assert alpha.shape == (900,)
    assert ((alpha >= low) & (alpha <= high)).all()
    if low < high:
        assert len(set(alpha)) == 900
        assert kstest((alpha - low) / (high - low), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.0, 1e-300, 1e-5, 0.01, 1e300])
def test_overflow_and_underflow_are_expected(alpha):
    present = np.ones((200, 5), bool)
    with np.errstate(all="raise"):
        draw_dirichlet(np.random.default_rng(0), np.full(200, alpha), present)
