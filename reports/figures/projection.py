"""What figures of latents are made of: a fixed PCA space, t-SNE, densities, and an estimate of KL.

Pure functions of arrays in float64; the same input gives the same output on one machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from backbones.batch import MODALITIES

NEIGHBOURS = 10
"""k of `kl_estimate`: so many that the clean rows which a mixed row was made from weigh little."""
PERPLEXITY = 30.0
_LEAST = 5


def stacked(samples: Mapping[str, np.ndarray], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The latents of the modalities side by side, and their labels; rows with a NaN or inf are left out.

    samples: see `harness.train.inspection.sample_latents`. kind: "clean" or "mixed"; no rows where a modality
    that has clean latents, or the labels, are missing, or their lengths differ.

    Shape: (n, sum of D_m), (n,), both float64.
    """
    known = [m for m in MODALITIES if f"clean_{m}" in samples and samples[f"clean_{m}"].ndim == 2]
    width = sum(samples[f"clean_{m}"].shape[1] for m in known)
    parts = [samples.get(f"{kind}_{m}", np.empty((0, 0))) for m in known]
    labels = np.asarray(samples.get(f"{kind}_labels", np.empty(0)), float).ravel()
    if not parts or any(part.ndim != 2 or len(part) != len(labels) for part in parts):
        return np.empty((0, width)), np.empty(0)
    rows = np.hstack(parts).astype(float)
    if rows.shape[1] != width:
        return np.empty((0, width)), np.empty(0)
    whole = np.isfinite(rows).all(1) & np.isfinite(labels)
    return rows[whole], labels[whole]


@dataclass(frozen=True)
class Projection:
    """Standardise, then project: ``(x - mean) / scale @ axes``.

    Shape: mean and scale (D,), axes (D, c), shares (c,), of the variance that each axis holds.
    """

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    shares: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Project rows. Shape: (n, D) -> (n, c)."""
        with threadpool_limits(1):
            return standardised(x, self.mean, self.scale) @ self.axes


def scaling(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column, the latter inf where a column is constant or has no rows.

    Divided by it, a constant column is 0 for any rows, and so plays no part. Shape: (n, D) -> (D,), (D,).
    """
    if not len(x):
        return np.zeros(x.shape[1]), np.full(x.shape[1], np.inf)
    deviation = x.std(0)
    return x.mean(0), np.where(deviation > 1e-9 * np.abs(x).max(0), deviation, np.inf)


