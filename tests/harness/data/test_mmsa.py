"""The reader of MMSA files: what it reads, what it cleans and says, and what it refuses."""

import pickle
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbones.batch import MODALITIES
from harness.data.dataset import SPLITS
from harness.data.labels import LabelScale
from harness.data.mmsa.reader import LABELS, read_mmsa
from harness.errors import UserError
from tests.harness.data.test_store import assert_equal
from tests.support.paths import SHARED

STEPS = {"text": 6, "audio": 9, "vision": 7}
WIDTHS = {"text": 3, "audio": 2, "vision": 4}
CLIPS = {"train": 5, "valid": 3, "test": 4}
DATA = SHARED / "data"


def make_sequences(clips, steps, width, generator):
    """Sequences of 1 to `steps` rows, none of them zero."""
    lengths = generator.integers(1, steps + 1, clips)
    return [generator.uniform(0.5, 1.5, (length, width)).astype(np.float32) for length in lengths]


def lay_out(sequences, steps, in_front):
    """Pad sequences with zeros to (N, T, D), one at a time."""
    array = np.zeros((len(sequences), steps, sequences[0].shape[1]), np.float32)
    for row, sequence in enumerate(sequences):
        start = steps - len(sequence) if in_front else 0
        array[row, start : start + len(sequence)] = sequence
    return array


def make_tokens(sequences, steps, in_front):
    rows = [np.stack([100 + np.arange(len(s)), np.ones(len(s)), np.zeros(len(s))], 1) for s in sequences]
    return lay_out(rows, steps, in_front).transpose(0, 2, 1)


def make_file(seed=0, in_front=False, with_lengths=True, with_tokens=True):
    """A valid file as a dict, and the sequences that are in it."""
    generator = np.random.default_rng(seed)
    content, truth = {}, {}
    for split in SPLITS:
        clips = CLIPS[split]
        truth[split] = {m: make_sequences(clips, STEPS[m], WIDTHS[m], generator) for m in MODALITIES}
        content[split] = {m: lay_out(truth[split][m], STEPS[m], in_front) for m in MODALITIES}
        content[split] |= {
            "id": [f"{split}{row // 2}$_${row}" for row in range(clips)],
            "raw_text": [""] * clips,
            "regression_labels": generator.uniform(-3, 3, clips).astype(np.float32),
        }
        if with_tokens:
            content[split]["text_bert"] = make_tokens(truth[split]["text"], STEPS["text"], in_front)
        if with_lengths:
            for m in ("audio", "vision"):
                content[split][f"{m}_lengths"] = [len(sequence) for sequence in truth[split][m]]
    return content, truth


def make_content(**options):
    return make_file(**options)[0]


def read(content, label_scale=3.0):
    """What the reader makes of a file with this content, which keeps the contract."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.pkl"
        path.write_bytes(pickle.dumps(content, 4))
        dataset = read_mmsa(path, LabelScale(label_scale))
    check_contract(dataset)
    return dataset


def change_splits(edit, **options):
    """A valid file's content with each split edited in place."""
    content = make_content(**options)
    for parts in content.values():
        edit(parts)
    return content


def check_contract(dataset):
    """What `Split` promises."""
    assert list(dataset.splits) == list(SPLITS)
    for split in dataset.splits.values():
        clips = len(split)
        assert (split.ids.shape, split.ids.dtype.kind, split.labels.dtype) == ((clips,), "U", np.float32)
        assert np.abs(split.labels - dataset.label_center).max() <= dataset.label_scale
        for m in MODALITIES:
            values, lengths = split.features[m], split.lengths[m]
            assert values.shape == (clips, dataset.steps()[m], dataset.widths()[m])
            assert (values.dtype, values.flags.c_contiguous, lengths.dtype) == (np.float32, True, np.int64)
            assert np.isfinite(values).all()
            assert 1 <= lengths.min() <= lengths.max() <= values.shape[1]
            assert not values[np.arange(values.shape[1]) >= lengths[:, None]].any()
        if split.tokens is not None:
            assert split.tokens.dtype == np.int64
            assert split.tokens.shape == (clips, 3, dataset.steps()["text"])


