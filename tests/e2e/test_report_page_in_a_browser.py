"""The page of a report in a real browser: nothing is fetched, nothing overflows, everything that matters is seen."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from qcc.report.build import Subject, make_report
from qcc.report.measure import measure
from qcc.report.model import Section
from qcc.report.page import page_text
from tests.browser import Browser, find_browser
from tests.report_models import export, models_for

DESKTOP, PHONE = (1280, 900), (390, 844)
NAMES = ("first_projection_with_a_name_that_is_long_enough_to_wrap", "second")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_browser()
    if program is None and not os.environ.get("CI"):
        pytest.skip("no Chromium here")
    assert program is not None, "CI has a Chromium: .ci/run installs it"
    with Browser(program) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a net with a layer at 2 bits, a layer in float, and a wide table of a backend."""
    torch.manual_seed(0)
    names = (*NAMES, "kept")
    layers = {name: nn.Linear(64, 64) for name in names}
    net = nn.Sequential()
    for name, layer in layers.items():
        net.add_module(name, layer)
    recipe = {
        "weights": {"format": "int4", "group": 32},
        "overrides": [
            {"match": "second", "weights": {"format": "int2", "group": 32}},
            {"match": "kept", "weights": {"format": "f32"}, "activations": {"format": "f32"}},
        ],
    }
    models, coverage = models_for(export(net, torch.randn(8, 64)), recipe)
    x = torch.randn(8, 64)
    folder = tmp_path_factory.mktemp("page")
    report = make_report(
        Subject("cpu", "mine", coverage, folder), models.module, measure(models, [{"input": x}]), "noise"
    )
    wide = Section(title="Wide", columns=tuple(f"column {i}" for i in range(12)), rows=(tuple(range(12)),))
    path = folder / "report.html"
    path.write_text(page_text(report.model_copy(update={"sections": (wide,), "latency_ms": 1.5})), "utf-8")
    return path


VISIBLE = """(text => [...document.querySelectorAll('body *')].some(one => {
    const box = one.getBoundingClientRect(), style = getComputedStyle(one), has = it => it.textContent.includes(text);
    return has(one) && ![...one.children].some(has) && box.width > 0 && box.height > 0 && box.left >= 0
        && box.left < window.innerWidth && style.visibility === 'visible' && Number(style.opacity) > 0;
}))"""


def visible(browser: Browser, text: str) -> bool:
    """Whether the innermost element that holds a text is drawn, and begins inside the page's width."""
    return browser.evaluate(f"{VISIBLE}({json.dumps(text)})")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_fits_and_fetches_nothing(browser: Browser, page: Path, size: tuple[int, int]) -> None:
    opened = browser.open(page, *size)
    assert [url for url in opened.requests if not url.startswith("data:")] == [page.resolve().as_uri()]
    assert opened.errors == []
    assert browser.evaluate("window.innerWidth") == size[0]
    assert browser.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert browser.evaluate("document.title")
    for text in (NAMES[0][:20], "second", "kept", "2 of 3", "1.5 ms", "int2", "Wide"):
        assert visible(browser, text), text
    assert browser.evaluate("document.querySelectorAll('svg').length") >= 2
    cut = browser.evaluate(
        """[...document.querySelectorAll('body *')].filter(one => {
            let box = one.getBoundingClientRect();
            if (!box.width || box.right <= window.innerWidth + 1) return false;
            for (let up = one.parentElement; up; up = up.parentElement)
                if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(up).overflowX)) return false;
            return true;
        }).map(one => one.outerHTML.slice(0, 80))"""
    )
    assert cut == []


def test_histograms_open_on_a_click(browser: Browser, page: Path) -> None:
    browser.open(page, *DESKTOP)
    count = "[...document.querySelectorAll('details')].filter(one => one.open).length"
    before = browser.evaluate(count)
    assert browser.evaluate("document.querySelectorAll('details').length") > 0
    browser.evaluate("document.querySelector('details > summary').click()")
    assert browser.evaluate(count) != before


def test_the_test_sees_what_would_be_wrong(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><title>x</title><img src='missing.png'><div style='width:3000px'>wide</div>"
        "<p style='visibility:hidden'>unseen</p><script>undefined_function()</script>",
        "utf-8",
    )
    opened = browser.open(bad, *PHONE)
    assert any("missing.png" in url for url in opened.requests)
    assert opened.errors
    assert browser.evaluate("document.documentElement.scrollWidth") > PHONE[0]
    assert visible(browser, "wide")
    assert not visible(browser, "unseen")
