"""Published settings are complete and equal those of the reference implementations."""

import dataclasses
import json

import pytest
import torch

from backbones import BACKBONES
from backbones.base import KINDS, resolve_settings, resolve_text
from backbones.batch import MODALITIES
from backbones.text import BertSettings, TextSettings
from harness.train.networks import make_optimizer
from methods import METHODS
from tests.backbones.test_backbones import COUNTS
from tests.support.builders import make_sizes
from tests.support.paths import SHARED

FACTS = SHARED / "facts" / "hyperparameters.json"
OPTIMIZERS = {"almt": "AdamW; 10% linear warm-up then cosine", "glomo": "AdamW"}


def same(*names):
    return {name: name for name in names}


# Our name -> the reference's name, for values that need no conversion.
NAMES = {
    "tfn": same("text_out", "post_fusion_dim"),
    "lmf": same("rank", "factor_lr", "weight_decay"),
    "mult": {
        "text_attn_dropout": "attn_dropout",
        "audio_attn_dropout": "attn_dropout_a",
        "vision_attn_dropout": "attn_dropout_v",
        "text_kernel": "conv1d_kernel_size_l",
        "audio_kernel": "conv1d_kernel_size_a",
        "vision_kernel": "conv1d_kernel_size_v",
        "residual_dropout": "res_dropout",
        "n_layers": "nlevels",
        "plateau_patience": "patience",
        "gradient_accumulation": "update_epochs",
        **same("text_dropout", "relu_dropout", "embed_dropout", "output_dropout", "grad_clip"),
    },
    "misa": {
        "latent_dim": "hidden_size",
        "fusion_dropout": "dropout",
        "gradient_accumulation": "update_epochs",
        **same(
            "reverse_grad_weight", "diff_weight", "sim_weight", "recon_weight", "use_cmd_sim", "grad_clip"
        ),
    },
    "almt": {
        **same("weight_decay", "fusion_heads", "max_epochs"),
        "token_dim": "dst_feature_dims",
        "tokens": "dst_embedding_length",
        "embedding_hidden": "dst_feature_hidden_dims",
        "text_heads": "l_encoder_heads",
        "hyper_layers": "AHL_depth",
        "hyper_heads": "h_hyper_layer_heads",
        "fusion_hidden": "fusion_hidden_d",
        "fusion_layers": "fusion_layer_depth",
    },
    "glomo": {
        **same("weight_decay", "encoder_layers", "relu_dropout", "max_epochs"),
        "n_experts": "experts_per_modality",
        "top_k": "experts_top_k",
        "model_dim": "d_model",
        "n_heads": "num_heads",
        "fusion_layers": "fusion_encoder_layers",
        "weighting_dropout": "dropout",
        "attention_dropout": "attn_dropout",
        "residual_dropout": "res_dropout",
        "embed_dropout": "embed_dropout",
        "balance_weight": "moe_load_balance_weight",
    },
}
# Lists in the reference that are separate settings here.
LISTS = {
    "tfn": lambda s: {
        "hidden_dims": [s.text_hidden, s.audio_hidden, s.vision_hidden],
        "dropouts": [s.audio_dropout, s.vision_dropout, None, s.fusion_dropout],
    },
    "lmf": lambda s: {
        "hidden_dims": [s.text_hidden, s.audio_hidden, s.vision_hidden],
        "dropouts": [s.audio_dropout, s.vision_dropout, None, None],
    },
    "mult": lambda s: {"dst_feature_dim_nheads": [s.latent_dim, s.n_heads]},
    "almt": lambda s: {"embedding_heads": [s.embedding_heads] * 3, "embedding_depth": [1, 1, 1]},
    "glomo": lambda s: {"granularity": dict.fromkeys(MODALITIES, s.granularity)},
}
# Values that the reference fixes in code, or that differ from its lists: see the cards.
RULES = {
    "tfn": {"optimizer": "adam", "weight_decay": 0},
    "lmf": {"optimizer": "adam"},
    "mult": {"optimizer": "adam", "schedule": "plateau", "weight_decay": 0, "positions": False},
    "misa": {"optimizer": "adam", "weight_decay": 0},
    "almt": {"optimizer": "adamw", "schedule": "warmup_cosine", "warmup": 0.1, "criterion": "mse"},
    "glomo": {"optimizer": "adamw", "feedforward_dim": 2048, "fusion_dropout": 0.1},
}
COMMON = {"schedule": "constant", "padding": "valid", "max_grad_norm": 0}
over_kinds = pytest.mark.parametrize("like", KINDS)