def standardised(x: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Columns in units of their scale. Shape: (n, D), (D,), (D,) -> (n, D)."""
    return (x - mean) / scale


def fit_projection(x: np.ndarray, components: int) -> Projection:
    """The standardisation and the principal components of these rows.

    An axis points where its largest loading is positive. There are fewer axes than asked for where the rows
    vary in fewer directions, and none where they do not vary at all. Shape: (n, D).
    """
    from scipy.linalg import eigh

    mean, scale = scaling(x)
    width = x.shape[1]
    if not np.isfinite(scale).any():
        return Projection(mean, scale, np.empty((width, 0)), np.empty(0))
    rows = standardised(x, mean, scale)
    with threadpool_limits(1):
        covariance = rows.T @ rows / len(rows)
        values, axes = eigh(covariance, subset_by_index=[max(0, width - components), width - 1])
    values, axes = values[::-1], axes[:, ::-1]
    shares = values / np.trace(covariance)
    axes, shares = axes[:, shares > 1e-10], shares[shares > 1e-10]
    signs = np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    return Projection(mean, scale, axes * signs, shares)


def plane(points: np.ndarray) -> np.ndarray:
    """The first two columns, zeros where there are fewer. Shape: (n, c) -> (n, 2)."""
    return np.pad(points[:, :2], ((0, 0), (0, max(0, 2 - points.shape[1]))))


def bounded_perplexity(n: int) -> float:
    """The perplexity for n points: 30, fewer for less than 91 points, as each needs three times as many."""
    return min(PERPLEXITY, (n - 1) / 3)


def tsne(x: np.ndarray) -> np.ndarray:
    """t-SNE in two dimensions, begun at the first two principal components (``init="pca"``).

    Rows that are all equal stay at one point. Shape: (n, D) -> (n, 2); (0, 2) for fewer than 5 rows.
    """
    if len(x) < _LEAST:
        return np.empty((0, 2))
    from sklearn.manifold import TSNE

    # scikit-learn's own start divides by the deviation, which may be 0, and needs two columns.
    with threadpool_limits(1):
        centred = x - x.mean(0)
        values, vectors = np.linalg.eigh(centred.T @ centred)
    if not len(values) or values[-1] <= 1e-18 * max(1.0, float(np.square(x).sum())):
        return np.zeros((len(x), 2))
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    start = plane(centred @ axes)
    start = (start / start[:, 0].std() * 1e-4).astype(np.float32)
    with threadpool_limits(1):
        machine = TSNE(perplexity=bounded_perplexity(len(x)), init=start, random_state=0, n_jobs=1)
        return np.asarray(machine.fit_transform(centred), float)


def kl_estimate(x: np.ndarray, y: np.ndarray, k: int = NEIGHBOURS) -> float:
    """KL(p || q) in nats between the densities that rows x and y were drawn from, by nearest neighbours.

    Wang, Kulkarni & Verdu (IEEE T-IT 55(5), 2009), their estimator with a fixed k:

        (d / n) sum_i log(nu_k(i) / rho_k(i)) + log(m / (n - 1)),

    rho_k(i) and nu_k(i) the distances of x_i to its k-th neighbour among the other n - 1 rows of x and among
    the m rows of y. It has a bias, upwards where p is narrower than q and downwards, even below 0, where it
    is wider or apart; it fades as n and m grow, more slowly the more columns there are.

    Copies: mixed rows can equal clean ones (lambda = 1), and rows can repeat. A density has no ties, and the
    logarithm none of 0, so a row's exact copies (within 1e-9 of the rows' spread) are not its neighbours: for
    x_i, neighbours are sought among the rows unequal to it, n_i of x and m_i of y, and log(m / (n - 1))
    becomes the mean of log(m_i / n_i). Without ties nothing changes; the estimate for a set and a copy of it
    is 0. Rows of x that nearly equal one of y keep it as a neighbour; were all such, the estimate would be
    lowered by 1 / (k - 1).

    NaN where a row has fewer than k such neighbours. Shape: (n, d), (m, d), finite.
    """
    width = x.shape[1]
    if not width or len(x) <= k or len(y) < k:
        return float("nan")
    both = np.vstack([x, y])
    least = 1e-9 * float(np.sqrt(np.square(both - both.mean(0)).sum(1).mean()))
    rho, among_x = _neighbour(x, x, k, least)
    nu, among_y = _neighbour(x, y, k, least)
    if min(among_x.min(), among_y.min()) < k:
        return float("nan")
    return float((width * np.log(nu / rho) + np.log(among_y / among_x)).mean())


def _neighbour(x: np.ndarray, y: np.ndarray, k: int, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each x to its k-th nearest y farther than ``least``, and how many such y there are."""
    from scipy.spatial.distance import cdist

    distances = cdist(x, y)
    apart = distances > least
    return np.partition(np.where(apart, distances, np.inf), k - 1, axis=1)[:, k - 1], apart.sum(1)


def density(points: np.ndarray, at: np.ndarray) -> np.ndarray | None:
    """A Gaussian kernel estimate of the points' density, up to a factor; None without spread on both axes.

    The bandwidth is Scott's, n^(-1/6) of the standard deviation along each axis.

    Shape: points (n, 2), at (m, 2) -> (m,).
    """
    _, scale = scaling(points)
    if len(points) < _LEAST or not np.isfinite(scale).all():
        return None
    width = scale * len(points) ** (-1 / 6)
    x, y = (np.exp(-0.5 * np.square(np.subtract.outer(at[:, c], points[:, c]) / width[c])) for c in (0, 1))
    return np.asarray((x * y).mean(1))
