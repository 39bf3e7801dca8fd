"""Word ids and an embedding matrix: the text features that they give, and what is refused."""

import pickle
import re

import numpy as np
import pytest

from harness.config.schema import DatasetConfig
from harness.data.__main__ import main
from harness.data.dataset import SPLITS
from harness.data.labels import LabelScale
from harness.data.mmsa.reader import read_mmsa
from harness.data.prepare import prepare
from harness.errors import UserError
from tests.harness.data.layout_files import examples, layout_bytes, make_clips


@pytest.fixture
def made(tmp_path):
    """A file whose words are ids, the file of the same clips with features, and their matrix."""
    content, truth = make_clips()
    lists = examples(content, truth)
    rows, matrix = 0, []
    for split, clips in lists.items():
        text = truth[{"dev": "valid"}.get(split, split)]["text"]
        for place, ((_, *others), label, name) in enumerate(clips):
            ids = list(range(rows, rows := rows + len(text[place])))
            clips[place] = ((ids, *others), label, name)
        matrix += text
    (tmp_path / "whole.pkl").write_bytes(layout_bytes("mmsa"))
    (tmp_path / "words.pkl").write_bytes(pickle.dumps(lists, 4))
    matrix = np.concatenate(matrix).astype(float)
    np.save(tmp_path / "matrix.npy", matrix)
    np.savez(tmp_path / "matrix.npz", matrix)
    return tmp_path


def read(folder, matrix, file="words.pkl"):
    return read_mmsa(folder / file, LabelScale(3.0), embeddings=matrix and folder / matrix)


@pytest.mark.parametrize("matrix", ["matrix.npy", "matrix.npz"])
def test_words_become_their_rows(matrix, made):
    dataset, whole = read(made, matrix), read(made, None, "whole.pkl")
    assert dataset.notes[1] == f"text is made of word ids and {str(made / matrix)!r} (width: 3)."
    for split in SPLITS:
        one, other = dataset.splits[split], whole.splits[split]
        assert one.features["text"].tobytes() == other.features["text"].tobytes()
        assert one.lengths["text"].tolist() == other.lengths["text"].tolist()


def test_without_a_matrix_text_is_said_to_be_absent(made):
    sentence = "text is in the file as words without embeddings only, so it is zeros of width 1"
    assert any(note.startswith(sentence) for note in read(made, None).notes)


def test_the_matrix_is_part_of_the_identity(made):
    def prepared(matrix):
        config = DatasetConfig(path=str(made / "words.pkl"), label_center=0.0, embeddings=matrix)
        return prepare("mine", config, "quick", None, made / "cache").fingerprint

    first = prepared(str(made / "matrix.npy"))
    assert len({first, prepared(None), prepared(str(made / "matrix.npz"))}) == 3


def test_check_types_the_setting(made, capsys):
    matrix = made / "matrix.npy"
    assert main(["check", str(made / "words.pkl"), "--label-center=0", f"--embeddings={matrix}"]) == 0
    assert capsys.readouterr().out.endswith(f" dataset.mine.embeddings={matrix}\n")


MATRICES = {
    "few rows": (np.ones((2, 3)), "train/word_ids must be in 0 .. 1, got 2."),
    "a vector": (np.ones(3), "must be one matrix (words, width) of numbers, got (3,)."),
    "texts": (np.array([["a"]]), "must be one matrix (words, width) of numbers, got (1, 1)."),
    "objects": (np.array([[{}]]), "are not a .npy or .npz file"),
}


@pytest.mark.parametrize("case", MATRICES)
def test_unusable_matrices_are_refused(case, made):
    matrix, message = MATRICES[case]
    np.save(made / "matrix.npy", matrix)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read(made, "matrix.npy")
    assert "\n" not in str(caught.value)


def test_files_without_word_ids_take_no_matrix(made):
    with pytest.raises(UserError, match="has no word_ids, so"):
        read(made, "matrix.npy", "whole.pkl")
    with pytest.raises(UserError, match=r"The embeddings .* cannot be read"):
        read(made, "missing.npy")
    lists = pickle.loads((made / "words.pkl").read_bytes())
    lists["train"][0] = ((["a", "word"], *lists["train"][0][0][1:]), *lists["train"][0][1:])
    (made / "words.pkl").write_bytes(pickle.dumps(lists, 4))
    with pytest.raises(UserError, match="train/word_ids must hold ids, got other objects, such as words"):
        read(made, "matrix.npy")
