"""The statistics of the synthetic stand-ins against the real ones, and their strength by linear probes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from backbones.batch import MODALITIES
from harness.data.dataset import SPLITS, Dataset
from harness.data.synthetic import SyntheticSettings, generate
from harness.data.synthetic.clips import make_clips
from harness.data.synthetic.statistics import SHAPES, STATISTICS
from tests.support.paths import SHARED

NAMES = ("synthetic_mosi", "synthetic_mosei", "synthetic_sims")
PUBLISHED = SHARED / "facts"


def facts_of(name: str) -> dict:
    statistics = json.loads((PUBLISHED / "dataset_statistics.json").read_text())
    return statistics[{"synthetic_sims": "sims_v2"}.get(name, name.removeprefix("synthetic_"))]


needs_facts = pytest.mark.skipif(
    not PUBLISHED.exists(), reason="the collected facts (../shared/facts) are not here"
)


def all_clips(name: str, seed: int = 0, size: str = "full") -> dict[str, np.ndarray]:
    """Everything but the features, over all splits."""
    parts = [vars(make_clips(SyntheticSettings(name, size, seed=seed), split)) for split in SPLITS]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


@needs_facts
@pytest.mark.parametrize("name", NAMES)
def test_the_tables_and_full_shapes_are_the_collected_facts(name):
    wanted, facts = facts_of(name), STATISTICS[name]
    given_labels = [float(label) for label in wanted["label_histogram"]]
    np.testing.assert_allclose(sorted(given_labels), facts.grid(), atol=1e-4)
    by_label = dict(zip(given_labels, wanted["label_histogram"].values(), strict=True))
    np.testing.assert_allclose([by_label[label] for label in sorted(by_label)], facts.histogram)
    source = facts_of("synthetic_mosi") if name == "synthetic_sims" else wanted
    tables = {"words_per_clip_percentiles": facts.words, "clips_per_video_percentiles": facts.clips_per_video}
    for key, table in tables.items():
        for percentile, value in source[key].items():
            assert table[int(percentile)] == value
    official = json.loads((PUBLISHED / "hyperparameters.json").read_text())["datasets"]
    shape, real = SHAPES[name, "full"], name.removeprefix("synthetic_")
    assert list(shape.clips) == official["official_split_sizes"][real]
    assert shape.steps == tuple(official["padded_lengths"][real][m] for m in MODALITIES)
    assert list(shape.widths) == official[real]["unaligned"]["feature_dims"]


@pytest.mark.parametrize("name", NAMES)
def test_labels_words_videos_conflict_and_silence_follow_the_tables_at_full_size(name):
    clips, facts = all_clips(name), STATISTICS[name]
    count = len(clips["labels"])
    shares = [(clips["labels"] == np.float32(label)).mean() for label in facts.grid()]
    # Half the summed differences of the shares; sampling alone gives about sqrt(bins / count) / 2.5.
    assert np.abs(shares - facts.probabilities()).sum() / 2 < np.sqrt(len(shares) / count)
    for percentile in (5, 25, 50, 75, 90, 95):
        assert np.percentile(clips["words"], percentile) == pytest.approx(facts.words[percentile], rel=0.15)
    assert np.array_equal(clips["lengths"][:, 0], np.minimum(clips["words"], SHAPES[name, "full"].steps[0]))
    videos, per_video = np.unique([clip.split("$_$")[0] for clip in clips["ids"]], return_counts=True)
    assert np.median(per_video) == pytest.approx(facts.clips_per_video[50], rel=0.3)
    assert len(videos) >= 50
    if name != "synthetic_sims":
        assert clips["conflict"].mean(axis=0) == pytest.approx(0.05, abs=0.02)
        assert (clips["intensity"][:, 0] == np.float32(0.05)).mean() == pytest.approx(0.25, abs=0.04)


@needs_facts
@pytest.mark.parametrize("seed", range(3))
def test_unimodal_labels_of_sims_correlate_and_conflict_as_listed(seed):
    listed, clips = facts_of("synthetic_sims"), all_clips("synthetic_sims", seed)
    for k, name in enumerate(("label_T", "label_A", "label_V")):
        own = clips["unimodal"][:, k]
        opposes = (own * clips["labels"] < 0).mean()
        assert opposes == clips["conflict"][:, k].mean()
        measured = (opposes, correlation(own, clips["labels"]), np.abs(own).mean())
        tables = (
            listed["fraction_of_clips_where_unimodal_sign_opposes_label"],
            listed["label_correlation"]["y_true"],
            listed["mean_abs_unimodal_label"],
        )
        assert measured == pytest.approx([table[name] for table in tables], abs=0.03)
    signs = np.sign(clips["unimodal"])
    opposite = (signs.min(axis=1) < 0) & (signs.max(axis=1) > 0)
    share = listed["fraction_of_clips_with_two_modalities_of_opposite_sign"]
    assert opposite.mean() == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_quick_data_have_enough_clips_and_videos_for_every_seed(name):
    for seed in range(20):
        clips = all_clips(name, seed, "quick")
        assert len({clip.split("$_$")[0] for clip in clips["ids"]}) >= 50
    sizes = SyntheticSettings(name).split_sizes()
    assert sizes["valid"] >= 40
    assert sizes["test"] >= 60


def test_the_sentiment_is_in_the_bursts_and_nowhere_else():
    dataset, truth = generate(SyntheticSettings("synthetic_mosi", clips=3000))
    split, told = dataset.splits["train"], truth["train"]
    for k, modality in enumerate(MODALITIES):
        inside, outside = [], []
        for n, clip in enumerate(split.features[modality]):
            marked = np.zeros(split.lengths[modality][n], dtype=bool)
            for start in told["burst_start"][n, k]:
                marked[start : start + told["burst_span"][n, k]] = True
            valid = clip[: len(marked)]
            inside.append(valid[marked].mean(axis=0))
            outside.append(valid[~marked].mean(axis=0))
        signal = told["a"][:, k] * told["u"][:, k]
        fitted = np.linalg.lstsq(np.array(inside), signal, rcond=None)[0]
        assert correlation(np.array(inside) @ fitted, signal) > 0.5
        assert abs(correlation(np.array(outside) @ fitted, signal)) < 0.1


def test_the_background_remembers_and_has_heavy_tails():
    dataset, truth = generate(SyntheticSettings("synthetic_mosi", "full", clips=300))
    split, told = dataset.splits["train"], truth["train"]
    quiet = (told["a"][:, 1] < 0.1) & (split.lengths["audio"] >= 40)
    noise = split.features["audio"][quiet, :40]
    noise = noise - noise.mean(axis=1, keepdims=True)
    # The mean of 40 steps takes some of the persistence of 0.7 with it.
    assert correlation(noise[:, 1:].ravel(), noise[:, :-1].ravel()) == pytest.approx(0.65, abs=0.07)
    news = noise[:, 1:] - 0.7 * noise[:, :-1]
    assert (news**4).mean() / (news**2).mean() ** 2 > 4


def test_clips_of_one_video_share_a_style():
    dataset, truth = generate(SyntheticSettings("synthetic_mosi", "full", clips=600))
    split, video = dataset.splits["train"], truth["train"]["video"]
    for modality in MODALITIES:
        means = masked_means(dataset, "train", modality)
        by_video = np.array([means[video == one].mean(axis=0) for one in range(video[-1])])
        shuffled = np.random.default_rng(0).permutation(video)
        by_chance = np.array([means[shuffled == one].mean(axis=0) for one in range(video[-1])])
        assert by_video.var(axis=0).mean() > 1.5 * by_chance.var(axis=0).mean()
        assert len(split) == len(means)


def masked_means(dataset: Dataset, split: str, modality: str) -> np.ndarray:
    part = dataset.splits[split]
    total = part.features[modality].sum(axis=1, dtype=np.float64)
    return total / part.lengths[modality][:, None]


def ridge(x: np.ndarray, y: np.ndarray, penalty: float, new: np.ndarray) -> np.ndarray:
    """Fit on (x, y), predict for new."""
    centre = x.mean(axis=0)
    x, new = x - centre, new - centre
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (y - y.mean()))
    return new @ weights + y.mean()


def scores(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Out-of-fold scores of the training clips and scores of new ones; 5 folds choose the penalty."""
    fold = np.arange(len(y)) * 5 // len(y)
    tried = {
        penalty: np.concatenate([ridge(x[fold != k], y[fold != k], penalty, x[fold == k]) for k in range(5)])
        for penalty in 10.0 ** np.arange(-1, 6)
    }
    best = min(tried, key=lambda penalty: ((tried[penalty] - y) ** 2).mean())
    return tried[best], ridge(x, y, best, new)


