"""Splits other than a file's own: drawn by video, by a table, by folds; and what identifies them."""

import pickle

import numpy as np
import pytest

from backbones.batch import MODALITIES
from harness.config.schema import DatasetConfig
from harness.data.__main__ import main
from harness.data.labels import LabelScale
from harness.data.mmsa.reader import LABELS, read_mmsa
from harness.data.mmsa.resplit import SplitChoice
from harness.data.prepare import prepare
from harness.data.store import load_dataset
from harness.errors import UserError
from tests.harness.data.test_data_cli import refused
from tests.harness.data.test_mmsa import check_contract, make_content

KEYS = (*MODALITIES, LABELS, "text_bert", "id", "audio_lengths", "vision_lengths")


def join(content):
    """All clips of a file under one dict, and the label of each id."""
    whole = {key: np.concatenate([parts[key] for parts in content.values()]) for key in KEYS}
    return whole, dict(zip(whole["id"].tolist(), whole[LABELS].tolist(), strict=True))


def write(content, tmp_path):
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps(content, 4))
    return path


def read(content, tmp_path, **choice):
    dataset = read_mmsa(write(content, tmp_path), LabelScale(3.0), SplitChoice(**choice))
    check_contract(dataset)
    return dataset


def without_valid():
    content = make_content()
    content["train"] = {k: v.tolist() if k == "id" else v for k, v in join(content)[0].items()}
    content["train"]["id"] = [f"v{row // 3}$_${row}" for row in range(12)]
    del content["valid"]
    content["test"]["id"] = [f"w$_${row}" for row in range(4)]
    return content


def videos(split):
    return {name.partition("$_$")[0] for name in split.ids.tolist()}


def test_valid_is_drawn_by_video_with_the_seed(tmp_path):
    content = without_valid()
    labels = dict(zip(content["train"]["id"], content["train"][LABELS].tolist(), strict=True))
    drawn = {}
    for seed in range(8):
        dataset = read(content, tmp_path, valid_share=0.25, seed=seed)
        train, valid = dataset.splits["train"], dataset.splits["valid"]
        assert len(valid) == 3
        assert len(train) == 9
        assert len(videos(valid)) == 1
        assert not videos(train) & videos(valid)
        for split in (train, valid):
            assert split.labels.tolist() == [labels[name] for name in split.ids.tolist()]
        assert dataset.notes[0] == f"valid is 1 of the 4 videos of train, drawn with seed {seed}."
        again = read(content, tmp_path, valid_share=0.25, seed=seed)
        assert again.splits["valid"].ids.tolist() == valid.ids.tolist()
        drawn[seed] = videos(valid).pop()
    assert len(set(drawn.values())) > 1


def test_a_table_gives_each_clip_its_split(tmp_path):
    content = make_content()
    whole, labels = join(content)
    names = whole["id"].tolist()
    rows = [(name, ("train", "dev", "test")[row % 3]) for row, name in enumerate(names[:-1])]
    table = tmp_path / "splits.csv"
    table.write_text(
        "split,id\n" + "".join(f"{split},{name}\n" for name, split in [*rows, ("other", "test")])
    )
    for given in (content, whole, {"all": whole}):
        dataset = read(given, tmp_path, table=table)
        for split, kind in (("train", "train"), ("valid", "dev"), ("test", "test")):
            ids = dataset.splits[split].ids.tolist()
            assert ids == [name for name, other in rows if other == kind]
            assert dataset.splits[split].labels.tolist() == [labels[name] for name in ids]
        assert dataset.notes[:2] == (
            f"clips that are not in {str(table)!r} are left out (clips: 1).",
            f"{str(table)!r} has ids that are not in the file (ids: 1).",
        )


def test_a_table_of_other_ids_is_refused_with_an_id_of_each(tmp_path):
    table = tmp_path / "splits.csv"
    table.write_text("id,split\nv0_0,train\n")
    message = r"has no id of .* ids like 'v0_0', and the file ids like 'train0\$_\$0'"
    with pytest.raises(UserError, match=message):
        read(make_content(), tmp_path, table=table)


