"""Occlusion: nested masks that depend on the clip alone, against a slow implementation with plain numbers."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from backbones.batch import MODALITIES, Batch
from harness.config.compose import load_benchmark
from harness.data.occlusion import GRANULARITIES, UNK_ID, MaskField, occlude
from harness.data.store import load_dataset
from harness.plan import make_plan
from harness.train.loop import train
from tests.support.builders import same_bits

WORD = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
IDS = np.array([f"video_{k // 3}$_${k}" for k in range(40)])


def scramble(x: int) -> int:
    """The finaliser of splitmix64 on one number."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def slow_u(names: tuple[str, str, int], clip: str, modality: str, step: int, epoch: int | None) -> float:
    """The number u of one step; names = (dataset, split, mask seed), steps are counted from 1."""
    text = json.dumps([*names, clip, modality])
    key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    if epoch is not None:
        key = scramble((key + GOLDEN * (epoch + 1)) & WORD)
    return (scramble((key + GOLDEN * step) & WORD) >> 40) / 2**24


def slow_occlude(batch: Batch, names, ids, ratio, granularity, epoch):
    """Features and token ids after occlusion, one number at a time."""
    features = {m: batch.features[m].clone() for m in MODALITIES}
    for m in MODALITIES:
        width = features[m].shape[2]
        for row, clip in enumerate(ids):
            for step in range(int(batch.lengths[m][row])):
                for d in range(width):
                    position = step * width + d if granularity == "entry" else step
                    if slow_u(names, clip, m, position + 1, epoch) < ratio:
                        features[m][row, step, d] = 0.0
    if batch.tokens is None:
        return features, None
    tokens = batch.tokens.clone()
    for row, clip in enumerate(ids):
        for step in range(1, int(tokens[row, 1].sum()) - 1):
            if slow_u(names, clip, "text", step + 1, epoch) < ratio:
                tokens[row, 0, step] = 100
    return features, tokens


def make_batch(index, steps=(6, 8, 5), widths=(3, 2, 4), tokens=True, seed=0) -> Batch:
    """The clips at ``index`` of a random split; numbers other than 0 stand in the padding too."""
    generator = np.random.default_rng(seed)
    n = len(IDS)
    features, lengths = {}, {}
    for m, t, d in zip(MODALITIES, steps, widths, strict=True):
        features[m] = torch.from_numpy(generator.uniform(1, 2, (n, t, d)).astype(np.float32))[index]
        lengths[m] = torch.from_numpy(generator.integers(1, t + 1, n))[index]
    ids = torch.from_numpy(generator.integers(1000, 2000, (n, steps[0])))[index]
    attention = (torch.arange(steps[0]) < lengths["text"][:, None]).long()
    packed = torch.stack([ids, attention, torch.zeros_like(ids)], 1) if tokens else None
    labels = torch.from_numpy(generator.uniform(-3, 3, n).astype(np.float32))[index]
    return Batch(features, lengths, labels, packed)


def same(one: Batch, other: Batch) -> bool:
    """Whether two batches hold the same, whatever was dropped."""
    return same_bits(vars(replace(one, dropped={})), vars(replace(other, dropped={})))


def valid_of(batch: Batch, m: str) -> torch.Tensor:
    return torch.arange(batch.features[m].shape[1]) < batch.lengths[m][:, None]


field = MaskField("mosi", "test", 0, IDS)
everyone = np.arange(len(IDS))
some_clips = st.lists(st.integers(0, len(IDS) - 1), min_size=1, max_size=4, unique=True).map(np.array)
some_sizes = st.tuples(*[st.integers(1, 5)] * 3)
some_ratios = st.floats(0, 1, width=32)
some_epochs = st.none() | st.integers(0, 10_000)


@given(
    names=st.tuples(st.text(max_size=5), st.sampled_from(["train", "test"]), st.integers(-5, 5)),
    index=some_clips,
    steps=some_sizes,
    widths=some_sizes,
    ratio=some_ratios,
    epoch=some_epochs,
    granularity=st.sampled_from(GRANULARITIES),
    tokens=st.booleans(),
)
def test_against_the_slow_implementation(names, index, steps, widths, ratio, epoch, granularity, tokens):
    batch = make_batch(index, steps, widths, tokens)
    found = occlude(batch, ratio, MaskField(*names, IDS).of(batch, index, granularity, epoch))
    features, token_rows = slow_occlude(batch, names, IDS[index], ratio, granularity, epoch)
    assert same(found, replace(batch, features=features, tokens=token_rows))
    for m in MODALITIES if granularity == "frame" and ratio else ():
        assert torch.equal(found.dropped[m], valid_of(batch, m) & (features[m] == 0).all(2))


@given(
    ratios=st.tuples(some_ratios, some_ratios).map(sorted),
    granularity=st.sampled_from(GRANULARITIES),
    epoch=some_epochs,
)
def test_what_is_missing_stays_missing_at_a_higher_ratio(ratios, granularity, epoch):
    batch = make_batch(everyone)
    u = field.of(batch, everyone, granularity, epoch)
    less, more = (occlude(batch, ratio, u) for ratio in ratios)
    assert same(batch, make_batch(everyone)), "the input is left as it was"
    assert occlude(batch, 0.0, u) is batch
    for m in MODALITIES:
        assert (more.features[m][less.features[m] == 0] == 0).all()
    assert (more.tokens[:, 0][less.tokens[:, 0] == UNK_ID] == UNK_ID).all()