@pytest.mark.parametrize("name", BACKBONES)
@over_kinds
def test_published_settings_leave_nothing_open(name, like):
    backbone = BACKBONES[name]
    resolved = resolve_settings(backbone, backbone.Settings(), like)
    assert all(getattr(resolved, f.name) is not None for f in dataclasses.fields(resolved))
    assert resolve_settings(backbone, resolved, "mosi") == resolved
    assert resolve_settings(backbone, backbone.Settings(batch_size=7), like).batch_size == 7


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("like", ["mosi", "mosei", "sims"])
def test_published_settings_are_the_collected_ones(name, like):
    if not FACTS.exists():
        pytest.skip("the collected facts (../shared/facts) are not here")
    facts = json.loads(FACTS.read_text())
    wanted = {**facts["backbones"][name]["common"], **facts["backbones"][name].get(like, {})}
    made = resolve_settings(BACKBONES[name], BACKBONES[name].Settings(), like)
    alike = {key: key for key in ("batch_size", "learning_rate", "early_stop")}
    for ours, theirs in {**alike, **NAMES[name]}.items():
        assert getattr(made, ours) == wanted.get(theirs, 0 if ours == "weight_decay" else None), ours
    for key, values in LISTS.get(name, lambda _: {})(made).items():
        pairs = values.items() if isinstance(values, dict) else enumerate(values)
        assert all(value is None or wanted[key][at] == value for at, value in pairs), key
    assert made.criterion == facts["training_rules"]["loss"][name].lower()
    assert facts["training_rules"]["optimizer"][name].startswith(OPTIMIZERS.get(name, ""))
    assert facts["parameter_counts_mosi"]["counts"] == COUNTS


@pytest.mark.parametrize("name", RULES)
def test_training_rules(name):
    made = resolve_settings(BACKBONES[name], BACKBONES[name].Settings(), "mosi")
    rules = {**COMMON, **RULES[name]}
    assert {key: getattr(made, key) for key in rules} == rules
    if name in ("almt", "glomo"):
        assert (made.grad_clip, made.gradient_accumulation) == (0, 1)
    sizes = make_sizes()
    backbone = BACKBONES[name](made, sizes)
    method = METHODS["none"](METHODS["none"].Settings(), backbone.latent_widths, sizes.label_scale)
    wanted = torch.optim.AdamW if name in ("almt", "glomo") else torch.optim.Adam
    assert type(make_optimizer(backbone, method)) is wanted
    assert BACKBONES[name].text_layers == (2 if name == "glomo" else 1)


# MMSA's config_regression.json, commit a94e65d, which lacks ALMT for SIMS v2.
SIMSV2 = {
    "tfn": {
        "batch_size": 128,
        "learning_rate": 0.002,
        "text_out": 128,
        "post_fusion_dim": 32,
        **dict.fromkeys(("audio_dropout", "vision_dropout"), 0.3),
        "fusion_dropout": 0.5,
    },
    "lmf": {
        "batch_size": 32,
        "audio_hidden": 32,
        "weight_decay": 0.0001,
        **dict.fromkeys(("audio_dropout", "vision_dropout"), 0.3),
    },
    "mult": {
        "learning_rate": 0.0005,
        "grad_clip": 1.0,
        "latent_dim": 30,
        "n_heads": 6,
        "n_layers": 4,
        "audio_kernel": 3,
        "text_dropout": 0.5,
        "text_attn_dropout": 0.1,
        "audio_attn_dropout": 0.2,
        "relu_dropout": 0.1,
        "residual_dropout": 0.0,
        "embed_dropout": 0.2,
        "output_dropout": 0.3,
    },
    "misa": {
        "batch_size": 16,
        "latent_dim": 64,
        "fusion_dropout": 0.5,
        "diff_weight": 0.5,
        "recon_weight": 0.5,
        "grad_clip": 0.8,
    },
    "almt": {},
    "glomo": {},
}


@pytest.mark.parametrize("name", BACKBONES)
def test_simsv2_differs_from_sims_as_in_mmsa(name):
    sims, simsv2 = (BACKBONES[name].published[like] for like in ("sims", "simsv2"))
    same_anyway = {"post_fusion_dim": 32}.items() if name == "tfn" else ()
    assert simsv2 == {**sims, **SIMSV2[name]}
    assert dict(simsv2.items() - sims.items()) == dict(SIMSV2[name].items() - set(same_anyway))


# MMSA trains MISA's and ALMT's BERT with all other weights, and GLoMo's release does so, too.
RATES = {"misa": (1e-4, 0), "almt": (1e-4, 1e-4), "glomo": (4e-5, 1e-4)}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_fine_tuned_encoder_has_the_published_rates(name):
    backbone, asked = BACKBONES[name], BertSettings(model="m")
    made = resolve_text(backbone, asked)
    rates = RATES.get(name, (2e-5, 0))
    assert made == BertSettings("bert", "m", True, *rates)
    if name in RATES:
        own = resolve_settings(backbone, backbone.Settings(), "mosi")
        assert rates == (own.learning_rate, own.weight_decay)
    given = dataclasses.replace(asked, learning_rate=0.0, weight_decay=0.5)
    assert resolve_text(backbone, given) == given
    assert resolve_text(backbone, TextSettings()) == TextSettings()
