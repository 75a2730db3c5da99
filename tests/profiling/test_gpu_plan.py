"""The script's configs need no data, and a step that fails costs its own row only."""

import pytest

from benchmarks import gpu_plan
from jaxvision.options.options import read_options
from jaxvision.train.setup import make_run


@pytest.mark.parametrize("name", gpu_plan.MODELS)
def test_configs_are_those_of_the_cards(name, tmp_path):
    options = read_options(gpu_plan.make_config(name, 64, [], tmp_path))
    assert (options.model.name, options.model.dtype, options.batch_size) == (name, "bfloat16", 64)
    assert options.data.name == "shapes" and options.data.image_size == 224
    assert ("scan" in options.model.kwargs) == name.startswith(("vit", "swin", "convnext"))


def test_the_captioner_has_the_words_of_coco(tmp_path):
    config = gpu_plan.make_config(
        "captioner", 8, [("depth", "1"), ("encoder", "vit_ti16")], tmp_path
    )
    run = make_run(read_options(config))
    assert run.num_outputs == 10_000 and run.batch_shapes["tokens"].shape == (1, 30)
    assert run.batch_shapes["image"].shape == (1, 224, 224, 3)


def test_a_failure_costs_its_own_row(monkeypatch, capsys):
    def result(name, target):
        return (None, "Error: a | b") if name == "bad" else ({"cells": ["1"], "details": "k"}, "")

    monkeypatch.setattr(gpu_plan, "in_own_process", result)
    monkeypatch.setattr("sys.argv", ["gpu_plan.py", "--models=bad,good", "--kernels=1"])
    assert gpu_plan.main() == 1
    text = capsys.readouterr().out
    assert "| bad | h100 | Error: a / b |\n| bad | h200 |" in text
    assert "| good | h200 | 1 |\n\ngood on h100\nk\n" in text
    monkeypatch.setattr("sys.argv", ["gpu_plan.py", "--models=good", "--targets=h100"])
    assert gpu_plan.main() == 0 and "good on" not in capsys.readouterr().out


def test_a_failing_process_leaves_its_last_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpu_plan.py"])
    result, error = gpu_plan.in_own_process("nonesuch", "h10")
    assert result is None and "The GPU must be one of h100, h200" in error
