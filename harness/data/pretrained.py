"""Pretrained text encoders: locate a model, check a dataset's tokens, cache the states of a frozen model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbones import BACKBONES
from backbones.text import encode_tokens, load_model
from harness.config.compose import path_of
from harness.data.dataset import SPLITS, Split
from harness.data.occlusion import UNK_ID
from harness.data.prepare import CachedDataset
from harness.data.store import cache_folder, file_fingerprint, load_dataset
from harness.errors import UserError, one_line
from harness.matrix import RESULTS_VERSION, Cell

BATCH = 64
MODEL_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin")


@dataclass(frozen=True)
class TextModel:
    """A Hugging Face model directory, with a hash of its files and its transformers configuration."""

    folder: Path
    fingerprint: str
    config: Any


def find_model(name: str | None, cache: Path) -> TextModel:
    """Find a pretrained model by directory or by name on the Hugging Face hub; raises UserError."""
    if not name:
        raise UserError("text=bert needs a model; give bert.model=DIR, a directory or Hugging Face name.")
    try:
        from transformers import AutoConfig
    except ImportError:
        raise UserError(
            "text=bert needs the package transformers; install it with pip install 'msa-mixup-bench[bert]'."
        ) from None
    folder = path_of(name)
    if not folder.is_dir():
        folder = _download(name)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "hidden_size"):
            raise UserError(f"bert.model={name!r} is a {config.model_type}; give an encoder like BERT.")
        # Loaded once here, because a bad model would otherwise fail in every cell.
        load_model(folder)
    except UserError:
        raise
    # Damaged or unsupported files raise many types of errors, depending on their format.
    except Exception as error:
        raise UserError(
            f"bert.model={name!r} cannot be used as a Hugging Face model: {one_line(error)}."
        ) from None
    return TextModel(folder, _fingerprint(folder, cache), config)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(MODEL_FILES)))
    # The hub's client raises different errors for no network, an unknown name and an invalid name.
    except Exception as error:
        raise UserError(
            f"bert.model={name!r} is not a directory and cannot be downloaded from the Hugging Face hub "
            f"({type(error).__name__}: {one_line(error)})."
        ) from None


def _fingerprint(folder: Path, cache: Path) -> str:
    """Hash the names and bytes of the model's and the tokenizer's files."""
    files = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})
    digests = [(path.name, file_fingerprint(path, cache / "fingerprints.json")) for path in files]
    return hashlib.sha256(repr(digests).encode()).hexdigest()


def check_tokens(data: CachedDataset, model: TextModel, occluded: bool) -> None:
    """Raise UserError unless the model's vocabulary has all tokens of the dataset, and [UNK] if occluded."""
    size = model.config.vocab_size
    if occluded and size <= UNK_ID:
        raise UserError(f"Occlusion uses token id {UNK_ID}; the model has only {size} ids; use another.")
    for name, split in load_dataset(data.folder).splits.items():
        if split.tokens is None:
            raise UserError(
                f"text=bert needs tokens, but dataset {data.name!r} lacks text_bert in some split, or its "
                "text_bert has more steps than text; use text=features."
            )
        ids, _, segments = split.tokens.transpose(1, 0, 2)
        steps, most = split.tokens.shape[2], getattr(model.config, "max_position_embeddings", None)
        if most is not None and steps > most:
            raise UserError(f"{data.name!r} needs a bert.model for {steps} tokens per clip, got {most}.")
        for kind, values, size in (
            ("token ids", ids, model.config.vocab_size),
            ("segment ids", segments, getattr(model.config, "type_vocab_size", None) or 1),
        ):
            if values.min() < 0 or values.max() >= size:
                raise UserError(
                    f"Dataset {data.name!r} has {kind} from {values.min()} to {values.max()} in its {name} "
                    f"split, but the model at {str(model.folder)!r} allows 0 to {size - 1}; use the model "
                    "that the text was tokenized for."
                )


def text_states(
    model: TextModel,
    datasets: Mapping[str, CachedDataset],
    cells: Iterable[Cell],
    device: str,
    threads: int,
    cache: Path,
    say: Callable[[str], None],
) -> dict[tuple[str, str], str]:
    """Compute missing states of a frozen encoder; return their cache folders by (dataset, backbone)."""
    # This process may lack a GPU although the cells run on GPUs of another machine.
    device = device if torch.cuda.is_available() else "cpu"
    folders = {}
    for dataset, backbone in dict.fromkeys((cell.dataset, cell.backbone) for cell in cells):
        data, n_layers = datasets[dataset], BACKBONES[backbone].text_layers
        folder = cache / "text" / _states_key(data, model, n_layers, torch.device(device), threads)
        if not folder.exists():
            say(f"{dataset}: computing and caching the states of the frozen text encoder.")
            _write_states(data, model, n_layers, torch.device(device), threads, folder)
        folders[dataset, backbone] = str(folder.absolute())
    return folders


def _states_key(
    data: CachedDataset, model: TextModel, n_layers: int, device: torch.device, threads: int
) -> str:
    """Return a cache key that covers everything that can change the bits of the states."""
    import transformers

    name: Any = "cpu"
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        name = gpu.name, gpu.multi_processor_count  # MPS can reduce their number, which kernels depend on
    versions = [RESULTS_VERSION, torch.__version__, transformers.__version__]
    parts = [data.folder.name, model.fingerprint, n_layers, name, threads, *versions]
    return f"{data.name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"


def _write_states(
    data: CachedDataset, model: TextModel, n_layers: int, device: torch.device, threads: int, folder: Path
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        encoder = load_model(model.folder).eval().to(device)
        splits = load_dataset(data.folder).splits
        with cache_folder(folder) as temporary:
            for name in SPLITS:
                _write_split(temporary / f"{name}.npy", encoder, splits[name], n_layers, device)
    finally:
        torch.set_num_threads(before)
        if device.type == "cuda":
            # This process lives as long as the study, whose workers need the memory.
            encoder = None
            torch.cuda.empty_cache()


@torch.inference_mode()
def _write_split(file: Path, encoder: Any, split: Split, n_layers: int, device: torch.device) -> None:
    """Compute and write the states (N, T, n_layers * width) of a split in batches."""
    assert split.tokens is not None
    n, _, steps = split.tokens.shape
    shape = (n, steps, n_layers * encoder.config.hidden_size)
    states = np.lib.format.open_memmap(file, "w+", np.float32, shape)
    for start in range(0, n, BATCH):
        tokens = torch.from_numpy(split.tokens[start : start + BATCH]).to(device)
        states[start : start + BATCH] = encode_tokens(encoder, tokens, n_layers).cpu().numpy()
    states.flush()
