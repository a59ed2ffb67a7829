"""The report: its errors are those that torch computes, its advice works, its page is self-contained."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn import functional as F

from qcc.errors import CheckpointError
from qcc.interpreter import Interpreter
from qcc.ir.program import program_of
from qcc.numerics.quantize import fake_quantize
from qcc.recipes.load import load_recipe
from qcc.report.build import Subject, make_report, read_sections, report_where_cheap
from qcc.report.charts import SHOWN_NAME, short_name
from qcc.report.graph import layer_edges
from qcc.report.measure import Measurement, Models, measure
from qcc.report.model import Report
from qcc.report.page import page_text
from qcc.report.terminal import ranked, summary_lines
from qcc.report.twin import Originals, twin_module
from tests import zoo
from tests.report_models import export, models_for

W4A8 = {
    "weights": {"format": "uint4", "group": 16},
    "activations": {"format": "int8", "group": 16, "when": "dynamic"},
}


class Net(torch.nn.Module):
    """Two branches and a residual, the second layer with outliers that its format cannot hold well."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.up = torch.nn.Linear(32, 48)
        self.gate = torch.nn.Linear(32, 48)
        self.down = torch.nn.Linear(48, 32, bias=False)
        with torch.no_grad():
            self.down.weight[:, ::16] *= 40

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


def net() -> tuple[Net, torch.Tensor]:
    return Net().eval(), torch.randn(7, 32, generator=torch.Generator().manual_seed(5))


def db(exact: torch.Tensor, found: torch.Tensor) -> float:
    exact, found = exact.double(), found.double()
    return float(10 * torch.log10(exact.square().sum() / (exact - found).square().sum()))


def report_for(recipe: Any) -> tuple[Report, Measurement, Models]:
    module, x = net()
    models, coverage = models_for(export(module, x), recipe)
    measured = measure(models, [{"x": x}])
    subject = Subject("cpu", "mine", coverage, Path("/nowhere"))
    return make_report(subject, models.module, measured, "x"), measured, models


def quantized_layer(layer: torch.nn.Linear, x: torch.Tensor, recipe: Any) -> torch.Tensor:
    loaded = load_recipe(recipe)
    weight = fake_quantize(layer.weight.detach(), loaded.weights.qtype())
    return F.linear(fake_quantize(x, loaded.activations.qtype()), weight, layer.bias)


@pytest.mark.parametrize("recipe", [W4A8, "w8a8"])
def test_errors_are_those_of_fake_quantization_in_torch(recipe: Any) -> None:
    report, _, _ = report_for(recipe)
    module, x = net()
    with torch.no_grad():
        up, gate = module.up(x), module.gate(x)
        up_q, gate_q = (quantized_layer(one, x, recipe) for one in (module.up, module.gate))
        hidden, hidden_q = F.silu(gate) * up, F.silu(gate_q) * up_q
        down = module.down(hidden)
        local, cumulative = (quantized_layer(module.down, one, recipe) for one in (hidden, hidden_q))
    layers = {one.name: one for one in report.layers}
    assert layers["up"].sqnr_db == pytest.approx(db(up, up_q), abs=0.02)
    assert layers["gate"].sqnr_db == layers["gate"].cumulative_sqnr_db == pytest.approx(db(gate, gate_q), abs=0.02)
    assert layers["down"].sqnr_db == pytest.approx(db(down, local), abs=0.02)
    assert layers["down"].cumulative_sqnr_db == pytest.approx(db(down, cumulative), abs=0.02)
    assert layers["down"].mse == pytest.approx(float((down - local).double().square().mean()), rel=1e-3)
    assert report.output_sqnr_db == pytest.approx(db(x + down, x + cumulative), abs=0.02)
    hidden_values = layers["down"].input
    assert hidden_values is not None
    assert hidden_values.peak == pytest.approx(float(hidden.abs().max()), rel=1e-4)
    assert sum(hidden_values.histogram.counts) == hidden.numel()


