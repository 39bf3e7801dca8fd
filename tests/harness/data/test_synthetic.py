"""The synthetic stand-ins: invariants, reproducibility, refusals and the format of their export."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbones.batch import MODALITIES
from harness.data.dataset import SPLITS
from harness.data.export import export, raw_mmsa
from harness.data.labels import LabelScale
from harness.data.mmsa.reader import read_mmsa
from harness.data.synthetic import SyntheticSettings, generate
from harness.data.synthetic.clips import synthetic_fingerprint
from harness.data.synthetic.statistics import STATISTICS
from harness.errors import UserError
from tests.harness.data.test_mmsa import check_contract
from tests.harness.data.test_store import assert_equal

NAMES = ("synthetic_mosi", "synthetic_mosei", "synthetic_sims")

any_settings = st.builds(
    SyntheticSettings,
    name=st.sampled_from(NAMES),
    size=st.just("quick"),
    clips=st.integers(12, 150),
    aligned=st.booleans(),
    seed=st.integers(0, 10_000),
)


@given(any_settings)
def test_the_dataset_keeps_its_contract_and_the_truth_explains_it(wanted):
    dataset, truth = generate(wanted)
    check_contract(dataset)
    grid = STATISTICS[wanted.name].grid().astype(np.float32)
    assert sum(len(split) for split in dataset.splits.values()) == wanted.clips
    assert tuple(dataset.steps().values()) == tuple(wanted.steps())
    assert tuple(dataset.widths().values()) == wanted.shape.widths
    seen: set[str] = set()
    for name, split in dataset.splits.items():
        assert len(split) == wanted.split_sizes()[name] >= 3
        assert len(set(split.ids)) == len(split)
        assert np.isin(split.labels, grid).all()
        for m in MODALITIES:
            for clip, length in zip(split.features[m], split.lengths[m], strict=True):
                assert clip[:length].any(axis=1).all()
        check_tokens(split)
        check_truth(split, truth[name])
        videos = [clip.split("$_$")[0] for clip in split.ids]
        pairs = set(zip(videos, truth[name]["video"].tolist(), strict=True))
        assert len(pairs) == len(set(videos)) == len(set(truth[name]["video"].tolist()))
        assert not seen & set(videos), "videos never cross splits"
        seen |= set(videos)


def check_tokens(split):
    """[CLS], words, [SEP] and zeros."""
    for (ids, mask, segment), length in zip(split.tokens, split.lengths["text"], strict=True):
        assert (ids[0], ids[length - 1]) == (101, 102)
        assert (ids[1 : length - 1] > 1000).all()
        assert not ids[length:].any()
        assert mask.tolist() == [1] * length + [0] * (len(mask) - length)
        assert not segment.any()


def check_truth(split, truth):
    assert all(len(values) == len(split) for values in truth.values())
    for n, label in enumerate(split.labels):
        silent = [bool(intensity == np.float32(0.05)) for intensity in truth["a"][n]]
        assert silent in ([False, True, True], [True, False, False])
        for k in range(3):
            assert truth["u"][n, k] == (-label if truth["conflict"][n, k] else label)
            assert not (truth["conflict"][n, k] and label == 0)
            assert silent[k] or 0.6 <= truth["a"][n, k] <= 1
            assert np.sign(truth["unimodal"][n, k]) == np.sign(truth["u"][n, k])
            end = truth["burst_start"][n, k].max() + truth["burst_span"][n, k]
            assert end <= split.lengths[MODALITIES[k]][n] - (k == 0)
            assert truth["burst_start"][n, k].min() >= (k == 0)


@pytest.mark.parametrize("name", NAMES)
def test_same_settings_same_bytes_and_another_seed_others(name):
    wanted = SyntheticSettings(name)
    first, other = (generate(replace(wanted, seed=seed))[0] for seed in (0, 1))
    assert_equal(generate(wanted)[0], first)
    parts = [(made.splits["train"].labels, made.splits["train"].features["text"]) for made in (first, other)]
    assert not any(np.array_equal(*pair) for pair in zip(*parts, strict=True))


def test_aligned_data_share_the_text_its_lengths_and_the_places_of_the_bursts():
    apart, _ = generate(SyntheticSettings("synthetic_mosi"))
    aligned, truth = generate(SyntheticSettings("synthetic_mosi", aligned=True))
    assert set(aligned.steps().values()) == {apart.steps()["text"]}
    for name, split in aligned.splits.items():
        assert np.array_equal(split.features["text"], apart.splits[name].features["text"])
        for modality in MODALITIES:
            assert np.array_equal(split.lengths[modality], split.lengths["text"])
        starts = truth[name]["burst_start"]
        assert (starts == starts[:, :1]).all()


def test_the_fingerprint_tells_every_setting_apart():
    base = SyntheticSettings("synthetic_mosi")
    changes = [{"name": "synthetic_sims"}, {"size": "full"}, {"clips": 300}, {"aligned": True}, {"seed": 1}]
    prints = [synthetic_fingerprint(replace(base, **change)) for change in [{}, *changes]]
    assert len(set(prints)) == len(prints)
    assert synthetic_fingerprint(SyntheticSettings("synthetic_mosi")) == prints[0]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("name", "synthetic_mosy", "'synthetic_mosy'.*Did you mean 'synthetic_mosi'"),
        ("size", "qick", "'qick'.*quick"),
        ("clips", 11, "clips must be in 12 .. 100000, got 11"),
        ("clips", 100_001, "clips must be in .* got 100001"),
        ("seed", -1, "-1"),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(key, value, words):
    with pytest.raises(UserError, match=words):
        SyntheticSettings(**{"name": "synthetic_mosi", key: value})


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_reading_the_export_gives_the_generated_data_bit_for_bit(name, aligned, tmp_path):
    wanted = SyntheticSettings(name, aligned=aligned, seed=3)
    path = tmp_path / "data.pkl"
    export(wanted, path)
    made, _ = generate(wanted)
    assert_equal(replace(read_mmsa(path, LabelScale(made.label_scale)), notes=made.notes), made)
    # A pickle that any tool can load.
    content, expected = path.read_bytes(), raw_mmsa(wanted)
    assert content[:2] == b"\x80\x04"
    for split, entry in pickle.loads(content).items():
        assert list(entry) == list(expected[split])
        for key, value in expected[split].items():
            np.testing.assert_array_equal(entry[key], value)


@pytest.mark.parametrize("name", NAMES)
def test_the_raw_dictionary_has_the_keys_and_faults_of_the_real_files(name):
    raw = raw_mmsa(SyntheticSettings(name))
    assert tuple(raw) == SPLITS
    for entry in raw.values():
        assert np.isneginf(entry["audio"]).any()
        assert np.isnan(entry["audio"]).any()
        assert np.isfinite(entry["text"]).all()
        assert np.isfinite(entry["vision"]).all()
        assert {type(entry[f"{m}_lengths"]) for m in ("audio", "vision")} == {list}
        assert ("regression_labels_T" in entry) == (name == "synthetic_sims")
        names = {-1: "Negative", 0: "Neutral", 1: "Positive"}
        signs = np.sign(entry["regression_labels"]).astype(int).tolist()
        assert entry["annotations"].tolist() == [names[sign] for sign in signs]
        assert entry["classification_labels"].tolist() == [sign + 1 for sign in signs]
        for text, (ids, mask, _) in zip(entry["raw_text"], entry["text_bert"], strict=True):
            said = [int(word.removeprefix("word")) for word in str(text).split()]
            inner = ids[1 : mask.sum() - 1].tolist()
            assert said[: len(inner)] == inner