def test_a_fold_tests_and_the_next_one_validates(tmp_path):
    content = make_content()
    folds = {f"fold{number}": parts for number, parts in enumerate(content.values())}
    folds["fold3"] = {**make_content(seed=1)["test"], "id": ["a", "b", "c", "d"]}
    dataset = read(folds, tmp_path, fold=3)
    ids = {name: split.ids.tolist() for name, split in dataset.splits.items()}
    assert ids["test"] == ["a", "b", "c", "d"]
    assert ids["valid"] == folds["fold0"]["id"]
    assert ids["train"] == folds["fold1"]["id"] + folds["fold2"]["id"]
    assert dataset.notes[0] == "test is fold3, valid is fold0."


def test_without_a_choice_the_advice_is_given(tmp_path, capsys):
    path = write(without_valid(), tmp_path)
    error = refused(capsys, "check", path)
    assert error.endswith(
        "no split 'valid'; found: train, test. Give --valid_share=0.15 to draw it from train.\n"
    )
    assert main(["check", str(path), "--valid_share=0.15"]) == 0
    typed = f"dataset.mine.path={path} dataset.mine.valid_share=0.15 dataset.mine.seed=0\n"
    assert capsys.readouterr().out.endswith(typed)
    path = write(join(make_content())[0], tmp_path)
    assert "has no splits" in (error := refused(capsys, "check", path))
    assert error.endswith(" Give --splits=FILE.csv, a table with the columns id and split.\n")
    path = write({str(k): parts for k, parts in enumerate(make_content().values())}, tmp_path)
    assert "Give --fold=0 to test on the first" in refused(capsys, "check", path)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"valid_share": 0.5}, "has a split 'valid' already; leave out valid_share."),
        ({"valid_share": 1.0}, "valid_share must be between 0 and 1, got 1."),
        ({"valid_share": 0.5, "fold": 0}, "valid_share, splits and fold exclude each other"),
        ({"fold": 3}, "fold must be in 0 .. 2 for at least 3 folds, got 3"),
    ],
)
def test_choices_that_cannot_be_made_are_refused(choice, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read(make_content(), tmp_path, **choice)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,part\na,train\n", "must have the columns id and split, got id, part."),
        ("", "must have the columns id and split, got nothing."),
        ("id,split\na,trian\n", "split must be train, valid or test, got 'trian'."),
        ("id,split\na,train\na,test\n", "has id 'a' in two splits."),
    ],
)
def test_tables_that_are_no_splits_are_refused(text, message, tmp_path):
    table = tmp_path / "splits.csv"
    table.write_text(text)
    with pytest.raises(UserError, match=message):
        read(make_content(), tmp_path, table=table)
    with pytest.raises(UserError, match="cannot be read"):
        read(make_content(), tmp_path, table=tmp_path / "missing.csv")


def test_the_choice_is_part_of_the_identity(tmp_path):
    path, table = write(without_valid(), tmp_path), tmp_path / "splits.csv"
    table.write_text("id,split\nv0$_$0,train\nv1$_$3,valid\nw$_$0,test\n")

    def prepared(**choice):
        config = DatasetConfig(path=str(path), label_center=0.0, **choice)
        return prepare("mine", config, "quick", None, tmp_path / "cache")

    kinds = [prepared(valid_share=0.25), prepared(valid_share=0.25, seed=1), prepared(valid_share=0.5)]
    kinds.append(prepared(splits=str(table)))
    table.write_text("id,split\nv0$_$0,train\nv1$_$3,valid\nw$_$1,test\n")
    kinds.append(prepared(splits=str(table)))
    assert len({data.fingerprint for data in kinds}) == len({data.folder for data in kinds}) == 5
    assert load_dataset(kinds[4].folder).splits["test"].ids.tolist() == ["w$_$1"]
    assert SplitChoice(seed=5).identity("the file's own") == "the file's own"


def test_synthetic_data_take_no_splits(tmp_path):
    config = DatasetConfig(synthetic=True, valid_share=0.2)
    with pytest.raises(UserError, match=r"dataset\.synthetic_mosi\.valid_share is for files only"):
        prepare("synthetic_mosi", config, "quick", None, tmp_path)