def test_a_float_recipe_has_no_error_at_all() -> None:
    report, _, _ = report_for("float")
    assert [one.sqnr_db for one in report.layers] == [None] * 3
    assert all(one.measured and one.left_in_float for one in report.layers)
    assert list(report.outputs.values()) == [None]
    assert report.protect == ""


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "resnet"])
def test_the_twin_is_the_float_model_and_the_quantized_one(name: str) -> None:
    from tests.compiling import exported

    program = exported(name)
    recipe = {"weights": {"format": "int4"}, "activations": {"format": "int8"}, "embeddings": {"format": "int8"}}
    models, _ = models_for(program, recipe)
    args, kwargs = program.example_inputs or ((), {})
    names = program_of(models.float_module).input_names
    sample = dict(zip(names, [*args, *kwargs.values()], strict=True))
    weights = Originals(models.store, models.floats)
    wanted = Interpreter(models.float_module, models.float_store).run(sample)
    twin, twins = twin_module(models.module, weights)
    for key, value in Interpreter(twin, weights).run(sample).items():
        assert float((value - wanted[key]).abs().max()) <= 1e-4 * float(wanted[key].abs().max())
    same, _ = twin_module(models.module, weights, frozenset(range(len(twins))), float_rest=False)
    quantized = Interpreter(models.module, models.store).run(sample)
    for key, value in Interpreter(same, weights).run(sample).items():
        assert torch.equal(value, quantized[key])
        assert not torch.equal(value, wanted[key])


def test_perplexity_is_reported_of_causal_models_alone() -> None:
    from tests.compiling import exported

    program = exported("llama")
    models, _ = models_for(program, "w8a8")
    _, kwargs = program.example_inputs or ((), {})
    ids = zoo.tokens(2, 12)
    found = measure(models, [{**kwargs, "input_ids": ids}]).perplexity
    assert found is not None
    with torch.no_grad():
        logits = program.module()(**{**kwargs, "input_ids": ids})
    logits = logits if isinstance(logits, torch.Tensor) else next(iter(logits.values()))
    loss = F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
    assert found["float"] == pytest.approx(math.exp(float(loss)), rel=1e-4)
    assert found["quantized"] != found["float"]
    encoder = exported("bert")
    models, _ = models_for(encoder, "w8a8")
    assert measure(models, [dict((encoder.example_inputs or ((), {}))[1])]).perplexity is None


def test_layers_without_float_originals_are_said_to_be_unmeasured() -> None:
    module, x = net()
    models, coverage = models_for(export(module, x), W4A8)
    without = {key: value for key, value in models.floats.items() if not key.startswith("up.")}
    lacking = Models(models.module, models.store, without, models.float_module, models.float_store)
    subject = Subject("cpu", "mine", coverage, Path("/nowhere"))
    report = make_report(subject, models.module, measure(lacking, [{"x": x}]), "x")
    layers = {one.name: one for one in report.layers}
    assert (layers["up"].measured, layers["up"].sqnr_db) == (False, None)
    assert layers["down"].measured
    assert any("not measured" in note and "up" in note for note in report.notes)
    assert ranked(report)[-1].name == "up"


def test_the_snippet_protects_the_worst_layer() -> None:
    recipe = {**W4A8, "overrides": [{"match": "gate", "weights": {"format": "int2"}}]}
    before, _, _ = report_for(recipe)
    snippet = yaml.safe_load(before.protect)
    assert [one["match"] for one in snippet["overrides"]] == ["gate"]
    after, _, _ = report_for({**recipe, "overrides": [*recipe["overrides"], *snippet["overrides"]]})
    assert ranked(before)[0].name == "gate"
    first, second = ({one.name: one for one in report.layers}["gate"] for report in (before, after))
    assert (second.sqnr_db or math.inf) > (first.sqnr_db or math.inf) + 20
    assert (after.output_sqnr_db or 0) > (before.output_sqnr_db or 0) + 6


def test_activations_are_protected_where_they_lose_most() -> None:
    module, x = net()
    x[:, 3] *= 300
    recipe = {"weights": {"format": "int8"}, "activations": {"format": "int4"}}
    models, coverage = models_for(export(module, x), recipe)
    subject = Subject("cpu", "mine", coverage, Path("/nowhere"))
    report = make_report(subject, models.module, measure(models, [{"x": x}]), "x")
    overrides = yaml.safe_load(report.protect)["overrides"]
    assert all(set(one) == {"match", "activations"} for one in overrides)
    inputs = [one.input for one in report.layers if one.name == "up"]
    assert inputs[0] is not None
    assert inputs[0].channel_outliers > 100


