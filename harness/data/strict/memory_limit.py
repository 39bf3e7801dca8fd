"""Limit on the memory that reading a file may take: a multiple of the file's size plus a constant.

A malicious or damaged file can expand to far more than its size, for example by references to one list or by
padding to a single long split. Readers therefore charge memory to the limit before they allocate it.
"""

from __future__ import annotations

from harness.errors import UserError

TIMES = 8  # multiple of the file size
SPARE = 2**27  # additional bytes


class TooLargeError(UserError):
    """The content of a file needs more memory than its limit."""


class MemoryLimit:
    """Budget of bytes for reading one file.

    Args:
        name: name of the file in error messages.
        size: size of the file in bytes.
    """

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.limit = self.left = TIMES * size + SPARE

    def take(self, amount: int) -> None:
        """Charge ``amount`` bytes; raises TooLargeError if the limit is exceeded."""
        self.left -= amount
        if self.left < 0:
            raise TooLargeError(
                f"{self.name} was refused: its content needs more than {self.limit // 2**20} MiB of memory, "
                "far more than the size of the file."
            )
