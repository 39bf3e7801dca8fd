"""Computations for figures of latents: PCA, t-SNE, density estimates, and an estimate of KL divergence.

All functions are pure, compute in float64, and give the same output for the same input on one machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from backbones.batch import MODALITIES

NEIGHBOURS = 10
"""k of `kl_estimate`, large enough that the clean rows from which a mixed row was made have little weight."""
PERPLEXITY = 30.0
_LEAST = 5


def stacked(samples: Mapping[str, np.ndarray], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the latents of all modalities; return the finite rows and their labels.

    samples: see `harness.train.inspection.sample_latents`. kind: "clean" or "mixed". The result has no rows
    if labels or a modality with clean latents are missing, or if shapes do not match.

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
    """Standardisation followed by a projection: ``(x - mean) / scale @ axes``.

    shares: each axis's fraction of the variance. Shape: mean and scale (D,), axes (D, c), shares (c,).
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
    """Return mean and standard deviation of each column; the latter is inf for constant or empty columns.

    Division by inf makes a constant column 0, which removes its influence. Shape: (n, D) -> (D,), (D,).
    """
    if not len(x):
        return np.zeros(x.shape[1]), np.full(x.shape[1], np.inf)
    deviation = x.std(0)
    return x.mean(0), np.where(deviation > 1e-9 * np.abs(x).max(0), deviation, np.inf)


def standardised(x: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Standardise the columns. Shape: (n, D), (D,), (D,) -> (n, D)."""
    return (x - mean) / scale


def fit_projection(x: np.ndarray, components: int) -> Projection:
    """Fit standardisation and principal components to rows.

    The largest loading of each axis is positive. If the rows vary in fewer directions than ``components``,
    there are as many axes as directions. Shape: (n, D).
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
    """Return the first two columns, padded with zeros. Shape: (n, c) -> (n, 2)."""
    return np.pad(points[:, :2], ((0, 0), (0, max(0, 2 - points.shape[1]))))


def bounded_perplexity(n: int) -> float:
    """Return the perplexity for n points: 30, or (n - 1) / 3 for fewer than 91 points."""
    # t-SNE uses three times as many neighbours as the perplexity.
    return min(PERPLEXITY, (n - 1) / 3)


def tsne(x: np.ndarray) -> np.ndarray:
    """Compute a two-dimensional t-SNE, initialised with the first two principal components.

    Rows that are all equal map to one point. Shape: (n, D) -> (n, 2); (0, 2) for fewer than 5 rows.
    """
    if len(x) < _LEAST:
        return np.empty((0, 2))
    from sklearn.manifold import TSNE

    # scikit-learn's init="pca" divides by the standard deviation, which may be 0, and needs two columns.
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
        model = TSNE(perplexity=bounded_perplexity(len(x)), init=start, random_state=0, n_jobs=1)
        return np.asarray(model.fit_transform(centred), float)


def kl_estimate(x: np.ndarray, y: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Estimate KL(p || q) in nats from samples x of p and y of q, by nearest neighbours.

    The estimator of Wang, Kulkarni & Verdu (IEEE T-IT 55(5), 2009) with a fixed k is

        (d / n) sum_i log(nu_k(i) / rho_k(i)) + log(m / (n - 1)),

    where rho_k(i) and nu_k(i) are the distances of x_i to its k-th neighbour among the other n - 1 rows of x
    and among the m rows of y. Its bias is positive if p is narrower than q, and negative (so that estimates
    can be below 0) if p is wider or shifted. The bias decreases with n and m, more slowly for larger d.

    Mixed rows can equal clean rows (lambda = 1), and rows can repeat, although a density has no ties and
    log(0) is undefined. A row's exact copies (within 1e-9 of the rows' spread) are therefore not neighbours:
    x_i has n_i candidates in x and m_i in y, and log(m / (n - 1)) becomes the mean of log(m_i / n_i). Without
    ties this changes nothing; the estimate for a set and a copy of it is 0. Near copies remain neighbours; if
    every row of x had a near copy in y, the estimate would be lower by 1 / (k - 1).

    Returns NaN if a row has fewer than k candidates in x or in y. Shape: (n, d), (m, d), finite.
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
    """Return each x's distance to its k-th nearest y beyond ``least``, and its number of such y."""
    from scipy.spatial.distance import cdist

    distances = cdist(x, y)
    apart = distances > least
    return np.partition(np.where(apart, distances, np.inf), k - 1, axis=1)[:, k - 1], apart.sum(1)


def density(points: np.ndarray, at: np.ndarray) -> np.ndarray | None:
    """Estimate the density of points with a Gaussian kernel, up to a constant factor.

    The bandwidth along each axis is Scott's: n^(-1/6) times the standard deviation.

    Shape: points (n, 2), at (m, 2) -> (m,); None if points lack spread along an axis or are fewer than 5.
    """
    _, scale = scaling(points)
    if len(points) < _LEAST or not np.isfinite(scale).all():
        return None
    width = scale * len(points) ** (-1 / 6)
    x, y = (np.exp(-0.5 * np.square(np.subtract.outer(at[:, c], points[:, c]) / width[c])) for c in (0, 1))
    return np.asarray((x * y).mean(1))
