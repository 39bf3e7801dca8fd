"""Base class of backbones: the steps embed, encode, fuse and head, and the settings of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any, ClassVar, NamedTuple, TypeVar

from torch import Tensor, nn

from backbones.batch import MODALITIES, Batch, Latents, valid_steps
from backbones.settings import check
from backbones.text import TextSettings

CRITERIA = ("l1", "mse")
OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("constant", "plateau", "warmup_cosine")
PADDINGS = ("valid", "reference")
KINDS = ("mosi", "mosei", "sims", "simsv2")  # kinds of datasets, for each of which settings are published


@dataclass(frozen=True)
class Sizes:
    """Sizes of a dataset that a backbone needs: feature widths D_m, padded lengths T_m, label range s."""

    widths: Mapping[str, int]
    steps: Mapping[str, int]
    label_scale: float


@dataclass(frozen=True)
class BackboneSettings:
    """Training settings that all backbones share; None: the published value for the dataset.

    criterion: task loss, "l1" | "mse". optimizer: "adam" | "adamw". early_stop: number of epochs without a
    lower validation task loss after which training stops. max_epochs: limit on the number of epochs.
    schedule: of the learning rates, "constant", "plateau" (divide by 10 after plateau_patience epochs without
    a lower validation task loss) or "warmup_cosine" (linear over the first warmup * max_epochs epochs, then
    cosine). gradient_accumulation: number of batches whose gradients are summed for a step. grad_clip: limit
    on each entry of the gradient; max_grad_norm: limit on its norm; 0: no limit; applied after every batch.
    padding: "valid" reads sequences up to their lengths, "reference" also reads the padding.
    """

    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    criterion: str = "l1"
    optimizer: str = "adam"
    early_stop: int = 8
    max_epochs: int = 200
    schedule: str = "constant"
    plateau_patience: int | None = 5
    warmup: float = 0.1
    gradient_accumulation: int | None = 1
    grad_clip: float | None = 0.0
    max_grad_norm: float = 0.0
    padding: str = "valid"

    def __post_init__(self) -> None:
        for name in ("batch_size", "early_stop", "max_epochs", "plateau_patience", "gradient_accumulation"):
            value = getattr(self, name)
            check(self, name, value is None or value >= 1, "at least 1")
        check(self, "schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
        check(self, "warmup", 0 <= self.warmup < 1, "in [0, 1)")
        check(self, "padding", self.padding in PADDINGS, f"one of {', '.join(PADDINGS)}")
        check(self, "criterion", self.criterion in CRITERIA, f"one of {', '.join(CRITERIA)}")
        check(self, "optimizer", self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}")
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name.endswith(("_rate", "_lr", "_decay", "_clip", "_norm", "_weight")):
                check(self, f.name, value is None or 0 <= value < inf, ">= 0 and finite")
            if f.name.endswith("_dropout"):
                check(self, f.name, value is None or 0 <= value < 1, "in [0, 1)")
            if f.name.endswith(("_hidden", "_out", "_dim", "_heads", "_layers", "_kernel", "rank")):
                check(self, f.name, value is None or value >= 1, "at least 1")


class Fused(NamedTuple):
    """Output of `Backbone.fuse`: representation (B, R) and the auxiliary loss on the clean rows (scalar)."""

    representation: Tensor
    auxiliary: Tensor | None = None


class Backbone(nn.Module):
    """Base class of fusion models. Subclasses set the class attributes and define encode, fuse and head.

    Class attributes:
        name, title, citation: registry key, name in tables, paper.
        Settings: the frozen dataclass of its settings.
        published: values of fields that are None, per kind of dataset (`KINDS`).
        published_text: learning rate and weight decay of a fine-tuned text encoder, where they are None.
        text_layers: number of a text encoder's last layers that `encode` takes, concatenated, first to last.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    citation: ClassVar[str]
    Settings: ClassVar[type[BackboneSettings]] = BackboneSettings
    published: ClassVar[Mapping[str, Mapping[str, Any]]]
    # This project's choice for backbones whose reference trains no encoder: a rate of Devlin et al. (NAACL
    # 2019), and no decay, because LMF's L2 term would shrink embeddings of words absent from training.
    published_text: ClassVar[Mapping[str, float]] = {"learning_rate": 2e-5, "weight_decay": 0.0}
    text_layers: ClassVar[int] = 1

    def __init__(self, settings: Any, sizes: Sizes):
        super().__init__()
        self.settings = settings
        self.sizes = sizes
        # Set by the code that builds the network; None: text consists of features.
        self.text_encoder: Callable[[Batch], Tensor] | None = None

    @property
    def latent_widths(self) -> dict[str, int]:
        """Widths of the latents at the mix point (layer 1)."""
        raise NotImplementedError(f"{type(self).__name__} does not state its latent widths")

    def embed(self, batch: Batch) -> Latents:
        """Return layer 0: the input sequences, with text encoded if there is a text encoder.

        Shape: values[m] (B, T_m, D_m) with lengths; encoded text is (B, T, text_layers * D).
        """
        kept = {
            m: valid_steps(batch.lengths[m], dropped.shape[1]) & ~dropped
            for m, dropped in batch.dropped.items()
            if m != "tokens"
        }
        if self.text_encoder is None:
            return Latents(batch.features, batch.lengths, kept)
        # Occlusion replaces a token by [UNK], so all states of encoded text are kept.
        kept.pop("text", None)
        return Latents({**batch.features, "text": self.text_encoder(batch)}, batch.lengths, kept)

    def encode(self, inputs: Latents) -> Latents:
        """Return layer 1, the mix point: inputs of `embed` -> latents."""
        raise NotImplementedError(f"{type(self).__name__} does not encode")

    def fuse(self, latents: Latents, n_clean: int) -> Fused:
        """Return layer 2: latents (B, ...) -> (B, R); auxiliary losses only use the first n_clean rows."""
        raise NotImplementedError(f"{type(self).__name__} does not fuse")

    def head(self, representation: Tensor) -> Tensor:
        """Predict sentiment in label units. Shape: (B, R) -> (B,)."""
        raise NotImplementedError(f"{type(self).__name__} has no head")

    def forward(self, batch: Batch) -> Tensor:
        """Run all four steps without mixing. Shape: B clips -> (B,)."""
        return self.head(self.fuse(self.encode(self.embed(batch)), len(batch)).representation)

    def max_mixed_per_batch(self, batch_size: int) -> int | None:
        """Return the maximum number of mixed examples that one batch may pass to `fuse`; None: no maximum."""
        return None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups; a method's own parameters join the first group."""
        return [{"params": [p for _, p in self.own_parameters() if p.requires_grad]}]

    def text_parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups of a fine-tuned text encoder; empty without one."""
        if not isinstance(self.text_encoder, nn.Module):
            return []
        return [{"params": list(self.text_encoder.parameters())}]

    def own_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return all parameters by name, except those of the text encoder."""
        return [(name, p) for name, p in self.named_parameters() if not name.startswith("text_encoder.")]


