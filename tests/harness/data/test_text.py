"""Text through a pretrained encoder: fine-tuned, frozen, occluded, and what is refused."""

import copy
import dataclasses
import importlib
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, T5Config

from backbones import BACKBONES
from backbones.text import BertSettings, FrozenText, TextEncoder, TextSettings, encode_tokens, load_model
from harness.benchmark import main
from harness.config.compose import load_benchmark
from harness.data.occlusion import UNK_ID, MaskField, occlude
from harness.data.pretrained import find_model, text_states
from harness.data.store import load_dataset
from harness.data.text_inputs import with_text
from harness.errors import UserError
from harness.matrix import Cell
from harness.plan import make_plan
from harness.train.checkpoint import Checkpoint
from harness.train.loop import build, make_optimizer, train
from harness.train.splits import ResidentSplit
from methods.base import MethodSettings
from tests.harness.data.test_mmsa import drop_keys, make_content, read
from tests.support.builders import make_dataset as make_plain
from tests.support.builders import make_sizes, small_backbone
from tests.support.drivers.driving import comparable, exported
from tests.support.forking import forked

WIDTH = 8


def save_bert(folder, **changes):
    """Save a randomly initialised BERT for the ids of bert-base-uncased; return its folder."""
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(**sizes, **changes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def offline():
    """No name is looked up on the hub."""
    patch = pytest.MonkeyPatch()
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("bert"))


def make_tokens(n, steps=7, seed=0):
    """Ids, attention mask and segments, left-aligned; at least two tokens each."""
    generator = np.random.default_rng(seed)
    tokens = np.zeros((n, 3, steps), np.int64)
    for row in tokens:
        length = generator.integers(2, steps + 1)
        row[0, :length] = generator.integers(200, 30000, length)
        row[1, :length] = 1
    return tokens


def make_dataset(n=12):
    dataset = make_plain(make_sizes(), (n, n, n))
    splits = dataset.splits.items()
    tokens = {name: make_tokens(n, seed=number) for number, name in enumerate(dataset.splits)}
    return replace(dataset, splits={name: replace(split, tokens=tokens[name]) for name, split in splits})


def states_of(dataset, folder, n_layers, to):
    """What the frozen encoder's cache would hold."""
    model = load_model(folder).eval()
    for name, split in dataset.splits.items():
        with torch.no_grad():
            states = encode_tokens(model, torch.from_numpy(split.tokens), n_layers)
        np.save(to / f"{name}.npy", states.numpy())
    return to


def take(dataset, name, n=None):
    split = ResidentSplit(dataset.splits[name], CPU)
    return split.take(np.arange(n or len(split)))


def make_cell(backbone, text, **changes):
    settings = small_backbone(backbone, make_sizes()).settings
    settings = replace(settings, batch_size=4, max_epochs=2, learning_rate=0.01)
    return Cell("toy", "mosi", 3.0, "f", backbone, settings, "none", MethodSettings(), 1, text, **changes)


CPU = torch.device("cpu")
DATA = ("datasets=[synthetic_mosi]", "dataset.synthetic_mosi.clips=40")
FINETUNED = BertSettings("bert", "x", True, 1e-3, 0.0)
FROZEN = BertSettings("bert", "x", False, 0.0, 0.0)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_states_are_those_of_the_model_clip_by_clip(bert, n_layers):
    tokens = torch.from_numpy(make_tokens(5))
    model = BertModel.from_pretrained(bert).eval()
    with torch.no_grad():
        made = encode_tokens(load_model(bert).eval(), tokens, n_layers)
        assert made.shape == (5, 7, n_layers * WIDTH)
        for row, clip in enumerate(tokens):
            length = int(clip[1].sum())
            alone = model(clip[0, None, :length], output_hidden_states=True).hidden_states[-n_layers:]
            torch.testing.assert_close(made[row, :length], torch.cat(alone, -1)[0], atol=1e-5, rtol=0)
            assert not made[row, length:].any()


