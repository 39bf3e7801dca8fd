"""What a file is that is no feature file, by its first bytes, and how to make one of it."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence

HEAD_BYTES = 512  # of a file, for `describe`
ZIP = b"PK\x03\x04"
HDF5 = b"\x89HDF\r\n\x1a\n"
_AGAIN = "download it again"
_UNPACK = "unpack it and give the file in it"
_SAVE = "save its arrays with numpy.savez under names like train/text"
_TORCH = f"load it with torch.load(FILE, weights_only=True), convert each tensor with numpy(), and {_SAVE}"
# First bytes -> (what it is, what to do)
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x93NUMPY", "a single numpy array", "save all arrays with numpy.savez under names like train/text"),
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a file of torch.save in its old format", _TORCH),
    (ZIP, "a damaged zip archive", _AGAIN),
    (b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (b"\xfd7zXZ\x00", "compressed with xz", _UNPACK),
    (b"BZh", "compressed with bzip2", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"PAR1", "a Parquet table", f"read it with pandas and {_SAVE}"),
    (b"MATLAB 5.0 MAT-file", "a MATLAB file", f"read it with scipy.io.loadmat and {_SAVE}"),
    (b"version https://git-lfs", "a Git LFS pointer to the file", "fetch the file with git lfs pull"),
)
_HTML = re.compile(rb"\s*(<!doctype html|<html|<head|<\?xml)", re.IGNORECASE)
# Pickles of protocol 0 and 1 are text or nearly so.
_OLD_PICKLE = re.compile(rb"\([dlit]|c[\w.]+\n\w+\n|[\]})][q.(]|[FILSV][^\n]*\n[p.]")


def describe(head: bytes) -> tuple[str, str] | None:
    """Return what a file with these first bytes is, and what to do, or None if it is unknown."""
    for start, kind, advice in _KINDS:
        if head.startswith(start):
            return kind, advice
    if head[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    if _HTML.match(head):
        return "a web page, as of a download that asks for a login or a confirmation", _AGAIN
    if not any(head):
        return "zeros at its start, as after an interrupted download", _AGAIN
    if not _OLD_PICKLE.match(head) and _is_text(head):
        return "text", f"read its numbers and {_SAVE}"
    return None


def describe_zip(names: Sequence[str]) -> tuple[str, str]:
    """Return what a zip archive with these members is, and what to do."""
    if any(name.endswith("data.pkl") for name in names):
        return "a PyTorch archive, as of torch.save", _TORCH
    if "[Content_Types].xml" in names:
        return "an Office document", f"read it with pandas and {_SAVE}"
    return "a zip archive", _UNPACK


def describe_objects(name: str) -> str:
    """Return what to do about an object of another library in a pickle, by its dotted name, or ""."""
    advice = {
        "torch": "it holds PyTorch tensors; convert each with tensor.numpy() and pickle again",
        "pandas": "it holds pandas objects; convert each with to_numpy() and pickle again",
        "scipy": "it holds sparse matrices; convert each with toarray() and pickle again",
        "tensorflow": "it holds TensorFlow tensors; convert each with numpy() and pickle again",
    }
    return advice.get(name.partition(".")[0], "")


def _is_text(head: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        # The last character may be cut.
        text = decoder.decode(head, final=len(head) < HEAD_BYTES)
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c in "\t\r\n\ufeff" for c in text)
