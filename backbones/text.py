"""Pretrained text encoders, which replace text features (`text=bert`).

Any Hugging Face encoder that takes token ids and an attention mask can be used; its last hidden states are
the text sequence. A fine-tuned encoder is part of the network and has its own learning rate. The states of a
frozen encoder are computed once in advance; it runs again only on tokens that occlusion has changed.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.batch import Batch
from backbones.settings import check

ENCODERS = ("features", "bert")


@dataclass(frozen=True)
class TextSettings:
    """Settings of the text input; with text features, only ``encoder`` has an effect.

    encoder: "features" | "bert". model: fingerprint of the pretrained model's files. finetune: train the
    encoder; otherwise it is frozen. learning_rate: of a fine-tuned encoder.
    """

    encoder: str = "features"
    model: str = ""
    finetune: bool = True
    learning_rate: float | None = 2e-5

    def __post_init__(self) -> None:
        check(self, "encoder", self.encoder in ENCODERS, f"one of {', '.join(ENCODERS)}")
        self._check_rate("learning_rate")

    def _check_rate(self, name: str) -> None:
        value = getattr(self, name)
        check(self, name, value is None or 0 <= value < inf, ">= 0 and finite, or null")

    @property
    def label(self) -> str:
        """Suffix of a backbone's name in tables; empty for features."""
        if self.encoder == "features":
            return ""
        return "[bert]" if self.finetune else "[bert,frozen]"


# A class of its own: a new field of `TextSettings` would change the ids of cells with text features.
@dataclass(frozen=True)
class BertSettings(TextSettings):
    """Settings of a pretrained encoder; None: the value for the backbone (`Backbone.published_text`).

    learning_rate, weight_decay: of a fine-tuned encoder, in the backbone's optimizer.
    """

    encoder: str = "bert"
    learning_rate: float | None = None
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_rate("weight_decay")


class TextEncoder(nn.Module):
    """Fine-tuned encoder. Shape: batch.tokens (B, 3, T) -> (B, T, n_layers * width)."""

    def __init__(self, model: Any, n_layers: int):
        super().__init__()
        self.model = model
        self.n_layers = n_layers
        self.width: int = model.config.hidden_size

    def forward(self, batch: Batch) -> Tensor:
        """Return the states of the last layers, zero in padded steps."""
        assert batch.tokens is not None
        return encode_tokens(self.model, batch.tokens, self.n_layers)


class FrozenText:
    """Frozen encoder, whose precomputed states are the text features of a batch.

    The encoder itself runs only on occluded tokens and is loaded from ``folder`` on first use. It is not a
    module, so its weights are neither trained nor part of the network's state.
    """

    def __init__(self, folder: Path, n_layers: int, device: torch.device):
        self.folder = folder
        self.n_layers = n_layers
        self.device = device

    def __call__(self, batch: Batch) -> Tensor:
        """Return states of the same shape as `TextEncoder`, without gradient."""
        if "tokens" not in batch.dropped:
            return batch.features["text"]
        assert batch.tokens is not None
        with torch.no_grad():
            return encode_tokens(self._model, batch.tokens, self.n_layers)

    @cached_property
    def _model(self) -> Any:
        with torch.inference_mode(False):
            return load_model(self.folder).eval().requires_grad_(False).to(self.device)


def encode_tokens(model: Any, tokens: Tensor, n_layers: int) -> Tensor:
    """Concatenate the states of the model's last n_layers layers, first to last; masked steps are 0.

    On CUDA, transformers synchronises once per call to check whether there is padding.

    Shape: tokens (B, 3, T) of ids, attention mask and segment ids -> (B, T, n_layers * width).
    """
    ids, mask, segments = tokens.unbind(1)
    # Some encoders, such as DistilBERT, take no segment ids.
    knows_segments = "token_type_ids" in inspect.signature(model.forward).parameters
    extra = {"token_type_ids": segments} if knows_segments else {}
    output = model(input_ids=ids, attention_mask=mask, output_hidden_states=n_layers > 1, **extra)
    layers = (output.last_hidden_state,) if n_layers == 1 else output.hidden_states[-n_layers:]
    return torch.cat(layers, -1).masked_fill(mask[..., None] == 0, 0)


def load_model(folder: Path) -> Any:
    """Load a pretrained encoder from a Hugging Face directory in float32, without its pooling layer.

    Raises:
        ValueError: The weights lack parameters that the configuration needs.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # Missing weights are initialised at random, such as those of the pooling layer, which is not used.
    with torch.random.fork_rng(devices=[]):
        model, report = AutoModel.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,  # by default, transformers asks on the terminal
            weights_only=True,
        )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ValueError(f"its weights lack {missing[0]} and {len(missing) - 1} more")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model
