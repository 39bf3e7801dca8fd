"""Projections, t-SNE, densities and the estimate of KL, against loops and closed forms."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from reports.figures.projection import density, fit_projection, kl_estimate, plane, stacked, tsne


def slow_kl(x, y, k):
    total = 0.0
    for i, row in enumerate(x):
        among_x = sorted(float(np.sqrt(((row - z) ** 2).sum())) for j, z in enumerate(x) if j != i)
        among_y = sorted(float(np.sqrt(((row - z) ** 2).sum())) for z in y)
        among_x, among_y = ([d for d in found if d > 0] for found in (among_x, among_y))
        total += x.shape[1] * np.log(among_y[k - 1] / among_x[k - 1]) + np.log(len(among_y) / len(among_x))
    return total / len(x)


def drawn(generator, n, dimension, mean=0.0, scale=1.0):
    return mean + scale * generator.normal(size=(n, dimension))


@pytest.mark.parametrize(
    ("dimension", "bias", "mean", "scale"),
    [(1, 0.02, 0.3, 0.8), (2, 0.06, 0.0, 1.15), (4, 0.2, 0.5, 1.0), (4, 0.2, 0.0, 1.0)],
)
def test_kl_of_gaussians_is_that_of_the_closed_form(dimension, bias, mean, scale):
    generator = np.random.default_rng(0)
    found = [
        kl_estimate(drawn(generator, 800, dimension, mean, scale), drawn(generator, 1000, dimension), 5)
        for _ in range(12)
    ]
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    wanted = dimension * ((scale**2 + mean**2 - 1) / 2 - np.log(scale))
    assert abs(np.mean(found) - wanted) < 4 * error + bias


@pytest.mark.parametrize("k", [1, 3, 10])
def test_kl_is_that_of_a_loop_with_and_without_copies(k):
    generator = np.random.default_rng(1)
    x, y = drawn(generator, 40, 3, 0.5), drawn(generator, 50, 3)
    assert kl_estimate(x, y, k) == pytest.approx(slow_kl(x, y, k), rel=1e-9)
    x[:12], y[30:35], x[20] = y[:12], y[0], x[21]
    assert kl_estimate(x, y, k) == pytest.approx(slow_kl(x, y, k), rel=1e-9)


def test_kl_of_a_copy_is_zero_and_of_near_copies_almost():
    generator = np.random.default_rng(3)
    x, y = drawn(generator, 60, 5), drawn(generator, 500, 3)
    assert kl_estimate(x, x.copy()) == kl_estimate(1e6 * x + 1e7, 1e6 * x + 1e7) == 0
    assert kl_estimate(x[::-1], x) == pytest.approx(0, abs=1e-12)
    assert -1 / 9 - 0.02 < kl_estimate(y + 1e-5 * drawn(generator, 500, 3), y, 10) < 0


def test_kl_knows_no_order_scale_or_rotation():
    generator = np.random.default_rng(5)
    x, y = drawn(generator, 90, 4, 0.3), drawn(generator, 70, 4)
    y[:9] = x[:9]
    found = kl_estimate(x, y)
    rotation = np.linalg.qr(generator.normal(size=(4, 4)))[0]
    for scale in (1e-4, 1.0, 1e5):
        moved = kl_estimate(*(scale * z @ rotation + 3 * scale for z in (x, y)))
        assert moved == pytest.approx(found, rel=1e-6)
    assert kl_estimate(generator.permutation(x), generator.permutation(y)) == pytest.approx(found, rel=1e-9)


def test_too_few_rows_have_no_kl():
    x = drawn(np.random.default_rng(6), 30, 2)
    few = [(x[:10], x), (x[:0], x), (x, x[:9]), (x, x[:0]), (x[:, :0], x[:, :0])]
    assert all(np.isnan(kl_estimate(a, b, 10)) for a, b in few)
    assert np.isfinite(kl_estimate(x[:11], x[11:21], 10))
    assert np.isnan(kl_estimate(np.ones((30, 2)), np.ones((30, 2))))
    # The first row has ten others, but only nine that differ from it.
    assert np.isnan(kl_estimate(np.vstack([x[:10], x[:1]]), x, 10))


def test_the_projection_is_sklearns_pca_with_axes_towards_their_largest_loading():
    generator = np.random.default_rng(7)
    x = generator.normal(size=(50, 6)) @ generator.normal(size=(6, 6)) + 5
    found = fit_projection(x, 3)
    rows = (x - x.mean(0)) / x.std(0)
    pca = PCA(3).fit(rows)
    assert found.shares == pytest.approx(pca.explained_variance_ratio_)
    assert np.abs(found(x)) == pytest.approx(np.abs(pca.transform(rows)), abs=1e-9)
    assert found(x[4:5]) == pytest.approx(rows[4:5] @ found.axes)
    # Whatever the order and the side of the rows.
    assert (found.axes[np.abs(found.axes).argmax(0), np.arange(3)] > 0).all()
    assert fit_projection(-x, 3).axes == pytest.approx(found.axes)
    assert fit_projection(x[::-1], 3).axes == pytest.approx(found.axes)


def test_constant_columns_play_no_part():
    x = np.random.default_rng(9).normal(size=(30, 3))
    wide = np.hstack([x, np.full((30, 1), 0.1)])
    found = fit_projection(wide, 5)
    assert found.axes.shape == (4, 3)
    assert found(wide + np.array([0, 0, 0, 1e4])) == pytest.approx(found(wide))
    assert np.abs(found(wide)) == pytest.approx(np.abs(fit_projection(x, 5)(x)))
    for rows in (0, 1, 4):
        none = fit_projection(np.full((rows, 3), 7.0), 5)(np.ones((2, 3)))
        assert none.shape == (2, 0)
        assert plane(none).tolist() == [[0, 0], [0, 0]]


def test_tsne_keeps_groups_together_and_is_the_same_each_time():
    generator = np.random.default_rng(10)
    x = generator.normal(size=(60, 8)) + 8 * (np.arange(60) % 2)[:, None]
    x[10] = x[12]
    points = tsne(x)
    assert points.shape == (60, 2)
    assert np.isfinite(points).all()
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag(np.full(60, np.inf))
    assert (distances.argmin(1) % 2 == np.arange(60) % 2).all()
    assert tsne(x).tobytes() == points.tobytes()


def test_tsne_of_few_or_equal_rows():
    for n, width in ((4, 3), (5, 1), (5, 3), (6, 1), (9, 3)):
        points = tsne(np.random.default_rng(11).normal(size=(n, width)))
        assert points.shape == (0 if n == 4 else n, 2)
        assert np.isfinite(points).all()
    for x in (np.full((20, width), 0.1), np.empty((20, 0))):
        assert tsne(x).tolist() == [[0, 0]] * 20


def test_density_is_a_sum_of_kernels():
    generator = np.random.default_rng(12)
    points, at = generator.normal(size=(20, 2)) * [1, 3], generator.normal(size=(6, 2))
    width = points.std(0) * 20 ** (-1 / 6)
    by_hand = [np.mean([np.exp(-0.5 * (((a - p) / width) ** 2).sum()) for p in points]) for a in at]
    assert density(points, at) == pytest.approx(by_hand)
    assert density(points[:4], at) is None
    assert density(points * [1, 0], at) is None


def test_stacked_puts_modalities_side_by_side_and_has_no_rows_of_partial_samples():
    samples = {"clean_text": np.array([[1, 2], [3, np.inf], [5, 6]], np.float16)}
    samples["clean_vision"] = np.array([[7], [8], [9]], np.float16)
    samples["clean_labels"] = np.array([-1, 0, 2], np.float16)
    rows, labels = stacked(samples, "clean")
    assert rows.tolist() == [[1, 2, 7], [5, 6, 9]]
    assert labels.tolist() == [-1, 2]
    samples["clean_labels"][0] = np.nan
    assert stacked(samples, "clean")[1].tolist() == [2]
    widths = {"text": 2, "vision": 1}.items()
    whole = {f"{kind}_{m}": np.ones((2, width)) for kind in ("clean", "mixed") for m, width in widths}
    whole |= {"clean_labels": np.ones(2), "mixed_labels": np.ones(2)}
    assert stacked(whole, "mixed")[0].shape == (2, 3)
    shapes = [("mixed_vision", shape) for shape in ((3, 1), (2, 4), (2, 1, 1), 2, None)]
    for name, shape in (*shapes, ("mixed_labels", 3), ("mixed_labels", None)):
        samples = {key: array for key, array in whole.items() if key != name}
        rows, labels = stacked(samples if shape is None else samples | {name: np.zeros(shape)}, "mixed")
        assert (rows.shape, labels.shape) == ((0, 3), (0,))
    assert stacked({}, "clean")[0].shape == (0, 0)
