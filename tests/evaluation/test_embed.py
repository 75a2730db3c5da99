"""Features are those of the model, and a captioner of features finds its encoder again."""

import json
import shutil

import finished_run
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from flax import nnx

import jaxvision as jv
from jaxvision.__main__ import main
from jaxvision.data.image_files import find_images
from jaxvision.decode.generate import generate
from jaxvision.decode.settings import DecodeSettings
from jaxvision.errors import InputError
from jaxvision.evaluation.caption import caption_images, open_captioner
from jaxvision.evaluation.embed import (
    describe_encoder,
    embed,
    nearest,
    open_encoder,
    read_features,
    reopen_encoder,
)
from jaxvision.interop.load import save_weights
from jaxvision.interop.trained import open_trained
from jaxvision.models.registry import create_model

MODEL = "cifar_resnet20"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Writes random weights: of the encoder, the same in another file, and others."""
    folder = tmp_path_factory.mktemp("weights")
    for seed, names in ((0, ("encoder.npz", "same.safetensors")), (1, ("other.npz",))):
        model = create_model(MODEL, rngs=nnx.Rngs(seed))
        for name in names:
            save_weights(model, folder / name, format="akamaster")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(5):
        pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def with_a_broken_one(photos, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(photos, folder)
    (folder / "2_broken.png").write_bytes((folder / "2.png").read_bytes()[:60])
    return folder


def expected(weights, photos, kind):
    """Returns the features, computed from the model itself."""
    trained = open_trained(str(weights / "encoder.npz"), MODEL)
    images = jv.preprocess([str(photos / f"{i}.png") for i in range(5)], MODEL)
    features = jax.jit(lambda model, images: model.features(images))(trained.model, images)
    return features.mean((1, 2)) if kind == "pooled" else features


@pytest.mark.parametrize("kind", ["pooled", "grid", "tokens"])
def test_a_file_of_features(weights, photos, tmp_path, capsys, kind):
    out = tmp_path / "new" / "features.npz"
    arguments = ["embed", str(photos), f"--weights={weights}/encoder.npz", f"--model={MODEL}"]
    assert main([*arguments, f"--out={out}", f"--kind={kind}", "--batch=2"]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["features.npz"]
    file = read_features(str(out))
    assert file.names == tuple(f"{photos}/{i}.png" for i in range(5))
    theirs = np.asarray(expected(weights, photos, kind))
    assert file.features.shape == theirs.shape
    np.testing.assert_allclose(file.features, theirs, atol=1e-5)
    assert f"features {list(theirs.shape)} of {MODEL}" in capsys.readouterr().out
    about = file.encoder
    assert (about["model"], about["kind"]) == (MODEL, kind)
    assert about["weights"] == f"{weights}/encoder.npz" and len(about["sha256"]) == 64
    with np.load(out) as arrays:  # anybody can read it
        assert json.loads(str(arrays["encoder"])) == about


def test_an_image_that_cannot_be_used_is_left_out(weights, with_a_broken_one, tmp_path, capsys):
    out = tmp_path / "features.npz"
    arguments = [f"--weights={weights}/encoder.npz", f"--model={MODEL}", "--dtype=float16"]
    assert main(["embed", str(with_a_broken_one), *arguments, f"--out={out}"]) == 2
    assert "2_broken.png cannot be used:" in capsys.readouterr().err
    file = read_features(str(out))
    assert [name.rpartition("/")[2] for name in file.names] == [f"{i}.png" for i in range(5)]
    theirs = np.asarray(expected(weights, with_a_broken_one, "pooled"), np.float16)
    np.testing.assert_allclose(file.features, theirs, rtol=2e-3)


def test_tokens_and_grid_of_a_run(tmp_path, photos):
    run, state = finished_run.write(tmp_path)
    encoder = open_encoder(str(tmp_path))
    model = nnx.merge(run.graphdef, state.ema_params, state.ema_batch_stats)
    images = find_images(str(photos))
    pixels = np.stack(
        [run.eval_transform(np.asarray(PIL.Image.open(i.name)), None) for i in images]
    )
    tokens = np.asarray(model.features(run.preprocess_fn(jnp.asarray(pixels))))
    for kind, theirs in (("pooled", tokens[:, 0]), ("tokens", tokens), ("grid", tokens[:, 1:])):
        found = np.stack([x.features for x in embed(encoder, images, kind=kind)])
        np.testing.assert_allclose(found.reshape(theirs.shape), theirs, atol=1e-5)
        assert found.ndim == {"pooled": 2, "tokens": 3, "grid": 4}[kind]


def test_the_nearest_by_cosine():
    features = np.array([[1, 0], [0, 2], [3, 3], [0, 0], [-1, 0]], np.float32)
    found = nearest(np.array([5, 0], np.float32), features, 3)
    assert [index for index, _ in found] == [0, 2, 1]
    np.testing.assert_allclose([value for _, value in found], [1, 0.5**0.5, 0], atol=1e-6)


def test_a_search_in_images_and_in_a_file(weights, photos, tmp_path, capsys):
    query, out = photos / "3.png", tmp_path / "features.npz"
    arguments = ["embed", str(photos), f"--weights={weights}/encoder.npz", f"--model={MODEL}"]
    search = [f"--similar={query}", "--top=2"]
    assert main([*arguments, f"--out={out}", *search]) == 0
    printed = capsys.readouterr().out.splitlines()[1:]  # after "wrote ..."
    assert printed[0] == f"{query}:" and printed[1] == f"  1.0000 {query}" and len(printed) == 3
    features = np.asarray(expected(weights, photos, "pooled"))
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    second = np.argsort(-features @ features[3])[1]
    assert printed[2].endswith(f"{second}.png")
    assert main(["embed", f"--features={out}", *search]) == 0
    assert capsys.readouterr().out.splitlines() == printed
    moved = f"--weights={weights}/same.safetensors"  # the same weights in another file
    assert main(["embed", f"--features={out}", *search, moved]) == 0
    assert capsys.readouterr().out.splitlines() == printed
    assert main(["embed", f"--features={out}", *search, f"--weights={weights}/other.npz"]) == 2
    assert "holds other weights than those that made the features" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "Give images, or --data"),
        ("photos --data=flickr", "Give images, or --data"),
        ("photos --out=x.npz", "Give --weights"),
        ("photos --weights=w", "Give --out for the features, or --similar"),
        ("photos --weights=w --out=folder", "is a .npz file for images and a folder for --data"),
        ("--data=flickr --weights=w --out=x.npz", "is a .npz file for images and a folder"),
        ("photos --weights=w --similar=q.png --kind=grid", "with --kind=pooled"),
        ("--data=flickr --weights=w --out=x --similar=q.png", "--similar searches in images"),
        ("--features=x.npz", "give --similar=IMAGE"),
        ("--features=x.npz --similar=q.png", "There is no file of features x.npz"),
        ("nowhere --weights=w --out=x.npz", "There is no image, folder or zip nowhere"),
    ],
)
def test_arguments_that_do_not_go_together(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["embed", *arguments.split()]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


GOOD = {
    "names": np.array(["a", "b"]),
    "features": np.ones((2, 3), np.float32),
    "encoder": np.array("{}"),
}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"names": GOOD["names"]}, "'features'"),
        (GOOD | {"names": np.array([1, 2])}, "names int64"),
        (GOOD | {"features": np.ones((2, 3))}, "features float64"),
        (GOOD | {"features": np.ones((3, 3), np.float32)}, r"names \(2,\) of features \(3, 3\)"),
        (GOOD | {"encoder": np.array("[]")}, r"names \(2,\)"),
        (GOOD | {"encoder": np.array("{")}, "Expecting property name"),
        (GOOD | {"encoder": np.array("[" * 100_000)}, "holds no features"),
        (GOOD | {"names": np.array([{}, {}])}, "no .npz file of plain arrays"),
    ],
)
def test_files_that_hold_no_features(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=message) as caught:
        read_features(str(tmp_path / "x.npz"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": 3}, r"is damaged \(sha256\)"),
        ({"kind": "mean"}, r"is damaged \(kind\)"),
        ({"model": "evil.py:spec"}, "no model of the package"),
        ({"weights": "/gone/w.npz"}, "If they have moved, give --encoder-weights=PATH"),
        ({"sha256": "0" * 64}, "holds other weights"),
        ({"transform": "Compose(...)"}, r"prepares images otherwise \(transform:"),
        ({"mean": [0.5, 0.5, 0.5]}, r"prepares images otherwise \(mean:"),
    ],
)
def test_an_encoder_that_is_not_the_one(weights, change, message):
    path = str(weights / "encoder.npz")
    description = describe_encoder(open_encoder(path, MODEL), path, "grid")
    options = {"where": "runs/x", "option": "--encoder-weights"}
    reopen_encoder(description, **options)
    with pytest.raises(InputError, match=message):
        reopen_encoder(description | change, **options)


# --- captioners ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captioned(tmp_path_factory, photos):
    """Writes captions of the photos, as Flickr8k has them."""
    folder = tmp_path_factory.mktemp("captions")
    shutil.copytree(photos, folder / "Images")
    for split, numbers in (("train", (0, 1, 2)), ("val", (3, 4))):
        lines = [f"{i}.png#{n}\t{text} {i}\n" for i in numbers for n, text in enumerate("ab")]
        (folder / f"{split}.token.txt").write_text("".join(lines))
    return folder


def embed_captioned(captioned, folder, path, *options):
    arguments = [f"--path={captioned}", f"--weights={path}", f"--model={MODEL}", f"--out={folder}"]
    return main(["embed", "--data=flickr", *arguments, *options])


def write_captioner(folder, captioned, features, **changes):
    return finished_run.write(
        folder,
        name="captioner",
        options={"width": 16, "depth": 1, "num_heads": 2, "hidden_width": 16},
        task="captioning",
        data__name="flickr",
        data__path=str(captioned),
        data__features=str(features),
        data__eval_split="val",
        augment__mixup_alpha=0.0,
        checkpoint__best_metric="eval/cider",
        caption__min_count=1,
        caption__max_length=5,
        **changes,
    )


@pytest.fixture(scope="module")
def of_features(request, tmp_path_factory, captioned, weights):
    """Leaves a captioner of features, and returns (its folder, what was made for it)."""
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copy(weights / "encoder.npz", folder / "encoder.npz")
    options = [f"--kind={request.param}", "--batch=2"]
    assert embed_captioned(captioned, folder / "features", folder / "encoder.npz", *options) == 0
    return folder / "run", *write_captioner(folder / "run", captioned, folder / "features")


@pytest.mark.parametrize("of_features", ["pooled", "grid"], indirect=True)
def test_a_captioner_of_features_captions_photos(of_features, photos):
    """It says of a photo what it says of the features of that photo."""
    folder, run, state = of_features
    trained, vocabulary, _ = open_captioner(str(folder))
    settings = DecodeSettings(max_length=5, num_beams=2)
    images = find_images(str(photos))[3:]  # those of the split val
    found = list(caption_images(trained, vocabulary, images, settings))
    model = nnx.merge(run.graphdef, state.ema_params, state.ema_batch_stats)
    features = np.stack([run.eval_source[i]["features"] for i in range(2)])
    theirs = generate(model, model.encode(jnp.asarray(features)), settings)
    for image, tokens, scores in zip(found, theirs.tokens, theirs.scores, strict=True):
        assert image.captions[0].tokens == tuple(tokens[0].tolist())
        assert image.captions[0].score == pytest.approx(float(scores[0]), abs=1e-4)


@pytest.mark.parametrize("of_features", ["grid"], indirect=True)
def test_the_command_finds_the_encoder_again(of_features, photos, weights, capsys):
    folder, _, _ = of_features
    command = ["caption", str(photos / "3.png"), f"--weights={folder}"]
    assert main(command) == 0
    said = capsys.readouterr().out
    moved = folder.parent / "encoder.npz"
    moved.rename(folder.parent / "moved.npz")
    try:
        assert main(command) == 2
        error = capsys.readouterr().err
        assert f"has features of {MODEL} with the weights {moved}, which cannot be" in error
        assert "give --encoder-weights=PATH" in error
        assert main([*command, f"--encoder-weights={folder.parent}/moved.npz"]) == 0
        assert capsys.readouterr().out == said
        assert main([*command, f"--encoder-weights={weights}/other.npz"]) == 2
        assert "holds other weights" in capsys.readouterr().err
    finally:
        (folder.parent / "moved.npz").rename(moved)
    kept = folder / "features.json"
    for content, message in (("{", "is damaged"), ("[]", "is damaged"), ("{}", "is damaged")):
        text = kept.read_text()
        kept.write_text(content)
        try:
            assert main(command) == 2 and message in capsys.readouterr().err
        finally:
            kept.write_text(text)


def test_a_run_that_does_not_know_its_encoder(captioned, weights, tmp_path, capsys):
    assert embed_captioned(captioned, tmp_path / "f", weights / "encoder.npz") == 0
    for split in ("train", "val"):
        (tmp_path / "f" / split / "features.json").unlink()
    write_captioner(tmp_path / "run", captioned, tmp_path / "f")
    assert not (tmp_path / "run" / "features.json").exists()
    assert main(["caption", str(captioned / "Images"), f"--run={tmp_path}/run"]) == 2
    assert "does not know which encoder made them: compute them by" in capsys.readouterr().err


def test_both_splits_need_the_same_encoder(captioned, weights, tmp_path):
    for split, name in (("train", "encoder"), ("val", "other")):
        path = weights / f"{name}.npz"
        assert embed_captioned(captioned, tmp_path / "f", path, f"--splits={split}") == 0
    with pytest.raises(InputError, match=r"are of different encoders \(sha256:"):
        write_captioner(tmp_path / "run", captioned, tmp_path / "f")


def test_a_broken_image_among_captioned_ones(captioned, weights, tmp_path, capsys):
    shutil.copytree(captioned, tmp_path / "data")
    (tmp_path / "data/Images/3.png").write_bytes(b"no image")
    assert embed_captioned(tmp_path / "data", tmp_path / "f", weights / "encoder.npz") == 2
    assert "3.png cannot be used" in capsys.readouterr().err
    array = np.load(tmp_path / "f/val/features.npy")
    ids = np.load(tmp_path / "f/val/image_ids.npy")
    assert np.isnan(array[ids == 0]).all() and np.isfinite(array[ids == 1]).all()
    (tmp_path / "data/Images/4.png").write_bytes(b"no image")
    assert embed_captioned(tmp_path / "data", tmp_path / "g", weights / "encoder.npz") == 2
    assert "No image can be used" in capsys.readouterr().err
    assert not list((tmp_path / "g/val").iterdir())