def check_sequences(dataset, truth):
    """Every sequence stands on the left, with its length and tokens."""
    for name, split in dataset.splits.items():
        for m in MODALITIES:
            np.testing.assert_array_equal(split.features[m], lay_out(truth[name][m], STEPS[m], False))
            assert split.lengths[m].tolist() == [len(sequence) for sequence in truth[name][m]]
        if split.tokens is not None:
            tokens = make_tokens(truth[name]["text"], STEPS["text"], False)
            np.testing.assert_array_equal(split.tokens, tokens)


def audio_lengths(dataset, name="train"):
    return dataset.splits[name].lengths["audio"].tolist()


def audio_of(dataset, clip, name="train"):
    """The first number of each step of a clip's audio."""
    return dataset.splits[name].features["audio"][clip, :, 0].tolist()


@given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.booleans())
def test_sequences_are_found_and_left_aligned(seed, in_front, with_lengths, with_tokens):
    content, truth = make_file(seed, in_front, with_lengths, with_tokens)
    dataset = read(content)
    check_sequences(dataset, truth)
    for name, split in dataset.splits.items():
        assert (split.tokens is not None) == with_tokens
        assert split.ids.tolist() == content[name]["id"]
        np.testing.assert_array_equal(split.labels, content[name]["regression_labels"])
    assert all(in_front and "padded in front" in note for note in dataset.notes)


@pytest.mark.parametrize("in_front", [False, True])
def test_given_lengths_and_masks_keep_zero_steps(in_front):
    content, truth = make_file(3, in_front)
    for split in SPLITS:
        for m in MODALITIES:
            sequence = truth[split][m][0] = np.ones((4, WIDTHS[m]), np.float32)
            sequence[[0, 2, 3]] = 0
            content[split][m] = lay_out(truth[split][m], STEPS[m], in_front)
        for m in ("audio", "vision"):
            content[split][f"{m}_lengths"][0] = 4
            # A second clip that fills one side only, so that the side of the first is known.
            truth[split][m][1] = np.ones((2, WIDTHS[m]), np.float32)
            content[split][m] = lay_out(truth[split][m], STEPS[m], in_front)
            content[split][f"{m}_lengths"][1] = 2
        content[split]["text_bert"] = make_tokens(truth[split]["text"], STEPS["text"], in_front)
    check_sequences(read(content), truth)


def test_interior_zero_steps_stay_without_lengths():
    content = make_content(with_lengths=False)
    content["train"]["audio"][0] = 0
    content["train"]["audio"][0, [2, 5]] = 7
    dataset = read(content)
    assert audio_lengths(dataset)[0] == 4
    assert audio_of(dataset, 0) == [7, 0, 0, 7, 0, 0, 0, 0, 0]


def first_zero_steps(array):
    """Lengths as MMSA's data/getLengths.py finds them: up to the first step that sums to 0."""
    lengths = []
    for clip in array:
        zero = np.flatnonzero(clip.sum(axis=1) == 0)
        lengths.append(max(1, zero[0]) if len(zero) else len(clip))
    return lengths


@pytest.mark.parametrize("in_front", [False, True])
def test_lengths_up_to_the_first_zero_step_are_left_out_where_they_cut(in_front):
    content, truth = make_file(5, in_front)
    for split in SPLITS:
        sequence = truth[split]["vision"][0] = np.ones((6, WIDTHS["vision"]), np.float32)
        sequence[2] = 0
        content[split]["vision"] = lay_out(truth[split]["vision"], STEPS["vision"], in_front)
        content[split]["vision_lengths"] = first_zero_steps(content[split]["vision"])
    dataset = read(content)
    check_sequences(dataset, truth)
    (note,) = (note for note in dataset.notes if "padded in front" not in note)
    assert note.startswith("vision had lengths that end clips at a zero step too early, which were ignored")
    assert in_front or note.endswith("(clips: train 1, valid 1, test 1).")