def test_loading_draws_nothing_and_leaves_no_pooling_layer(bert):
    before = torch.get_rng_state()
    first, second = load_model(bert), load_model(bert)
    assert torch.equal(before, torch.get_rng_state())
    assert not any("pooler" in name for name, _ in first.named_parameters())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert {p.dtype for p in first.parameters()} == {torch.float32}


def test_an_encoder_without_segments(tmp_path):
    config = DistilBertConfig(dim=WIDTH, n_layers=1, n_heads=2, hidden_dim=16)
    DistilBertModel(config).save_pretrained(tmp_path)
    encoder = TextEncoder(load_model(tmp_path), 1)
    assert encoder.width == WIDTH
    assert encode_tokens(encoder.model, torch.from_numpy(make_tokens(3)), 1).shape == (3, 7, WIDTH)


@pytest.mark.parametrize(
    "backbone",
    [pytest.param(name, marks=() if name in ("lmf", "misa") else pytest.mark.slow) for name in BACKBONES],
)
def test_every_backbone_trains_with_either(backbone, bert, tmp_path):
    dataset, layers = make_dataset(), BACKBONES[backbone].text_layers
    states = states_of(dataset, bert, layers, tmp_path)
    for text, folder in ((FINETUNED, None), (FROZEN, states)):
        cell = make_cell(backbone, text, ratios=(0.0, 0.5))
        result = train(cell, with_text(dataset, text, folder), CPU, text_model=bert)
        assert result.status == "complete"
        assert np.isfinite(result.scores["test_r0.50"]["mae"])
        assert result.scores["test"] != result.scores["test_r0.50"]


def test_token_ids_alone_train_as_they_do_beside_text_features(bert):
    content = make_content()
    drop_keys("text")(content)
    results = [
        train(make_cell("lmf", FINETUNED), with_text(dataset, FINETUNED, None), CPU, text_model=bert)
        for dataset in (read(content), read(make_content()))
    ]
    assert results[0].status == "complete"
    assert results[0].scores == results[1].scores


@pytest.mark.parametrize("backbone", BACKBONES)
def test_fine_tuning_moves_the_encoder_at_its_own_rate(backbone, bert):
    dataset = with_text(make_dataset(), FINETUNED, None)
    made, method = build(make_cell(backbone, FINETUNED), dataset, CPU, bert)
    rates = dataclasses.replace(FINETUNED, weight_decay=0.25)
    optimizer = make_optimizer(made, method, rates)
    assert isinstance(made.text_encoder, TextEncoder)
    assert made.sizes.widths["text"] == WIDTH
    assert copy.deepcopy(made).state_dict().keys() == made.state_dict().keys()
    encoder = {id(p) for p in made.text_encoder.parameters()}
    assert encoder
    assert encoder.isdisjoint(id(p) for _, p in made.own_parameters())
    ours = [group for group in optimizer.param_groups if encoder & {id(p) for p in group["params"]}]
    members = [id(p) for group in ours for p in group["params"]]
    assert (set(members), len(members)) == (encoder, len(encoder))
    assert [group["lr"] for group in ours] == [1e-3] * len(ours)
    assert [group["weight_decay"] for group in ours] == ([0.25, 0] if backbone == "glomo" else [0.25])


def test_words_that_training_lacks_stay_as_pretrained(bert):
    """LMF's weight decay, an L2 term under Adam, would move every row of the embedding at each step."""
    dataset = with_text(make_dataset(), FINETUNED, None)
    made, method = build(make_cell("lmf", FINETUNED), dataset, CPU, bert)
    optimizer, batch = make_optimizer(made, method, FINETUNED), take(dataset, "train")
    words = made.text_encoder.model.embeddings.word_embeddings.weight
    before, seen = words.detach().clone(), set(batch.tokens[:, 0].flatten().tolist())
    for _ in range(3):
        optimizer.zero_grad()
        made(batch).sum().backward()
        optimizer.step()
    moved = set((words != before).any(1).nonzero()[:, 0].tolist())
    assert moved
    assert moved <= seen


