import json
import math
import shutil

import jax
import numpy as np
import pytest
import sklearn.decomposition
from flax import nnx
from opening import make_run, train, write_report
from PIL import Image
from train import helpers

import jaxvision as jv
from configs import moco_v3_resnet50, smoke
from jaxvision.__main__ import main
from jaxvision.data.augment.transforms import train_transform
from jaxvision.data.augment.views import TwoViews
from jaxvision.errors import InputError
from jaxvision.evaluation.embed import open_encoder
from jaxvision.interop.assign import extract_weights
from jaxvision.interop.moco import official_rules, trees
from jaxvision.interop.rules import export
from jaxvision.layers.block_stack import unstack_blocks
from jaxvision.models.image_model import PRETRAINING
from jaxvision.options.augment import AugmentOptions
from jaxvision.train.init_from import load_initial
from jaxvision.train.state import create_state

VIT = {"width": 32, "depth": 1, "num_heads": 2, "patch_size": 4}
RESNET = {"stage_widths": (8, 16), "stage_depths": (1, 1), "stem": "cifar", "stem_width": 8}


def config(name="vit_ti16", kwargs=None, **options):
    config = smoke.get_config()
    card = moco_v3_resnet50.get_config("shapes")
    with config.unlocked():
        config.task = card.task
        config.model.name, config.model.kwargs = name, kwargs or VIT
        config.augment.mixup_alpha = config.ema_decay = 0.0
        config.augment.crop = "random_resized"
        config.augment.preset = card.augment.preset
        config.checkpoint.best_metric = "eval/pretext_accuracy"
    flat = {"data.image_size": 16, "total_steps": 4, "schedule.warmup_steps": 1}
    flat |= {"moco.hidden_width": 24, "moco.output_width": 16, "moco.projector_layers": 2}
    flat |= {"data.shapes.num_train": 64, "data.shapes.num_eval": 40, "log.every_steps": 1}
    flat |= {"checkpoint.every_steps": 2, "eval.every_steps": 100, "log.to": ()}
    config.update_from_flattened_dict(flat | options)
    return config.lock()


def new_state(run):
    return create_state(run.build, run.optimizer.tx, seed=0, abstract=run.abstract_state)


