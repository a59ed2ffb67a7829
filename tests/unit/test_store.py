"""The weight store keeps every format bit for bit, and says what of a damaged file is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from qcc.errors import CheckpointError
from qcc.ir.store import FORMAT, WeightStore
from qcc.numerics.kaxis import KAxisIndex
from qcc.numerics.named_tensors import from_named, named_tensors
from qcc.numerics.presets import PRESETS, format_of
from qcc.numerics.qtype_bits import storage_bits
from qcc.numerics.qtype_parts import KAxis
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import dequantize, quantize
from qcc.numerics.sides import with_side
from qcc.numerics.stored_parts import packed_bits, parameter_parts
from qcc.numerics.tensor import QuantizedTensor
from tests.unit.format_rows import ROWS

TEXTS = [*(row.text for row in ROWS), *PRESETS.values(), "select(int4n 0.5, uint4 0.5) by u1 (1,4) | (1,4) f16"]
SHAPES = st.one_of(
    st.tuples(st.integers(1, 5), st.integers(1, 300)),
    st.tuples(st.integers(1, 40)),
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 35)),
)


def made(text: str, shape: tuple[int, ...], seed: int = 0) -> QuantizedTensor:
    generator = torch.Generator().manual_seed(seed)
    return quantize(torch.randn(shape, generator=generator), parse_qtype(text))


def raw(tensor: torch.Tensor) -> torch.Tensor:
    """Bits of a tensor: float8 tensors cannot be compared, and NaN equals nothing."""
    return tensor.contiguous().view(torch.uint8)


def assert_same(left: QuantizedTensor, right: QuantizedTensor) -> None:
    assert (left.qtype, left.shape, left.codes.dtype) == (right.qtype, right.shape, right.codes.dtype)
    assert torch.equal(left.codes, right.codes)
    assert [type(side) for side in left.sides] == [type(side) for side in right.sides]
    ours, theirs = named_tensors(left), named_tensors(right)
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(raw(tensor), raw(theirs[name])), name
    assert torch.equal(dequantize(left), dequantize(right))


@pytest.mark.parametrize("text", TEXTS)
def test_every_format_is_kept_bit_for_bit(text: str, tmp_path: Path) -> None:
    store = WeightStore({"a.b": made(text, (3, 300)), "plain#codes": torch.ones(2)})
    store.save(tmp_path / "w.safetensors")
    again = WeightStore.load(tmp_path / "w.safetensors")
    assert set(again) == {"a.b", "plain#codes"}
    assert_same(again.quantized("a.b"), store.quantized("a.b"))
    assert torch.equal(dequantize(again.quantized("a.b")), dequantize(store.quantized("a.b")))


@example(text="uint4 | (1,16) f16 | pre u4 | mask(bsr(1,16), 0.5)", shape=(1, 1), seed=0, scale=1.0)
@settings(max_examples=80, deadline=None)
@given(text=st.sampled_from(TEXTS), shape=SHAPES, seed=st.integers(0, 99), scale=st.sampled_from([0.0, 1e-6, 1.0, 300]))
def test_every_shape_is_kept(text: str, shape: tuple[int, ...], seed: int, scale: float) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
    qtype = parse_qtype(text)
    assume(shape[-1] > sum(side.count for side in qtype.sides if isinstance(side, KAxis)))
    stored = quantize(values, qtype)
    assert_same(from_named(stored.qtype, shape, named_tensors(stored)), stored)
    with TemporaryDirectory() as folder:
        WeightStore({"w": stored}).save(Path(folder) / "w.safetensors")
        assert_same(WeightStore.load(Path(folder) / "w.safetensors").quantized("w"), stored)


@pytest.mark.parametrize("name", ["int4-g128", "uint4-g128", "nf4-g64", "mxfp4", "nvfp4", "hlq4-g128", "olive4"])
def test_bytes_of_codes_are_those_counted(name: str) -> None:
    """Codes take their width; only parameters narrower than a byte are stored wider than they count."""
    qtype, shape = format_of(name), (4, 512)
    stored = named_tensors(made(PRESETS[name], shape))
    assert stored["codes"].numel() == 4 * 512 * packed_bits(qtype.decode) // 8
    if all(not part.dtype.startswith(("u", "i")) for part in parameter_parts(qtype)):
        counted = storage_bits(qtype, shape)
        assert 8 * sum(one.numel() * one.element_size() for one in stored.values()) == counted


def test_a_file_of_the_first_version_still_loads(tmp_path: Path) -> None:
    """Written out by hand: the names, dtypes and metadata that files had when only integers were stored."""
    tensors = {
        "w#codes": torch.tensor([[0x21, 0x03], [0xFF, 0x0F]], dtype=torch.uint8),
        "w#scale0": torch.tensor([[0.5], [2.0]], dtype=torch.float16),
        "w#zero": torch.tensor([[1], [15]], dtype=torch.uint8),
    }
    metadata = {FORMAT: json.dumps({"w": {"qtype": "uint4 | (1,-1) f16 | pre u4", "shape": [2, 3]}})}
    save_file(tensors, str(tmp_path / "w.safetensors"), metadata=metadata)
    loaded = WeightStore.load(tmp_path / "w.safetensors").quantized("w")
    assert dequantize(loaded).tolist() == [[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]


SPQR = "uint3 | (1,16) u3 offset(parent), (16,16) f16 | pre (1,16) u3 offset(parent), (16,16) f16"
SPARSE = "int4 | (1,16) f16 | sparse(csr, f16, 0.1)"
BITMOD = PRESETS["bitmod3-g128"]
TERNARY = "table ternary(-1, 0, 1) | (1,256) f16"
TRITS = PRESETS["trit2-g128"]
Damage = Callable[[dict[str, torch.Tensor]], None]


def _drop(name: str) -> Damage:
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[name]

    return damage


def _put(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = change(tensors[name]).contiguous()

    return damage


def _add(name: str) -> Damage:
    return lambda tensors: tensors.update({name: torch.ones(1)})


@pytest.mark.parametrize(
    ("text", "damage", "message"),
    [
        ("int4 | (1,16) f16", _drop("w#codes"), r"'w', codes: are missing"),
        ("int4 | (1,16) f16", _drop("w#scale0"), r"'w', scale0: is missing"),
        (SPQR, _drop("w#offset0"), r"'w', offset0: is missing"),
        (SPQR, _drop("w#zero_offset0"), r"'w', zero_offset0: is missing"),
        (SPQR, _drop("w#zero1"), r"'w', zero1: is missing"),
        (SPQR, _put("w#scale0", lambda one: one + 8), r"scale0: has values from .* outside 0 to 7"),
        (BITMOD, _drop("w#selector"), r"'w', selector: is missing"),
        (BITMOD, _put("w#selector", lambda one: one * 0 + 4), r"selector: has values from 4 to 4, outside 0 to 3"),
        ("int4 | (1,16) f16", _put("w#codes", lambda one: one[:, :-1]), r"codes: are torch.uint8 of shape \(3, 149\)"),
        ("int4 | (1,16) f16", _put("w#scale0", lambda one: one.float()), r"scale0: is torch.float32 .* torch.float16"),
        ("fp2_1 | (1,32) e8m0", _put("w#scale0", lambda one: one[:1]), r"scale0: .* not torch.float8_e8m0fnu of shape"),
        ("int4 | (1,16) f16", _add("w#zero"), r"'w', zero: is no part of this format"),
        (TERNARY, _put("w#codes", lambda one: one | 3), r"codes: reach from 0 to 3, outside 0 to 2"),
        (TRITS, _put("w#codes", lambda one: one | 3), r"codes: \d+ stand for no digits"),
        (SPARSE, _drop("w#side.sparse.values"), r"'w', side.sparse.values: is missing"),
        (SPARSE, _put("w#side.sparse.columns", lambda one: one[1:]), r"side.sparse.columns: is torch.uint16 of shape"),
        (SPARSE, _put("w#side.sparse.offsets", lambda one: one + 1), r"side.sparse\(csr.* do not rise from 0"),
        (SPARSE, _add("w#side.lowrank.up"), r"'w', side.lowrank.up: is no part of this format"),
        ("int4 | (1,16) f16 | lowrank(3, i8)", _drop("w#side.lowrank.up_scale"), r"side.lowrank.up_scale: is missing"),
        ("int4 | (1,16) f16 | mask(2:4)", _put("w#side.mask.index", lambda one: one[:2]), r"side.mask.index: is"),
        ("int4 | (1,16) f16", _add("w#side.sparse.values"), r"'w', side.sparse.values: is no part of this format"),
        ("int4n | (1,16) f16", _put("w#codes", lambda one: one * 0), r"codes: reach from -8 to -8, outside -7 to 7"),
    ],
)  # fmt: skip
def test_damaged_parts_are_named(text: str, damage: Damage, message: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    WeightStore({"w": made(text, (3, 300)), "good": made("int8n | row f32", (2, 4))}).save(path)
    with safe_open(str(path), framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    damage(tensors)
    save_file(tensors, str(path), metadata=metadata)
    with pytest.raises(CheckpointError, match=message):
        WeightStore.load(path)


def test_all_damaged_weights_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    WeightStore({"a": made(SPQR, (16, 32)), "b": made("int4 | (1,16) f16", (3, 32))}).save(path)
    with safe_open(str(path), framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    del tensors["a#zero"], tensors["a#scale1"], tensors["b#codes"]
    save_file(tensors, str(path), metadata=metadata)
    with pytest.raises(CheckpointError) as caught:
        WeightStore.load(path)
    assert [problem.where for problem in caught.value.problems] == ["'a', scale1", "'a', zero", "'b', codes"]


@pytest.mark.parametrize(
    "listed",
    [
        "{", "[]", {"w": 3}, {"w": {"qtype": "int4 | (1,16) f16"}}, {"w": {"shape": [2, 2]}},
        {"w": {"qtype": "int4 | (1,16) f17", "shape": [2, 2]}},
        {"w": {"qtype": "int4 | (1,16) f16", "shape": [2, "2"]}},
        {"w": {"qtype": "int4 | (1,16) f16", "shape": []}}, {"w": {"qtype": "int4 | (1,16) f16", "shape": [0, 2]}},
        {"w": {"qtype": "int4 | (1,16) f16", "shape": [-1, 2]}},
    ],
)  # fmt: skip
def test_damaged_metadata_is_refused(listed: Any, tmp_path: Path) -> None:
    text = listed if isinstance(listed, str) else json.dumps(listed)
    save_file({"w#codes": torch.zeros(2, 1, dtype=torch.uint8)}, str(tmp_path / "w.safetensors"), {FORMAT: text})
    with pytest.raises(CheckpointError):
        WeightStore.load(tmp_path / "w.safetensors")


def test_an_order_of_columns_is_stored_where_there_is_one(tmp_path: Path) -> None:
    plain = made("uint4 | (1,16) f16 | pre u4 | kaxis(perm)", (3, 32))
    order = torch.randperm(32).to(torch.int32)
    ordered = replace(plain, sides=with_side(plain.qtype.sides, plain.sides, KAxisIndex(order, None)))
    WeightStore({"plain": plain, "ordered": ordered}).save(tmp_path / "w.safetensors")
    again = WeightStore.load(tmp_path / "w.safetensors")
    assert_same(again.quantized("plain"), plain)
    assert_same(again.quantized("ordered"), ordered)
    with safe_open(str(tmp_path / "w.safetensors"), framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    del tensors["ordered#side.kaxis.order"]
    save_file(tensors, str(tmp_path / "w.safetensors"), metadata=metadata)
    with pytest.raises(CheckpointError, match=r"'ordered', side.kaxis.order: is missing"):
        WeightStore.load(tmp_path / "w.safetensors")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    WeightStore({"w": made("fp2_1 | (1,16) e4m3, tensor f32", (3, 40))}).save(path)
    whole = path.read_bytes()
    for size in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="not a readable safetensors file"):
            WeightStore.load(path)
