"""`torch.compile(model, backend="qcc")`: what runs where, what is frozen, what is refused."""

from __future__ import annotations

import copy
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.utils import counters

from qcc import dynamo
from qcc.errors import QccError, RecipeError, UnsupportedOp
from tests import zoo
from tests.compiling import FLOAT_BOUND, apart
from tests.installed import install, run_script
from tests.torch_compiling import Net, compiled, rows

if TYPE_CHECKING:
    from qcc.backends.triton.emulate import EmulatedDevice

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


def refusal(model: nn.Module, *args: Any, **options: Any) -> QccError:
    with pytest.raises(BackendCompilerFailed) as caught, torch.no_grad():
        compiled(model, **options)(*args)
    error = caught.value.inner_exception
    assert isinstance(error, QccError)
    return error


def test_modes_of_execution_agree() -> None:
    model, x = Net().eval(), rows(5)
    fast = compiled(model, recipe="w8a8")
    wanted = model(x).detach()
    eager = fast(x)
    with torch.no_grad():
        without = fast(x)
    with torch.inference_mode():
        inference = fast(x).clone()
    assert eager.requires_grad
    assert not without.requires_grad
    assert torch.equal(eager.detach(), without)
    assert torch.equal(inference.clone(), without)
    assert 0 < apart(without, wanted) < 0.03
    found: list[torch.Tensor] = []

    def work() -> None:
        with torch.no_grad():
            found.append(fast(x))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 4
    assert all(torch.equal(one, without) for one in found)


def test_autocast_gives_its_dtype() -> None:
    model, x = Net().eval(), rows(5)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, wanted = compiled(model, recipe="w8")(x), model(x)
    assert found.dtype == wanted.dtype == torch.bfloat16
    assert apart(found, wanted) < 0.05


def test_gradients_are_refused_when_they_are_asked_for() -> None:
    model, x = Net().eval(), rows(3)
    with pytest.raises(QccError, match="frozen, quantized weights"):
        compiled(model)(x).sum().backward()
    with pytest.raises(BackendCompilerFailed, match="a gradient of an input is asked for"):
        compiled(model)(rows(3).requires_grad_())


def test_training_mode_is_refused() -> None:
    assert "Net is in training mode" in str(refusal(Net().train(), rows(3)))

    def dropping(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.5, True) @ x.T

    error = refusal(dropping, rows(3))  # type: ignore[arg-type]
    assert "dropout in training mode" in str(error)
    assert "test_torch_compile.py" in str(error)