def test_other_lengths_that_cut_are_believed():
    """One clip of the split that ends elsewhere than at a zero step is enough."""
    content, _ = make_file(5)
    content["train"]["vision"][:2] = 1
    content["train"]["vision"][0, 2] = 0
    content["train"]["vision_lengths"] = first_zero_steps(content["train"]["vision"])
    content["train"]["vision_lengths"][1] = 3
    dataset = read(content)
    assert dataset.splits["train"].lengths["vision"][:2].tolist() == [2, 3]
    assert dataset.notes == ("vision had non-zero padding, set to 0 (clips: train 2).",)


def make_aligned(clips=10, words=4, steps=6, silent_start=False):
    """A file with tokens and without lengths, audio and vision on the steps of the text."""
    content = {}
    for split in SPLITS:
        parts = content[split] = {m: np.zeros((clips, steps, WIDTHS[m]), np.float32) for m in MODALITIES}
        for m in MODALITIES:
            parts[m][:, :words] = 1
        if silent_start:
            parts["audio"][:, 0] = 0
        parts["text_bert"] = np.zeros((clips, 3, steps))
        parts["text_bert"][:, 1, :words] = 1
        parts[LABELS] = np.zeros(clips)
        parts["id"] = [f"{split}$_${row}" for row in range(clips)]
    return content


def test_words_without_sound_are_steps_where_audio_is_aligned():
    content = make_aligned()
    content["train"]["audio"][0, 0] = 0
    content["train"]["audio"][1] = 0
    dataset = read(content)
    assert dataset.notes == ()
    assert audio_lengths(dataset) == [4] * 10
    assert audio_of(dataset, 0) == [0, 1, 1, 1, 0, 0]


def test_alignment_is_undone_in_all_splits_by_odd_steps_of_more_than_one_clip_in_ten():
    content = make_aligned(silent_start=True)
    content["test"]["audio"][2:5, 4] = 1  # three of thirty clips
    dataset = read(content)
    assert dataset.notes == (
        "audio is aligned with text, but had steps beyond it, which were kept (clips: test 3).",
    )
    assert audio_lengths(dataset) == audio_lengths(dataset, "valid") == [4] * 10
    assert audio_lengths(dataset, "test") == [4, 4, 5, 5, 5, 4, 4, 4, 4, 4]
    assert audio_of(dataset, 2, "test") == [0, 1, 1, 1, 1, 0]
    content["test"]["audio"][5, 4] = 1
    dataset = read(content)
    assert [audio_of(dataset, 0, name) for name in SPLITS] == [[1, 1, 1, 0, 0, 0]] * 3
    assert audio_lengths(dataset) == [3] * 10


def test_steps_of_audio_before_its_text_are_kept():
    content = make_aligned()
    for parts in content.values():
        parts |= {m: np.roll(parts[m], 2, axis=1) for m in MODALITIES}
        parts["text_bert"] = np.roll(parts["text_bert"], 2, axis=2)
    content["train"]["audio"][0, 1], content["train"]["audio"][0, 2] = 7, 0
    dataset = read(content)
    assert audio_lengths(dataset) == [5] + [4] * 9
    assert audio_of(dataset, 0) == [7, 0, 1, 1, 1, 0]


def test_splits_of_other_steps_than_the_text_are_not_aligned():
    content = make_aligned(silent_start=True)
    content["test"]["audio"] = content["test"]["audio"][:, :5]
    assert audio_lengths(read(content)) == [3] * 10


def test_lengths_left_out_are_those_of_the_text_where_aligned():
    content = make_aligned()
    for parts in content.values():
        parts["audio"][0, 1] = parts["audio"][1, 3] = 0
        parts["audio_lengths"] = first_zero_steps(parts["audio"])
    dataset = read(content)
    assert [audio_lengths(dataset, name) for name in SPLITS] == [[4] * 10] * 3


