import argparse
import dataclasses
import io
import json
import types

import numpy as np
import PIL.Image
import pytest
import transformers
from interop import weight_rows  # before timm: it makes torchvision importable
from timm.data import create_transform
from timm.models import get_pretrained_cfg
from torchvision.models import get_model_weights

import jaxvision as jv
from jaxvision.commands.arguments import add_weights_arguments, weights_arguments
from jaxvision.data.class_lists import imagenet_names, imagenet_wordnet_ids
from jaxvision.errors import InputError
from jaxvision.interop import pretrained
from jaxvision.interop.hub_config import describe_config
from jaxvision.interop.trained import (
    Trained,
    check_classifier,
    open_trained,
    weights_transform,
)
from jaxvision.models.registry import get_spec

ROWS = [pretrained.get_weights(tag) for tag in jv.list_weights("*")]


def written_rows():
    with open(pretrained.TABLE) as file:
        lines = [line.rstrip("\n").split(",") for line in file]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def test_the_table_is_what_the_libraries_say():
    made = [
        *weight_rows.torchvision_rows(),
        *weight_rows.timm_rows({}),
        *weight_rows.other_rows(),
    ]
    written = written_rows()
    for row, expected in zip(written, made, strict=True):
        if expected["source"] == "timm":  # which does not install its accuracies
            expected["top1"] = row["top1"]
        assert row == expected
    assert len({row["tag"] for row in written}) == len(written)


def test_outputs_that_are_no_classes_are_not_taken_for_some():
    refused = 0
    for row in (row for row in ROWS if row.num_outputs):
        outputs = types.SimpleNamespace(config=types.SimpleNamespace(num_classes=row.num_outputs))
        trained = Trained(outputs, get_spec(row.model), lambda image, rng: image, (), "")
        if "clip" not in row.tag or "_ft_in" in row.tag:
            check_classifier(trained, row.tag)
            continue
        for name in (row.tag, row.address):
            with pytest.raises(InputError, match="was trained on texts and tells no classes"):
                check_classifier(trained, name)
            refused += 1
    assert refused > 20


def test_every_model_with_weights_has_a_row():
    without = set(jv.list_models()) - set(jv.list_models(pretrained=True))
    for name in without:  # timm and torchvision have none either
        spec = get_spec(name)
        assert spec.torchvision is None and spec.hf is None
        assert spec.timm is None or get_pretrained_cfg(spec.timm).url in ("", None)


