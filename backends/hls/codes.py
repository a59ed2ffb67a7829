"""How weights are written: the cheapest code that holds them, packed into lanes of 64 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcc.backends.hls.elements import width_of

Array = np.ndarray


@dataclass(frozen=True)
class Codes:
    """A code for weights: its C++ type, its width, and how many fit a lane."""

    kind: str
    bits: int

    @property
    def ctype(self) -> str:
        """The C++ type of the code."""
        return self.kind if self.kind == "qcc::sign_codes" else f"{self.kind}<{self.bits}>"

    @property
    def per_lane(self) -> int:
        """Codes in 64 bits."""
        return 64 // self.bits

    def lanes(self, count: int) -> int:
        """Return the lanes of a word of `count` codes."""
        return -(-count // self.per_lane)

    def encode(self, values: Array) -> Array:
        """Return the codes of int64 values, uint64 of the same shape."""
        if self.kind == "qcc::sign_codes":
            return (values > 0).astype(np.uint64)
        if self.kind == "qcc::power_codes":
            exponent = np.where(values == 0, 0, np.log2(np.maximum(np.abs(values), 1)).astype(np.int64) + 1)
            return (exponent | (values < 0).astype(np.int64) << (self.bits - 1)).astype(np.uint64)
        return (values & ((1 << self.bits) - 1)).astype(np.uint64)

    def pack(self, words: Array) -> Array:
        """Pack values [words, count] to uint64 [words, lanes]."""
        codes, per = self.encode(words), self.per_lane
        missing = self.lanes(words.shape[1]) * per - words.shape[1]
        codes = np.pad(codes, [(0, 0), (0, missing)]).reshape(len(words), -1, per)
        shifts = (np.arange(per) * self.bits).astype(np.uint64)
        return np.bitwise_or.reduce(codes << shifts, axis=2)

    def lut_per_product(self, activation_bits: int) -> float | None:
        """Return the look-up tables of a product without multiplier; None where one is needed."""
        if self.kind == "qcc::sign_codes":
            return float(activation_bits)
        if self.kind == "qcc::power_codes":
            return 1.5 * (activation_bits + 2 ** (self.bits - 1))
        return float(activation_bits + 1) if self.bits <= 2 else None


def choose_codes(weights: Array) -> Codes:
    """Choose the narrowest code for int64 weights: signs, powers of two by their exponents, or two's complement."""
    # of two's complement: 0 and 1 take two bits
    plain = width_of(min(int(weights.min()), -1), int(weights.max()))
    found = np.abs(weights).ravel()
    magnitudes = np.flatnonzero(np.bincount(found)) if plain <= 16 else np.unique(found)
    if magnitudes.tolist() == [1]:
        return Codes("qcc::sign_codes", 1)
    if all(one & (one - 1) == 0 for one in magnitudes.tolist()):
        bits = 1 + (int(magnitudes[-1]).bit_length()).bit_length()
        if bits < plain:
            return Codes("qcc::power_codes", bits)
    return Codes("qcc::integer_codes", plain)


def fold_words(weights: Array, pe: int, simd: int) -> Array:
    """Order weights [N, K] as the words a matrix-vector unit reads: [N/PE * K/SIMD, PE * SIMD]."""
    n, k = weights.shape
    return weights.reshape(n // pe, pe, k // simd, simd).transpose(0, 2, 1, 3).reshape(-1, pe * simd)
