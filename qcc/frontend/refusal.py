"""How a handler says that it cannot take a node; the importer adds the place and goes on to the next node."""

from __future__ import annotations


class Refusal(Exception):
    """What the front end cannot take, and what the user can do about it."""

    def __init__(self, what: str, fix: str = "") -> None:
        self.what = what
        self.fix = fix
        super().__init__(what)
