import finished_run
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from flax import nnx

import jaxvision as jv
from jaxvision.data.image_files import find_images
from jaxvision.errors import InputError
from jaxvision.evaluation.predict import predict
from jaxvision.interop.trained import open_trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    _, run = folder, finished_run.write(folder)[0]
    PIL.Image.fromarray(run.eval_source[0]["image"]).save(folder / "photo.png")
    return folder


def test_a_run_predicts_one_image_as_the_command_does(folder):
    run, photo = jv.from_pretrained(folder), folder / "photo.png"
    trained = open_trained(str(folder))
    (expected,) = predict(trained, find_images(str(photo)), class_names=trained.class_names, top=3)
    pixels = np.asarray(PIL.Image.open(photo))
    for image in (photo, str(photo), PIL.Image.open(photo), pixels, jnp.asarray(pixels)):
        found = run.predict(image, top=3)
        assert [(g.index, g.name) for g in found] == [(g.index, g.name) for g in expected.guesses]
        np.testing.assert_allclose(
            [g.probability for g in found], [g.probability for g in expected.guesses], rtol=1e-5
        )
    assert len(run.predict(photo)) == 5 and len(run.predict(photo, top=100)) == 8
    with pytest.raises(InputError, match="predict takes one image, got 2"):
        run.predict(np.zeros((2, 32, 32, 3), np.uint8))


def test_preprocess_follows_torchvision():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 280, 3), np.uint8)
    images = jv.preprocess([pixels, PIL.Image.fromarray(pixels)], "resnet50")
    transforms = pytest.importorskip("torchvision.transforms")
    expected = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )(PIL.Image.fromarray(pixels)).numpy()
    assert images.shape == (2, 224, 224, 3) and images.dtype == jnp.float32
    np.testing.assert_allclose(images[1], expected.transpose(1, 2, 0), atol=2 / 255 / 0.224)
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(jv.preprocess(pixels[None], "resnet50")[0], images[0])


def test_an_image_of_pillow_is_read_as_its_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    wide = np.linspace(0, 65535, 1200).astype(np.uint16).reshape(40, 30)
    PIL.Image.fromarray(wide).save(tmp_path / "wide.png")
    for name in ("turned.png", "wide.png"):
        path = tmp_path / name
        both = jv.preprocess([path, PIL.Image.open(path)], "resnet50")
        np.testing.assert_array_equal(both[0], both[1])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("missing.png", "missing.png cannot be used"),
        (np.zeros((8, 8, 3), np.float32), "of uint8, got ndarray of float32"),
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\)"),
        ([], "at least one image"),
        (np.zeros((0, 8, 8, 3), np.uint8), "at least one image"),
    ],
)
def test_images_that_cannot_be_used(image, message):
    with pytest.raises(InputError, match=message):
        jv.preprocess(image, "resnet50")


def test_what_is_no_run_of_a_classifier(folder, tmp_path):
    with pytest.raises(InputError, match="There is no run and no file of weights"):
        jv.from_pretrained(tmp_path / "x")
    with pytest.raises(InputError, match="at least 1, got 0"):
        jv.from_pretrained(folder).predict(folder / "photo.png", top=0)


def test_the_readme_calls_a_model(folder):
    model, images = jv.from_pretrained(folder).model, jnp.ones((1, 32, 32, 3))
    forward = nnx.jit(lambda model, images: model(images))
    np.testing.assert_allclose(forward(model, images), model(images), rtol=1e-4, atol=1e-5)


def test_compiled_programs_are_kept(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    try:
        jv.cache_compilation(str(tmp_path / "cache"))
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