def test_values_after_the_valid_steps_are_removed_and_said():
    content = make_content()
    for clip, length in ((0, 2), (2, 3)):
        content["train"]["audio"][clip] = 1
        content["train"]["audio_lengths"][clip] = length
    content["train"]["text"][1] = 1
    content["train"]["text_bert"][1, 1] = [1, 1, 0, 0, 0, 0]
    dataset = read(content)
    assert dataset.notes == (
        "text had non-zero padding, set to 0 (clips: train 1).",
        "audio had non-zero padding, set to 0 (clips: train 2).",
    )
    assert dataset.splits["train"].features["text"][1].sum() == 2 * WIDTHS["text"]


def test_non_finite_values_become_zero_and_their_steps_stay():
    content = make_content(with_lengths=False)
    for split, clip in (("train", 0), ("train", 1), ("test", 0)):
        content[split]["audio"][clip] = 0
        content[split]["audio"][clip, :3] = [[-np.inf, -np.inf], [1, np.nan], [np.inf, np.nan]]
    dataset = read(content)
    assert dataset.notes == (
        "audio held -inf, set to 0 (values: train 4, test 2).",
        "audio held +inf, set to 0 (values: train 2, test 1).",
        "audio held NaN, set to 0 (values: train 4, test 2).",
    )
    assert audio_lengths(dataset)[0] == 3
    assert dataset.splits["train"].features["audio"][0, :3].tolist() == [[0, 0], [1, 0], [0, 0]]


def test_a_missing_modality_is_noted():
    dataset = read(change_splits(lambda parts: parts["vision"].fill(0)))
    assert dataset.notes == ("vision is all zeros: a missing modality (clips: train 5, valid 3, test 4).",)


def test_empty_sequences_have_length_one():
    content = make_content()
    content["train"]["audio_lengths"][0] = 0
    content["valid"]["text_bert"][1, 1] = 0
    del content["test"]["vision_lengths"]
    content["test"]["vision"][2] = 0
    dataset = read(content)
    assert dataset.splits["train"].lengths["audio"][0] == 1
    assert dataset.splits["valid"].lengths["text"][1] == 1
    assert dataset.splits["test"].lengths["vision"][2] == 1
    assert {
        "audio had lengths of 0, taken as 1 (clips: train 1).",
        "text had empty attention masks, taken as length 1 (clips: valid 1).",
        "vision had clips without a non-zero step, taken as length 1 (clips: test 1).",
    } <= set(dataset.notes)


def test_lengths_beyond_the_steps_are_all_of_these_and_labels_at_the_edge_stay_in_the_range():
    content, truth = make_file()
    content["train"][LABELS][:2] = [3.00005, -3.00005]
    content["train"]["audio_lengths"][1:3] = [10, 2**31 - 1]
    content["train"]["audio"][1:3] = 1
    dataset = read(content)
    assert audio_lengths(dataset)[:3] == [len(truth["train"]["audio"][0]), 9, 9]
    assert dataset.splits["train"].labels[:2].tolist() == [3.0, -3.0]
    assert dataset.notes == ("audio had lengths beyond its steps, cut to these steps (clips: train 2).",)


def as_lists(content):
    return {
        split: {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in parts.items()}
        for split, parts in content.items()
    }


def as_types(content, dtype):
    kinds = {split: dict(parts) for split, parts in content.items()}
    for parts in kinds.values():
        for key in (*MODALITIES, "regression_labels", "text_bert"):
            parts[key] = parts[key].astype(dtype)
        parts["audio_lengths"] = np.array(parts["audio_lengths"], dtype)[:, None]
    return kinds


def as_objects(content):
    """Arrays of objects, labels as a column, ids as an array of bytes."""
    kinds = {split: dict(parts) for split, parts in content.items()}
    for parts in kinds.values():
        clips = len(parts["id"])
        for m in MODALITIES:
            objects = np.empty(clips, object)
            objects[:] = list(parts[m])
            parts[m] = objects
        parts["regression_labels"] = parts["regression_labels"][:, None].astype(object)
        parts["id"] = np.array([name.encode() for name in parts["id"]], object)
    return kinds


