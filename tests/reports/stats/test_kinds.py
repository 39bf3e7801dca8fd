"""Gains by clip and by kind of clips: slow double loops, and a world in which one kind is improved."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from harness.metrics import METRICS, score
from reports.stats.clips import ClipErrors, absolute_errors, mean_moves, video_moves
from reports.stats.intervals import stratified_interval
from reports.stats.kinds import clip_pairs, gains_by_clip, gains_by_kind, gains_by_video, kinds_of_clips
from reports.stats.noise import noise_of, other_clips
from tests.support.scores import score as row
from tests.support.scores import scores_of

LABELS = np.float32([-3, -1, -0.5, 0, 0, 0.4, 1, 1.2, 2, 3, -2, 0.2])
VIDEOS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4])
IDS = np.array([f"{video}$_${k}" for k, video in enumerate(VIDEOS)])
BACKBONES, METHODS, SEEDS = ("lmf", "tfn"), ("mixup", "none", "powmix"), range(4)
CELLS = list(itertools.product(BACKBONES, METHODS, SEEDS))


def world(gain=None, noise=0.05, repeat=1):
    """Scores of cells and their errors. gain: (method, clips) -> how much lower its errors are."""
    generator, errors, rows = np.random.default_rng(0), {}, []
    labels, videos = np.tile(LABELS, repeat), np.concatenate([VIDEOS + 5 * k for k in range(repeat)])
    for backbone, method, seed in CELLS:
        own = 1 + generator.normal(0, noise, len(labels)) + generator.normal(0, noise)
        own = own - (gain(method, labels) if gain else 0)
        errors[name := f"{backbone}-{method}-{seed}"] = own
        rows.append(row(method, own.mean(), backbone=backbone, seed=seed, metric="mae") | {"run_id": name})
    ids = np.array([f"{video}$_${k}" for k, video in enumerate(videos)])
    scores = scores_of(rows).assign(run_id=[one["run_id"] for one in rows])
    return scores, ClipErrors(ids, labels, videos, True, errors)


def test_gains_on_kinds_are_those_of_a_double_loop():
    scores, clips = world()
    kinds = kinds_of_clips("mosi", LABELS, np.arange(12))
    found = gains_by_kind(clip_pairs(scores, clips), clips, kinds, {"mae": 0.2})
    assert len(found) == 2 * len(kinds)
    assert set(found["verdict"]) <= {"equal", "undecided", "better", "worse"}
    assert "equal" in set(found["verdict"])
    for kind, method in itertools.product(kinds, ("mixup", "powmix")):
        members = [k for k in range(len(LABELS)) if kind.members[k]]
        videos = sorted({VIDEOS[k] for k in members})
        gains, moves = [], []
        for backbone in BACKBONES:
            of_backbone, of_videos = [], []
            for seed in SEEDS:
                own, other = (clips.errors[f"{backbone}-{name}-{seed}"] for name in (method, "none"))
                gain = sum(other[k] - own[k] for k in members) / len(members)
                of_backbone.append(gain)
                of_videos.append(
                    [
                        sum(other[k] - own[k] - gain for k in members if VIDEOS[k] == v) / len(members)
                        for v in videos
                    ]
                )
            gains.append(np.array(of_backbone))
            moves.append(np.array(of_videos))
        [one] = found[(found["kind"] == kind.name) & (found["method"] == method)].to_dict("records")
        assert (one["clips"], one["videos"], one["n"]) == (len(members), len(videos), 8)
        mean = np.mean([part.mean() for part in gains])
        these = stratified_interval(np.concatenate(gains), np.repeat(BACKBONES, len(SEEDS)))
        shares = np.array([sum(VIDEOS[k] == v for k in members) for v in videos]) / len(members)
        noise = noise_of(gains, moves, shares)
        expected = (np.nan, np.nan) if noise is None else other_clips(mean, these, noise)
        assert (one["gain"], one["low_seeds"], one["high_seeds"]) == pytest.approx((mean, *these))
        assert (one["low"], one["high"]) == pytest.approx(expected, nan_ok=True)
        assert (noise is None) == (len(videos) == 1)


def test_gains_on_clips_are_those_of_a_double_loop():
    scores, clips = world()
    found = gains_by_clip(clip_pairs(scores, clips), clips)
    assert found["clip"].tolist() == [*IDS, *IDS]
    for k, method in itertools.product(range(len(IDS)), ("mixup", "powmix")):
        means, better = [], 0
        for backbone in BACKBONES:
            gains = [
                clips.errors[f"{backbone}-none-{seed}"][k] - clips.errors[f"{backbone}-{method}-{seed}"][k]
                for seed in SEEDS
            ]
            means.append(sum(gains) / len(gains))
            better += sum(gain > 0 for gain in gains)
        [one] = found[(found["method"] == method) & (found["clip"] == IDS[k])].to_dict("records")
        assert one["gain"] == pytest.approx(sum(means) / len(means))
        assert (one["better"], one["n"], one["label"]) == (better, 8, pytest.approx(LABELS[k]))


def test_gains_on_videos_are_those_of_a_double_loop():
    scores, clips = world()
    found = gains_by_video(clip_pairs(scores, clips), clips)
    assert found["video"].tolist() == [0, 1, 2, 3, 4] * 2
    for video, method in itertools.product(range(5), ("mixup", "powmix")):
        means, variances = [], []
        for backbone in BACKBONES:
            gains = []
            for seed in SEEDS:
                own, other = (clips.errors[f"{backbone}-{name}-{seed}"] for name in (method, "none"))
                gains.append(np.mean([other[k] - own[k] for k in range(len(IDS)) if VIDEOS[k] == video]))
            means.append(np.mean(gains))
            variances.append(np.var(gains, ddof=1) / len(gains))
        half = t.ppf(0.975, 2 * (len(SEEDS) - 1)) * np.sqrt(sum(variances)) / len(BACKBONES)
        [one] = found[(found["method"] == method) & (found["video"] == video)].to_dict("records")
        assert (one["clips"], one["n"]) == ((video == VIDEOS).sum(), 8)
        mean = np.mean(means)
        ends = one["gain"], one["low_seeds"], one["high_seeds"]
        assert ends == pytest.approx((mean, mean - half, mean + half))


def test_one_seed_gives_no_interval_on_a_video():
    scores, clips = world()
    found = gains_by_video(clip_pairs(scores[scores["seed"] == 0], clips), clips)
    assert found["gain"].notna().all()
    assert found[["low_seeds", "high_seeds"]].isna().all(axis=None)


def test_the_kind_that_a_method_improves_is_found_and_no_other():
    """Errors of mixup are lower on strong positive labels alone, as much higher on strong negative ones."""

    def gain(method, labels):
        return np.where(method == "mixup", 0.3 * (labels > 1) - 0.3 * (labels <= -1), 0)

    scores, clips = world(gain, repeat=8)
    kinds = kinds_of_clips("mosi", clips.labels)
    found = gains_by_kind(clip_pairs(scores, clips), clips, kinds).set_index(["method", "kind"])["verdict"]
    decided = found[found != "undecided"]
    assert decided["mixup"].to_dict() == {"label above 1": "better", "label up to -1": "worse"}
    assert "powmix" not in decided.index.get_level_values("method")


@pytest.mark.parametrize("kind", ["mosi", "sims", "score"])
def test_mean_errors_and_their_moves_are_the_mae_and_its_moves(kind):
    generator = np.random.default_rng(1)
    predictions = generator.normal(0, 1.5, (3, len(LABELS))).astype(np.float32)
    errors = absolute_errors(kind, predictions, LABELS)
    assert errors.mean(axis=1).tolist() == pytest.approx(
        [score(kind, one, LABELS).values["mae"] for one in predictions]
    )
    for found, expected in zip(
        mean_moves(errors, VIDEOS), video_moves(kind, "mae", predictions, LABELS, VIDEOS), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("kind", METRICS)
def test_each_clip_has_one_label_and_one_length(kind):
    labels = np.float32([-1, -0.7, -0.4, -0.1, 0, 0.1, 0.4, 0.7, 1, 2])
    for lengths in (None, np.array([9, 3, 3, 5, 7, 1, 9, 9, 8, 2])):
        found = kinds_of_clips(kind, labels, lengths)
        assert found[0].members.all()
        for group in ("label", "length")[: 1 if lengths is None else 2]:
            members = np.array([one.members for one in found if one.group == group])
            assert (members.sum(axis=0) == 1).all()
            assert members.any(axis=1).all()
        assert len({one.name for one in found}) == len(found)


def test_labels_on_a_bound_lie_where_the_names_say():
    def names(kind, label):
        return [one.name for one in kinds_of_clips(kind, np.float32([label])) if one.group == "label"]

    for label, name in ((-1, "up to -1"), (-0.9, "above -1, below 0"), (0, "0"), (1, "above 0 up to 1")):
        assert names("mosi", label) == [f"label {name}"]
    for label, name in ((-0.7, "up to -0.7"), (0.1, "above -0.1 up to 0.1"), (0.8, "above 0.7")):
        assert names("sims", label) == [f"label {name}"]


def test_the_shortest_third_holds_the_shortest_texts():
    lengths = np.array([4, 9, 1, 6, 2, 8])
    found = {one.name: one.members for one in kinds_of_clips("mosi", LABELS[:6], lengths)}
    assert sorted(lengths[found["shortest third of texts"]]) == [1, 2]
    assert sorted(lengths[found["longest third of texts"]]) == [8, 9]


def test_pairs_without_predictions_are_left_out():
    scores, clips = world()
    errors = {name: own for name, own in clips.errors.items() if name != "lmf-none-2"}
    pairs = clip_pairs(scores, ClipErrors(clips.ids, clips.labels, clips.videos, True, errors))
    assert len(pairs) == 14
    assert not ((pairs["backbone"] == "lmf") & (pairs["seed"] == 2)).any()
    nothing = ClipErrors(clips.ids, clips.labels, clips.videos, True, {})
    pairs = clip_pairs(scores, nothing)
    for found in (
        gains_by_kind(pairs, nothing, kinds_of_clips("mosi", LABELS)),
        gains_by_clip(pairs, nothing),
        gains_by_video(pairs, nothing),
    ):
        assert isinstance(found, pd.DataFrame)
        assert found.empty
