"""A run prepares images as the weights want it that it starts from, and keeps how."""

import dataclasses
import json

import finished_run
import numpy as np
import pytest
from opening import make_run

import jaxvision as jv
from configs import smoke
from jaxvision.errors import InputError
from jaxvision.interop import pretrained
from jaxvision.interop.trained import open_trained
from jaxvision.models.registry import spec_with
from jaxvision.models.spec import HALF, IMAGENET_MEAN, IMAGENET_STD
from jaxvision.train.loop import train
from jaxvision.train.preprocessing import settle_preprocessing

TAG = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


def config(**changes):
    config = smoke.get_config()
    config.model.name, config.model.kwargs = "resnet18", {}
    config.data.shapes.num_train = config.data.shapes.num_eval = 16
    config.data.eval_resize = -1
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def decided(run):
    data = run.options.data
    return data.mean, data.std, data.interpolation, data.eval_resize, data.eval_crop


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Weights of ResNet-18 in the place of whatever is downloaded."""
    path = tmp_path / "resnet18.safetensors"
    jv.save_weights(jv.create_model("resnet18"), path)
    monkeypatch.setattr(pretrained.PretrainedWeights, "fetch", lambda self: path)
    return path


def test_without_weights_images_are_prepared_as_before():
    run = make_run(config())
    assert decided(run) == (IMAGENET_MEAN, IMAGENET_STD, "bilinear", 37, "center")


def test_published_weights_decide_unless_the_user_does(published):
    run = make_run(config(model__init_from="resnet18.a1_in1k"))
    assert decided(run) == (IMAGENET_MEAN, IMAGENET_STD, "bicubic", 33, "center")
    run = make_run(
        config(
            model__init_from="resnet18.a1_in1k",
            data__mean=HALF,
            data__std=HALF,
            data__eval_resize=0,
            data__interpolation="bilinear",
        )
    )
    assert decided(run) == (HALF, HALF, "bilinear", 0, "center")


def test_a_run_keeps_what_was_decided(published, tmp_path):
    changes = {"model__init_from": "resnet18.a1_in1k", "total_steps": 1, "batch_size": 8}
    train(make_run(config(**changes)), tmp_path / "run")
    stored = json.loads((tmp_path / "run/config.json").read_text())["data"]
    assert stored["interpolation"] == "bicubic" and stored["eval_resize"] == 33
    published.unlink()  # the run goes on without it
    run = make_run(config(**changes), workdir=tmp_path / "run")
    assert decided(run)[2:] == ("bicubic", 33, "center")
    trained = open_trained(str(tmp_path / "run"))
    assert trained.transform == run.eval_transform
    assert trained.spec.preprocess.mean == run.spec.preprocess.mean
    later = make_run(config(model__init_from=str(tmp_path / "run"), data__image_size=64))
    assert decided(later) == (IMAGENET_MEAN, IMAGENET_STD, "bicubic", 66, "center")


def test_a_file_that_says_nothing_is_taken_for_its_librarys(tmp_path):
    # The ViT rows have Google's mean of 0.5; torchvision's weights want ImageNet's.
    model = jv.create_model("vit_b32", num_classes=2)
    for library, mean in (("torchvision", IMAGENET_MEAN), ("timm", HALF)):
        path = tmp_path / f"{library}.safetensors"
        jv.save_weights(model, path, format=library)
        spec = jv.get_spec("vit_b32")
        options = make_run(config()).options
        options = settle_preprocessing(with_start(options, str(path)), spec)
        assert options.data.mean == mean
        assert jv.load_weights(model, path) and model.preprocess.mean == mean


def with_start(options, path):
    model = dataclasses.replace(options.model, name="vit_b32", init_from=path)
    data = dataclasses.replace(
        options.data, mean=(), std=(), interpolation="auto", eval_crop="auto", eval_resize=-1
    )
    return dataclasses.replace(options, model=model, data=data)


def test_weights_of_transformers_without_a_preprocessor_are_taken_for_their_librarys(tmp_path):
    model = jv.create_model("resnet18", num_classes=2)
    jv.save_weights(model, tmp_path / "model.safetensors", format="hf")
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    with_rows = jv.create_model("resnet18", num_classes=2)
    jv.load_weights(with_rows, tmp_path)
    assert with_rows.preprocess is None  # the table leaves it to the repositories
    jv.save_weights(model, tmp_path / "model.safetensors", format="timm")
    jv.load_weights(model, tmp_path)
    assert model.preprocess is not None and model.preprocess.interpolation == "bilinear"
    trained = open_trained(str(tmp_path), "resnet18")
    assert trained.spec.preprocess == model.preprocess
    assert "images prepared for weights like" in trained.report
    options = with_start(make_run(config()).options, str(tmp_path))
    options = settle_preprocessing(options, jv.get_spec("resnet18"))
    assert options.data.eval_resize == model.preprocess.resize(32)


def test_weights_that_nobody_knows_leave_no_preprocessing_of_those_before(tmp_path):
    model = jv.create_model("cifar_resnet20")
    jv.save_weights(model, tmp_path / "own.safetensors", format="jaxvision")
    jv.save_weights(model, tmp_path / "theirs.safetensors", format="akamaster")
    assert jv.load_weights(model, tmp_path / "theirs.safetensors") and model.preprocess
    assert jv.load_weights(model, tmp_path / "own.safetensors") and model.preprocess is None


@pytest.mark.parametrize(
    ("stored", "resize"), [({"eval_resize": 0}, 64), ({"eval_resize": -1}, 74)]
)
def test_who_starts_from_a_run_resizes_as_it_does(tmp_path, stored, resize):
    finished_run.write(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    if stored["eval_resize"] == -1:  # of an older version
        for name in ("mean", "std", "interpolation", "eval_crop"):
            del content["data"][name]
    content["data"] |= stored
    path.write_text(json.dumps(content))
    model = open_trained(str(tmp_path)).model
    jv.load_weights(model, tmp_path)
    preprocess = model.preprocess
    assert (preprocess.interpolation, preprocess.resize(64)) == ("bilinear", resize)
    assert model.wanted_size == 32
    assert jv.preprocess(np.zeros((40, 50, 3), np.uint8), model).shape == (1, 32, 32, 3)


def test_the_images_of_a_captioner_are_those_of_its_encoders_weights():
    options = make_run(config()).options
    model = dataclasses.replace(
        options.model, name="captioner", init_from="cifar_resnet20.akamaster", encoder_from=TAG
    )
    options = with_start(options, "")
    options = dataclasses.replace(options, model=model)
    decided = settle_preprocessing(options, jv.get_spec("captioner")).data
    assert (decided.mean, decided.interpolation) == (HALF, "bicubic")


def test_the_encoder_is_the_one_that_the_options_name(tmp_path):
    path = tmp_path / "encoder.safetensors"  # a ResNet, where the row of the captioner has a ViT
    jv.save_weights(jv.create_model("resnet18"), path)
    options = with_start(make_run(config()).options, "")
    kwargs = {"encoder": "resnet18"}
    model = dataclasses.replace(
        options.model, name="captioner", kwargs=kwargs, encoder_from=str(path)
    )
    options = dataclasses.replace(options, model=model)
    decided = settle_preprocessing(options, spec_with("captioner", kwargs)).data
    assert (decided.mean, decided.interpolation) == (IMAGENET_MEAN, "bilinear")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__mean": (0.5, 0.5, 0.5)}, "go together"),
        ({"data__mean": (0.5,) * 3, "data__std": (0.0,) * 3}, "no deviation is 0"),
        ({"data__mean": (127.0,) * 3, "data__std": (128.0,) * 3}, "three numbers in 0..1"),
        (
            {"model__init_from": "resnet18.a1in1k"},
            "config.model.init_from: There is no file resnet18.a1in1k, and no published weights of"
            " that name: did you mean resnet18.a1_in1k",
        ),
    ],
)
def test_what_cannot_be_meant(changes, message):
    with pytest.raises(InputError, match=message):
        make_run(config(**changes))


def test_a_model_of_no_size_of_its_own_sees_that_of_its_weights(tmp_path):
    small = {"stage_depths": (1, 1), "stage_widths": (8, 8)}
    finished_run.write(tmp_path, name="resnet18", options=small, data__image_size=24)
    photo, trained = np.zeros((40, 50, 3), np.uint8), open_trained(str(tmp_path))
    model = jv.create_model("resnet18", num_classes=8, **small)
    jv.load_weights(model, tmp_path)
    for each in (model, trained.model):
        assert jv.preprocess(photo, each).shape == (1, 24, 24, 3)
