"""A causal Hugging Face model with its keys and values in buffers of fixed length.

One graph serves both phases: prefill is a call with n tokens, decoding a call with one. Imports `transformers`, which
is optional: import this module only where such a model is at hand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, StaticLayer
from transformers.configuration_utils import get_head_shapes


class PositionedLayer(StaticLayer):
    """Keys and values of one layer, `[batch, heads, length, size]`, written at positions given from outside.

    The layers of `transformers` count the tokens that they have seen in a buffer of their own. Here the caller says
    where the tokens are: no counter to keep in step, and a call can be repeated. Sliding windows are left to the mask.
    """

    # a compileable layer makes the mask special for one token, which would split prefill from decoding
    is_compileable = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__(max_cache_len=keys.shape[2])
        self.keys, self.values = self.buffers = keys, values
        self.is_initialized = True
        self.positions = torch.zeros(1, dtype=torch.long)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values and return all of them."""
        keys, values = self.buffers
        keys.index_copy_(2, self.positions, key_states)
        values.index_copy_(2, self.positions, value_states)
        return keys, values

    def get_seq_length(self) -> Any:
        """Return the position of the first new token, which the mask counts from."""
        return self.positions[0]


class CachedCausalModel(nn.Module):
    """`(input_ids i64[1, n], cache_position i64[n]) -> logits [1, n, vocabulary]`; batch 1, n >= 1.

    `cache_position` are the consecutive positions of the tokens, below the cache's length. Keys and values of earlier
    calls stay in buffers `keys_0`, `values_0`, ... `[1, heads, length, size]`.
    """

    def __init__(self, model: PreTrainedModel, length: int) -> None:
        super().__init__()
        self.model = model
        config = model.config.get_text_config()
        heads, sizes = get_head_shapes(config)
        count = int(config.num_hidden_layers)
        for index in range(count):
            shape = (1, _at(heads, index), length, _at(sizes, index))
            for name in ("keys", "values"):
                self.register_buffer(f"{name}_{index}", torch.zeros(shape, dtype=model.dtype), persistent=False)
        self.layers = count

    def forward(self, input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
        """Return the logits of every token given."""
        layers = [
            PositionedLayer(self.get_buffer(f"keys_{index}"), self.get_buffer(f"values_{index}"))
            for index in range(self.layers)
        ]
        for layer in layers:
            layer.positions = cache_position
        outputs = self.model(
            input_ids=input_ids,
            position_ids=cache_position.unsqueeze(0),
            past_key_values=Cache(layers=list[Any](layers)),
            use_cache=True,
        )
        return outputs.logits


def _at(values: int | list[int], index: int) -> int:
    return values[index] if isinstance(values, list) else int(values)
