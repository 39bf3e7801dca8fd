"""ALMT: Adaptive Language-guided Multimodal Transformer (Zhang et al., EMNLP 2023, arXiv 2310.05804).

What it computes, with D = token_dim and n = tokens. Each modality (B, T_m, D_m) goes through a linear layer,
n learned tokens are prepended, learned positions (n + T_m, D) are added, and the tokens attend to the
sequence in one transformer layer: (B, n, D). Text gets additional positions and hyper_layers - 1 more layers;
all hyper_layers text states are used. The hyper-modality, n learned tokens, is updated once per text state:
the state gives the queries, audio and vision give keys and values, each with its own projections. In a final
transformer of fusion_layers layers, one token attends to itself and to the hyper-modality, giving (B, D);
the head is linear. Attention normalises query, key and value separately; their
projections have no bias. There is no dropout.

Mix point (layer 1): the n tokens of each modality, (B, n, D), without lengths. Layer 2: the fusion's first
token (B, D).
Losses: MSE on the label. Optimizer: AdamW; linear warm-up over a tenth of max_epochs, then cosine decay;
early stopping after 32 epochs. `max_grad_norm` is off; the reference lists 2 but does not use it.
Defaults per dataset: MMSA's config_regression.json (thuiar/MMSA, commit a94e65d), for SIMS v2, which it
lacks, those of SIMS. Only the fusion's depth differs. The position tables take T_m from the dataset.

Tokens start at 0 and the hyper-modality at 1, for which LayerNorm returns its bias. At first, the updated
hyper-modality thus depends on the attention alone, and gradients to it are scaled by 1 / sqrt(1e-5).
Rows of a transformer layer's target attend to the source only, so only rows that are read are computed: the
first n of the embedding layers, and the first one of the fusion. The reference fills the other target rows of
the fusion with the last text state, which cannot change the prediction. Their n positions get zero gradients
and are kept because they count in the model's size.

NOTE[DIFF] text consists of fixed features by default. The reference always trains BERT in the same optimizer,
as `text=bert` does: learning rate and weight decay 1e-4. Published results are with BERT.
NOTE[DIFF] the embedding layers mask padded steps. The reference masks nothing, so padding is read like signal
(`padding: reference` restores it; but BERT's states at padded tokens are 0 here, not in the reference).
NOTE[DIFF] the first epoch uses the first learning rate of the warm-up. In the reference, the first rate is 0
and the others follow one epoch later. max_epochs ends the training; the reference only stops early.
NOTE[DIFF] the reference's validation loss is the mean over the batches of a shuffled split, rounded to four
digits; ours is that of the split, unrounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone, BackboneSettings, Fused, Sizes, by_dataset, by_modality
from backbones.batch import MODALITIES, Latents
from backbones.settings import check


@dataclass(frozen=True)
class ALMTSettings(BackboneSettings):
    """Settings of ALMT; None: the published value for the dataset.

    token_dim: D. tokens: n, per modality. *_heads: number of heads in the embeddings, the text layers, the
    hyper-modality and the fusion. head_dim: width of a head, except in the hyper-modality (D / hyper_heads).
    embedding_hidden: MLP width in embeddings and text layers. fusion_hidden: in the fusion. hyper_layers:
    updates of the hyper-modality (the reference's AHL_depth). fusion_layers: depth of the fusion.
    """

    criterion: str = "mse"
    optimizer: str = "adamw"
    early_stop: int = 32
    schedule: str = "warmup_cosine"
    token_dim: int = 128
    tokens: int = 8
    head_dim: int = 64
    embedding_heads: int = 8
    text_heads: int = 8
    hyper_heads: int = 8
    fusion_heads: int = 8
    embedding_hidden: int = 128
    fusion_hidden: int = 128
    hyper_layers: int = 3
    fusion_layers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "tokens", self.tokens >= 1, "at least 1")
        divides = self.token_dim % self.hyper_heads == 0
        check(self, "token_dim", divides, f"a multiple of hyper_heads ({self.hyper_heads})")


class Attention(nn.Module):
    """Multi-head attention after three LayerNorms; projections without bias, output with bias."""

    def __init__(self, width: int, heads: int, head_dim: int):
        super().__init__()
        self.heads = heads
        self.query_norm, self.key_norm, self.value_norm = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key, self.value = (nn.Linear(width, heads * head_dim, bias=False) for _ in range(3))
        self.output = nn.Linear(heads * head_dim, width)

    def forward(self, target: Tensor, source: Tensor, valid: Tensor | None = None) -> Tensor:
        """Attend from target (B, N, D) to the valid (B, S) steps of source (B, S, D) -> (B, N, D)."""
        query = self.query(self.query_norm(target))
        key, value = self.key(self.key_norm(source)), self.value(self.value_norm(source))
        return self.output(attend(query, key, value, self.heads, valid))


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, valid: Tensor | None = None) -> Tensor:
    """Apply multi-head attention. Shape: (B, N, H), (B, S, H), (B, S, H), (B, S) -> (B, N, H)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    mask = None if valid is None else valid[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)


class Layer(nn.Module):
    """Pre-norm transformer layer: attention and an MLP with GELU, each with a residual connection."""

    def __init__(self, width: int, heads: int, head_dim: int, hidden: int):
        super().__init__()
        self.attention = Attention(width, heads, head_dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        )

    def forward(self, target: Tensor, source: Tensor, valid: Tensor | None = None) -> Tensor:
        """Update the target. Shape: target (B, N, D), source (B, S, D), valid (B, S) -> (B, N, D)."""
        target = target + self.attention(target, source, valid)
        return target + self.mlp(target)


class Embedding(nn.Module):
    """Embedding of one modality: learned tokens that attend to its sequence."""

    def __init__(self, width: int, steps: int, s: ALMTSettings):
        super().__init__()
        self.linear = nn.Linear(width, s.token_dim)
        self.tokens = nn.Parameter(torch.zeros(s.tokens, s.token_dim))
        self.positions = nn.Parameter(torch.randn(s.tokens + steps, s.token_dim))
        self.layer = Layer(s.token_dim, s.embedding_heads, s.head_dim, s.embedding_hidden)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Embed a sequence. Shape: x (B, T, width), valid (B, T) or None (all) -> (B, n, D)."""
        n = len(self.tokens)
        x = torch.cat([self.tokens.expand(len(x), -1, -1), self.linear(x)], 1) + self.positions
        if valid is not None:
            valid = F.pad(valid, (n, 0), value=True)
        return self.layer(x[:, :n], x, valid)


class HyperLayer(nn.Module):
    """One update of the hyper-modality: a text state attends to audio and vision; LayerNorm on all inputs."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.hyper_norm = nn.LayerNorm(width)
        self.norms = nn.ModuleDict({m: nn.LayerNorm(width) for m in MODALITIES})
        self.query = nn.Linear(width, width, bias=False)
        self.keys = nn.ModuleDict({m: nn.Linear(width, width, bias=False) for m in MODALITIES[1:]})
        self.values = nn.ModuleDict({m: nn.Linear(width, width, bias=False) for m in MODALITIES[1:]})
        self.output = nn.Linear(width, width)

    def forward(self, hyper: Tensor, text: Tensor, audio: Tensor, vision: Tensor) -> Tensor:
        """Update the hyper-modality. Shape: four times (B, n, D) -> (B, n, D)."""
        query = self.query(self.norms["text"](text))
        attended = []
        for m, x in (("audio", audio), ("vision", vision)):
            x = self.norms[m](x)
            attended.append(attend(query, self.keys[m](x), self.values[m](x), self.heads))
        return self.hyper_norm(hyper) + self.output(attended[0] + attended[1])


class Fusion(nn.Module):
    """Fusion transformer, in which a token attends to the hyper-modality; see the module docstring."""

    def __init__(self, s: ALMTSettings, layers: int):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, s.token_dim))
        self.target_positions = nn.Parameter(torch.randn(1 + s.tokens, s.token_dim))
        self.source_positions = nn.Parameter(torch.randn(1 + s.tokens, s.token_dim))
        self.layers = nn.ModuleList(
            Layer(s.token_dim, s.fusion_heads, s.head_dim, s.fusion_hidden) for _ in range(layers)
        )

    def forward(self, hyper: Tensor) -> Tensor:
        """Fuse the hyper-modality. Shape: (B, n, D) -> (B, D)."""
        token = self.token.expand(len(hyper), -1, -1)
        source = torch.cat([token, hyper], 1) + self.source_positions
        target = token + self.target_positions[:1]
        for layer in self.layers:
            target = layer(target, source)
        return target[:, 0]


