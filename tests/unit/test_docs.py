"""The documentation is held to the code: its examples run, its links lead somewhere, its commands exist."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

import qcc
from qcc import dynamo
from qcc.cli import app
from qcc.ir.base import location_of, set_location
from qcc.ir.context import QccContext
from qcc.ir.elementwise import UnaryOp
from qcc.ir.store import WeightStore
from qcc.ir.types import tensor
from qcc.opt import main as qcc_opt
from qcc.recipes.load import load_recipe
from qcc.recipes.model import ActivationScheme, Allocation, Budget, Override, Recipe, TensorScheme, WeightScheme
from tests.installed import install, run_script

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder of its own, with a model of the documentation in `net.py` and an input in `x.npy`."""
    model, data = blocks(DOCS / "command-line.md", "python")
    (tmp_path / "net.py").write_text(model, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QCC_CACHE_DIR", "cache")
    exec(compile(data, "command-line.md", "exec"), {})
    monkeypatch.delitem(sys.modules, "net", raising=False)
    return tmp_path


@contextlib.contextmanager
def page_module(name: str) -> Iterator[dict[str, Any]]:
    """Give the namespace of a module that the blocks of a page fill, as importable as any other."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    try:
        yield module.__dict__
    finally:
        del sys.modules[name]


def execute(path: Path, names: dict[str, Any]) -> str:
    """Run all Python blocks of a page one after another; returns what they print."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks(path, "python"):
            exec(compile(block, str(path), "exec"), names)
    return printed.getvalue()


def test_readme_examples_run(scratch: Path) -> None:
    if "qcc" not in torch._dynamo.list_backends():  # a checkout that is not installed has no entry points
        torch._dynamo.register_backend(dynamo.backend, name="qcc")
    with page_module("readme") as names:
        printed = execute(ROOT / "README.md", names)
        assert "quantized 2 of 2 layers" in printed
        assert names["y"].shape == (3, 10)
        x = torch.randn(3, 64)
        assert torch.equal(names["again"](x), names["compiled"](x))


def test_the_report_page_runs() -> None:
    printed = execute(DOCS / "report.md", {})
    assert "SQNR dB" in printed
    assert "quantized 2 of 2 layers" in printed
    assert all(path.stat().st_size < 200_000 for path in (DOCS / "images").iterdir())


def test_the_pass_of_write_a_pass_preserves_the_function() -> None:
    from tests.modules import make, run

    def gelu(x: SSAValue) -> UnaryOp:
        op = UnaryOp("gelu", x)
        set_location(op, "act (net.py:1)")
        return op

    x = torch.randn(3, 5, dtype=torch.float64)
    before = make({"x": tensor([3, 5], "f64")}, gelu)
    after = before.clone()
    with page_module("write_a_pass") as names:
        execute(DOCS / "write-a-pass.md", names)
        names["LowerGelu"]().apply(QccContext(WeightStore()), after)
    after.verify()
    assert "gelu" in str(before)
    assert "gelu" not in str(after)
    assert all(location_of(op) for op in operations(after))
    assert torch.allclose(interpret(after, x), run(gelu, x), rtol=0, atol=1e-14)


def operations(module: ModuleOp) -> list[Any]:
    return [op for op in module.walk() if op.results]


def interpret(module: ModuleOp, x: torch.Tensor) -> torch.Tensor:
    from qcc.interpreter import Interpreter

    return Interpreter(module, WeightStore()).run({"x": x})["y"]


def test_the_backend_of_write_a_backend_compiles_and_refuses(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qcc.backends import targets
    from qcc.backends.base import Backend

    monkeypatch.setattr(targets, "TARGETS", dict(targets.TARGETS))
    path = DOCS / "write-a-backend.md"
    with page_module("write_a_backend") as names:
        printed = execute(path, names)
        (listing,) = blocks(path, "text")
        assert printed.strip() == listing.strip()
        assert isinstance(names["TextBackend"](), Backend)
        with pytest.raises(qcc.errors.ShapeError, match="input 'input': is missing"):
            names["listing"].run({})
        with pytest.raises(qcc.errors.UnsupportedOp, match=r"qcc\.softmax"):
            qcc.compile(torch.nn.Softmax(-1), (torch.randn(2, 3),), target="text", output="no.qcc")
    assert not Path("no.qcc").exists()


# ---- docs/command-line.md --------------------------------------------------------------------------


def plain(text: str) -> list[str]:
    """Drop what differs from run to run and machine to machine: measured numbers, torch's names of symbols, spacing."""
    text = re.sub(r"\d+\.\d+ GB\b|-?\d+\.\d+(e-?\d+)?|(\d{1,3},)?\d{3},\d{3}|\d+ [kM]B\b", "#", text)
    text = re.sub(r"\bs\d+\b", "s0", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def run_command(line: str) -> str:
    """Run one command of a console block in this process; returns both streams."""
    program, *words = shlex.split(line)
    if program == "qcc-opt":
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            qcc_opt(words)
        return printed.getvalue()
    assert program == "qcc"
    done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert done.exit_code in (0, 2), done.output
    assert (done.exit_code == 2) == ("error:" in done.output)
    return done.output


def sessions(path: Path) -> list[tuple[str, str]]:
    """Return the commands of a page's console blocks with their outputs."""
    found = []
    for block in blocks(path, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, output = part.partition("\n")
            found.append((line, output))
    return found


def test_commands_print_what_the_page_shows(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcc.bench.SECONDS_EACH", 0.02)
    monkeypatch.setattr("qcc.console.LINE_SECONDS", math.inf)  # on a busy machine anything may be long work
    found = sessions(DOCS / "command-line.md")
    assert {line.split()[1] for line, _ in found if line.startswith("qcc ")} == set(commands())
    for line, output in found:
        assert plain(run_command(line)) == plain(output), line


def commands() -> dict[str, set[str]]:
    """Return the commands of qcc with their options."""
    group: Any = typer.main.get_command(app)
    return {
        name: {option for one in command.params for option in one.opts if option.startswith("-")} | {"--help"}
        for name, command in group.commands.items()
    }


def test_commands_and_options_that_are_named_exist() -> None:
    known, seen, wrong = commands(), 0, []
    for path in PAGES:
        for name, words in re.findall(r"\bqcc ([a-z]+)\b([^`\n]*)", code_of(path)):
            if name not in known:
                continue
            seen += 1
            unknown = [o for o in re.findall(r"(?<!\S)--?[a-z][a-z-]*", words) if o not in known[name]]
            wrong += [f"{path.name}: qcc {name} has no {option}" for option in unknown]
    assert not wrong
    assert seen > 20


def test_every_option_is_documented() -> None:
    text = (DOCS / "command-line.md").read_text("utf-8")
    missing = {o for options in commands().values() for o in options if o.startswith("--") and o not in text}
    assert not missing


def code_of(path: Path) -> str:
    """Return the code of a page: fenced blocks and spans between backticks, one a line."""
    text = path.read_text("utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    # what follows a bar, a comment or many spaces is no part of the command
    lines = [re.split(r" #|\s{3,}| \| ", line)[0] for line in "\n".join(fenced).splitlines()]
    return "\n".join([*lines, *spans])


# ---- docs/formats.md -------------------------------------------------------------------------------


def test_texts_of_the_formats_page_are_formats() -> None:
    (texts,) = blocks(DOCS / "formats.md", "formats")
    lines = texts.splitlines()
    assert len(lines) > 15
    x = torch.randn(4, 256)
    for line in lines:
        qtype = qcc.numerics.format_of(re.split(r"\s{3,}", line)[0])
        assert qcc.numerics.fake_quantize(x, qtype).shape == x.shape
    assert "bits, " in execute(DOCS / "formats.md", {})


def test_every_word_of_a_format_is_documented() -> None:
    from qcc.numerics import qtype_parts as parts
    from qcc.numerics.qtype_sides import SIDE_READERS

    code = code_of(DOCS / "formats.md")
    words = {
        *(*parts.GRIDS, *parts.LAYOUTS, *parts.WHENS, *parts.ROUNDINGS, *parts.OVERFLOWS, *parts.FLOAT_VARIANTS),
        *(*parts.COEFFICIENTS, *parts.DIGIT_STATES, *parts.STATISTICS, *parts.LEVEL_ROUNDINGS, *parts.FLOAT_BITS),
        *(*parts.ZERO_KINDS, *parts.SPARSE_KINDS, *parts.EXPANSIONS, *SIDE_READERS, "select", "planes", "table"),
    }
    assert len(words) > 50
    assert not [word for word in words if not re.search(rf"(?<![\w-]){re.escape(word)}(?!\w)", code)]


# ---- docs/recipes.md -------------------------------------------------------------------------------


def test_recipes_of_the_documentation_load() -> None:
    import yaml

    found = blocks(DOCS / "recipes.md", "yaml")
    assert len(found) >= 4
    for text in found:
        assert not load_recipe(yaml.safe_load(text)).weights.is_float


def test_every_key_of_a_recipe_is_documented() -> None:
    text = (DOCS / "recipes.md").read_text("utf-8")
    models = (Recipe, WeightScheme, ActivationScheme, TensorScheme, Override, Allocation, Budget)
    assert not {name for one in models for name in one.model_fields if f"`{name}`" not in text}


# ---- docs/torch-compile.md ------------------------------------------------------------------------


def test_the_examples_of_torch_compile_run(tmp_path: Path) -> None:
    text = "\n".join(blocks(DOCS / "torch-compile.md", "python"))
    assert "import qcc" not in text
    done = run_script(text, install(tmp_path / "site"), tmp_path)
    (line,) = blocks(DOCS / "torch-compile.md", "text")
    assert line.strip() in done.stderr


def test_every_option_of_torch_compile_is_documented() -> None:
    from qcc.jit.options import KNOWN

    text = (DOCS / "torch-compile.md").read_text("utf-8")
    assert not [key for key in KNOWN if f"| `{key}` |" not in text]


# ---- docs/c-project.md -----------------------------------------------------------------------------


def test_the_c_program_runs_beside_an_emitted_model(scratch: Path) -> None:
    run_command("qcc compile net:mlp --recipe w4a8 -o model.qcc")
    (source,) = blocks(DOCS / "c-project.md", "c")
    Path("app.c").write_text(source, "utf-8")
    build = next(line for block in blocks(DOCS / "c-project.md", "") for line in block.splitlines() if "app.c" in line)
    strict = [*shlex.split(build), "-Wall", "-Wextra", "-Werror"]
    subprocess.run(strict, check=True, capture_output=True, text=True)
    done = subprocess.run(["./app", "model.qcc/c/weights.bin"], check=True, capture_output=True, text=True)
    x = torch.tensor([float(i % 7) - 3.0 for i in range(64)]).reshape(1, 64)
    first = float(qcc.load("model.qcc")(x)[0, 0])
    assert f"output [1, 10]: first {first:.6f}" in done.stdout
    assert f"output [32, 10]: first {first:.6f}" in done.stdout
    refused = subprocess.run(["./app", "app.c"], check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "is no weights file" in refused.stderr


def test_the_interface_is_documented() -> None:
    header = (ROOT / "backends/cpu/templates/model.h.j2").read_text("utf-8")
    page = (DOCS / "c-project.md").read_text("utf-8")
    functions = re.findall(r"_API [\w ]+?\*?\{\{ p \}\}_(\w+)\(", header)
    assert len(functions) > 10
    assert not [name for name in functions if f"model_{name}" not in page]
    statuses = re.findall(r"\{\{ P \}\}_([A-Z]+) = (\d)", header)
    assert len(statuses) == 7
    assert not [name for name, number in statuses if f"`MODEL_{name}` {number}" not in page]


# ---- docs/exports.md -------------------------------------------------------------------------------


def test_the_exports_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    pytest.importorskip("compressed_tensors")
    page = DOCS / "exports.md"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QCC_CACHE_DIR", "cache")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).eval().save_pretrained("path/to/llama")
    compile_, to_folder, to_file = (line.split("  #")[0].strip() for line in blocks(page, "")[0].splitlines())
    (recipe,) = blocks(page, "yaml")
    Path("mine.yaml").write_text(recipe, "utf-8")
    assert "quantized 8 of 8 layers" in run_command(compile_)
    assert "no tokenizer is written" in run_command(to_file)
    assert Path("llama.gguf").read_bytes()[:4] == b"GGUF"
    Path("mine.yaml").write_text("version: 1\nweights: {format: int4, group: 32}\n", "utf-8")
    shutil.rmtree("model.qcc")
    run_command(compile_)
    run_command(to_folder)
    names: dict[str, Any] = {}
    execute(page, names)
    assert names["model"].config.num_hidden_layers == 1


# ---- docs/hls-project.md ---------------------------------------------------------------------------


@pytest.mark.slow
def test_the_commands_of_the_hls_page_run(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (net,) = blocks(DOCS / "hls-project.md", "python")
    Path("net.py").write_text(net, "utf-8")
    subprocess.run([sys.executable, "net.py"], check=True)
    monkeypatch.syspath_prepend(str(scratch))
    (console,) = blocks(DOCS / "hls-project.md", "console")
    lines = [line for line in console.replace("\\\n", " ").splitlines() if not line.startswith("$ pip")]
    for line in lines:
        words = line.removeprefix("$ ")
        if words.startswith("make"):
            subprocess.run(shlex.split(words), check=True, capture_output=True, text=True)
        else:
            assert "error:" not in run_command(words)
    assert len(lines) == 3


# ---- docs/report.md --------------------------------------------------------------------------------


def test_the_section_of_the_report_page_is_one(tmp_path: Path) -> None:
    from qcc.report.build import read_sections

    (text,) = blocks(DOCS / "report.md", "json")
    (tmp_path / "any").mkdir()
    (tmp_path / "any" / "sections.json").write_text(text, "utf-8")
    (section,) = read_sections(tmp_path)
    assert section.columns == ("layer", "PE", "SIMD")


# ---- All pages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        other = (path.parent / file).resolve() if file else path
        assert other.is_relative_to(ROOT), target
        assert other.exists(), target
        assert not anchor or anchor in headings(other), target


def headings(path: Path) -> set[str]:
    lines = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in lines}


def test_every_page_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert not [path.name for path in DOCS.glob("*.md") if f"(docs/{path.name})" not in readme]


GENERATED = [
    "make_ir_reference.py",
    "make_pass_reference.py",
    "make_gallery.py",
    "make_accuracy.py",
    "make_formats.py",
    "make_one_model.py",
]


@pytest.mark.parametrize("script", GENERATED)
def test_generated_pages_are_current(script: str) -> None:
    if script in ("make_one_model.py", "make_gallery.py"):
        pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, str(DOCS / script), "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
