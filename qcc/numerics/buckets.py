"""Find where numbers lie among ascending boundaries, by a table over the leading bits of a float32.

The upper 16 bits of a float32 (sign, exponent and seven bits of the mantissa) split the number line into buckets.
Where no bucket holds more than one boundary, the bucket tells the position up to one comparison: exact, and several
times faster than a binary search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

_BUCKETS = 1 << 16
_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True, eq=False)
class BucketTable:
    """How many boundaries lie at or below each bucket's least number, and the one inside it (NaN: none)."""

    below: Tensor
    inside: Tensor

    def positions(self, values: Tensor) -> Tensor:
        """Count for every float32 number the boundaries at or below it, int32."""
        # What is infinite would share a bucket with NaN.
        flat = values.clamp(-_LARGEST, _LARGEST).flatten()
        bucket = (flat.view(torch.int32) >> 16).add_(_BUCKETS // 2)
        found = self.below.index_select(0, bucket)
        return found.add_(flat >= self.inside.index_select(0, bucket)).reshape(values.shape)


@lru_cache(maxsize=64)
def bucket_table(edges: tuple[float, ...], position_of_nan: int, device: torch.device) -> BucketTable | None:
    """Tabulate ascending float32 boundaries; None where two of them share a bucket, or one is infinite."""
    if not all(map(math.isfinite, edges)):
        return None
    ordered = torch.tensor(edges, dtype=torch.float32, device="cpu")
    top = torch.arange(-_BUCKETS // 2, _BUCKETS // 2, dtype=torch.int32, device="cpu") << 16
    ends = (top.view(torch.float32), (top | 0xFFFF).view(torch.float32))
    least, greatest = torch.minimum(*ends), torch.maximum(*ends)
    below = torch.searchsorted(ordered, least, right=True, out_int32=True)
    count = torch.searchsorted(ordered, greatest, right=True, out_int32=True) - below
    count[torch.isnan(least)] = 0
    if bool((count > 1).any()):
        return None
    following = torch.cat((ordered, ordered.new_tensor([math.nan])))[below]
    inside = torch.where(count == 1, following, math.nan)
    below[torch.isnan(least)] = position_of_nan
    return BucketTable(below.to(device), inside.to(device))
