"""A limit on the memory that a file may claim: a few times its own size and a constant, whatever it declares.

A few bytes can stand for a lot: a list that holds another one a thousand times, splits that have to be padded
to the longest of them. A reader takes memory from the limit before it allocates.
"""

from __future__ import annotations

from harness.errors import UserError

TIMES = 8
SPARE = 2**27


class MemoryLimit:
    """The bytes that a file may still claim.

    Args:
        name: the file, as errors name it.
        size: its size in bytes.
    """

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.most = self.left = TIMES * size + SPARE

    def take(self, amount: int) -> None:
        """Take so many bytes; raises UserError where fewer are left."""
        self.left -= amount
        if self.left < 0:
            raise UserError(
                f"{self.name} was refused: what it holds would take more than {self.most // 2**20} MiB of "
                "memory, far more than its own size."
            )