class ALMT(Backbone):
    """Adaptive Language-guided Multimodal Transformer; the module docstring describes the model."""

    name = "almt"
    title = "ALMT"
    citation = (
        "Zhang et al., Learning Language-guided Adaptive Hyper-modality Representation for Multimodal "
        "Sentiment Analysis, EMNLP 2023"
    )
    Settings = ALMTSettings
    published = by_dataset(
        {
            "batch_size": (64, 64, 64, 64),
            "learning_rate": (1e-4, 1e-4, 1e-4, 1e-4),
            "weight_decay": (1e-4, 1e-4, 1e-4, 1e-4),
            "fusion_layers": (2, 4, 4, 4),
        }
    )
    published_text = {"learning_rate": 1e-4, "weight_decay": 1e-4}

    def __init__(self, settings: ALMTSettings, sizes: Sizes):
        super().__init__(settings, sizes)
        s = settings
        assert s.fusion_layers is not None, "settings are resolved before a backbone is made"
        self.embeddings = nn.ModuleDict(
            {m: Embedding(sizes.widths[m], sizes.steps[m], s) for m in MODALITIES}
        )
        self.text_positions = nn.Parameter(torch.randn(s.tokens, s.token_dim))
        self.text_stack = nn.ModuleList(
            Layer(s.token_dim, s.text_heads, s.head_dim, s.embedding_hidden)
            for _ in range(s.hyper_layers - 1)
        )
        self.hyper = nn.Parameter(torch.ones(s.tokens, s.token_dim))
        self.hyper_layers = nn.ModuleList(
            HyperLayer(s.token_dim, s.hyper_heads) for _ in range(s.hyper_layers)
        )
        self.fusion = Fusion(s, s.fusion_layers)
        self.output = nn.Linear(s.token_dim, 1)

    @property
    def latent_widths(self) -> dict[str, int]:
        """Widths of the modalities' tokens."""
        return by_modality(*[self.settings.token_dim] * 3)

    def encode(self, inputs: Latents) -> Latents:
        """Encode sequences as tokens, which are all valid. Shape: (B, T_m, D_m) -> (B, n, D)."""
        masked = self.settings.padding == "valid"
        return Latents(
            {
                m: embedding(inputs.values[m], inputs.valid(m) if masked else None)
                for m, embedding in self.embeddings.items()
            }
        )

    def fuse(self, latents: Latents, n_clean: int) -> Fused:
        """Fuse the tokens. Shape: (B, n, D) -> (B, D)."""
        audio, vision = latents.values["audio"], latents.values["vision"]
        text = latents.values["text"] + self.text_positions
        hyper = self.hyper_layers[0](self.hyper.expand(len(text), -1, -1), text, audio, vision)
        for text_layer, hyper_layer in zip(self.text_stack, self.hyper_layers[1:], strict=True):
            text = text_layer(text, text)
            hyper = hyper_layer(hyper, text, audio, vision)
        return Fused(self.fusion(hyper))

    def head(self, representation: Tensor) -> Tensor:
        """Predict sentiment. Shape: (B, D) -> (B,)."""
        return self.output(representation)[:, 0]
