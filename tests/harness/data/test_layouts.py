"""The layouts of feature files: the same tensors from each, what is said, what is refused."""

import io
import pickle
import re
import zipfile

import numpy as np
import pytest

from harness.data.dataset import SPLITS
from harness.data.labels import LabelScale
from harness.data.layouts.names import name_clips
from harness.data.mmsa.reader import LABELS, read_mmsa
from harness.data.mmsa.resplit import SplitChoice
from harness.errors import UserError
from tests.harness.data.layout_files import LAYOUT_NAMES, PICKLED, layout_bytes, make_clips
from tests.harness.data.test_mmsa import check_contract

WITHOUT_TEXT = ("examples", "mmim")


def read_bytes(content, tmp_path, name="file.pkl"):
    path = tmp_path / name
    path.write_bytes(content)
    dataset = read_mmsa(path, LabelScale(3.0))
    check_contract(dataset)
    return dataset


@pytest.mark.parametrize("name", LAYOUT_NAMES)
def test_the_same_clips_in_each_layout_give_the_same_tensors(name, tmp_path):
    expected = read_bytes(layout_bytes("mmsa"), tmp_path)
    dataset = read_bytes(layout_bytes(name), tmp_path)
    for split in SPLITS:
        one, other = dataset.splits[split], expected.splits[split]
        assert one.ids.tolist() == other.ids.tolist()
        assert one.labels.tobytes() == other.labels.tobytes()
        for m in ("audio", "vision") if name in WITHOUT_TEXT else ("text", "audio", "vision"):
            assert one.features[m].tobytes() == other.features[m].tobytes()
            assert one.lengths[m].tolist() == other.lengths[m].tolist()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("mult_mosi", "the file has the layout of MulT and MultiBench."),
        ("mult_mosei", "the file has the layout of MulT and MultiBench."),
        (
            "examples",
            "the file has the lists of examples of MAG-BERT, MISA and MMIM.",
        ),
    ],
)
def test_the_first_note_says_what_was_recognised(name, sentence, tmp_path):
    assert read_bytes(layout_bytes(name), tmp_path).notes[0] == sentence


def test_a_file_of_mmsa_has_no_note(tmp_path):
    assert read_bytes(layout_bytes("mmsa"), tmp_path).notes == ()


def test_keys_that_a_user_renamed_half_way_are_read(tmp_path):
    content = PICKLED["mult_mosi"](*make_clips())
    for parts in content.values():
        parts[LABELS] = parts.pop("labels")
    whole = read_bytes(layout_bytes("mult_mosi"), tmp_path)
    assert read_bytes(pickle.dumps(content, 2), tmp_path).splits["test"].ids.tolist() == (
        whole.splits["test"].ids.tolist()
    )
    for parts in content.values():
        parts[LABELS] = parts[LABELS].reshape(-1)
    assert read_bytes(pickle.dumps(content, 2), tmp_path).notes == whole.notes


def test_a_clip_in_two_lists_of_examples_is_found_whatever_the_other_ids(tmp_path):
    content = PICKLED["examples"](*make_clips())
    for split, rows in content.items():
        content[split] = [(*row[:2], f"{split}_{place}") for place, row in enumerate(rows)]
    content["test"][:2] = [(*content["test"][0][:2], "train_1"), (*content["test"][1][:2], "other")]
    with pytest.raises(UserError, match="clip 'train_1' is in both 'train' and 'test'"):
        read_bytes(pickle.dumps(content, 4), tmp_path)


@pytest.mark.parametrize("name", ["mult_mosi", "mult_mosei", "examples"])
def test_folds_of_another_layout_are_read(name, tmp_path):
    content = PICKLED[name](*make_clips())
    content = dict(zip(("fold2", "fold1", "fold0"), content.values(), strict=True))
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps(content, 4))
    dataset = read_mmsa(path, LabelScale(3.0), SplitChoice(fold=2))
    whole = read_bytes(layout_bytes(name), tmp_path)
    for fold, split in (("test", "test"), ("valid", "train"), ("train", "valid")):
        assert dataset.splits[fold].ids.tolist() == whole.splits[split].ids.tolist()
        assert dataset.splits[fold].labels.tobytes() == whole.splits[split].labels.tobytes()


def test_a_valid_share_is_drawn_from_lists_of_examples(tmp_path):
    content = PICKLED["examples"](*make_clips())
    del content["dev"]
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps(content, 4))
    dataset = read_mmsa(path, LabelScale(3.0), SplitChoice(valid_share=0.3))
    assert len(dataset.splits["train"]) + len(dataset.splits["valid"]) == len(content["train"])