def test_other_containers_and_types_give_the_same():
    content = make_content(seed=1, in_front=True)
    for other in (as_lists(content), as_objects(content), as_types(content, ">f4"), as_types(content, "f8")):
        assert_equal(read(other), read(content))
    half = as_types(make_content(), "f2")
    values = read(half).splits["train"].features["text"]
    np.testing.assert_array_equal(values, half["train"]["text"].astype(np.float32))


def test_features_without_a_time_axis_are_one_step():
    content = make_content(with_lengths=False)
    for parts in content.values():
        parts["vision"] = parts["vision"][:, 0]
    dataset = read(content)
    assert dataset.steps()["vision"] == 1
    assert dataset.notes == ("vision had no time axis, taken as one step (clips: train 5, valid 3, test 4).",)


def test_shorter_splits_and_tokens_are_padded():
    content = make_content()
    content["valid"]["audio"] = content["valid"]["audio"][:, :4]
    content["valid"]["audio_lengths"] = [1, 2, 4]
    content["test"]["text_bert"] = content["test"]["text_bert"][:, :, :4]
    dataset = read(content)
    assert "audio was padded to 9 steps (clips: valid 3)." in dataset.notes
    masks = content["test"]["text_bert"][:, 1]
    assert dataset.splits["test"].lengths["text"].tolist() == [int(mask.sum()) for mask in masks]
    np.testing.assert_array_equal(dataset.splits["test"].tokens[:, 1, :4], masks)


@pytest.mark.parametrize(("steps", "in_front"), [(4, True), (STEPS["text"], False)])
def test_short_tokens_and_tokens_on_the_left_find_text_that_is_padded_in_front(steps, in_front):
    content, truth = make_file(2, in_front=True)
    for split in SPLITS:
        truth[split]["text"] = [sequence[:steps] for sequence in truth[split]["text"]]
        content[split]["text"] = lay_out(truth[split]["text"], STEPS["text"], True)
        content[split]["text_bert"] = make_tokens(truth[split]["text"], steps, in_front)
    dataset = read(content)
    check_sequences(dataset, truth)
    assert not any("non-zero padding" in note for note in dataset.notes)


def test_tokens_of_more_steps_than_text_or_in_some_splits_only_are_left_out():
    content, truth = make_file()
    for split in SPLITS:
        content[split]["text_bert"] = make_tokens(truth[split]["text"], 7, False)
    partly = make_content()
    del partly["valid"]["text_bert"]
    for raw, note in (
        (content, "has more steps than text, so it is left out (clips: train 5, valid 3, test 4)."),
        (partly, "is not in every split, so it is left out (clips: train 5, test 4)."),
    ):
        dataset = read(raw)
        check_sequences(dataset, truth)
        assert dataset.notes == (f"text_bert {note}",)
        assert [split.tokens for split in dataset.splits.values()] == [None] * 3


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (np.arange(3), ["0", "1", "2"]),
        ([7, 8, 9], ["7", "8", "9"]),
        ([b"a", "b\u00e9", 3], ["a", "b\u00e9", "3"]),
        (np.array([["a"], ["b"], ["c"]]), ["a", "b", "c"]),
        (None, ["valid_0", "valid_1", "valid_2"]),
    ],
)
def test_ids_become_text(ids, expected):
    content = make_content()
    content["valid"]["id"] = ids
    assert read(content).splits["valid"].ids.tolist() == expected


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("kind", [list, np.array, lambda ids: [str(row) for row in ids[::-1]]])
def test_row_numbers_are_given_the_name_of_their_split(kind, first):
    content = make_content()
    for parts in content.values():
        parts["id"] = kind(list(range(first, first + len(parts["id"]))))
    dataset = read(content)
    for name, split in dataset.splits.items():
        assert set(split.ids.tolist()) == {f"{name}_{first + row}" for row in range(len(split))}
    assert dataset.splits["valid"].ids.tolist() == [f"valid_{row}" for row in content["valid"]["id"]]
    assert dataset.notes == (
        "id holds row numbers, so the split's name was put before them (clips: train 5, valid 3, test 4).",
    )