def probe(dataset: Dataset) -> np.ndarray:
    """Test correlations of text, audio, vision and all three. Shape: (4,)."""
    y, held_out = dataset.splits["train"].labels.astype(float), dataset.splits["test"].labels
    pairs = [
        scores(masked_means(dataset, "train", m), y, masked_means(dataset, "test", m)) for m in MODALITIES
    ]
    train, test = (np.column_stack([*part, np.ones(len(part[0]))]) for part in zip(*pairs, strict=True))
    together = test @ np.linalg.lstsq(train, y, rcond=None)[0]
    return np.array([correlation(column, held_out) for column in (*test.T[:3], together)])


@pytest.mark.parametrize("name", NAMES)
def test_quick_probes_on_average_over_twenty_seeds(name):
    text, audio, vision, together = np.mean(
        [probe(generate(SyntheticSettings(name, seed=seed))[0]) for seed in range(20)], axis=0
    )
    assert text == pytest.approx(0.75, abs=0.07)
    assert 0.15 < audio < 0.5
    assert 0.15 < vision < 0.5
    assert together > text + 0.03


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "aligned"),
    [
        ("synthetic_mosi", True),
        *(
            pytest.param(name, aligned, marks=pytest.mark.soak)
            for name, aligned in (
                ("synthetic_sims", False),
                ("synthetic_mosei", False),
                ("synthetic_mosei", True),
            )
        ),
    ],
)
def test_full_probes_have_the_intended_strength(name, aligned):
    # A third of MOSEI at its real widths, for memory's sake.
    clips = 8000 if name == "synthetic_mosei" else None
    text, audio, vision, together = probe(generate(SyntheticSettings(name, "full", clips, aligned))[0])
    assert text == pytest.approx(0.75, abs=0.05)
    assert audio == pytest.approx(0.25, abs=0.1)
    assert vision == pytest.approx(0.3, abs=0.1)
    assert together >= text + 0.03