def test_masks_differ_by_all_that_they_depend_on():
    names = itertools.product(("mosi", "mosei"), ("train", "test"), (0, 1))
    parts = itertools.product([MaskField(*of, IDS) for of in names], MODALITIES, [None, 0, 1, 2, 500])
    draws = [f.draw(m, everyone, (9,), epoch) for f, m, epoch in parts]
    table = np.stack([draw.flatten().numpy() for draw in draws])
    assert len(table) == 8 * 3 * 5
    largest = np.abs(np.corrcoef(table) - np.eye(len(table))).max()
    assert largest < 5 / np.sqrt(table.shape[1])


def test_the_last_token_stays_behind_a_gap_in_the_mask():
    batch = make_batch(np.arange(3))
    tokens = batch.tokens.clone()
    tokens[:, 1] = torch.tensor([1, 1, 0, 1, 1, 0])
    everything = {m: torch.zeros(x.shape[:2]) for m, x in batch.features.items()}
    everything["tokens"] = torch.zeros(3, 6)
    found = occlude(replace(batch, tokens=tokens), 1.0, everything)
    assert (found.tokens[:, 0] == UNK_ID).tolist() == [[False, True, False, True, False, False]] * 3


def test_no_nan_comes_from_what_is_dropped():
    batch = make_batch(everyone)
    values = dict(zip(MODALITIES, (np.inf, -np.inf, np.nan), strict=True))
    spoilt = {m: torch.full_like(batch.features[m], values[m]) for m in MODALITIES}
    for granularity in GRANULARITIES:
        found = occlude(replace(batch, features=spoilt), 1.0, field.of(batch, everyone, granularity))
        for m in MODALITIES:
            assert (found.features[m][valid_of(batch, m)] == 0).all()


# Distribution, with fixed names, so that the outcome is fixed too

MANY = np.array([f"clip_{k}" for k in range(4000)])


@pytest.mark.parametrize("epoch", [None, 1, 77])
@pytest.mark.parametrize("shape", [(1,), (50,), (10, 5)])
def test_u_is_uniform(shape, epoch):
    many = MaskField("mosei", "train", 0, MANY)
    for m in MODALITIES:
        u = many.draw(m, np.arange(len(MANY)), shape, epoch)
        assert u.shape == (len(MANY), *shape)
        assert u.dtype == torch.float32
        assert ((u >= 0) & (u < 1)).all()
        assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 0.001


def test_u_of_neighbours_are_unrelated():
    many = MaskField("mosei", "train", 0, MANY)
    u = [many.draw(m, np.arange(len(MANY)), (50,), None).numpy() for m in MODALITIES]
    steps, clips = [(x[:, :-1], x[:, 1:]) for x in u], [(x[:-1], x[1:]) for x in u]
    for one, other in steps + clips:
        correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(one.size)


@pytest.fixture
def masks_of(tmp_path, monkeypatch):
    """Train one small cell; returns the u it used by (clip, epoch, modality) and the sizes of the splits."""
    seen = {}
    draw = MaskField.of

    def recorded(self, batch, index, granularity="frame", epoch=None):
        u = draw(self, batch, index, granularity, epoch)
        for row, clip in enumerate(index.tolist()):
            for m in MODALITIES:
                key = (self.keys["text"][clip].item(), epoch, m)
                assert torch.equal(seen.setdefault(key, u[m][row]), u[m][row])
        return u

    monkeypatch.setattr(MaskField, "of", recorded)

    def run(*arguments):
        seen.clear()
        data = ["datasets=[synthetic_mosi]", "dataset.synthetic_mosi.clips=40"]
        fixed = [*data, "train.max_epochs=2", "backbones=[lmf]"]
        plan = make_plan(load_benchmark([f"var_dir={tmp_path}", *fixed, *arguments]))
        assert len(plan.cells) == 1
        dataset = load_dataset(plan.datasets["synthetic_mosi"].folder)
        train(plan.cells[0], dataset, torch.device("cpu"))
        masks = {key: seen[key] for key in sorted(seen)}
        return masks, len(dataset.splits["train"]), len(dataset.splits["test"])

    def independent(*arguments):
        """The same masks for another method, seed and batch size."""
        other = ("methods=[ms_mix]", "seeds=[2]", "backbone.lmf.batch_size=7")
        masks, *sizes = run(*arguments, "methods=[none]", "seeds=[1]")
        assert same_bits(masks, run(*arguments, *other)[0])
        return masks, *sizes

    return independent


def test_training_masks_are_fresh_each_epoch_and_independent_of_method_seed_and_batch_size(masks_of):
    first, n_train, _ = masks_of("occlusion.protocols=[train]", "occlusion.ratios=[0.5]")
    assert {epoch for _, epoch, _ in first} == {1, 2}, "validation and test are clean"
    assert len(first) == 2 * n_train * len(MODALITIES)
    for clip, epoch, m in first:
        assert epoch == 2 or not torch.equal(first[clip, 1, m], first[clip, 2, m])


def test_test_masks_are_independent_of_method_seed_and_batch_size(masks_of):
    first, _, n_test = masks_of("occlusion.protocols=[test]", "occlusion.ratios=[0,0.5,1]")
    assert {epoch for _, epoch, _ in first} == {None}, "the training split is clean"
    assert len(first) == n_test * len(MODALITIES)
