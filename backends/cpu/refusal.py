"""What the kernels cannot compute: raised by one lowering, collected by the run over the program."""

from __future__ import annotations


class Refusal(Exception):
    """An operation that the kernels cannot compute: what is wrong, and the way out."""

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.what, self.fix = what, fix
