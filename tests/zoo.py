"""Models that the tests compile.

Every function returns `(module in eval mode, args, kwargs, dynamic_shapes)` for `torch.export.export`; weights and
examples are drawn from a fixed seed. Numbers of heads, widths and lengths are small and uneven on purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn
from torch.export import Dim

from qcc.frontend.static_cache import CachedCausalModel
from tests import minilm as minilm_files

Model = tuple[nn.Module, tuple[Any, ...], dict[str, Any], Any]

DYNAMIC = Dim.DYNAMIC
TOKENS = {0: DYNAMIC, 1: DYNAMIC}


def minilm_folder() -> str:
    """Return the folder of the pretrained sentence encoder all-MiniLM-L6-v2."""
    found = minilm_files.folder()
    assert found is not None
    return found


def tokens(batch: int, length: int, vocabulary: int = 97) -> torch.Tensor:
    """Draw token ids, i64[batch, length]."""
    return torch.randint(1, vocabulary, (batch, length), generator=torch.Generator().manual_seed(batch * 1000 + length))


def padding(batch: int, length: int) -> torch.Tensor:
    """Make an attention mask, i64[batch, length], of which the last row ends early."""
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[-1, (length + 1) // 2 :] = 0
    return mask


def _encoder(model: nn.Module) -> Model:
    kwargs = {"input_ids": tokens(2, 9), "attention_mask": padding(2, 9)}
    return model.eval(), (), kwargs, {"input_ids": TOKENS, "attention_mask": TOKENS}


def minilm() -> Model:
    """All-MiniLM-L6-v2 with its real weights."""
    return _encoder(transformers.AutoModel.from_pretrained(minilm_folder()))


def bert(*, layers: int = 2, positions: int = 40) -> Model:
    """A BERT encoder with random weights."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=97,
        hidden_size=48,
        num_hidden_layers=layers,
        num_attention_heads=3,
        intermediate_size=80,
        max_position_embeddings=positions,
    )
    return _encoder(transformers.BertModel(config))


class Logits(nn.Module):
    """A causal language model without a cache: i64[batch, length] -> [batch, length, vocabulary]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


def _causal(model: nn.Module, *, static: bool = False) -> Model:
    return Logits(model).eval(), (), {"input_ids": tokens(2, 9)}, None if static else {"input_ids": TOKENS}


def _decoder_sizes(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 120,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **more,
    }


def llama(**more: Any) -> Model:
    """A Llama with grouped heads."""
    torch.manual_seed(1)
    return _causal(transformers.LlamaForCausalLM(transformers.LlamaConfig(**_decoder_sizes(**more))))


def qwen2() -> Model:
    """A Qwen2: query, key and value have biases."""
    torch.manual_seed(2)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**_decoder_sizes()))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return _causal(model)


def gemma() -> Model:
    """A Gemma: norms scale by one plus their weight, the head is tied to the embedding."""
    torch.manual_seed(3)
    model = transformers.GemmaForCausalLM(transformers.GemmaConfig(**_decoder_sizes(head_dim=20)))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, std=0.3)
    return _causal(model)


def _gpt2(**more: Any) -> nn.Module:
    torch.manual_seed(4)
    config = transformers.GPT2Config(
        vocab_size=97,
        n_embd=48,
        n_layer=2,
        n_head=3,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
        **more,
    )
    return transformers.GPT2LMHeadModel(config)


def gpt2() -> Model:
    """A GPT-2: transposed weights (Conv1D), tied head, tanh GELU written out."""
    return _causal(_gpt2())


def gpt2_eager() -> Model:
    """GPT-2 with attention written out: torch cannot decompose the fused one at dynamic sizes ("Cannot view ...")."""
    return _causal(_gpt2(attn_implementation="eager"))


def vit() -> Model:
    """A vision transformer on 24 x 24 images."""
    torch.manual_seed(5)
    config = transformers.ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=80,
        image_size=24,
        patch_size=8,
    )
    return transformers.ViTModel(config).eval(), (), {"pixel_values": images(2, 24)}, {"pixel_values": {0: DYNAMIC}}


def cached_llama(length: int = 24) -> Model:
    """A Llama that keeps keys and values in a static cache of `length` tokens."""
    torch.manual_seed(8)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**_decoder_sizes()))
    kwargs = {"input_ids": tokens(1, 5), "cache_position": torch.arange(5)}
    shapes = {"input_ids": {1: DYNAMIC}, "cache_position": {0: DYNAMIC}}
    return CachedCausalModel(model.eval(), length).eval(), (), kwargs, shapes


def narrow(model: Model, dtype: torch.dtype) -> Model:
    """Convert a model and its floating-point examples to a narrower type."""
    module, args, kwargs, shapes = model

    def convert(value: Any) -> Any:
        floating = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(dtype) if floating else value

    converted = {key: convert(value) for key, value in kwargs.items()}
    return module.to(dtype), tuple(convert(value) for value in args), converted, shapes


def images(batch: int, size: int, width: int | None = None) -> torch.Tensor:
    """Draw images, f32[batch, 3, size, width or size]."""
    generator = torch.Generator().manual_seed(batch * 1000 + size)
    return torch.randn(batch, 3, size, width or size, generator=generator)


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Make a convolution without bias and its batch norm, whose statistics are not trivial."""
    norm = nn.BatchNorm2d(outputs)
    nn.init.normal_(norm.running_mean, std=0.5)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    nn.init.normal_(norm.weight, mean=1.0, std=0.2)
    nn.init.normal_(norm.bias, std=0.2)
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return [convolution, norm]


