"""Laws of low-rank corrections: optimality, weights, storage, and what alternating gains over one shot."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcc.errors import ShapeError, UnsupportedOp
from qcc.numerics import lowrank
from qcc.numerics.lowrank import LowRankFactors, alternate, low_rank
from qcc.numerics.qtype_parts import LowRank

SHAPES = st.sampled_from([(1, 1), (1, 37), (12, 20), (33, 3), (2, 3, 10), (7,)])

# NF3, the quantiles of a Gaussian with an exact zero, as in LQ-LoRA.
NF3 = torch.tensor([-1.0, -0.4786292, -0.2171416, 0.0, 0.1609302, 0.3379152, 0.5626170, 1.0])


def matrix(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nf3(x: Tensor) -> Tensor:
    """Round groups of 64 to a table of 8 values scaled by the largest magnitude."""
    groups = x.reshape(-1, 64)
    scale = groups.abs().amax(1, keepdim=True)
    table = NF3.to(x.dtype)
    between = (table[1:] + table[:-1]) / 2
    return (table[torch.bucketize(groups / scale, between)] * scale).reshape(x.shape)


@given(SHAPES, st.integers(1, 9), st.integers(0, 999))
@settings(max_examples=60)
def test_factors_are_the_best_of_their_rank(shape: tuple[int, ...], rank: int, seed: int) -> None:
    x = matrix(shape, seed)
    flat = x.reshape(-1, shape[-1])
    factors = low_rank(x, LowRank(rank, "f32"))
    assert factors.up.shape == (flat.shape[0], rank)
    assert factors.down.shape == (rank, flat.shape[1])
    lost = torch.linalg.svdvals(flat)[rank:].square().sum().sqrt()
    torch.testing.assert_close(factors.taken_from(x).norm(), lost, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(factors.add_to(torch.zeros_like(x)).reshape(flat.shape), factors.product(x.dtype))
    up, down = factors.decoded()
    torch.testing.assert_close(up.norm(dim=0), down.norm(dim=1), rtol=1e-5, atol=1e-6)
    again = low_rank(x, LowRank(rank, "f32"))
    assert torch.equal(again.up, factors.up)
    assert torch.equal(again.down, factors.down)


def test_a_matrix_of_low_rank_is_met_exactly() -> None:
    x = matrix((40, 3)) @ matrix((3, 50), 1)
    for rank in (3, 8):
        factors = low_rank(x.float(), LowRank(rank, "f32"))
        torch.testing.assert_close(factors.product(torch.float64), x, rtol=1e-4, atol=1e-4)
    assert not low_rank(torch.zeros(5, 9), LowRank(4, "i8")).product().any()


def test_large_matrices_come_close_to_the_exact_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = matrix((200, 300))
    steep = flat @ torch.diag(0.97 ** torch.arange(300, dtype=torch.float64))
    side = LowRank(16, "f32")
    for x in (flat, flat.T.contiguous(), steep):
        exact = low_rank(x, side).taken_from(x).norm()
        with monkeypatch.context() as context:
            context.setattr(lowrank, "EXACT_SIZE", 10)
            fast = low_rank(x, side)
            assert torch.equal(low_rank(x, side).up, fast.up)
        assert exact <= fast.taken_from(x).norm() * (1 + 1e-6)
        assert fast.taken_from(x).norm() <= exact * 1.002


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("f16", 1e-3), ("bf16", 8e-3), ("e4m3", 0.08), ("e5m2", 0.15), ("i8", 0.02), ("i4", 0.3), ("i3", 0.7)],
)
def test_stored_factors_keep_their_precision(dtype: str, tolerance: float) -> None:
    x = matrix((40, 60))
    exact = low_rank(x, LowRank(8, "f32")).product()
    factors = low_rank(x, LowRank(8, dtype))
    assert (factors.product() - exact).norm() <= tolerance * exact.norm()
    if dtype[0] == "i":
        assert factors.up.dtype == factors.down.dtype == torch.int8
        assert int(factors.up.abs().max()) == int(factors.down.abs().max()) == 2 ** (int(dtype[1:]) - 1) - 1
        assert factors.up_scale is not None
        assert factors.up_scale.shape == (8,)


def test_column_weights_are_exact() -> None:
    x, weights = matrix((20, 30)), torch.rand(30, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weights[4] = 0
    factors = low_rank(x, LowRank(5, "f32"), weights)
    lost = torch.linalg.svdvals(x * weights.sqrt())[5:].square().sum().sqrt()
    found = (factors.taken_from(x).square() * weights).sum().sqrt()
    torch.testing.assert_close(found, lost, rtol=1e-5, atol=0)
    assert not factors.down[:, 4].any()
    separable = torch.rand(20, 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * weights
    factors = low_rank(x, LowRank(5, "f32"), separable)
    lost = torch.linalg.svdvals(x * separable.sqrt())[5:].square().sum().sqrt()
    torch.testing.assert_close((factors.taken_from(x).square() * separable).sum().sqrt(), lost, rtol=1e-5, atol=0)


def test_weights_of_elements_lower_the_weighted_error() -> None:
    x = matrix((48, 64))
    fisher = torch.exp(matrix((48, 1), 7) + matrix((1, 64), 8) + 0.5 * matrix((48, 64), 9))
    plain, weighted = (low_rank(x, LowRank(8, "f32"), one) for one in (None, fisher))
    errors = [(factors.taken_from(x).square() * fisher).sum() for factors in (plain, weighted)]
    assert errors[1] < 0.95 * errors[0]


def test_alternating_beats_one_shot() -> None:
    x = torch.randn(256, 256, generator=torch.Generator().manual_seed(1))
    side = LowRank(16, "f32")
    once = alternate(x, nf3, side, iterations=1)
    often = alternate(x, nf3, side, iterations=30)
    torch.testing.assert_close(once.errors[0], float((x - nf3(x)).norm()), rtol=1e-6, atol=0)
    assert torch.equal(once.base, x)
    assert all(later < earlier for earlier, later in zip(often.errors, often.errors[1:], strict=False))
    assert often.errors[1] == once.errors[1]
    ratios = [(found.errors[-1] / found.errors[0]) ** 2 for found in (once, alternate(x, nf3, side, 5), often)]
    assert ratios[2] < ratios[1] < ratios[0] < 1
    assert ratios[0] == pytest.approx(0.78, abs=0.02)
    assert ratios[1] == pytest.approx(0.61, abs=0.02)
    for found in (once, often):
        assert torch.equal(found.quantized, nf3(found.base))
        rest = found.factors.taken_from(x - found.quantized).double().norm()
        torch.testing.assert_close(float(rest), found.errors[-1], rtol=1e-5, atol=0)


def test_alternating_lowers_the_weighted_error() -> None:
    x = torch.randn(128, 128, generator=torch.Generator().manual_seed(2))
    fisher = torch.exp(matrix((128, 1), 7) + matrix((1, 128), 8)).float()
    side = LowRank(8, "f16")
    found = alternate(x, nf3, side, 10, fisher)
    assert found.errors[-1] < found.errors[1] < found.errors[0]
    plain = alternate(x, nf3, side, 10)
    rest = plain.factors.taken_from(x - plain.quantized)
    assert found.errors[-1] < float((rest.double().square() * fisher).sum().sqrt())


def test_alternation_stops_when_the_error_rises() -> None:
    calls: list[int] = []

    def worsening(x: Tensor) -> Tensor:
        calls.append(1)
        return x + 0.1 * len(calls) * torch.eye(32)

    found = alternate(torch.eye(32), worsening, LowRank(1, "f32"), iterations=20)
    assert len(found.errors) == 2
    assert len(calls) == 3


def test_bad_input_is_refused_by_name() -> None:
    x = torch.ones(3, 4)
    bad = x.clone()
    bad[1, 2] = math.nan
    side = LowRank(2, "f16")
    with pytest.raises(ShapeError, match=r"layer\.w: 1 of 12 residuals are not finite; the first, nan, is at \(1, 2\)"):
        low_rank(bad, side, where="layer.w")
    with pytest.raises(ShapeError, match=r"weights of layer\.w run from -1 to 1"):
        low_rank(x, side, torch.tensor([1.0, -1, 0, 0]), "layer.w")
    with pytest.raises(ShapeError, match=r"layer\.w is NaN for 1 of 12"):
        low_rank(x, side, bad, "layer.w")
    with pytest.raises(ShapeError, match=r"3 of 3 factors of rank 1 of layer\.w overflow f16"):
        low_rank(x * 1e20, LowRank(1, "f16"), where="layer.w")
    for dtype in ("u8", "i1", "e8m0"):
        with pytest.raises(UnsupportedOp, match=rf"layer\.w cannot be stored in {dtype}"):
            low_rank(x, LowRank(2, dtype), where="layer.w")
    with pytest.raises(ShapeError, match=r"0 rounds of alternation for layer\.w"):
        alternate(x, nf3, side, 0, where="layer.w")
    with pytest.raises(ShapeError, match=r"\(3, 4\) do not fit a tensor of shape \(4, 3\)"):
        low_rank(x, side).add_to(torch.ones(4, 3))
    with pytest.raises(ShapeError, match="do not meet"):
        LowRankFactors(torch.ones(3, 2), torch.ones(3, 4))
    with pytest.raises(ShapeError, match="up_scale: belongs to integer factors"):
        LowRankFactors(torch.ones(3, 2, dtype=torch.int8), torch.ones(2, 4))