JUDGED = {"eval.features": ("knn", "probe"), "checkpoint.best_metric": "eval/knn_accuracy"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    state = train(config(**JUDGED), folder)
    write_report(config(**JUDGED), state, folder)
    return folder, state


def test_a_run_tells_of_a_collapse_and_goes_on(finished):
    folder, state = finished
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "train/loss" in line]
    assert 0 < trained[-1]["train/output_std"] < 1.1
    assert 0 <= trained[-1]["train/pretext_accuracy"] <= 1
    momentum = [1 - 0.01 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert [line["train/momentum"] for line in trained] == pytest.approx(momentum, abs=1e-6)
    assert "report.html" in {path.name for path in folder.iterdir()}
    assert {"eval/loss", "eval/pretext_accuracy", "eval/output_std"} <= set(lines[-1])
    # The trunk goes on under its own names, and the commands take the run.
    vit = jv.create_model("vit_ti16", num_classes=3, image_size=16, rngs=nnx.Rngs(0), **VIT)
    report = jv.load_weights(vit, folder)
    assert set(report.adapted) == {"head"} and not report.left_out
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    trained = open_encoder(str(folder))
    np.testing.assert_array_equal(vit.features(images), trained.model.features(images))
    assert trained.model(images).shape == (2, 32) and not hasattr(trained.model, PRETRAINING)
    with pytest.raises(InputError, match="was trained without classes and tells none"):
        jv.from_pretrained(folder)
    assert "head.weight" not in extract_weights(trained.model, format="timm")


def test_features_are_judged_as_the_command_does(finished, tmp_path):
    folder, _ = finished
    out = tmp_path / "probe.json"
    main(["probe", f"--run={folder}", "--shots=1", f"--out={out}"])
    probes = json.loads(out.read_text())["probes"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["eval/knn_accuracy"] == pytest.approx(probes["20_nn"]["accuracy"])
    assert lines[-1]["eval/probe_accuracy"] == pytest.approx(probes["linear"]["accuracy"], abs=0.05)
    content = json.loads((folder / "report/content.json").read_text())["embedding"]
    run = make_run(config())
    source = run.eval_source
    assert content["labels"] == [source.label(i) for i in range(40)]
    images = jax.numpy.asarray(np.stack([source[i]["image"] for i in range(40)]))
    features = np.asarray(open_encoder(str(folder)).model(run.preprocess_fn(images)))
    expected = sklearn.decomposition.PCA(2).fit_transform(features)
    points = np.array(content["points"]["PCA"])
    for ours, theirs in zip(points.T, expected.T, strict=True):
        assert min(np.abs(ours - theirs).max(), np.abs(ours + theirs).max()) < 1e-3
    assert "PCA of the features of 40 evaluation images" in (folder / "report.html").read_text()


def test_a_run_goes_on_bit_for_bit(finished, tmp_path):
    folder, whole = finished
    shutil.copytree(folder, tmp_path / "parts")
    for step in (tmp_path / "parts" / "checkpoints").iterdir():
        if step.name != "2":
            shutil.rmtree(step)
    resumed = train(config(**JUDGED), tmp_path / "parts")
    helpers.assert_equal(resumed, whole)  # the momentum encoder is among the statistics
    assert float(resumed.batch_stats[PRETRAINING]["updates"]) == 4


def test_patches_and_positions_stay_and_the_momentum_encoder_follows(finished):
    _, state = finished
    params = new_state(make_run(config())).params
    moved = state.batch_stats[PRETRAINING]["momentum"]
    for name in ("pos_embed", "patch_embed"):
        helpers.assert_equal(params[name], state.params[name])
        helpers.assert_equal(params[name], moved["encoder"][name])
    start = np.asarray(params[PRETRAINING]["projector"]["layers"][0]["kernel"])
    end = np.asarray(state.params[PRETRAINING]["projector"]["layers"][0]["kernel"])
    middle = np.asarray(moved["projector"]["layers"][0]["kernel"])
    assert 0 < np.abs(middle - start).max() < 0.1 * np.abs(end - start).max()


def test_an_evaluation_does_not_depend_on_the_batch_size():
    found = []
    for size in (48, 7):
        run = make_run(config(eval_batch_size=size))
        state = new_state(run)
        found.append(run.evaluator()(run.weights_of(state)))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_two_views_are_the_papers():
    (views,) = train_transform(16, AugmentOptions(preset="moco_v3")).operations
    assert isinstance(views, TwoViews)
    names = [
        [type(operation).__name__ for operation in v.operations] for v in views.__dict__.values()
    ]
    first = ["RandomResizedCrop", "Sometimes", "Grayscale", "GaussianBlur", "HorizontalFlip"]
    assert names == [first, [*first[:4], "Sometimes", first[4]]]
    assert [v.operations[3].probability for v in (views.first, views.second)] == [1.0, 0.1]
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    both = [views(image, np.random.default_rng(1)) for _ in range(2)]
    assert both[0].shape == (32, 16, 3) and not np.array_equal(both[0][:16], both[0][16:])
    np.testing.assert_array_equal(*both)
    narrow = train_transform(16, AugmentOptions(preset="moco_v3", crop_scale=(0.2, 1.0)))
    assert narrow.operations[0].first.operations[0].scale == (0.2, 1.0)


@pytest.mark.parametrize("name, kwargs", [("vit_ti16", VIT), ("resnet18", RESNET)])
def test_a_checkpoint_of_the_papers_code_goes_on(name, kwargs, tmp_path):
    torch = pytest.importorskip("torch")
    run = make_run(config(name, kwargs))
    model = run.build(nnx.Rngs(3))
    weights = export(*unstack_blocks(jax.device_get(trees(model))), official_rules(model))
    head = "head" if name == "vit_ti16" else "fc"
    assert weights[f"base_encoder.{head}.0.weight"].shape == (24, 32 if head == "head" else 16)
    assert weights["momentum_encoder." + head + ".4.running_var"].shape == (16,)
    weights["momentum_encoder." + head + ".0.weight"] += 1  # another than the base encoder's
    saved = {f"module.{name}": torch.from_numpy(array) for name, array in weights.items()}
    torch.save({"state_dict": saved, "epoch": 3, "arch": "x"}, tmp_path / "moco.pth.tar")
    params, stats = load_initial(
        run.build,
        str(tmp_path / "moco.pth.tar"),
        part="base_encoder",
        complete=run.task.start_from,
        seed=0,
    )
    nnx.update(model, params)
    nnx.update(model, stats)
    back = export(*unstack_blocks(jax.device_get(trees(model))), official_rules(model))
    assert back.keys() == weights.keys()
    for each, array in weights.items():
        np.testing.assert_array_equal(back[each], array, err_msg=each)


def test_another_start_is_that_of_the_momentum_encoder_too(finished, tmp_path):
    folder, state = finished
    run = make_run(config())
    jv.save_weights(open_encoder(str(folder)).model, tmp_path / "trunk.safetensors")
    load = {"complete": run.task.start_from, "seed": 0}
    params, stats = load_initial(run.build, str(tmp_path / "trunk.safetensors"), **load)
    helpers.assert_equal(params["norm"], stats[PRETRAINING]["momentum"]["encoder"]["norm"])
    helpers.assert_equal(params["norm"], jax.device_get(state.params["norm"]))
    params, stats = load_initial(run.build, str(folder), **load)  # all of it goes on
    helpers.assert_equal(params, jax.device_get(state.params))
    helpers.assert_equal(
        stats[PRETRAINING]["momentum"], jax.device_get(state.batch_stats[PRETRAINING]["momentum"])
    )
    assert stats[PRETRAINING]["updates"] == 0


def test_photos_without_classes(tmp_path):
    for i in range(20):
        shape = (20, 24, 3)
        pixels = np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    options = {"data.name": "folder", "data.path": str(tmp_path), "data.train_split": ""}
    options |= {"data.eval_split": "20%", "data.eval_resize": 16, "batch_size": 8}
    run = make_run(config(**options))
    assert (len(run.train_source), len(run.eval_source)) == (16, 4)
    batch = next(run.train_batches())
    assert batch["image"].shape == (8, 32, 16, 3) and "label" not in batch
    with pytest.raises(
        InputError, match="by the classes of the images, but the training split has"
    ):
        make_run(config(**options, **JUDGED))


@pytest.mark.parametrize(
    "option, words",
    [
        ({"accumulate_steps": 2}, "which a sum over micro-batches is not"),
        ({"batch_size": 1}, "tells each image from the others of a batch"),
        ({"augment.repeats": 2}, "takes the images of a batch for different ones"),
        ({"optimizer.sam_rho": 0.05}, "moves the momentum encoder with each gradient"),
        ({"augment.preset": ""}, "contrasts two views of each image: set --config.augment.preset"),
        ({"task": "classification"}, "makes two views of each image, which --config.task=mom"),
        ({"augment.mixup_alpha": 0.2}, "learns from images as they are"),
        ({"augment.on_device": True}, "leaves the device nothing to do"),
        (
            {"task": "classification", "augment.preset": "", "eval.features": ("knn",)},
            "features is for tasks that learn without labels, got 'classification'",
        ),
        ({"eval.features": ("svm",)}, "eval.features must be some of knn, probe"),
        ({"eval.features": ("probe",), "data.shapes.num_train": 9}, "two training images of each"),
        ({"checkpoint.best_metric": "eval/knn_accuracy"}, "best_metric must be one of eval/loss"),
        ({"moco.momentum": 1.5}, "config.moco.momentum must be in 0.0..1.0"),
        ({"moco.temperature": 0.0}, "config.moco.temperature must be in"),
        ({"moco.momentum_schedule": "linear"}, "config.moco.momentum_schedule"),
        (
            {"model.name": "captioner", "model.kwargs": {}},
            "not for --config.task=momentum_contrast",
        ),
    ],
)
def test_what_cannot_be_is_refused(option, words):
    with pytest.raises(InputError, match=words):
        with_option = config()
        with with_option.unlocked():
            if "model.kwargs" in option:
                with_option.model.kwargs = option.pop("model.kwargs")
            with_option.update_from_flattened_dict(option)
        make_run(with_option)
