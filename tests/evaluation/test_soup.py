"""Soups of models, by hand and from the command line."""

import dataclasses
import json
import shutil

import finished_run
import numpy as np
import pytest
from flax import nnx

from jaxvision.__main__ import main
from jaxvision.errors import InputError
from jaxvision.evaluation.soup import (
    Ingredient,
    check_same,
    greedy_soup,
    mean_weights,
    open_ingredients,
)
from jaxvision.interop.formats import read_weights
from jaxvision.interop.load import load_weights, save_weights
from jaxvision.interop.trained import open_trained
from jaxvision.options.moco import TASK

RESNET = {"stage_widths": (8, 16), "stage_depths": (1, 1), "stem": "cifar"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A run whose averaged weights are 1.5 times the others, one of these, and a file of 0."""
    folder = tmp_path_factory.mktemp("models")
    run, state = finished_run.write(folder / "a")
    finished_run.write(folder / "b", ema_decay=0.0)
    model = nnx.merge(run.graphdef, state.params, state.batch_stats)
    save_weights(model, folder / "one.npz", format="jaxvision")
    weights = read_weights(folder / "one.npz")
    np.savez(folder / "zero.npz", **{name: np.zeros_like(x) for name, x in weights.items()})
    return folder, weights


def test_mean_of_runs_and_files(models, tmp_path, capsys):
    folder, weights = models
    out = tmp_path / "soup.npz"
    paths = [str(folder / name) for name in ("a", "b", "zero.npz")]
    assert main(["soup", *paths, f"--out={out}"]) == 0
    assert "mean of 3 models" in capsys.readouterr().out
    soup = read_weights(out)
    assert soup.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_allclose(soup[name], array * (2.5 / 3), rtol=1e-6, atol=1e-9)


def test_a_file_with_our_own_names_is_known_by_them(models, tmp_path):
    folder, weights = models
    model = open_trained(str(folder / "a")).model
    report = load_weights(model, folder / "one.npz")
    assert report.source == "jaxvision" and len(report.loaded) == len(weights)
    np.testing.assert_array_equal(model.head.kernel[...], weights["head/kernel"])


def test_mean_of_equal_models_keeps_every_bit():
    array = np.random.default_rng(0).normal(size=100).astype(np.float32)
    np.testing.assert_array_equal(mean_weights([{"x": array}] * 3)["x"], array)


def test_greedy_leaves_out_what_makes_it_worse():
    values = {"bad": 9.0, "best": 1.0, "good": 1.4, "helps": 0.4}
    ingredients = [Ingredient(path, {"x": np.array([x])}) for path, x in values.items()]
    soup = greedy_soup(ingredients, lambda weights: -abs(float(weights["x"][0]) - 1.0))
    assert soup.chosen == ["best"] and soup.score == 0.0
    soup = greedy_soup(ingredients, lambda weights: -abs(float(weights["x"][0]) - 0.9))
    # best first: 1.0; then 1.4 makes 1.2, worse; 0.4 makes 0.7, worse; 9 is the worst.
    assert soup.chosen == ["best"]
    soup = greedy_soup(ingredients, lambda weights: -abs(float(weights["x"][0]) - 1.2))
    # 1.0 and 1.4 are equally near, the first given comes first; together they are exact.
    assert soup.chosen == ["best", "good"] and soup.score == pytest.approx(0.0)
    assert soup.scores["bad"] == pytest.approx(-7.8) and soup.weights["x"] == pytest.approx(1.2)


def test_greedy_from_the_command_line(models, tmp_path, capsys):
    folder, weights = models
    out = tmp_path / "soup.safetensors"
    paths = [str(folder / name) for name in ("zero.npz", "b", "a")]
    assert main(["soup", *paths[::-1], f"--out={out}", "--greedy", "--batch=16"]) == 0
    *lines, soup, wrote = capsys.readouterr().out.splitlines()
    assert [line.split(": accuracy")[0] for line in lines] == paths[::-1]
    assert "on 16 images" in soup and wrote.endswith("with the names of jaxvision")
    accuracies = {line.split(": ")[0]: float(line.split()[2][:-1]) for line in lines}
    assert float(soup.split()[4]) >= max(accuracies.values())
    assert read_weights(out).keys() == weights.keys()


def test_greedy_is_for_models_with_classes(models, tmp_path, capsys):
    for name in "ab":
        shutil.copytree(models[0] / name, tmp_path / name)
        config = tmp_path / name / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"task": TASK}))
    paths = [str(tmp_path / name) for name in "ab"]
    assert main(["soup", *paths, f"--out={tmp_path}/o.npz", "--greedy"]) == 2
    assert "a was trained without classes and tells none" in capsys.readouterr().err
    assert not (tmp_path / "o.npz").exists()


def test_batch_norms_are_measured_anew(tmp_path, capsys):
    for name, decay in (("a", 0.9), ("b", 0.0)):
        finished_run.write(tmp_path / name, name="resnet18", options=RESNET, ema_decay=decay)
    paths = [str(tmp_path / name) for name in "ab"]
    assert main(["soup", *paths, f"--out={tmp_path}/mean.npz"]) == 0
    assert "--recalibrate measures them" in capsys.readouterr().out
    assert main(["soup", *paths, f"--out={tmp_path}/new.npz", "--recalibrate=2"]) == 0
    mean, new = (read_weights(tmp_path / f"{name}.npz") for name in ("mean", "new"))
    for name, array in mean.items():
        same = np.array_equal(array, new[name])
        assert same != (name.rpartition("/")[2] in ("mean", "var")), name


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("{a} --out={tmp}/o.npz", "at least two models"),
        ("{a} {a} --out={tmp}/o.npz", "at least two models, each given once"),
        ("{a} {b} --out={tmp}/o.pth", ".safetensors or .npz"),
        ("{a} {b}", "--out"),
        ("{a} {tmp}/no.npz --out={tmp}/o.npz", "There is no file {tmp}/no.npz"),
        ("{zero} {a} --out={tmp}/o.npz", "does not say which model it is of"),
        ("{a} {b} --out={tmp}/o.npz --format=hfx", "'hfx'"),
        ("{a} {b} --out={tmp}/o.npz --greedy --data=pets", "'pets'"),
        ("{zero} {a} --out={tmp}/o.npz --recalibrate=2", "needs the data of a run"),
        ("{a} {b} --out={tmp}/o.npz --recalibrate=0", "at least 1"),
    ],
)
def test_wrong_input(models, tmp_path, capsys, arguments, expected):
    folder, _ = models
    places = {"a": folder / "a", "b": folder / "b", "zero": folder / "zero.npz", "tmp": tmp_path}
    try:
        code = main(["soup", *arguments.format(**places).split()])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2 and expected.format(**places) in err and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())


def test_other_models_are_refused(models, tmp_path):
    one, two = np.zeros((2, 3)), np.zeros((2, 4))
    first = Ingredient("A", {"block/kernel": one, "head/bias": one})
    check_same(first, first)
    with pytest.raises(InputError) as error:
        check_same(first, Ingredient("B", {"block/kernel": two, "head/bias": one}))
    assert str(error.value) == (
        "B is another model than A: block/kernel is of shape (2, 4) there and of shape (2, 3) here;"
        " average models of one architecture."
    )
    with pytest.raises(InputError, match="head/bias is missing there and of shape"):
        check_same(first, Ingredient("B", {"block/kernel": one}))
    folder, _ = models
    shutil.copytree(folder / "a", tmp_path / "other")
    (tmp_path / "other/classes.txt").write_text("x\n" * 8)
    with pytest.raises(InputError, match="has other classes than"):
        open_ingredients([str(folder / "a"), str(tmp_path / "other")])


def test_models_that_see_other_images_are_not_mixed(models, tmp_path):
    folder, _ = models
    half = (0.25, 0.25, 0.25)
    finished_run.write(tmp_path / "colors", data__mean=half, data__std=half)
    finished_run.write(tmp_path / "crop", data__eval_resize=40)
    for name, what in (("colors", "mean"), ("crop", "resize and crop")):
        with pytest.raises(InputError, match=rf"otherwise than .*a \({what}: "):
            open_ingredients([str(folder / "a"), str(tmp_path / name)])


def test_several_labels_are_not_mixed_with_one(models, monkeypatch):
    folder, _ = models
    paths = [str(folder / "a"), str(folder / "b")]
    opened = [open_trained(path) for path in paths]
    opened[1] = dataclasses.replace(opened[1], thresholds=(0.5,) * 8)
    monkeypatch.setattr("jaxvision.evaluation.soup.open_trained", lambda *_: opened.pop(0))
    with pytest.raises(InputError, match="says several labels of an image, the other one"):
        open_ingredients(paths)


def test_the_size_of_the_images_of_a_run_cannot_be_told(models):
    with pytest.raises(InputError, match="is a run, which knows the size of its images"):
        open_trained(str(models[0] / "a"), weights_size=64)
