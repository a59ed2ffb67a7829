"""The documentation as a site: it builds without a warning, needs no network, and its pages say what is true."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import qcc
from qcc.errors import QccError
from qcc.passes.table import PASSES
from qcc.recipes.load import load_recipe, recipe_names
from tests import zoo
from tests.unit.test_docs import DOCS, ROOT, blocks, execute, headings, page_module

TROUBLE = DOCS / "troubleshooting.md"


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loads(HTMLParser):
    """What a browser fetches to show a page; links that a reader follows are none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "link" and named.get("rel") in ("canonical", "next", "prev"):
            return
        self.found += [named[key] or "" for key in ("src", "href") if key in named and tag != "a"]


def test_the_site_loads_nothing_from_the_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(list(DOCS.glob("*.md")))
    loads: list[str] = []
    for page in pages:
        reader = Loads()
        reader.feed(page.read_text("utf-8"))
        loads += reader.found
        assert 'class="mermaid"' not in page.read_text("utf-8"), "its script comes from the network"
    assert loads
    assert not [one for one in loads if re.match(r"(https?:)?//", one)]
    styles = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"url\(['\"]?(?:https?:)?//[^)]*|@import[^;]*//[^;]*", styles)


def test_links_to_sources_lead_to_pages_that_show_them(site: Path) -> None:
    shown = (site / "source" / "backends" / "base.py" / "index.html").read_text("utf-8")
    assert "Capabilities" in shown
    design = (site / "design" / "index.html").read_text("utf-8")
    assert "../../" not in re.sub(r'"(\.\./)?(assets|source)[^"]*"', "", design)


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    listed = re.findall(r": ([\w-]+\.md)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in DOCS.glob("*.md"))


def test_the_start_page_runs(scratch: Path) -> None:
    printed = execute(DOCS / "index.md", {})
    (shown,) = blocks(DOCS / "index.md", "text")
    assert printed.startswith(shown)
    assert float(re.findall(r"error (\d+\.\d)%", printed)[0]) < 15
    done = subprocess.run(["make", "-s", "-C", "model.qcc/c", "CFLAGS=-O1", "test"], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_guide_of_the_targets_runs(scratch: Path) -> None:
    pytest.importorskip("triton")
    printed = execute(DOCS / "targets.md", {})
    assert printed.count("quantized 2 of 2 layers") == 2
    assert all((scratch / one).exists() for one in ("cpu.qcc/c/Makefile", "hls.qcc/hls/run_hls.tcl"))
    assert list((scratch / "triton.qcc" / "triton").glob("*.sm_90.cubin"))


# ---- docs/troubleshooting.md -----------------------------------------------------------------------


def parts(section: str) -> list[tuple[str, str | None]]:
    """Return the Python blocks of a section, each with the message that the page shows after it."""
    found: list[tuple[str, str | None]] = []
    for language, text in re.findall(r"^```(python|text)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
        found = [*found, (text, None)] if language == "python" else [*found[:-1], (found[-1][0], text)]
    return found


SETUP, *SECTIONS = re.split(r"^## ", TROUBLE.read_text("utf-8"), flags=re.MULTILINE)
CLASSES = [section for section in SECTIONS if not section.startswith("Anything else")]


@pytest.mark.parametrize("section", CLASSES, ids=lambda section: section.split("\n")[0])
def test_messages_are_what_the_page_shows(section: str, scratch: Path) -> None:
    kind: Any = getattr(qcc.errors, section.split("\n")[0])
    with page_module("net") as names:
        for code, _ in parts(SETUP):
            exec(compile(code, "net.py", "exec"), names)
        for code, message in parts(section):
            assert message is not None, "each example of a section fails"
            with pytest.raises(QccError) as caught:
                exec(compile(code, "net.py", "exec"), names)
            assert caught.type is kind
            assert str(caught.value).strip() == message.strip()


def test_every_class_of_errors_has_a_section() -> None:
    classes = [name for name, one in vars(qcc.errors).items() if isinstance(one, type) and issubclass(one, QccError)]
    assert [section.split("\n")[0] for section in CLASSES] == classes
    assert all(parts(section) for section in CLASSES)


# ---- Generated pages -------------------------------------------------------------------------------


def test_the_pass_reference_holds_every_pass() -> None:
    assert set(PASSES) <= headings(DOCS / "passes.md")


def test_the_gallery_shows_recipes_as_they_are() -> None:
    sections = re.split(r"^### ", (DOCS / "gallery.md").read_text("utf-8"), flags=re.MULTILINE)[1:]
    shown = {section.split("\n")[0]: section for section in sections}
    assert sorted(shown) == recipe_names()
    for name, section in shown.items():
        found = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[0])
        given = yaml.safe_load((ROOT / "qcc" / "recipes" / f"{name}.yaml").read_text("utf-8"))
        assert found == {key: value for key, value in given.items() if key != "description"}


def test_what_the_gallery_says_about_samples_is_so() -> None:
    table = re.findall(
        r"^\| \[`([\w-]+)`\]\(#[\w-]+\) \| \S.* \| (yes|no) \| (.*) \|$",
        (DOCS / "gallery.md").read_text("utf-8"),
        re.MULTILINE,
    )
    assert len(table) == len(recipe_names())
    model = torch.nn.Sequential(torch.nn.LayerNorm(256), torch.nn.Linear(256, 256)).eval()
    for name, samples, targets in table:
        if "cpu" not in targets:
            continue
        asked = pytest.raises(QccError, match="calibration") if samples == "yes" else contextlib.nullcontext()
        with asked:
            if "smooth_attention" in load_recipe(name).transforms:  # which asks where there is an attention
                decoder, args, kwargs, shapes = zoo.llama()
                qcc.compile(decoder, args, kwargs, dynamic_shapes=shapes, recipe=name)
            else:
                qcc.compile(model, (torch.zeros(1, 256),), recipe=name)