def change(split, key, edit):
    """A change of one key: a new value, or a function that gives it."""

    def apply(content):
        old = content[split].get(key)
        content[split][key] = edit(old) if callable(edit) else edit

    return apply


def put(index, value):
    def edit(array):
        array = np.array(array)
        array[index] = value
        return array

    return edit


def rename(old, new):
    return lambda content: content.__setitem__(new, content.pop(old))


def drop(split, key):
    return lambda content: content[split].pop(key)


def rename_key(old, new):
    def apply(content):
        for parts in content.values():
            parts[new] = parts.pop(old)

    return apply


def drop_keys(*keys):
    def apply(content):
        for parts in content.values():
            for key in keys:
                del parts[key]

    return apply


def number_clips(others):
    """Row numbers as ids, but for some splits others."""

    def apply(content):
        for split, parts in content.items():
            parts["id"] = others.get(split, list(range(len(parts["id"]))))

    return apply


REFUSED = {
    "no valid": (rename("valid", "other"), "no split 'valid'; found: train, test, other."),
    "val": (rename("valid", "val"), "rename 'val' to 'valid'"),
    "dev": (rename("valid", "dev"), "rename 'dev' to 'valid'"),
    "near": (rename("train", "traim"), "Did you mean 'traim'?"),
    "split is {}": (lambda c: c.__setitem__("test", {}), "split 'test' is empty"),
    "no text": (drop("train", "text"), "split 'train' has no 'text'"),
    # What was read before is in the list, too.
    "no vision": (
        drop("train", "vision"),
        f"found: {', '.join(n for n in make_content()['train'] if n != 'vision')}.",
    ),
    "no labels": (drop("test", LABELS), "split 'test' has no 'regression_labels'"),
    "empty split": (change("valid", LABELS, []), "split 'valid' is empty"),
    "labels (N, 2)": (change("train", LABELS, np.zeros((5, 2))), "_labels has shape (5, 2)"),
    "labels (N, 0)": (change("train", LABELS, np.zeros((10**12, 0))), "_labels has shape (1000000000000, 0)"),
    "labels NaN": (change("train", LABELS, put(1, np.nan)), "_labels holds nan"),
    "labels out": (change("test", LABELS, put(1, -3.5)), "holds -3.5, outside [-3, 3]; if"),
    "labels text": (change("train", LABELS, ["a"] * 5), "_labels must hold numbers"),
    "audio 4-d": (change("train", "audio", np.ones((5, 2, 2, 2))), "train/audio has shape (5, 2, 2, 2)"),
    "audio 1-d": (change("train", "audio", np.ones(5)), "train/audio has shape (5,)"),
    "audio no steps": (change("train", "audio", np.ones((5, 0, 2))), "train/audio has shape (5, 0, 2)"),
    "audio ragged": (change("train", "audio", [[[1, 2]], [[1, 2], [3]]]), "audio does not form an array"),
    "audio of widths": (change("train", "audio", [[[1, 2]], [[1], [3]]]), "audio does not form an array"),
    "audio 2 clips": (change("train", "audio", [[[1, 2]], [[1, 2], [3, 4]]]), "train/audio has 2 clips, but"),
    "audio a dict": (change("train", "audio", {"a": 1}), "train/audio must hold numbers"),
    "audio complex": (change("train", "audio", np.ones((5, 9, 2), complex)), "train/audio must hold numbers"),
    "audio short": (change("train", "audio", lambda a: a[:4]), "train/audio has 4 clips, but"),
    "audio inf": (change("test", "audio", lambda a: np.where(a == 0, 0, -np.inf)), "holds no finite value"),
    "widths": (change("test", "vision", np.ones((4, 7, 5))), "between splits (train 4, valid 4, test 5)"),
    "lengths infinite": (change("train", "audio_lengths", [np.inf] * 5), "train/audio_lengths holds inf"),
    "lengths negative": (change("train", "vision_lengths", put(0, -1)), "train/vision_lengths holds -1"),
    "lengths halves": (change("train", "audio_lengths", [1.5] * 5), "train/audio_lengths holds 1.5"),
    "lengths count": (change("train", "audio_lengths", [1, 2]), "_lengths has shape (2,) for 5 clips"),
    "mask of 2": (change("train", "text_bert", put((0, 1, 0), 2)), "train/text_bert attention mask holds 2"),
    "mask NaN": (change("train", "text_bert", put((0, 1, 0), np.nan)), "attention mask holds nan"),
    "token negative": (change("train", "text_bert", put((0, 0, 0), -4)), "train/text_bert holds -4"),
    "token halves": (change("train", "text_bert", put((0, 0, 0), 0.5)), "train/text_bert holds 0.5"),
    "tokens shape": (change("train", "text_bert", np.ones((5, 2, 6))), "train/text_bert has shape (5, 2, 6)"),
    "tokens count": (change("train", "text_bert", np.ones((4, 3, 6))), "train/text_bert has shape (4, 3, 6)"),
    "ids count": (change("train", "id", ["a"]), "train/id must be a list of 5 names, one per clip, got 1"),
    "ids a number": (change("train", "id", 5), "train/id must be a list of 5 names, one per clip, got int"),
    "ids of lists": (change("valid", "id", [["a"], ["b"], ["c"]]), "valid/id holds a list"),
    "vision misspelt": (rename_key("vision", "vison"), "no 'vision'; found: text, audio, id, raw_text"),
    "visual": (rename_key("vision", "visual"), "Did you mean 'visual'?"),
    "no modality": (drop_keys(*MODALITIES, "text_bert"), "split 'train' has no 'text'; found: id, raw_text"),
    "None in one split": (change("valid", "vision", None), "valid/vision must hold numbers, got NoneType"),
    "leak": (change("test", "id", ["a", "b", "c", "train0$_$1"]), "is in both 'train' and 'test'"),
    "leak of numbers": (number_clips({"train": [0, 1, 2, 3, 5]}), "clip '0' is in both 'train' and 'valid'"),
    "numbers and names": (number_clips({"train": list("abcde")}), "clip '0' is in both 'valid' and 'test'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused(case):
    apply, message = REFUSED[case]
    content = make_content()
    apply(content)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read(content)
    assert "file.pkl'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_dict_and_a_strange_label_scale_are_refused():
    for content in ([], None, np.ones(3), "text"):
        with pytest.raises(UserError, match="must be a dict of train, valid, test"):
            read(content)
    for label_scale in (0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="label_scale must be"):
            read(make_content(), label_scale)


@pytest.mark.skipif(not DATA.exists(), reason="the real clips (../shared/data) are not here")
def test_the_real_files():
    dataset = read_mmsa(DATA / "mosi_text_audio.pkl", LabelScale(3.0))
    check_contract(dataset)
    assert [len(split) for split in dataset.splits.values()] == [1284, 229, 686]
    assert dataset.steps() == {"text": 40, "audio": 1, "vision": 1}
    assert dataset.notes == (
        "vision is all zeros: a missing modality (clips: train 1284, valid 229, test 686).",
    )
    for split in dataset.splits.values():
        assert (split.tokens[:, 1].sum(axis=1) == split.lengths["text"]).all()
        assert (split.tokens[:, 0, 0] == 101).all()
    dataset = read_mmsa(DATA / "mosi_752_trimodal.pkl", LabelScale(3.0))
    check_contract(dataset)
    assert [len(split) for split in dataset.splits.values()] == [515, 84, 153]
    assert dataset.widths() == {"text": 128, "audio": 73, "vision": 67}
    assert dataset.notes == ()