class Residual(nn.Module):
    """A basic residual block (He et al., arXiv 1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(inputs, outputs, 3, stride), nn.ReLU(inplace=True), *_convolution(outputs, outputs, 3)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*_convolution(inputs, outputs, 1, stride))
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.body(x)
        out += self.shortcut(x)
        return self.activation(out)


def resnet() -> Model:
    """A small residual network with a max-pooled stem; images of any height and width."""
    torch.manual_seed(6)
    model = nn.Sequential(
        *_convolution(3, 8, 7, 2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        Residual(8, 8, 1),
        Residual(8, 12, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 10),
    )
    return model.eval(), (images(2, 32),), {}, {"input": {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC}}


class Depthwise(nn.Module):
    """An inverted residual with a depthwise convolution (Sandler et al., arXiv 1801.04381)."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: nn.Module) -> None:
        super().__init__()
        wide = inputs * 3
        self.body = nn.Sequential(
            *_convolution(inputs, wide, 1),
            activation,
            *_convolution(wide, wide, 3, stride, groups=wide),
            activation,
            *_convolution(wide, outputs, 1),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet() -> Model:
    """A small depthwise network with ReLU6 and hard swish."""
    torch.manual_seed(7)
    model = nn.Sequential(
        *_convolution(3, 8, 3, 2),
        nn.Hardswish(inplace=True),
        Depthwise(8, 8, 1, nn.ReLU6(inplace=True)),
        Depthwise(8, 12, 2, nn.Hardswish(inplace=True)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(12, 10),
        nn.Softmax(dim=-1),
    )
    return model.eval(), (images(2, 30),), {}, {"input": {0: DYNAMIC}}


MODELS: dict[str, Callable[[], Model]] = {
    "minilm": minilm,
    "bert": bert,
    "llama": llama,
    "qwen2": qwen2,
    "gemma": gemma,
    "gpt2": gpt2,
    "gpt2_eager": gpt2_eager,
    "vit": vit,
    "resnet": resnet,
    "mobilenet": mobilenet,
}
"""Every model without state, by name."""

NARROW: dict[str, Callable[[], Model]] = {
    "bert_bf16": lambda: narrow(bert(), torch.bfloat16),
    "llama_bf16": lambda: narrow(llama(), torch.bfloat16),
    "gemma_f16": lambda: narrow(gemma(), torch.float16),
    "resnet_f16": lambda: narrow(resnet(), torch.float16),
}
"""Models in half precision, by name."""