def test_frozen_states_are_those_of_the_encoder_and_run_anew_where_tokens_were_occluded(bert, tmp_path):
    dataset = make_dataset()
    text = with_text(dataset, FROZEN, states_of(dataset, bert, 2, tmp_path))
    made, _ = build(make_cell("glomo", FROZEN), text, CPU, bert)
    assert isinstance(made.text_encoder, FrozenText)
    assert not any(name.startswith("text_encoder") for name in made.state_dict())
    assert made.sizes.widths["text"] == WIDTH
    live, encoder = TextEncoder(load_model(bert), 2).eval(), FrozenText(bert, 2, CPU)
    batch, index = take(text, "test"), np.arange(len(text.splits["test"]))
    assert encoder(batch) is batch.features["text"]
    torch.testing.assert_close(encoder(batch), live(batch), atol=1e-5, rtol=0)
    field = MaskField("toy", "test", 0, text.splits["test"].ids)
    for granularity in ("frame", "entry"):
        occluded = occlude(batch, 0.6, field.of(batch, index, granularity))
        replaced = occluded.tokens[:, 0] == UNK_ID
        assert torch.equal(replaced, occluded.dropped["tokens"])
        assert replaced.any()
        made = encoder(occluded)
        torch.testing.assert_close(made, live(occluded), atol=1e-6, rtol=0)
        assert not torch.allclose(made, batch.features["text"], atol=1e-2)
        assert not made.requires_grad


def test_text_lengths_are_the_tokens(bert, tmp_path):
    dataset = make_dataset()
    for text, folder in ((FINETUNED, None), (FROZEN, states_of(dataset, bert, 1, tmp_path))):
        for name, split in with_text(dataset, text, folder).splits.items():
            wanted = [int(clip[1].sum()) for clip in dataset.splits[name].tokens]
            assert split.lengths["text"].tolist() == wanted
            assert split.features["audio"] is dataset.splits[name].features["audio"]
    gap = dataset.splits["train"].tokens
    gap[:, 1, 0] = 0
    assert with_text(dataset, FINETUNED, None).splits["train"].lengths["text"].tolist() == [
        int(np.flatnonzero(clip[1])[-1]) + 1 for clip in gap
    ]
    plain = with_text(dataset, TextSettings(), None).splits["train"]
    assert plain.tokens is None
    assert plain.features is dataset.splits["train"].features


def test_dropped_tokens_count_as_kept_states(bert):
    dataset = with_text(make_dataset(), FINETUNED, None)
    made, _ = build(make_cell("lmf", FINETUNED), dataset, CPU, bert)
    batch, field = take(dataset, "test", 6), MaskField("toy", "test", 0, dataset.splits["test"].ids)
    inputs = made.embed(occlude(batch, 0.9, field.of(batch, np.arange(6))))
    assert set(inputs.kept) == {"audio", "vision"}
    assert inputs.values["text"].shape == (6, 7, WIDTH)


def test_a_resumed_fine_tuning_ends_with_the_same_bits(bert, tmp_path):
    class Cut(Exception):
        pass

    class Once(Checkpoint):
        def save(self, state):
            super().save(state)
            raise Cut

    dataset, cell = with_text(make_dataset(), FINETUNED, None), make_cell("lmf", FINETUNED)
    wanted = train(cell, dataset, CPU, text_model=bert)
    path = tmp_path / "state.npz"
    with pytest.raises(Cut):
        train(cell, dataset, CPU, "auto", Once(path, 0.0, {}), bert)
    made = train(cell, dataset, CPU, "auto", Checkpoint(path, None, {}), bert)
    assert made.environment["resumed_after_epoch"] == "1"
    assert made.scores == wanted.scores


def asked(var, bert, *more):
    """A small study of one method with this encoder."""
    matrix = [*DATA, "backbones=[lmf]", "methods=[none]", "seeds=[1]", "train.max_epochs=1", "report=false"]
    return [*matrix, "text=bert", f"bert.model={bert}", f"var_dir={var}", *more]


