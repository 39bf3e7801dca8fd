"""MMSA files with ragged clips, without a modality, with token ids alone, or with repeated ids."""

from dataclasses import replace

import numpy as np
import pytest

from backbones.batch import MODALITIES
from backbones.text import TextSettings
from harness.data.dataset import SPLITS
from harness.data.text_inputs import with_text
from tests.harness.data.test_mmsa import (
    CLIPS,
    change_splits,
    check_sequences,
    drop_keys,
    make_content,
    make_file,
    read,
)
from tests.harness.data.test_store import assert_equal


def as_object_array(clips):
    array = np.empty(len(clips), object)
    array[:] = clips
    return array


@pytest.mark.parametrize("kind", [list, tuple, as_object_array, lambda clips: [c.tolist() for c in clips]])
@pytest.mark.parametrize("with_tokens", [False, True])
def test_ragged_clips_are_padded(kind, with_tokens):
    content, truth = make_file(with_tokens=with_tokens)
    for split, parts in content.items():
        for m in MODALITIES:
            # In the first clip, every modality has all of its steps, so that nothing changes their number.
            truth[split][m][0] = np.ones((parts[m].shape[1], parts[m].shape[2]), np.float32)
            parts[m] = kind(truth[split][m])
        for m in ("audio", "vision"):
            del parts[f"{m}_lengths"]
        if with_tokens:
            parts["text_bert"][0, 1] = 1
    dataset = read(content)
    for name, split in dataset.splits.items():
        for m in MODALITIES:
            assert split.lengths[m].tolist() == [len(clip) for clip in truth[name][m]]
            for row, clip in enumerate(truth[name][m]):
                np.testing.assert_array_equal(split.features[m][row, : len(clip)], clip)
    assert "audio had clips of different lengths, which were padded (clips: train 5, valid 3, test 4)." in (
        dataset.notes
    )


def test_lengths_of_ragged_clips_stand_in_for_lengths_that_are_none():
    """The last step of each clip is zero, so that only the clip itself tells its length."""
    content = make_content()
    for parts in content.values():
        steps = [2 + row for row in range(len(parts["audio"]))]
        parts["audio"] = [np.eye(length, 2, dtype=np.float32) * (length > 2) for length in steps]
        parts["audio_lengths"] = None
    assert read(content).splits["test"].lengths["audio"].tolist() == [2, 3, 4, 5]


def test_ragged_and_padded_clips_give_the_same():
    content, truth = make_file()
    for split, parts in content.items():
        for m in ("audio", "vision"):
            parts[m][0], parts[f"{m}_lengths"][0] = 1, parts[m].shape[1]
            truth[split][m][0] = np.ones(parts[m].shape[1:], np.float32)
    ragged = make_content()
    for split, parts in ragged.items():
        for m in ("audio", "vision"):
            parts[m] = truth[split][m]
            del parts[f"{m}_lengths"]
    assert_equal(replace(read(ragged), notes=()), replace(read(content), notes=()))


def test_pauses_and_empty_clips_within_ragged_clips_stay():
    content = make_content()
    audio = [np.ones((steps, 2), np.float32) for steps in (3, 4, 1, 2, 9)]
    audio[1][[0, 3]] = 0
    audio[2] = np.zeros((0, 2), np.float32)
    audio[3] = []
    content["train"]["audio"] = audio
    del content["train"]["audio_lengths"]
    dataset = read(content)
    assert dataset.splits["train"].lengths["audio"].tolist() == [3, 4, 1, 1, 9]
    assert dataset.splits["train"].features["audio"][1, :, 0].tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 0]
    assert "audio had lengths of 0, taken as 1 (clips: train 2)." in dataset.notes


def set_none(parts, m):
    parts[m] = parts[f"{m}_lengths"] = None


@pytest.mark.parametrize("m", MODALITIES)
@pytest.mark.parametrize("remove", [lambda parts, m: parts.pop(m), set_none])
def test_an_absent_modality_is_zeros_of_width_1(m, remove):
    content, truth = make_file(with_tokens=False)
    for parts in content.values():
        remove(parts, m)
        del parts["raw_text"]
    dataset = read(content)
    for name, split in dataset.splits.items():
        assert split.features[m].shape == (CLIPS[name], 1, 1)
        assert not split.features[m].any()
        assert (split.lengths[m] == 1).all()
        for other in set(MODALITIES) - {m}:
            assert split.lengths[other].tolist() == [len(clip) for clip in truth[name][other]]
    assert f"{m} is not in the file, taken as zeros of width 1 (clips: train 5, valid 3, test 4)." in (
        dataset.notes
    )


def test_text_without_features_and_token_ids_is_said_to_be_unread():
    content = make_content(with_tokens=False)
    drop_keys("text")(content)
    assert read(content).notes[0].startswith("text is in the file as raw_text only, which is not read")


def test_a_modality_set_to_none_is_absent_whatever_the_other_keys_are_called():
    def rename(parts):
        parts["visual_words"], parts["vision"] = parts["vision"], None

    assert read(change_splits(rename)).widths()["vision"] == 1


@pytest.mark.parametrize("kind", [np.array, lambda tokens: tokens.tolist()])
def test_token_ids_stand_for_text_without_features(kind):
    content, truth = make_file()
    drop_keys("text")(content)
    for parts in content.values():
        parts["text_bert"] = kind(parts["text_bert"])
    dataset, whole = read(content), read(make_content())
    assert dataset.widths()["text"] == 1
    for name in SPLITS:
        split = dataset.splits[name]
        np.testing.assert_array_equal(split.tokens, whole.splits[name].tokens)
        assert split.lengths["text"].tolist() == [len(clip) for clip in truth[name]["text"]]
        assert not split.features["text"].any()
    check_sequences(whole, truth)
    assert any(note.startswith("text is there as token ids only, for text=bert") for note in dataset.notes)


def test_text_bert_gets_the_same_inputs_without_features():
    content = make_content()
    drop_keys("text")(content)
    settings = TextSettings("bert", "a model")
    tokens, whole = (with_text(read(one), settings, None) for one in (content, make_content()))
    assert_equal(replace(tokens, notes=()), replace(whole, notes=()))


def test_repeated_ids_are_numbered():
    content = make_content()
    content["train"]["id"] = ["a", "b", "a", "a_2", "a"]
    dataset = read(content)
    assert dataset.splits["train"].ids.tolist() == ["a", "b", "a_3", "a_2", "a_4"]
    assert dataset.notes == ("id held names that occur several times, which were numbered (clips: train 2).",)