def test_edges_lead_through_what_is_between_layers() -> None:
    models, _ = models_for(export(*net()), W4A8)
    _, twins = twin_module(models.module, Originals(models.store, models.floats))
    names = [twin.name for twin in twins]
    found = {(names[one], names[other]) for one, other in layer_edges(models.module)}
    assert found == {("up", "down"), ("gate", "down")}


def test_the_page_is_self_contained_and_escapes(tmp_path: Path) -> None:
    report, _, _ = report_for(W4A8)
    layers = [report.layers[0].model_copy(update={"name": "<b>&"}), *report.layers[1:]]
    page = page_text(report.model_copy(update={"layers": tuple(layers)}))
    assert "<b>&<" not in page
    assert "&lt;b&gt;&amp;" in page
    for outside in ("http:", "https:", "<script", "<link", "src=", "url(", "@import"):
        assert outside not in page
    assert page.count('<svg class="histogram"') == 2 * 3
    assert page.count("<section") == page.count("</section>")
    assert report.protect.splitlines()[1].strip() in page.replace("&#34;", '"')


def test_a_page_of_a_report_without_measurements() -> None:
    _, _, models = report_for(W4A8)
    _, coverage = models_for(export(*net()), W4A8)
    subject = Subject("cpu", "", coverage, Path("/nowhere"))
    bare = make_report(subject, models.module, None, "", ["too large"])
    page = page_text(bare)
    assert "too large" in page
    assert "Errors by layer" not in page
    assert all(not one.measured for one in bare.layers)
    assert summary_lines(bare) == ["note: too large"]
    assert Report.model_validate_json(json.dumps(bare.json_object())) == bare


def test_a_costly_model_is_left_to_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = net()
    models, coverage = models_for(export(module, x), W4A8)
    monkeypatch.setattr("qcc.report.build.CHEAP_MACS", 10)
    report = report_where_cheap(Subject("cpu", "", coverage, Path("/nowhere")), models, {"x": x}, None)
    assert report.samples == 0
    assert "qcc report" in report.notes[0]


def test_backends_add_tables(tmp_path: Path) -> None:
    folder = tmp_path / "hls"
    folder.mkdir()
    table = {"title": "Folding", "columns": ["layer", "PE"], "rows": [["up", 4], ["down", None]], "note": "at 4 ns"}
    (folder / "sections.json").write_text(json.dumps([table]))
    models, coverage = models_for(export(*net()), W4A8)
    report = make_report(Subject("hls", "", coverage, tmp_path), models.module, None, "")
    assert report.sections[0].rows == (("up", 4), ("down", None))
    assert "Folding" in page_text(report)
    (folder / "sections.json").write_text(json.dumps([{**table, "rows": [["up"]]}]))
    with pytest.raises(CheckpointError, match="'Folding' have another length"):
        read_sections(tmp_path)
    (folder / "sections.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"sections\.json"):
        read_sections(tmp_path)


def test_constant_data_is_noted() -> None:
    from qcc.report.build import constant_note

    ones, mask = torch.ones(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.long)
    assert "input_ids" in constant_note([{"input_ids": ones, "attention_mask": mask}])[0]
    assert constant_note([{"input_ids": zoo.tokens(2, 3), "attention_mask": mask}]) == []


@pytest.mark.parametrize(
    "name", ["a", "encoder.layer.11.attention.output.dense", "x" * 60, "model.layers.0.mlp.gate_proj"]
)
def test_names_fit_their_boxes(name: str) -> None:
    assert 0 < len(short_name(name)) <= SHOWN_NAME


def test_worst_layers_come_first_whatever_their_order() -> None:
    report, _, _ = report_for(W4A8)
    values = [one.sqnr_db for one in ranked(report)]
    assert values == sorted(values, key=lambda one: math.inf if one is None else one)
