"""Time the peers of the CPU kernels in a process of their own: torch, and onnxruntime where it is installed.

A line of input is a JSON object with `m, n, k, bits, group, threads, seconds`; a line of output maps names to median
milliseconds. torch.mm in bfloat16 is a peer of every product, `_int_mm` (ready-made int8 on both sides, no scales) of 8
bits, `_weight_int4pack_mm_for_cpu` of 4, MatMulNBits (accuracy level 4: int8 activations) of 2, 4 and 8 bits.
Products with one row rotate over more weights than the caches hold. On one thread the time is the process's own.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

ROTATED_BYTES = 160 << 20
Call = Callable[[int], object]


def median_ms(call: Call, threads: int, seconds: float, products: int = 1) -> float:
    """Median time of one product; `call(i)` computes `products` of them."""
    clock = time.process_time if threads == 1 else time.perf_counter
    times: list[float] = []
    call(0)
    start, turn = time.perf_counter(), 0
    while len(times) < 5 or time.perf_counter() - start < seconds:
        begin = clock()
        call(turn)
        times.append((clock() - begin) / products)
        turn += 1
    return float(np.median(times)) * 1e3


def copies_of(m: int, weight_bytes: int) -> int:
    return 1 if m > 1 else -(-ROTATED_BYTES // weight_bytes)


def torch_bf16(m: int, n: int, k: int) -> Call:
    x = torch.randn(m, k).to(torch.bfloat16)
    weights = [torch.randn(n, k, dtype=torch.bfloat16) for _ in range(copies_of(m, n * k * 2))]
    return lambda turn: torch.mm(x, weights[turn % len(weights)].T)


def torch_int8(m: int, n: int, k: int) -> Call:
    x = torch.randint(-127, 128, (m, k), dtype=torch.int8)
    weights = [torch.randint(-127, 128, (n, k), dtype=torch.int8) for _ in range(copies_of(m, n * k))]
    return lambda turn: torch._int_mm(x, weights[turn % len(weights)].T)


def torch_int4(m: int, n: int, k: int, group: int) -> Call:
    x = torch.randn(m, k).to(torch.bfloat16)
    codes = torch.randint(0, 16, (n, k), dtype=torch.int32)
    scales = torch.full((k // group, n, 2), 0.01, dtype=torch.bfloat16)
    packed = torch._convert_weight_to_int4pack_for_cpu(codes, 1)
    weights = [packed.clone() for _ in range(copies_of(m, n * k // 2))]
    return lambda turn: torch._weight_int4pack_mm_for_cpu(x, weights[turn % len(weights)], group, scales)


def onnx_nbits(m: int, n: int, k: int, bits: int, group: int, threads: int) -> tuple[Call, int]:
    """One model of as many nodes as there are copies of the weight; all read one input and run one after another."""
    import onnxruntime
    from onnx import TensorProto, helper

    copies, blocks = copies_of(m, n * k * bits // 8), k // group
    rng = np.random.default_rng(0)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [m, k])
    nodes: list[Any] = []
    parts: list[Any] = []
    fields = {"K": k, "N": n, "bits": bits, "block_size": group, "accuracy_level": 4}
    scales = np.full(n * blocks, 0.01, np.float32).tobytes()
    for i in range(copies):
        codes = rng.integers(0, 256, n * blocks * group * bits // 8, np.uint8).tobytes()
        shape = [n, blocks, group * bits // 8]
        parts.append(helper.make_tensor(f"w{i}", TensorProto.UINT8, shape, codes, raw=True))
        parts.append(helper.make_tensor(f"s{i}", TensorProto.FLOAT, [n * blocks], scales, raw=True))
        names = ["x", f"w{i}", f"s{i}"]
        nodes.append(helper.make_node("MatMulNBits", names, [f"y{i}"], domain="com.microsoft", **fields))
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [m, n]) for i in range(copies)]
    graph = helper.make_graph(nodes, "products", [x], outputs, parts)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    feeds = {"x": rng.standard_normal((m, k)).astype(np.float32)}
    return lambda _: session.run(None, feeds), copies


def has_onnxruntime() -> bool:
    """Whether both packages of the extra `bench` are there."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        print("no onnxruntime among the peers: pip install 'qcc[bench]'", file=sys.stderr)
        return False
    return True


@functools.cache
def dense_ms(m: int, n: int, k: int, threads: int, seconds: float) -> float:
    """bfloat16 does not depend on bits and groups."""
    return median_ms(torch_bf16(m, n, k), threads, seconds)


@functools.cache
def int8_ms(m: int, n: int, k: int, threads: int, seconds: float) -> float:
    """Nor does int8 without scales depend on groups."""
    return median_ms(torch_int8(m, n, k), threads, seconds)


def measure(job: dict[str, Any], onnx: bool) -> dict[str, float]:
    """Time every peer that takes a product."""
    m, n, k, bits, threads, seconds = (job[key] for key in ("m", "n", "k", "bits", "threads", "seconds"))
    group = job["group"] or k
    torch.set_num_threads(threads)
    found = {"torch bf16": dense_ms(m, n, k, threads, seconds)}
    if bits == 8:
        found["torch _int_mm"] = int8_ms(m, n, k, threads, seconds)
    if bits == 4 and group in (32, 64, 128, 256):
        found["torch int4pack"] = median_ms(torch_int4(m, n, k, group), threads, seconds)
    if bits in (2, 4, 8) and group in (16, 32, 64, 128, 256) and onnx:
        call, products = onnx_nbits(m, n, k, bits, group, threads)
        found["onnxruntime MatMulNBits"] = median_ms(call, threads, seconds, products)
    return {name: round(ms, 5) for name, ms in found.items()}


def main() -> None:
    """Answer line by line."""
    torch.manual_seed(0)
    onnx = has_onnxruntime()
    for line in sys.stdin:
        print(json.dumps(measure(json.loads(line), onnx)), flush=True)


if __name__ == "__main__":
    main()
