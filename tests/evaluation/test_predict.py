"""Predictions of a run's weights are those that its evaluation would make."""

import csv
import dataclasses
import json

import finished_run
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from flax import nnx

from jaxvision.data.augment.transforms import eval_transform
from jaxvision.data.image_files import find_images
from jaxvision.errors import InputError
from jaxvision.evaluation.predict import (
    Guess,
    Prediction,
    predict,
    prediction_lines,
    read_classes,
)
from jaxvision.interop.load import save_weights
from jaxvision.interop.trained import open_trained
from jaxvision.models.registry import create_model


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, *finished_run.write(folder)


@pytest.fixture(scope="module")
def photos(tmp_path_factory, finished):
    """Writes the evaluation images of the run as files, and a broken one between them."""
    folder, (_, run, _) = tmp_path_factory.mktemp("photos"), finished
    for i in range(5):
        pixels = run.eval_source[i]["image"]
        PIL.Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "2_broken.png").write_bytes((folder / "2.png").read_bytes()[:60])
    return folder


@pytest.mark.parametrize("batch_size", [2, 32])
def test_a_run_predicts_what_it_evaluates(finished, photos, batch_size):
    folder, run, state = finished
    trained = open_trained(str(folder))
    assert trained.spec.name == "vit_ti16" and "averaged weights of step 3" in trained.report
    predictions = list(
        predict(
            trained,
            find_images(str(photos)),
            class_names=trained.class_names,
            top=8,
            batch_size=batch_size,
        )
    )
    names = ["0.png", "1.png", "2.png", "2_broken.png", "3.png", "4.png"]
    assert [prediction.image for prediction in predictions] == [f"{photos}/{n}" for n in names]
    broken = predictions.pop(3)
    assert not broken.guesses and broken.error and "2_broken.png cannot be used:" in broken.error

    model = nnx.merge(run.graphdef, state.ema_params, state.ema_batch_stats)
    images = np.stack([run.eval_transform(run.eval_source[i]["image"], None) for i in range(5)])
    expected = np.asarray(jax.nn.softmax(model(run.preprocess_fn(jnp.asarray(images)))))
    for prediction, probabilities in zip(predictions, expected, strict=True):
        indices = [guess.index for guess in prediction.guesses]
        assert indices == list(np.argsort(-probabilities, kind="stable"))
        values = [guess.probability for guess in prediction.guesses]
        np.testing.assert_allclose(values, probabilities[indices], rtol=1e-5)
        assert [g.name for g in prediction.guesses] == [run.task.class_names[i] for i in indices]


def test_a_file_needs_a_model_and_brings_its_number_of_classes(tmp_path, photos):
    options = {"stage_depths": (2, 2, 2, 2)}
    model = create_model("resnet18", num_classes=7, rngs=nnx.Rngs(0), **options)
    save_weights(model, tmp_path / "w.npz", format="torchvision")
    with pytest.raises(InputError, match="looks like a resnet18 .*: give --model=resnet18"):
        open_trained(str(tmp_path / "w.npz"))
    trained = open_trained(str(tmp_path / "w.npz"), "resnet18")
    assert trained.model.config.num_classes == 7 and trained.class_names == ()
    # The published preprocessing: 256 pixels, then the middle 224.
    assert trained.transform(np.zeros((300, 500, 3), np.uint8), None).shape == (224, 224, 3)
    (prediction,) = predict(trained, find_images(f"{photos}/0.png"), top=3)
    assert len(prediction.guesses) == 3 and prediction.guesses[0].name is None

    (tmp_path / "names.txt").write_text("\n".join("abcdefg"))
    assert read_classes(str(tmp_path / "names.txt"), trained) == tuple("abcdefg")
    (tmp_path / "names.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="has 2 lines, but the weights have 7 classes"):
        read_classes(str(tmp_path / "names.txt"), trained)


def test_weights_without_a_head_are_refused(tmp_path):
    model = create_model("resnet18", num_classes=0, rngs=nnx.Rngs(0))
    save_weights(model, tmp_path / "w.npz", format="torchvision")
    with pytest.raises(InputError, match="does not fill a resnet18 .head: the file has none"):
        open_trained(str(tmp_path / "w.npz"), "resnet18")


def test_another_model_than_that_of_the_run(finished):
    assert open_trained(str(finished[0]), "vit_tiny_patch16_224").spec.name == "vit_ti16"
    with pytest.raises(InputError, match="is a run of vit_ti16, not of resnet18"):
        open_trained(str(finished[0]), "resnet18")


def test_lines():
    guesses = (Guess(3, "dog, a", 0.75), Guess(0, None, 0.25))
    good, bad = Prediction("a b.png", guesses), Prediction("x.png", (), "x.png cannot be used.")
    assert prediction_lines(good, "text") == ["a b.png: 0.7500 dog, a, 0.2500 0"]
    assert prediction_lines(bad, "text") == prediction_lines(bad, "csv") == []
    assert list(csv.reader(prediction_lines(good, "csv"))) == [
        ["a b.png", "1", "3", "dog, a", "0.750000"],
        ["a b.png", "2", "0", "", "0.250000"],
    ]
    (line,) = prediction_lines(bad, "json")
    assert json.loads(line) == {"image": "x.png", "guesses": [], "error": "x.png cannot be used."}


def test_the_views_of_an_image_are_those_of_an_evaluation(finished, photos):
    folder, run, state = finished
    trained = open_trained(str(folder))
    images = [image for image in find_images(str(photos)) if "broken" not in image.name]
    model = nnx.merge(run.graphdef, state.ema_params, state.ema_batch_stats)
    pixels = np.stack([run.eval_transform(run.eval_source[i]["image"], None) for i in range(5)])
    view = lambda x: model(run.preprocess_fn(jnp.asarray(x)))  # noqa: E731
    expected = jax.nn.softmax((view(pixels) + view(pixels[:, :, ::-1])) / 2)
    for prediction, probabilities in zip(
        predict(trained, images, top=8, views="flip"), np.asarray(expected), strict=True
    ):
        for guess in prediction.guesses:
            assert guess.probability == pytest.approx(probabilities[guess.index], rel=1e-5)
    whole = dataclasses.replace(trained, transform=eval_transform(32, eval_resize=32))
    with pytest.raises(InputError, match="these weights see the whole: choose none, flip or flip"):
        next(predict(whole, images, views="five_crop"))
