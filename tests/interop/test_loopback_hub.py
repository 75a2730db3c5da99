"""Models to and from a hub on a loopback port, by the real huggingface_hub and the real timm."""

import hashlib
import json

import finished_run
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from flax import nnx
from interop import weight_rows  # noqa: F401 - makes timm importable

import jaxvision as jv
from jaxvision.__main__ import main
from jaxvision.errors import InputError
from jaxvision.evaluation.push import write_repository
from jaxvision.interop import download

import timm  # isort: skip
import torch  # isort: skip

REPOSITORY = "someone/small"
pytestmark = pytest.mark.filterwarnings("ignore")  # of huggingface_hub and timm


def timm_model():
    """Returns a ResNet of timm with random weights and statistics."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=7).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def test_a_model_of_timm_comes_with_all_that_belongs_to_it(hub, tmp_path):
    model = timm_model()
    model.pretrained_cfg = model.pretrained_cfg | {
        "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_pct": 0.8, "crop_mode": "squash",
        "input_size": (3, 96, 96), "interpolation": "lanczos", "label_names": list("abcdefg"),
    }  # fmt: skip
    timm.models.push_to_hf_hub(model, REPOSITORY, model_config={"label_names": list("abcdefg")})
    ours = jv.from_pretrained(f"hub:{REPOSITORY}")
    photo = PIL.Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (130, 170, 3), dtype=np.uint8)
    )
    config = timm.data.resolve_model_data_config(model)
    images = timm.data.create_transform(**config)(photo)[None]
    with torch.no_grad():
        expected = torch.softmax(model(images), -1).numpy()[0]
    found = ours.predict(photo, top=7)
    assert [guess.name for guess in found] == ["abcdefg"[i] for i in np.argsort(-expected)]
    np.testing.assert_allclose(
        [guess.probability for guess in found], np.sort(expected)[::-1], atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("vit_ti16", {"image_size": 64, "pool": "average"}),
        ("deit_ti16_distilled", {}),
    ],
)
def test_timm_opens_what_was_pushed(hub, name, options, tmp_path):
    model = jv.create_model(name, num_classes=3, **options)
    jv.save_weights(model, tmp_path / "model.safetensors")
    jv.load_weights(model, tmp_path / "model.safetensors")
    assert jv.push(model, REPOSITORY, class_names=["x", "y", "z"]) == f"hub:{REPOSITORY}"
    theirs = timm.create_model(f"hf-hub:{REPOSITORY}", pretrained=True).eval()
    size = options.get("image_size", 224)
    images = np.random.default_rng(0).standard_normal((2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(model(jnp.asarray(images)), expected, atol=1e-4)
    assert theirs.pretrained_cfg["label_names"] == ["x", "y", "z"]
    config = timm.data.resolve_model_data_config(theirs)
    assert (*config["mean"], *config["std"]) == (*model.preprocess.mean, *model.preprocess.std)
    # The names of classifier and first convolution, which timm needs to change them.
    again = jv.from_pretrained(f"hub:{REPOSITORY}")
    assert again.class_names == ("x", "y", "z") and again.model.config == model.config
    np.testing.assert_allclose(again.model(jnp.asarray(images)), expected, atol=1e-4)
    other = timm.create_model(f"hf-hub:{REPOSITORY}", pretrained=True, num_classes=5, in_chans=1)
    assert other(torch.zeros(1, 1, size, size)).shape == (1, 5)


def test_a_download_that_breaks_off_is_continued(hub, monkeypatch, tmp_path):
    content = np.random.default_rng(0).bytes(3_000_000)
    digits = hashlib.sha256(content).hexdigest()[:8]
    hub.files["w/w"] = {f"net-{digits}.pth": content}
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    hub.broken_after = 1_000_000
    address = f"{hub.url}/w/w/resolve/main/net-{digits}.pth"
    path = download.fetch(address)
    assert path.read_bytes() == content and path == tmp_path / "hub/checkpoints" / path.name
    assert hub.asked[1].endswith("bytes=1000000-")
    assert download.fetch(address) == path and len(hub.asked) == 2  # the second is not asked for


def test_a_file_with_another_hash_is_refused(hub, monkeypatch, tmp_path):
    hub.files["w/w"] = {"net-00000000.pth": b"x" * 1000}
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    address = f"{hub.url}/w/w/resolve/main/net-00000000.pth"
    with pytest.raises(InputError, match="net-00000000.pth has the SHA-256 .*, not 00000000"):
        download.fetch(address)
    assert not list((tmp_path / "hub/checkpoints").iterdir())


def test_what_is_not_there(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with pytest.raises(InputError, match="the server answers 404"):
        download.fetch(f"{hub.url}/w/w/resolve/main/net-00000000.pth")
    with pytest.raises(InputError, match=r"cannot be fetched \(.*\): connect to the network, or"):
        download.fetch("http://127.0.0.1:9/net-00000000.pth")
    with pytest.raises(InputError, match="someone/none has no model.safetensors or"):
        hub.files["someone/none"] = {}
        jv.from_pretrained("hub:someone/none")
    with pytest.raises(InputError, match="cannot be fetched"):
        jv.from_pretrained("hub:someone/nothing")
    with pytest.raises(InputError, match="A repository is called owner/name, got 'x'"):
        jv.push(jv.create_model("resnet18", num_classes=2), "x")


def test_a_model_that_is_not_here(hub):
    hub.files["a/b"] = {
        "config.json": json.dumps({"architecture": "eva02_base"}).encode(),
        "model.safetensors": b"",
    }
    with pytest.raises(InputError, match="a model 'eva02_base' of timm, which is not here"):
        jv.from_pretrained("hub:a/b")


def test_a_model_of_transformers_comes_with_its_labels_and_its_processor(hub, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        id2label={0: "ant", 1: "bee", 2: "cow"},
    )
    model = transformers.ResNetForImageClassification(config).eval()
    processor = transformers.ConvNextImageProcessor(
        size={"shortest_edge": 96}, crop_pct=0.8, image_mean=[0.1, 0.2, 0.3], resample=3
    )
    for each in (model, processor):
        each.save_pretrained(tmp_path)
    hub.files[REPOSITORY] = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    ours = jv.from_pretrained(f"hub:{REPOSITORY}")
    assert ours.spec.name == "resnet18" and ours.class_names == ("ant", "bee", "cow")
    rng = np.random.default_rng(0)
    small = PIL.Image.fromarray(rng.integers(0, 256, (10, 15, 3), dtype=np.uint8))
    photo = small.resize((300, 200), PIL.Image.Resampling.BICUBIC)
    theirs = processor(photo, return_tensors="pt")["pixel_values"]
    images = np.asarray(ours.preprocess(photo))
    levels = np.abs(theirs.numpy().transpose(0, 2, 3, 1) - images).max() * 255 * 0.229
    assert levels < 1.01  # transformers resizes tensors, which rounds otherwise than Pillow
    with torch.no_grad():
        expected = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).logits.numpy()
    found = ours.model(jnp.asarray(images))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_run_is_pushed_with_a_card(hub, tmp_path):
    run = tmp_path / "run"
    finished_run.write(run, name="resnet18", options={})
    config = json.loads((run / "config.json").read_text())
    config["data"]["path"] = config["data"]["images"] = "/home/me/x"
    config["eval"]["ensemble"] = ["/home/me/y"]
    config["eval"]["real_labels"] = config["model"]["adapter_from"] = "/home/me/z"
    (run / "config.json").write_text(json.dumps(config))
    for picture in ("curves.png", "predictions.png"):
        PIL.Image.new("RGB", (8, 8)).save(run / picture)
    (run / "metrics.jsonl").write_text('{"step": 3, "eval/accuracy": 0.75}\n{"st')
    (run / "classes.txt").write_text("".join(f"shape {i}\n" for i in range(8)))
    assert main(["push", str(run), REPOSITORY]) == 0
    files = hub.files[REPOSITORY]
    assert {"model.safetensors", "config.json", "README.md", "curves.png"} <= set(files)
    card = files["README.md"].decode()
    for text in ("| eval/accuracy | 0.7500 |", "`shapes`", "![curves]", "batch_size", "shape 7"):
        assert text in card
    assert "/home/me" not in card
    theirs = timm.create_model(f"hf-hub:{REPOSITORY}", pretrained=True).eval()
    assert theirs.pretrained_cfg["label_names"][7] == "shape 7"
    ours = jv.from_pretrained(f"hub:{REPOSITORY}")
    again = jv.from_pretrained(run)
    photo = PIL.Image.new("RGB", (40, 32), (200, 30, 90))
    assert ours.predict(photo, top=8) == again.predict(photo, top=8)


def test_the_card_of_a_model_without_classes_does_not_tell_to_predict(tmp_path):
    model = jv.create_model("resnet18", num_classes=0, rngs=nnx.Rngs(0))
    model.preprocess = jv.get_spec("resnet18").preprocess
    card = (write_repository(model, tmp_path) / "README.md").read_text()
    assert "pipeline_tag: image-feature-extraction" in card and "predict" not in card


def test_models_that_timm_has_not_are_not_pushed(hub, tmp_path):
    finished_run.write(tmp_path / "run")
    with pytest.raises(InputError, match="has no option for width=16 of this model"):
        jv.push(tmp_path / "run", REPOSITORY)
    assert not hub.files
