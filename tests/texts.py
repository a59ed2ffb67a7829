"""Real English texts of varied length that every Python carries: the paragraphs of its language reference."""

from __future__ import annotations

import re
from pydoc_data.topics import topics


def paragraphs(count: int) -> list[str]:
    """Return `count` paragraphs of 20 to 1500 characters, spread evenly over the topics."""
    found: list[str] = []
    for name in sorted(topics):
        for block in re.split(r"\n\s*\n", topics[name]):
            text = " ".join(block.split())
            if 20 < len(text) < 1500 and text[0].isalpha():
                found.append(text)
    step = max(1, len(found) // count)
    return found[::step][:count]