S = TypeVar("S", bound=BackboneSettings)


T = TypeVar("T", bound=BackboneSettings | TextSettings)


def resolve_settings(backbone: type[Backbone], settings: S, like: str) -> S:
    """Replace None fields by the published values for a kind of dataset, one of `KINDS`."""
    return _filled(settings, backbone.published[like])


def resolve_text(backbone: type[Backbone], settings: TextSettings) -> TextSettings:
    """Replace None fields by the values for a backbone (`Backbone.published_text`)."""
    return _filled(settings, backbone.published_text)


def _filled(settings: T, values: Mapping[str, Any]) -> T:
    missing = {f.name: values[f.name] for f in fields(settings) if getattr(settings, f.name) is None}
    return replace(settings, **missing)


def by_modality(text: Any, audio: Any, vision: Any) -> dict[str, Any]:
    """Map each modality to its value."""
    return dict(zip(MODALITIES, (text, audio, vision), strict=True))


def by_dataset(columns: Mapping[str, tuple[Any, Any, Any, Any]]) -> dict[str, dict[str, Any]]:
    """Convert setting -> values in the order of `KINDS` to kind of dataset -> setting -> value."""
    return {
        kind: {name: values[column] for name, values in columns.items()} for column, kind in enumerate(KINDS)
    }