def test_a_table_splits_one_dict_of_mult(tmp_path):
    content = PICKLED["mult_mosi"](*make_clips())
    whole = read_bytes(layout_bytes("mult_mosi"), tmp_path)
    flat = {key: np.concatenate([parts[key] for parts in content.values()]) for key in content["train"]}
    rows = [f"{name},{split}" for split in SPLITS for name in whole.splits[split].ids.tolist()]
    (tmp_path / "splits.csv").write_text("\n".join(["id,split", *rows]))
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps(flat, 4))
    dataset = read_mmsa(path, LabelScale(3.0), SplitChoice(table=tmp_path / "splits.csv"))
    for split in SPLITS:
        assert dataset.splits[split].ids.tolist() == whole.splits[split].ids.tolist()
        assert dataset.splits[split].labels.tobytes() == whole.splits[split].labels.tobytes()


def test_starts_that_are_numbers_of_numpy_name_clips(tmp_path):
    content = PICKLED["mult_mosei"](*make_clips())
    for split, parts in content.items():
        ids = np.empty((len(parts["id"]), 3), object)
        for row in range(len(ids)):
            ids[row] = f"{split}Video", np.float64(row + 0.5), np.float64(row + 1)
        parts["id"] = ids
    assert read_bytes(pickle.dumps(content, 4), tmp_path).splits["train"].ids[1] == "trainVideo$_$1.5"


@pytest.mark.parametrize("key", ["segments", "id"])
@pytest.mark.parametrize("form", [list, np.array, lambda names: np.array(names, "S")[:, None]])
def test_segments_are_ids(key, form, tmp_path):
    """As MultiBench's ids, they name the video before the clip."""
    content = PICKLED["mult_mosi"](*make_clips())
    for parts in content.values():
        rows = [row[0].decode().split("_") for row in parts.pop("id")]
        parts[key] = form([f"{video}[{clip}]" for video, clip in rows])
    assert read_bytes(pickle.dumps(content, 4), tmp_path).splits["train"].ids[0] == "train0$_$0"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["v_1[3]", "v_1[4]"], ["v_1$_$3", "v_1$_$4"]),
        (["v_1", "v_2", "w_1"], ["v$_$1", "v$_$2", "w$_$1"]),
        (["v_1", "v_1"], None),
        (["a", "b_1"], ["a", "b_1"]),
    ],
)
def test_names_of_clips_give_the_video(names, expected):
    assert name_clips(names) == expected


def change(name, edit):
    def make():
        content = PICKLED[name](*make_clips())
        edit(content)
        return content

    return make


def set_key(key, value):
    def edit(content):
        for parts in content.values():
            parts[key] = value(parts[key])

    return edit


REFUSED = {
    "emotions": (
        change("mult_mosi", set_key("labels", lambda y: np.zeros((len(y), 4, 2)))),
        "regression_labels has shape (5, 4, 2); it must be (clips,)",
    ),
    "ids of two columns": (
        change("mult_mosi", set_key("id", lambda ids: ids[:, :2])),
        "train/id must be a list of 5 names, one per clip, got 10",
    ),
    "ids of no column": (
        change("mult_mosi", set_key("id", lambda ids: np.zeros((10**9, 0)))),
        "train/id must be a list of 5 names, one per clip, got 0",
    ),
    "no example": (
        change("examples", lambda c: c["dev"].__setitem__(1, ("words", 1))),
        "valid[1] must be an example ((words, visual, acoustic), label, id), got a tuple.",
    ),
    "two labels": (
        change("examples", lambda c: c["test"].__setitem__(2, (c["test"][2][0], np.zeros((1, 2)), "a"))),
        "test[2] has a label of shape (1, 2); it must be one score, or (1, 7).",
    ),
    "visual of words": (
        change("examples", lambda c: c["train"].__setitem__(0, ((["a"], [["b"]], [["c"]]), 1.0, "a"))),
        "must hold numbers, got str",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_its_layout_is_refused(case, tmp_path):
    make, message = REFUSED[case]
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read_bytes(pickle.dumps(make(), 4), tmp_path)
    assert "\n" not in str(caught.value)


def archive(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_archives_that_are_no_data_set_are_refused(tmp_path):
    objects = np.empty(2, object)
    objects[:] = [np.ones(2), np.ones(3)]
    for content, message in (
        (archive(text=np.ones(3)), "is an npz archive without arrays like 'train/text'; found: text."),
        (archive(**{"train/text": objects}), "save plain arrays of one shape, or pickle the lists."),
        (
            archive(**{"train/id": np.frombuffer(b"\xff\xff\xff\x7f" * 5, "<U1")}),
            "train/id holds invalid text",
        ),
        (archive(**{"train/text": np.ones((2, 3, 4))}), "has no split 'valid'; found: train"),
        (layout_bytes("npz")[:-40], "is not"),
    ):
        with pytest.raises(UserError, match=re.escape(message)) as caught:
            read_bytes(content, tmp_path, "file.npz")
        assert "\n" not in str(caught.value)


def test_a_huge_archive_is_refused_by_its_declared_size(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("train/text.npy", bytes(2**27 + 2**24))
    with pytest.raises(UserError, match="of memory"):
        read_bytes(file.getvalue(), tmp_path, "file.npz")