@pytest.mark.slow
def test_a_study_in_processes_equals_one_inline(var_dir, new_var, bert, capsys):
    more = ("bert.finetune=false", "occlusion.ratios=[0,0.5]")
    assert main(asked(var_dir, bert, "study=fine-tuned", "launcher=inline")) == 0
    assert "lmf[bert] " in capsys.readouterr().out
    assert main(asked(var_dir, bert, *more, "study=a", "launcher=inline")) == 0
    said = capsys.readouterr().out
    assert "lmf[bert,frozen]" in said
    assert said.count("the states of the frozen text encoder") == 1
    # A store of its own: a cell of the same store would be reused.
    other = new_var(var_dir.with_name("other"))
    assert main(asked(other, bert, *more, "study=b", "launcher=processes", "jobs=1")) == 0
    numbers, clips = exported(var_dir, "a")
    again, others = exported(other, "b")
    assert comparable(numbers).equals(comparable(again))
    assert clips.equals(others)
    assert set(numbers["backbone"]) == {"lmf[bert,frozen]"}


@pytest.mark.parametrize("finetune", ["true", "false"])
def test_a_file_with_token_ids_alone_trains(finetune, tmp_path, bert, capsys):
    content = make_content(seed=1)
    for parts in content.values():
        del parts["text"]
    path = tmp_path / "tokens.pkl"
    path.write_bytes(pickle.dumps(content))
    cells = ["datasets=[mine]", f"dataset.mine.path={path}", "backbones=[lmf]", "methods=[none]", "seeds=[1]"]
    more = ["text=bert", f"bert.model={bert}", f"bert.finetune={finetune}", "train.max_epochs=1"]
    driving = ["launcher=inline", "report=false", f"var_dir={tmp_path / 'var'}"]
    assert main([*cells, *more, *driving]) == 0
    assert "text is there as token ids only, for text=bert" in capsys.readouterr().out


def test_the_model_is_part_of_a_cells_identity(tmp_path, bert):
    other = save_bert(tmp_path / "other", hidden_dropout_prob=0.2)

    def cells(*more):
        given = [*DATA, f"var_dir={tmp_path / 'var'}", "methods=[none]", *more]
        return [c.cell_id for c in make_plan(load_benchmark(given)).cells]

    bert_cells = ["text=bert", f"bert.model={bert}"]
    found = [
        cells(),
        cells(*bert_cells),
        cells("text=bert", f"bert.model={other}"),
        cells(*bert_cells, "bert.finetune=false"),
        cells(*bert_cells, "bert.learning_rate=1e-4"),
        cells(*bert_cells, "bert.weight_decay=1e-4"),
    ]
    assert len({tuple(ids) for ids in found}) == len(found)
    rates = ("bert.learning_rate=1e-4", "bert.weight_decay=1e-4")
    assert cells(*rates) == found[0]
    assert cells(*bert_cells, "bert.finetune=false", *rates) == found[3]
    moved = shutil.copytree(bert, tmp_path / "moved")
    assert cells("text=bert", f"bert.model={moved}") == found[1]


def test_each_backbone_has_its_own_rates_unless_they_are_given(tmp_path, bert):
    matrix = [*DATA, "backbones=[lmf,misa,almt]", "methods=[none]", "seeds=[1]", "text=bert"]

    def rates(*more):
        given = [*matrix, f"bert.model={bert}", f"var_dir={tmp_path / 'var'}", *more]
        cells = make_plan(load_benchmark(given)).cells
        return {c.backbone: (c.text.learning_rate, c.text.weight_decay) for c in cells}

    assert rates() == {"lmf": (2e-5, 0), "misa": (1e-4, 0), "almt": (1e-4, 1e-4)}
    assert set(rates("bert.learning_rate=3e-5", "bert.weight_decay=0").values()) == {(3e-5, 0)}
    assert set(rates("bert.finetune=false").values()) == {(0, 0)}


