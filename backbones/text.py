"""Text through a pretrained encoder in place of features (`text=bert`).

Any Hugging Face encoder that takes token ids and an attention mask serves: its last hidden states are the
text sequence. Fine-tuned, it is part of the network, with a learning rate of its own; frozen, its states are
computed beforehand, and anew only where occlusion changed the tokens.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.batch import Batch
from backbones.settings import check, check_not_negative

ENCODERS = ("features", "bert")


@dataclass(frozen=True)
class TextSettings:
    """How text enters the backbones.

    encoder: "features" | "bert". model: fingerprint of the pretrained model's files. finetune: train it, at
    learning_rate; else it is frozen.
    """

    encoder: str = "features"
    model: str = ""
    finetune: bool = True
    learning_rate: float = 2e-5

    def __post_init__(self) -> None:
        check(self, "encoder", self.encoder in ENCODERS, f"one of {', '.join(ENCODERS)}")
        check_not_negative(self, "learning_rate")

    @property
    def label(self) -> str:
        """What follows a backbone's name in tables: nothing for features."""
        if self.encoder == "features":
            return ""
        return "[bert]" if self.finetune else "[bert,frozen]"


class TextEncoder(nn.Module):
    """The fine-tuned encoder. Shape: batch.tokens (B, 3, T) -> (B, T, n_layers * width)."""

    def __init__(self, model: Any, n_layers: int):
        super().__init__()
        self.model = model
        self.n_layers = n_layers
        self.width: int = model.config.hidden_size

    def forward(self, batch: Batch) -> Tensor:
        """States of the last layers, zero beyond a clip's tokens."""
        assert batch.tokens is not None
        return encode_tokens(self.model, batch.tokens, self.n_layers)


class FrozenText:
    """States that were computed beforehand, and stand in the batch as its text features.

    Where tokens were occluded the encoder runs on them; it is read from ``folder`` when that happens first.
    Not a module: its weights are neither trained nor part of the network's state.
    """

    def __init__(self, folder: Path, n_layers: int, device: torch.device):
        self.folder = folder
        self.n_layers = n_layers
        self.device = device

    def __call__(self, batch: Batch) -> Tensor:
        """The same shape as `TextEncoder`'s; no gradient."""
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
    """The model's last n_layers layers side by side, oldest first, zero where the attention mask is.

    On CUDA transformers waits once per call, to see whether anything is padded.

    Shape: tokens (B, 3, T) of ids, attention mask and segment ids -> (B, T, n_layers * width).
    """
    ids, mask, segments = tokens.unbind(1)
    # Some encoders know no segments (DistilBERT).
    knows_segments = "token_type_ids" in inspect.signature(model.forward).parameters
    extra = {"token_type_ids": segments} if knows_segments else {}
    output = model(input_ids=ids, attention_mask=mask, output_hidden_states=n_layers > 1, **extra)
    layers = (output.last_hidden_state,) if n_layers == 1 else output.hidden_states[-n_layers:]
    return torch.cat(layers, -1).masked_fill(mask[..., None] == 0, 0)


def load_model(folder: Path) -> Any:
    """A pretrained encoder from a Hugging Face directory, in float32, without its pooling layer.

    Raises:
        ValueError: the directory's weights are not those of its configuration.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # What the files lack would be drawn at random; the pooling layer is, and is not used.
    with torch.random.fork_rng(devices=[]):
        model, report = AutoModel.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,  # else it asks at the terminal
            weights_only=True,
        )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ValueError(f"its weights lack {missing[0]} and {len(missing) - 1} more")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model
