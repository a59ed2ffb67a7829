"""The kernels as operations of torch: compiled without a break, exported, refused where they cannot run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qcc.backends.triton import jit
from qcc.backends.triton.emulate import EmulatedDevice
from qcc.backends.triton.pack import PackedWeight, pack_weight
from qcc.backends.triton.spec import Combine, GemmSpec, Requantize, RowSpec, Unary
from qcc.backends.triton.spec_text import parse_spec, spec_text
from qcc.errors import BuildError, CheckpointError, QccError, ShapeError, UnsupportedOp
from qcc.interpreter.contraction import contract
from qcc.numerics.quantize import quantize
from tests.triton_cases import int8_input, normal, weight_qtype

ROWS = RowSpec("f32", sums=32, ragged=True)
SPEC = GemmSpec(4, 32, "i8", zero="integer", bias="f32", steps=(Unary("silu"),), output="f32", ragged=True)
WEIGHT = quantize(normal(20, 50), weight_qtype(SPEC))


class Layer(nn.Module):
    """A quantized linear layer of two kernels."""

    def __init__(self) -> None:
        super().__init__()
        packed = pack_weight(WEIGHT, SPEC)
        assert packed.zeros is not None
        self.row_text, self.text = spec_text(ROWS), spec_text(SPEC)
        self.words, self.scales = nn.Buffer(packed.words), nn.Buffer(packed.scales)
        self.zeros, self.bias = nn.Buffer(packed.zeros), nn.Buffer(normal(20, seed=3))

    def forward(self, x: Tensor) -> Tensor:
        _, codes = jit.rows(self.row_text, x)
        assert codes is not None
        weight = PackedWeight(self.words, self.scales, self.zeros, 20, 50)
        return jit.gemm(self.text, codes, weight, bias=self.bias) * 2


def wanted(x: Tensor, layer: Layer) -> Tensor:
    return nn.functional.silu(contract(int8_input(x), WEIGHT, layer.bias, torch.float32)) * 2


def test_one_graph_for_any_number_of_tokens(emulated_device: EmulatedDevice) -> None:
    layer, graphs = Layer(), list[torch.fx.GraphModule]()

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(layer, backend=backend, fullgraph=True, dynamic=True)
    with jit.emulating(emulated_device):
        for tokens in (3, 17):
            x = normal(tokens, 50, seed=tokens)
            torch.testing.assert_close(compiled(x), wanted(x, layer), rtol=1e-5, atol=1e-5)
    assert len(graphs) == 1
    assert "qcc.triton_gemm" in str(graphs[0].graph)


def test_an_exported_program_keeps_the_kernels(emulated_device: EmulatedDevice, tmp_path) -> None:
    layer, x = Layer(), normal(5, 50, seed=1)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("tokens", min=2)},))
    torch.export.save(program, tmp_path / "layer.pt2")
    again = torch.export.load(tmp_path / "layer.pt2").module()
    with jit.emulating(emulated_device):
        x = normal(2, 50, seed=2)
        torch.testing.assert_close(again(x), wanted(x, layer), rtol=1e-5, atol=1e-5)


def test_the_fakes_are_what_the_kernels_give(emulated_device: EmulatedDevice) -> None:
    layer = Layer()
    x = normal(3, 50)
    with jit.emulating(emulated_device):
        checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
        for spec in (ROWS, RowSpec("f32", scale="group", group=64, values=True, ragged=True)):
            torch.library.opcheck(
                torch.ops.qcc.triton_rows, (x, None, None, None, 0.0, spec_text(spec)), test_utils=checks
            )
        _, codes = jit.rows(ROWS, x)
        assert codes is not None
        tensors = (codes.codes, codes.scales, codes.sums, layer.words, layer.scales, layer.zeros, layer.bias)
        rest = ([], None, 20, 50, spec_text(SPEC))
        torch.library.opcheck(torch.ops.qcc.triton_gemm, (*tensors, *rest), test_utils=checks)


def test_no_tokens(emulated_device: EmulatedDevice) -> None:
    with jit.emulating(emulated_device):
        assert Layer()(torch.zeros(0, 50)).shape == (0, 20)


def test_codes_come_padded_and_feed_the_next_kernel(emulated_device: EmulatedDevice) -> None:
    """A static int8 network: the codes that leave one contraction enter the next."""
    first = GemmSpec(
        8, None, "i8", input_scale="tensor", steps=(Unary("relu"), Requantize(-128, 127)), output="i8", ragged=True
    )
    second = GemmSpec(8, None, "i8", input_scale="tensor", output="f32", ragged=True)
    weights = [quantize(normal(30, 50), weight_qtype(first)), quantize(normal(20, 30, seed=1), weight_qtype(second))]
    x, scales = normal(3, 50, seed=2), [torch.tensor([0.02]), torch.tensor([0.1])]
    with jit.emulating(emulated_device):
        _, codes = jit.rows(RowSpec("f32", scale="tensor", ragged=True), x, scale=scales[0])
        assert codes is not None
        middle = jit.gemm(first, codes, pack_weight(weights[0], first), out_scale=scales[1])
        assert middle.shape == (3, 256)
        assert not middle[:, 30:].any()
        last = jit.gemm(second, jit.Codes(middle, scales[1], None, 30), pack_weight(weights[1], second))
    source = (x / scales[0]).round().clamp(-128, 127)
    hidden = torch.relu(scales[0] * (weights[0].scales[0].float().T * (source @ weights[0].codes.float().T)))
    hidden = (hidden / scales[1]).round().clamp(-128, 127)
    assert torch.equal(middle[:, :30].float(), hidden)
    assert torch.equal(last, scales[1] * (weights[1].scales[0].float().T * (hidden @ weights[1].codes.float().T)))


def test_tensors_of_the_cpu_are_refused_by_name() -> None:
    with pytest.raises(BuildError, match=r"rows_token_sums32_f32_ragged runs on a CUDA device, its tensors are on cpu"):
        Layer()(normal(3, 50))


def test_tensors_that_do_not_fit_are_refused(emulated_device: EmulatedDevice) -> None:
    packed = pack_weight(WEIGHT, SPEC)
    with jit.emulating(emulated_device):
        _, codes = jit.rows(RowSpec("f32", ragged=True), normal(3, 50))
        assert codes is not None
        with pytest.raises(ShapeError, match="input_sums: is missing"):
            jit.gemm(SPEC, codes, packed, bias=torch.zeros(20))
        with pytest.raises(QccError, match="scale"):
            jit.rows(RowSpec("f32", scale="tensor", ragged=True), normal(3, 50))


SPECS = [
    SPEC,
    ROWS,
    GemmSpec(2, None, "i8", steps=(Combine("mul", "f16", "channel"), Unary("gelu"), Requantize(-8, 7)), output="i8"),
    RowSpec("bf16", "layer", True, True, hadamard=64, scale="group", group=128, sums=128, values=True),
]


@pytest.mark.parametrize("spec", SPECS)
def test_the_text_of_a_spec_is_the_spec(spec) -> None:
    assert parse_spec(spec_text(spec)) == spec


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"kernel":"gemm"}', '{"kernel":"gemm","bits":4}', '{"kernel":"conv"}']
)
def test_text_that_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="no kernel"):
        parse_spec(text)


def test_a_spec_that_no_kernel_covers_names_everything() -> None:
    with pytest.raises(UnsupportedOp) as error:
        GemmSpec(3, 48, "i8", input_scale="none", steps=(Requantize(-128, 127), Unary("relu")), output="f16")
    for part in ("3 bits", "groups of 48", "needs a scale", "before the end", "int8 result"):
        assert part in str(error.value)
