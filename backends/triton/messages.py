"""Messages between the process that compiles kernels and the one that interprets them: JSON, then bytes of memory.

Tensors go as the memory that they lie in and where they lie in it, so that strides stay, and what two of them share is
shared at the other end. Nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import IO, Any

import torch
from torch import Tensor

from qcc.backends.triton.launch import Value

Fields = dict[str, Any]


def send(stream: IO[bytes], fields: Mapping[str, Any], values: Sequence[Value] = ()) -> None:
    """Write one message: fields that JSON holds, and numbers and tensors on the CPU."""
    blocks: dict[int, Tensor] = {}
    described = [_describe(one, blocks) for one in values]
    sizes = [len(block) for block in blocks.values()]
    stream.write(json.dumps({"fields": fields, "values": described, "sizes": sizes}).encode() + b"\n")
    for block in blocks.values():
        stream.write(block.numpy().data)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[Fields, list[Value]]:
    """Read one message.

    Raises:
        EOFError: if the stream ends before the message does.
    """
    head = stream.readline()
    if not head.endswith(b"\n"):
        raise EOFError("the stream ended")
    message = json.loads(head)
    blocks = [_read(stream, size) for size in message["sizes"]]
    return message["fields"], [_value(one, blocks) for one in message["values"]]


def _memory(tensor: Tensor) -> Tensor:
    """Return all the memory that a tensor lies in, as bytes that it shares."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def _describe(value: Value, blocks: dict[int, Tensor]) -> Any:
    if not isinstance(value, Tensor):
        return value
    block = _memory(value)
    blocks.setdefault(block.data_ptr(), block)
    return {
        "block": list(blocks).index(block.data_ptr()),
        "dtype": str(value.dtype).removeprefix("torch."),
        "offset": value.storage_offset(),
        "shape": list(value.shape),
        "strides": list(value.stride()),
    }


def _read(stream: IO[bytes], size: int) -> Tensor:
    data = bytearray(stream.read(size))
    if len(data) < size:
        raise EOFError("the stream ended")
    return torch.frombuffer(data, dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)


def _value(described: Any, blocks: Sequence[Tensor]) -> Value:
    if not isinstance(described, dict):
        return described
    storage = blocks[described["block"]].untyped_storage()
    empty = torch.empty(0, dtype=getattr(torch, described["dtype"]))
    return empty.set_(storage, described["offset"], described["shape"], described["strides"])