def test_what_the_front_end_lacks_runs_in_inductor_and_is_said(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = Net(odd=True).eval()
    fast = compiled(model, recipe="float")
    with torch.no_grad(), caplog.at_level(logging.INFO, "qcc.dynamo"):
        for _ in range(2):
            assert apart(fast(rows(5)), model(rows(5))) <= 1e-4
    (line,) = [record.message for record in caplog.records if record.message.startswith("quantized")]
    assert "quantized 0 of 2 layers for cpu" in line
    assert "operations run by Inductor, refused: torch_compiling.py:" in line
    assert "aten._linalg_svd" in line
    assert capfd.readouterr().err.count(line) == 1


def test_strict_names_all_offenders() -> None:
    class Odder(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + torch.linalg.det(x[:3, :3])

    error = refusal(Odder(odd=True).eval(), rows(5), strict=True)
    assert isinstance(error, UnsupportedOp)
    assert "_linalg_svd" in str(error)
    assert "_linalg_det" in str(error)
    assert "test_torch_compile.py" in str(error)


def test_overrides_and_misfits() -> None:
    model, x = Net().eval(), rows(5)
    with torch.no_grad():
        wanted = model(x)
        found = compiled(model, recipe="w8", overrides={"first": {"weights": {"format": "f32"}}})(x)
    assert 0 < apart(found, wanted) < 0.02
    assert "overrides: frist: matches no layer" in str(refusal(model, x, overrides={"frist": {}}))
    recipe = {"weights": {"format": "int4", "group": 28}}
    torch._dynamo.reset()
    error = refusal(Net(odd=True).eval(), x, recipe=recipe)
    assert isinstance(error, RecipeError)
    assert "first: weights cannot use group 28" in str(error)
    assert "second: weights cannot use group 28" in str(error)


def test_written_weights_are_seen(caplog: pytest.LogCaptureFixture) -> None:
    model, x = Net().eval(), rows(5)
    fast = compiled(model, recipe="float")
    with torch.no_grad():
        fast(x)
        model.first.weight.mul_(2.0)
        assert apart(fast(x), model(x)) <= FLOAT_BOUND
        model.load_state_dict({key: value + 0.1 for key, value in model.state_dict().items()})
        assert apart(fast(x), model(x)) <= FLOAT_BOUND
    assert [record.levelname for record in caplog.records if "were written to" in record.message] == ["WARNING"] * 2


def test_models_that_share_a_graph_keep_their_own_weights() -> None:
    one, other = Net().eval(), Net().eval()
    with torch.no_grad():
        other.second.weight.neg_()
        fast = compiled(lambda model, x: model(x), recipe="float")
        for model in (one, other, one, other):
            assert apart(fast(model, rows(4)), model(rows(4))) <= FLOAT_BOUND


class Counting(Net):
    """Adds how often it was called: a buffer that every call changes, and one that is changed between calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: torch.Tensor
        self.shift: torch.Tensor
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("shift", torch.zeros(32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1.0)
        return super().forward(x) + self.calls + self.shift


def test_buffers_that_change_are_state() -> None:
    model = Counting().eval()
    twin = copy.deepcopy(model)
    fast = compiled(model, recipe="float")
    with torch.no_grad():
        for step in range(4):
            model.shift.add_(float(step))
            twin.shift.add_(float(step))
            assert apart(fast(rows(4)), twin(rows(4))) <= FLOAT_BOUND
    assert float(model.calls) == float(twin.calls) == 4.0


class Views(nn.Module):
    """Results that are views: of an argument, of each other, transposed, with gaps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 24)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h = self.layer(x)
        left, right = h.chunk(2, 1)
        return x.T, left, right, h.T, torch.linalg.svdvals(h[:, 1:4].T), h.reshape(-1, 4, 6).transpose(1, 2)


def test_views_keep_values_and_strides() -> None:
    model, x = Views().eval(), rows(5)
    with torch.no_grad():
        found, wanted = compiled(model, recipe="float")(x), model(x)
    for one, other in zip(found, wanted, strict=True):
        assert apart(one, other) <= FLOAT_BOUND
        assert one.stride() == other.stride()
    assert found[0].data_ptr() == x.data_ptr()


def test_an_empty_option_set_and_a_graph_without_layers() -> None:
    fast = torch.compile(lambda x: x.sin() + 1, backend=dynamo.backend)
    x = rows(3)
    assert torch.allclose(fast(x), x.sin() + 1, atol=1e-6)


def test_numbers_among_the_arguments() -> None:
    class Scaled(Net):
        def forward(self, x: torch.Tensor, scale: float, power: int) -> torch.Tensor:  # type: ignore[override]
            return super().forward(x) * scale + power

    model = Scaled().eval()
    fast = compiled(model, recipe="float")
    with torch.no_grad():
        for scale, power in ((0.5, 2), (0.7, 3), (-1.5, 7)):
            assert apart(fast(rows(4), scale, power), model(rows(4), scale, power)) <= FLOAT_BOUND


def test_where_inductor_fails_torch_runs(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr("torch._inductor.standalone_compile", fail)
    model = Net(odd=True).eval()
    with torch.no_grad():
        assert apart(compiled(model, recipe="float")(rows(5)), model(rows(5))) <= 1e-4
    assert "torch runs them: no C++ compiler" in caplog.text


GENERATED = 20


@pytest.mark.parametrize("recipe", ["float", "w8a8"])
def test_generate_with_a_static_cache_equals_the_artifact(recipe: str) -> None:
    import qcc

    module, args, kwargs, shapes = zoo.cached_llama(40)
    ahead = qcc.compile(module, args, kwargs, dynamic_shapes=shapes, recipe=recipe, threads=1)
    model = module.model
    assert isinstance(model, transformers.LlamaForCausalLM)
    ids = torch.randint(1, 97, (1, 7), generator=torch.Generator().manual_seed(1255))
    wanted, step, positions = ids, ids, torch.arange(7)
    for count in range(GENERATED):
        logits = ahead.run({"input_ids": step, "cache_position": positions})["output"]
        step, positions = logits[:, -1].argmax(-1, keepdim=True), torch.tensor([7 + count])
        wanted = torch.cat([wanted, step], 1)
    model.forward = compiled(model.forward, recipe=recipe)  # type: ignore[method-assign]
    counters.clear()
    settings = {"do_sample": False, "cache_implementation": "static", "eos_token_id": None}
    with torch.no_grad():
        found = [model.generate(ids, max_new_tokens=GENERATED, **settings) for _ in range(2)]
    assert torch.equal(found[0], wanted)
    assert torch.equal(found[1], wanted)
    assert counters["stats"]["unique_graphs"] == 2


NEVER_IMPORTED = """
import sys
import torch

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.GELU(), torch.nn.Linear(48, 10)).eval()
assert "qcc" in torch._dynamo.list_backends()
assert "qcc" not in sys.modules
fast = torch.compile(model, backend="qcc", options={"recipe": "w8"})
x = torch.randn(3, 64)
with torch.no_grad():
    print(float((fast(x) - model(x)).abs().max() / model(x).abs().max()))
"""


def test_installed_and_never_imported(tmp_path: Path) -> None:
    done = run_script(NEVER_IMPORTED, install(tmp_path / "site"), tmp_path)
    assert 0 < float(done.stdout) < 0.02
    assert done.stderr.splitlines().count("qcc: quantized 2 of 2 layers for cpu") == 1


def test_calibration_reaches_every_graph() -> None:
    model = Net().eval()
    data = [(torch.randn(6, 64, generator=torch.Generator().manual_seed(seed)),) for seed in range(4)]
    fast = compiled(model, recipe="w8a8-static", calibration=data)
    named = compiled(model, recipe="w8a8-static", calibration=[{"x": one} for (one,) in data])
    with torch.no_grad():
        for batch in (1, 6, 4):
            found = fast(rows(batch))
            assert 0 < apart(found, model(rows(batch))) < 0.05
            assert torch.equal(named(rows(batch)), found)
    assert "calibration" in str(refusal(Net().eval(), rows(3), recipe="w8a8-static")).lower()
    error = refusal(Net(odd=True).eval(), rows(3), recipe="w8a8-static", calibration=[{"y": rows(3)}])
    assert "sample 1: gives no tensor for x" in str(error)
    three = rows(3)
    torch._dynamo.mark_static(three, 0)
    error = refusal(Views().eval(), three, recipe="w8a8-static", calibration=[(rows(2),)])
    assert "a batch of 2 cannot be cut into batches of 3" in str(error)
    torch._dynamo.reset()
    assert "only once" in str(refusal(Net().eval(), rows(3), recipe="w8a8-static", calibration=iter(data)))


def test_strict_names_layers_left_in_float() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv1d(8, 8, 3, groups=8), nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.conv(x))

    x = torch.randn(2, 8, 8)
    error = refusal(Grouped().eval(), x, strict=True)
    assert "conv: is left in float: grouped convolution" in str(error)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled(Grouped().eval(), strict=True, overrides={"conv": {"weights": {"format": "f32"}}})(x)


@pytest.mark.slow
def test_a_graph_for_a_gpu_runs_its_kernels_in_the_emulator(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    emulated_device: EmulatedDevice,
) -> None:
    """All but the device: tensors lie on the CPU, kernels are compiled for sm_90 and interpreted."""
    pytest.importorskip("triton")
    from qcc.backends.triton import backend as triton_backend
    from qcc.backends.triton.load import LazyProgram, Project
    from tests.triton_runner import EmulatedRunner

    runners: list[EmulatedRunner] = []

    def load(folder: Path) -> LazyProgram:
        runners.append(EmulatedRunner(Project(folder), emulated_device))
        return LazyProgram(folder, runners[-1])

    model = nn.Sequential(nn.Linear(256, 128), nn.GELU(), nn.Linear(128, 64)).eval()
    x = torch.randn(3, 256, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(dynamo, "target_of", lambda *_: "triton")
    monkeypatch.setattr(dynamo, "architectures_of", lambda _: ("sm_90",))
    monkeypatch.setattr(triton_backend, "LazyProgram", load)
    with torch.no_grad():
        found, wanted = compiled(model, recipe="w8a8", cache_dir=tmp_path)(x), model(x)
    assert 0 < apart(found, wanted) < 0.03
    assert runners[-1].launched
    assert "quantized 2 of 2 layers for triton" in capfd.readouterr().err