def test_cached_states_are_those_of_this_code_and_these_versions(tmp_path, bert, monkeypatch):
    plan = make_plan(load_benchmark(asked(tmp_path, bert, "bert.finetune=false")))
    model, said = find_model(str(bert), tmp_path), []

    def computed():
        """The folder of the states, and whether they were computed."""
        before = len(said)
        [folder] = text_states(model, plan.datasets, plan.cells, "cpu", 1, tmp_path, said.append).values()
        return Path(folder), len(said) > before

    folder, anew = computed()
    assert anew
    assert computed() == (folder, False)
    for change in (
        "harness.data.pretrained.RESULTS_VERSION",
        "torch.__version__",
        "transformers.__version__",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(change, "99.0.0")
            assert computed()[1], change
    tokens = load_dataset(plan.datasets["synthetic_mosi"].folder).splits["valid"].tokens
    with torch.no_grad():
        wanted = encode_tokens(load_model(bert).eval(), torch.from_numpy(tokens), 1)
    np.testing.assert_allclose(np.load(folder / "valid.npy"), wanted.numpy(), atol=1e-5)


def refused(var, bert, *more):
    with pytest.raises(UserError) as caught:
        make_plan(load_benchmark(asked(var, bert, *more)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_used_is_refused(tmp_path, bert):
    small = save_bert(tmp_path / "small", vocab_size=150)
    tiny = save_bert(tmp_path / "tiny", vocab_size=100)
    short = save_bert(tmp_path / "short", max_position_embeddings=9)
    deeper = save_bert(tmp_path / "deeper")
    config = BertConfig.from_pretrained(deeper)
    config.num_hidden_layers = 4
    config.save_pretrained(deeper)
    weightless = save_bert(tmp_path / "weightless")
    (weightless / "model.safetensors").unlink()
    damaged = save_bert(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"1234567890" * 10)
    T5Config(d_model=8).save_pretrained(tmp_path / "t5")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    cases = {
        (bert, "bert.model="): "needs a model; give bert.model=DIR",
        (tmp_path / "nowhere",): "cannot be downloaded from the Hugging Face hub",
        ("no-such-model",): "cannot be downloaded from the Hugging Face hub",
        (tmp_path / "empty",): "cannot be used as a Hugging Face model",
        (tmp_path / "broken",): "cannot be used as a Hugging Face model",
        (tmp_path / "t5",): "give an encoder like BERT",
        (deeper,): "its weights lack encoder.layer.3",
        (weightless,): "cannot be used as a Hugging Face model",
        (damaged,): "cannot be used as a Hugging Face model",
        (small,): "allows 0 to 149",
        (short,): "tokens per clip, got 9",
        (tiny, "occlusion.ratios=[0,0.5]"): "Occlusion uses token id 100",
        (tiny, "occlusion.protocols=[train]", "occlusion.train_ratios=[0.5]"): "token id 100",
        (bert, "bert.learning_rate=-1"): "bert.learning_rate must be >= 0",
        (bert, "bert.weight_decay=inf"): "bert.weight_decay must be >= 0 and finite, or null, got inf",
        (bert, "text=brt"): "Did you mean 'bert'",
    }
    for (model, *more), sentence in cases.items():
        assert sentence in refused(tmp_path, model, *more), (model, more)

    file = tmp_path / "plain.pkl"
    file.write_bytes(pickle.dumps(make_content(with_tokens=False)))
    error = refused(tmp_path, bert, "datasets=[mine]", f"dataset.mine.path={file}")
    assert "dataset 'mine' lacks text_bert" in error


def test_without_transformers_one_sentence_says_how_to_get_it(tmp_path, bert, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'msa-mixup-bench[bert]'" in refused(tmp_path, bert)
    assert forked(import_for_features) == 0


def import_for_features():
    """Import all that a study of features runs, anew and without transformers."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("harness", "methods", "backbones"):
            del sys.modules[name]
    importlib.import_module("harness.plan")
    importlib.import_module("harness.launchers.job")
