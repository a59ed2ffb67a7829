"""An emitted Triton project: what is in it, that it repeats, that it computes what it should, what it refuses."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

import qcc
from qcc.backends.base import BackendOptions
from qcc.backends.triton import backend, build, driver
from qcc.backends.triton import load as triton_load
from qcc.backends.triton.architectures import ARCHITECTURES
from qcc.backends.triton.backend import TritonBackend
from qcc.backends.triton.driver import Device
from qcc.backends.triton.emulate import EmulatedDevice
from qcc.backends.triton.golden import golden_problems, read_golden
from qcc.backends.triton.launch_plan import CubinEntry, LaunchPlan
from qcc.backends.triton.load import CubinRunner, LazyProgram, Project, choose_architecture
from qcc.errors import BuildError, CheckpointError, QccError, ShapeError, UnsupportedOp
from qcc.ir.store import WeightStore
from tests.triton_runner import EmulatedRunner, build_fake_cuda

PAGE = Path(__file__).parents[2] / "docs" / "triton-project.md"


def mlp() -> torch.nn.Module:
    torch.manual_seed(1)
    layers = torch.nn.Linear(128, 192), torch.nn.ReLU(), torch.nn.Linear(192, 32, bias=False), torch.nn.Tanh()
    return torch.nn.Sequential(*layers).eval()


def compile_mlp(output: Path, arch: tuple[str, ...] = ("sm_90",)) -> qcc.Compiled:
    rows = torch.export.Dim("rows", min=1, max=40)
    example = torch.randn(5, 128, generator=torch.Generator().manual_seed(2))
    return qcc.compile(
        mlp(), (example,), dynamic_shapes=({0: rows},), recipe="w4a8", target="triton", arch=arch, output=output
    )


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "mlp.qcc"
    compile_mlp(folder)
    return folder


@pytest.fixture(scope="module")
def project(artifact: Path) -> Path:
    return artifact / "triton"


@pytest.fixture(scope="module")
def emulated() -> Iterator[EmulatedDevice]:
    with EmulatedDevice() as device:
        yield device


@pytest.fixture
def copied(project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(project, tmp_path / "triton"))


def cubins_of(plan: LaunchPlan) -> Iterator[CubinEntry]:
    for kernel in plan.kernels.values():
        for variant in kernel.variants.values():
            yield from variant.cubins.values()


def test_everything_that_is_promised_is_there(project: Path) -> None:
    plan = LaunchPlan.load(project)
    names = {path.name for path in project.iterdir()}
    entries = list(cubins_of(plan))
    cubins = {entry.file for entry in entries}
    sources = {kernel.source for kernel in plan.kernels.values()}
    assert names == cubins | sources | {
        "qcc_ptx.py",
        "launch.json",
        "qcc_cuda.h",
        "qcc_cuda.c",
        "qcc_kernels.h",
        "qcc_kernels.c",
        "program.mlir",
        "weights.safetensors",
        "golden.safetensors",
    }
    for name in sources:
        ast.parse((project / name).read_text())
    assert all(entry.spills == 0 for entry in entries)


def test_calls_cover_every_number_of_tokens_once(project: Path) -> None:
    plan = LaunchPlan.load(project)
    contractions = [call for call in plan.calls if call.n]
    assert [(call.n, call.k) for call in contractions] == [(192, 128), (32, 192)]
    for call in contractions:
        most = [one.most_tokens for one in call.choices["sm_90"]]
        assert most == sorted(set(most))
        assert most[-1] >= 40
        assert set(call.weights) >= {"words", "scales"}
        assert set(call.weights.values()) <= set(plan.weights)
        variants = [one.variant for one in call.choices["sm_90"]]
        assert all(one != other for one, other in pairwise(variants))
    # more tokens take shorter steps; 192 columns are padded to 256 for steps of 128, where steps of 64 would end sooner
    first, second = ([one.kernel for one in call.choices["sm_90"]] for call in contractions)
    assert first == [contractions[0].kernel, f"{contractions[0].kernel}_k64"]
    assert set(second) == {contractions[1].kernel}
    assert {one.steps for one in contractions[1].choices["sm_90"]} == {2}


def test_the_plan_says_where_weights_lie_in_the_file(project: Path) -> None:
    plan = LaunchPlan.load(project)
    weights = Project(project).weights()
    data = (project / "weights.safetensors").read_bytes()
    for name, entry in plan.weights.items():
        tensor = weights.tensor(name)
        found = data[entry.offset : entry.offset + entry.bytes]
        assert found == tensor.contiguous().view(torch.uint8).numpy().tobytes()


def test_the_program_computes_what_the_interpreter_computes(project: Path, emulated: EmulatedDevice) -> None:
    read = Project(project)
    runner = EmulatedRunner(read, emulated)
    program = LazyProgram(project, runner)
    cases = read_golden(project)
    assert len(cases) == 3
    assert golden_problems(program, cases) == []
    # a row-wise step before each contraction, and nothing quantized left to torch
    assert len(runner.launched) == 4 * sum(len(case.calls) for case in cases)


def test_wrong_outputs_would_be_seen(project: Path, emulated: EmulatedDevice) -> None:
    class Wrong(EmulatedRunner):
        def run(self, launch: object) -> None:
            super().run(launch)  # type: ignore[arg-type]
            out = launch.arguments.get("out")  # type: ignore[attr-defined]
            if out is not None:
                out[-1, -1] += 1.0

    program = LazyProgram(project, Wrong(Project(project), emulated))
    assert golden_problems(program, read_golden(project)[:1])


def test_an_empty_batch_launches_nothing(project: Path, emulated: EmulatedDevice) -> None:
    text = (project / "program.mlir").read_text()
    assert "[1, 40]" in text  # the range is the exporter's; the runner must not mind none
    runner = EmulatedRunner(Project(project), emulated)
    program = LazyProgram(project, runner)
    with pytest.raises(ShapeError):
        program.run({"input": torch.zeros(0, 128)})
    assert not runner.launched


def test_inputs_that_do_not_fit_are_named(project: Path, emulated: EmulatedDevice) -> None:
    program = LazyProgram(project, EmulatedRunner(Project(project), emulated))
    with pytest.raises(ShapeError, match="float16"):
        program.run({"input": torch.zeros(3, 128, dtype=torch.float16)})
    with pytest.raises(ShapeError, match="'other'"):
        program.run({"input": torch.zeros(3, 128), "other": torch.zeros(1)})
    with pytest.raises(ShapeError, match="65"):
        program.run({"input": torch.zeros(3, 65)})
    with pytest.raises(ShapeError, match="missing"):
        program.run({})


def test_bytes_repeat(artifact: Path, tmp_path: Path) -> None:
    compile_mlp(tmp_path / "again.qcc")
    first, again = artifact / "triton", tmp_path / "again.qcc" / "triton"
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert [name for name in names if (first / name).read_bytes() != (again / name).read_bytes()] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_loads_and_says_at_the_first_call_what_is_missing(artifact: Path) -> None:
    compiled = qcc.load(artifact)
    with pytest.raises(BuildError, match="needs a GPU"):
        compiled(torch.zeros(3, 128))
    compiled.reset()


def test_damaged_files_are_all_named(copied: Path) -> None:
    cubin = sorted(copied.glob("*.cubin"))[0]
    cubin.write_bytes(cubin.read_bytes()[:-1])
    (copied / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        Project(copied)
    assert {one.where for one in caught.value.problems} == {cubin.name, "weights.safetensors"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is no launch plan"),
        ({"version": 99}, "version 99"),
        ({"kernels": 3}, "is damaged"),
        ({"surprise": 1}, "is damaged"),
    ],
)
def test_foreign_plans_are_refused(copied: Path, change: dict[str, object], message: str) -> None:
    path = copied / "launch.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        Project(copied)


def test_a_plan_that_leads_out_of_its_folder_is_refused(copied: Path) -> None:
    path = copied / "launch.json"
    cubin = sorted(copied.glob("*.cubin"))[0].name
    path.write_text(path.read_text().replace(cubin, f"../{cubin}"))
    with pytest.raises(CheckpointError, match="leads out of the folder"):
        Project(copied)


def test_a_program_of_another_version_is_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_load, "kernel_name", lambda spec: "another")
    with pytest.raises(CheckpointError, match="reads it differently"):
        Project(copied)


def test_an_empty_folder_is_no_project(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no launch\.json"):
        TritonBackend().load(tmp_path)


def test_kernels_for_other_gpus_are_refused_by_name(project: Path) -> None:
    plan = LaunchPlan.load(project)
    assert choose_architecture(plan, 90, "H100") == "sm_90"
    with pytest.raises(BuildError, match=r"compiled for sm_90; GPU 'A100' has compute capability 8\.0") as caught:
        choose_architecture(plan, 80, "A100")
    assert "--arch sm_80" in str(caught.value)


def test_what_no_kernel_covers_is_named_before_anything_is_written(tmp_path: Path) -> None:
    # weight-only in float32: the kernels take float16 and bfloat16
    with pytest.raises(UnsupportedOp) as caught:
        qcc.compile(mlp(), (torch.randn(4, 128),), recipe="w4", target="triton", output=tmp_path / "out.qcc")
    assert len(caught.value.problems) == 2
    assert not (tmp_path / "out.qcc").exists()
    assert list(tmp_path.iterdir()) == []


def test_unknown_architectures_stop_before_the_model_is_read(tmp_path: Path) -> None:
    with pytest.raises(QccError, match="--arch sm_70"):
        qcc.compile(mlp(), (torch.randn(4, 128),), target="triton", arch=["sm_70"], output=tmp_path / "out.qcc")
    with pytest.raises(QccError, match="target cpu has none"):
        qcc.compile(mlp(), (torch.randn(4, 128),), target="cpu", arch=["sm_90"], output=tmp_path / "out.qcc")


def test_a_failing_build_leaves_nothing(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise BuildError("not today")

    def begin(module: object, contents: object, name: str, folder: Path) -> None:
        (folder / "launch.json").write_text("half of it")
        refuse()

    store, module = WeightStore.load(artifact / "weights.safetensors"), qcc.load(artifact).module
    monkeypatch.setattr(build, "try_kernels", refuse)
    with pytest.raises(BuildError, match="not today"):
        TritonBackend().emit(module, store, None, BackendOptions(arch=("sm_90",)), tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(backend, "contents_of", lambda *arguments: None)
    monkeypatch.setattr(backend, "write_project", begin)
    with pytest.raises(BuildError, match="not today"):
        TritonBackend().emit(module, store, None, BackendOptions(arch=("sm_90",)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cubins_are_loaded_and_launched_for_the_gpu_at_hand(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "LIBRARIES", (str(build_fake_cuda(tmp_path)),))
    monkeypatch.setenv("FAKE_CUDA_LOG", str(tmp_path / "log"))
    read = Project(project)
    runner = CubinRunner(read, Device(), torch.device("cpu"))
    program = LazyProgram(project, runner)
    outputs = program.run({"input": torch.zeros(17, 128)})
    assert outputs["output"].shape == (17, 32)
    program.close()
    notes = (tmp_path / "log").read_text().splitlines()
    launches = [note.split(" block ")[0] for note in notes if note.startswith("cuLaunchKernel")]
    expected: list[str] = []
    for label, channels in (("0", 192), ("2", 32)):
        one = runner.variant(label, 17).config
        expected += ["17 1 1", f"{-(-channels // one.block_n)} {-(-17 // one.block_m)} {one.split_k}"]
    assert launches == [f"cuLaunchKernel {grid}" for grid in expected]
    names = {note.split()[1] for note in notes if note.startswith("cuModuleGetFunction")}
    assert names == set(read.plan.kernels)
    monkeypatch.setenv("FAKE_CUDA_CAPABILITY", "100")
    with pytest.raises(BuildError, match=r"compiled for sm_90; GPU 'Paper GPU 0' has compute capability 10\.0"):
        CubinRunner(read, Device(), torch.device("cpu"))


def test_the_c_program_of_the_page_runs_beside_a_project(project: Path, tmp_path: Path) -> None:
    (source,) = re.findall(r"^```c\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    fake, folder = build_fake_cuda(tmp_path), Path(shutil.copytree(project, tmp_path / "triton"))
    (folder / "app.c").write_text(source)
    build = next(line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("cc ") and "app.c" in line)
    subprocess.run([*shlex.split(build), "-Wall", "-Wextra", "-Werror"], check=True, cwd=folder)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(fake.parent)}
    done = subprocess.run(["./app"], cwd=folder, env=environment, check=True, capture_output=True, text=True)
    calls = LaunchPlan.load(project).calls
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [call.label for call in calls]
    environment["FAKE_CUDA_CAPABILITY"] = "80"
    refused = subprocess.run(["./app"], cwd=folder, env=environment, check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "compiled for sm_90; GPU 'Paper GPU 0'" in refused.stderr


def test_the_page_names_every_status_and_architecture() -> None:
    page = PAGE.read_text("utf-8")
    header = (PAGE.parents[1] / "backends/triton/templates/qcc_cuda.h").read_text("utf-8")
    statuses = set(re.findall(r"^    (QCC_[A-Z_]+)\b", header, re.MULTILINE))
    assert len(statuses) == 8
    assert not [name for name in statuses if f"`{name}`" not in page]
    assert not [name for name in ARCHITECTURES if f"| `{name}` |" not in page]


def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(source, PAGE.name, "exec"), {})
    assert (tmp_path / "mlp.qcc" / "triton" / "launch.json").is_file()