def photo(height, width):
    """Returns a photo-like image as it comes out of a JPEG file, and that file."""
    rng = np.random.default_rng(height)
    small = PIL.Image.fromarray(rng.integers(0, 256, (height // 20, width // 20, 3), np.uint8))
    buffer = io.BytesIO()
    small.resize((width, height), PIL.Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=92)
    return PIL.Image.open(buffer).convert("RGB")


def recipe(row):
    return row.source, row.image_size, row.preprocess


RECIPES = {recipe(row): row for row in ROWS if row.source in ("timm", "torchvision")}


@pytest.mark.parametrize("row", RECIPES.values(), ids=lambda row: row.tag)
def test_images_are_prepared_as_by_the_publisher(row):
    if row.source == "torchvision":
        name, _, version = row.tag.partition(".")
        theirs = get_model_weights(name)[version].transforms()
    else:
        config = get_pretrained_cfg(row.tag)
        theirs = create_transform(
            config.input_size,
            interpolation=config.interpolation,
            mean=config.mean,
            std=config.std,
            crop_pct=config.crop_pct,
            crop_mode=config.crop_mode,
        )
    spec = dataclasses.replace(get_spec(row.model), preprocess=row.preprocess)
    ours = weights_transform(spec, row.image_size)
    mean, std = np.array(row.preprocess.mean), np.array(row.preprocess.std)
    for size in ((300, 420), (640, 480)):
        image = photo(*size)
        expected = theirs(image).numpy().transpose(1, 2, 0)
        levels = (expected * std + mean) * 255
        np.testing.assert_allclose(ours(np.asarray(image), None), levels, atol=1e-3)


def test_parameters_are_those_of_torchvision():
    for row in ROWS:
        if row.source == "torchvision":
            name, _, version = row.tag.partition(".")
            published = get_model_weights(name)[version].meta["num_params"]
            spec = get_spec(row.model)
            if row.image_size == spec.image_size or not hasattr(spec.config, "image_size"):
                assert spec.num_params == published
            else:
                with_positions = published - spec.num_params
                patches = (row.image_size**2 - spec.image_size**2) // spec.config.patch_size**2
                assert with_positions == patches * spec.config.width


def test_class_names_are_those_of_torchvision():
    weights = get_model_weights("resnet50")["IMAGENET1K_V2"]
    assert list(imagenet_names()) == weights.meta["categories"]
    assert pretrained.get_weights("resnet50.a1_in1k").class_names == imagenet_names()
    assert not pretrained.get_weights("vit_base_patch16_224.augreg_in21k").class_names
    from timm.data import ImageNetInfo

    assert list(imagenet_wordnet_ids()) == ImageNetInfo().label_names()


def test_weights_are_found_by_the_names_of_their_libraries():
    assert jv.list_weights("vit_b_16")[0] == "vit_b_16.IMAGENET1K_V1"
    assert jv.list_weights("vit_b16")[0] == "vit_base_patch16_224.augreg2_in21k_ft_in1k"
    assert jv.list_weights("resnet50")[0] == "resnet50.a1_in1k"
    assert pretrained.weights_of("resnet50", "IMAGENET1K_V1").tag == "resnet50.IMAGENET1K_V1"
    assert pretrained.weights_of("resnet50", "resnet50.tv_in1k").tag == "resnet50.tv_in1k"
    assert pretrained.with_file_name("vit_b_16-c867db91.pth").tag == "vit_b_16.IMAGENET1K_V1"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: jv.create_model("resnet50", pretrained="a1in1k"),
            "resnet50 has no weights 'a1in1k': did you mean a1_in1k, a1h_in1k",
        ),
        (lambda: jv.create_model("resnet50.a1_in1k"), "names weights: say pretrained=True"),
        (
            lambda: jv.create_model("resnet50.a1_in1k", pretrained="a2_in1k"),
            "resnet50.a1_in1k and pretrained='a2_in1k' are two sets of weights",
        ),
        (
            lambda: jv.create_model("vit_g14", pretrained=True),
            "No published weights of vit_g14 are known",
        ),
        (
            lambda: jv.from_pretrained("resnet51.a1_in1k"),
            "no published weights of that name: did you mean resnet50.a1_in1k",
        ),
        (lambda: jv.list_weights("resnet51"), "There is no model 'resnet51'"),
        (lambda: pretrained.fetch("ftp://x/y"), "got 'ftp://x/y'"),
        (lambda: jv.from_pretrained(" "), "No weights were given"),
        (lambda: jv.from_pretrained("x" * 5000), "There is no run and no file of weights"),
        (lambda: jv.from_pretrained("https://x/y.pth"), "an address of the web, which is not read"),
        (
            lambda: jv.from_pretrained("hub:a"),
            "is hub:owner/name or hub:owner/name/file, got 'hub:a'",
        ),
        (lambda: jv.create_model("hub:a/b"), "jv.from_pretrained\\('hub:a/b'\\) opens it"),
        (lambda: jv.load_weights(jv.create_model("resnet18"), ""), "No weights were given"),
    ],
)
def test_weights_that_are_not_there(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("EfficientNet", {"size": 90, "resample": 0}),
        ("EfficientNet", {"size": {"height": 90, "width": 90}, "include_top": False}),
        ("DeiT", {"size": 100, "crop_size": 90, "do_center_crop": True}),
        ("ConvNext", {"size": 90, "crop_pct": 0.9}),
    ],
)
def test_images_are_those_of_the_processors_of_transformers(kind, options):
    processor = getattr(transformers, f"{kind}ImageProcessor")(
        image_mean=[0.4, 0.5, 0.6], image_std=[0.48, 0.47, 0.46], **options
    )
    stored = json.loads(processor.to_json_string()) | options
    described = describe_config({"model_type": "x"}, stored, name="these weights")
    assert described.image_size == 90 and described.preprocess is not None
    spec = dataclasses.replace(get_spec("resnet50"), preprocess=described.preprocess)
    image = photo(200, 300)
    found = weights_transform(spec, 90)(np.asarray(image), None)
    found = (found / 255 - described.preprocess.mean) / described.preprocess.std
    expected = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 0.02 * expected.std()


def test_pixels_that_are_not_scaled_are_refused():
    stored = {"size": 90, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_rescale": False}
    with pytest.raises(InputError, match="wants pixels scaled by 1 and no offset"):
        describe_config({"model_type": "vit"}, stored, name="these weights")


def test_published_weights_are_not_looked_for_in_a_file_of_their_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar_resnet20.akamaster").mkdir()
    with pytest.raises(InputError, match="There is a file or folder cifar_resnet20.akamaster here"):
        jv.create_model("cifar_resnet20", pretrained=True)
    parser = argparse.ArgumentParser()
    add_weights_arguments(parser)
    arguments = parser.parse_args(["--model=cifar_resnet20", "--pretrained"])
    with pytest.raises(InputError, match="There is a file or folder cifar_resnet20.akamaster here"):
        weights_arguments(arguments)
    for part in ("", "aka", "resnet"):
        with pytest.raises(InputError, match="are two sets of weights"):
            jv.create_model("cifar_resnet20.akamaster", pretrained=part)


def test_weights_are_not_given_to_the_twin_of_their_model(tmp_path, monkeypatch):
    path, tag = tmp_path / "w.safetensors", "tf_mobilenetv3_small_100.in1k"
    twin = jv.create_model("mobilenetv3_small_100")
    jv.save_weights(twin, path)
    monkeypatch.setattr(pretrained.PretrainedWeights, "fetch", lambda self: path)
    with pytest.raises(InputError, match="belongs to tf_mobilenetv3_small_100, whose padding is"):
        jv.load_weights(twin, tag)
    with pytest.raises(InputError, match="belongs to tf_mobilenetv3_small_100, whose padding is"):
        open_trained(tag, "mobilenetv3_small_100")
    options = {"padding": "same", "norm_eps": 1e-3}
    jv.load_weights(jv.create_model("mobilenetv3_small_100", **options), tag)  # on purpose
