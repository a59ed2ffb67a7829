"""Cut the text of a quantization type into tokens, and say exactly where reading it went wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from qcc.errors import Problem, RecipeError

_Word = TypeVar("_Word", bound=str)
_TOKEN = re.compile(r"\s*(-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[A-Za-z_][A-Za-z0-9_]*|[()\[\],;|:=])")
_FIX = "write e.g. 'uint4 | (1,128) f16 | pre u4' or 'int8 | (1,-1) f32 | dynamic'"


@dataclass(frozen=True)
class Token:
    """A piece of the text and the column, counted from 1, where it starts."""

    text: str
    column: int


class TokenStream:
    """Hand out the tokens of one text in order; the empty token marks the end."""

    def __init__(self, text: str) -> None:
        self._source = text
        self._tokens: list[Token] = []
        self._next = 0
        position = 0
        end = len(text.rstrip())
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None:
                start = position + len(text[position:]) - len(text[position:].lstrip())
                self._tokens.append(Token(text[start], start + 1))
                self.fail("a word, a number or punctuation", self._tokens[-1])
            self._tokens.append(Token(match[1], match.start(1) + 1))
            position = match.end()
        self._tokens.append(Token("", end + 1))

    def peek(self, ahead: int = 0) -> str:
        """Give the text of the next token, or one further ahead, without taking it; empty at the end."""
        return self._tokens[min(self._next + ahead, len(self._tokens) - 1)].text

    def take(self) -> Token:
        """Take the next token; the end is never passed."""
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def accept(self, text: str) -> bool:
        """Take the next token if it reads `text`."""
        if self.peek() != text:
            return False
        self.take()
        return True

    def expect(self, text: str) -> None:
        """Take the next token, which must read `text`."""
        if not self.accept(text):
            self.fail(f"'{text}'")

    def choice(self, options: Sequence[_Word]) -> _Word:
        """Take the next token, which must be one of `options`."""
        for option in options:
            if self.accept(option):
                return option
        self.fail("one of " + ", ".join(options))

    def integer(self) -> int:
        """Take a whole number."""
        if not re.fullmatch(r"-?\d+", self.peek()):
            self.fail("a whole number")
        return int(self.take().text)

    def number(self) -> float:
        """Take a number."""
        if not self.at_number():
            self.fail("a number")
        return float(self.take().text)

    def at_number(self) -> bool:
        """Tell whether the next token is a number."""
        return bool(re.match(r"[-.\d]", self.peek()))

    def name(self, what: str) -> str:
        """Take a word."""
        if not re.fullmatch(r"[A-Za-z_]\w*", self.peek()):
            self.fail(what)
        return self.take().text

    def fail(self, expected: str, at: Token | None = None) -> NoReturn:
        """Raise: the token `at` (by default the next one) is not what was expected."""
        token = at or self._tokens[self._next]
        found = f"found '{token.text}'" if token.text else "the text ends"
        problem = Problem(f"column {token.column}", f"{found}, expected {expected}")
        raise RecipeError(f"cannot read the format '{self._source}'", [problem], fix=_FIX)
