"""What `--mode=eval` writes about a classifier."""

import dataclasses
import json
import shutil

import finished_run
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from opening import evaluate_fully, evaluate_run, make_run
from PIL import Image

import jaxvision as jv
from jaxvision.data.class_lists import CIFAR10
from jaxvision.errors import InputError
from jaxvision.evaluation.ensemble import mean_logits, open_member
from jaxvision.evaluation.scores import classification_scores
from jaxvision.interop import pretrained
from jaxvision.interop.load import save_weights
from jaxvision.metrics.calibration import probabilities
from jaxvision.models.spec import HALF
from jaxvision.plots.confusion_grid import plot_confusion
from jaxvision.plots.reliability import plot_reliability

CROPS = {"data__image_size": 24, "data__eval_resize": 28}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, *finished_run.write(folder, **CROPS)


def config(run, **options):
    evaluation = dataclasses.replace(run.options.eval, **options)
    return dataclasses.replace(run.options, eval=evaluation)


def logits_of(run, state, images):
    model = nnx.merge(run.graphdef, state.ema_params, state.ema_batch_stats)
    return np.asarray(model(run.preprocess_fn(jnp.asarray(images))))


def images_of(run):
    return np.array([run.eval_transform(run.eval_source[i]["image"], None) for i in range(16)])


def labels_of(run):
    return np.array([run.eval_source[i]["label"] for i in range(len(run.eval_source))])


def test_the_scores_are_those_of_training(finished):
    folder, run, _ = finished
    expected = evaluate_run(run.options, folder)
    results = evaluate_fully(run.options, folder)
    assert results["step"] == 3 and results["examples"] == 16
    assert list(results["weights"]) == ["eval", "eval_ema"]
    for weights, scores in results["weights"].items():
        for name in ("accuracy", "top5_accuracy", "loss"):
            assert scores[name] == pytest.approx(expected[f"{weights}/{name}"], rel=1e-5)
        assert np.sum(scores["confusion"]["matrix"]) == 16
        assert [c["class"] for c in scores["classes"]] == list(run.task.class_names)
    assert json.loads((folder / "evaluation.json").read_text()) == results
    for name in ("confusion.png", "reliability.png"):
        assert np.asarray(Image.open(folder / name).convert("L")).std() > 5


def test_views_of_flip_and_shift(finished):
    folder, run, state = finished
    images = images_of(run)
    wide = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    height, width = images.shape[1:3]
    shifted = [wide[:, top : top + height, top : top + width] for top in (0, 2)]
    logits = sum(
        weight * (logits_of(run, state, view) + logits_of(run, state, view[:, :, ::-1]))
        for weight, view in zip((1 / 4, 1 / 8, 1 / 8), (images, *shifted), strict=True)
    )
    expected = classification_scores(logits, labels_of(run), run.task.class_names)
    scores = evaluate_fully(config(run, tta="flip_shift"), folder)["weights"]["eval_ema"]
    assert scores["accuracy"] == expected["accuracy"]
    assert scores["loss"] == pytest.approx(expected["loss"], rel=1e-5)


@pytest.mark.parametrize("tta", ["flip", "ten_crop"])  # five_crop: below, on any devices
def test_views_average_logits(finished, tta):
    folder, run, state = finished
    resize = run.eval_transform.operations[0]
    views = []
    for i in range(16):
        whole, middle = resize(run.eval_source[i]["image"]), slice(2, 26)
        places = [(middle, middle)]
        if tta != "flip":
            ends = (slice(0, 24), slice(4, 28))
            places += [(a, b) for a in ends for b in ends]
        crops = [whole[place] for place in places]
        views.append(crops + ([] if tta == "five_crop" else [crop[:, ::-1] for crop in crops]))
    views = np.array(views)
    logits = logits_of(run, state, views.reshape(-1, *views.shape[2:]))
    expected = classification_scores(
        logits.reshape(*views.shape[:2], -1).mean(1), labels_of(run), run.task.class_names
    )
    scores = evaluate_fully(config(run, tta=tta), folder)["weights"]["eval_ema"]
    assert scores["accuracy"] == expected["accuracy"]
    assert scores["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_an_ensemble_averages_probabilities(finished, tmp_path):
    folder, run, state = finished
    file = tmp_path / "w.npz"
    model = nnx.merge(run.graphdef, state.params, state.batch_stats)
    model.head.kernel[...] = -model.head.kernel[...]
    save_weights(model, file, format="jaxvision")
    other, other_run, other_state = (
        tmp_path / "run",
        *finished_run.write(
            tmp_path / "run", options={**finished_run.VIT, "depth": 1}, data__image_size=16
        ),
    )
    results = evaluate_fully(config(run, ensemble=(str(file), str(other))), folder)
    assert list(results["weights"]) == ["eval", "eval_ema", "ensemble"]
    assert list(results["members"]) == [str(file), str(other)]

    sources = [run.eval_source[i]["image"] for i in range(16)]
    images, small = (
        np.array([r.eval_transform(x, None) for x in sources]) for r in (run, other_run)
    )
    flipped = np.asarray(model(run.preprocess_fn(jnp.asarray(images))))
    shares = [
        probabilities(each)
        for each in (
            logits_of(run, state, images),
            flipped,
            logits_of(other_run, other_state, small),
        )
    ]
    expected = np.log(np.mean(shares, axis=0))
    scores = classification_scores(expected, labels_of(run), run.task.class_names)
    assert results["weights"]["ensemble"]["loss"] == pytest.approx(scores["loss"], rel=1e-5)
    assert results["weights"]["ensemble"]["accuracy"] == scores["accuracy"]


def test_equal_members_change_nothing():
    logits = np.random.default_rng(0).normal(size=(4, 3))
    mean = mean_logits([logits, logits])
    np.testing.assert_allclose(probabilities(mean), probabilities(logits), rtol=1e-12)
    certain = mean_logits([np.array([[2000.0, 0.0]])])
    assert np.isfinite(certain).all()


def test_a_member_that_has_the_classes_in_another_order_is_asked_by_name(finished, tmp_path):
    folder, run, _ = finished
    shutil.copytree(folder, tmp_path / "same")
    names, order = run.task.class_names, [3, 1, 4, 0, 5, 7, 2, 6]
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other/classes.txt").write_text("\n".join(names[i] for i in order))
    member = open_member(str(tmp_path / "other"), run, names)
    assert member.order == tuple(map(order.index, range(8)))
    losses = []
    for each in ("same", "other"):
        members = config(run, ensemble=(str(tmp_path / each),))
        losses.append(evaluate_fully(members, folder)["weights"]["ensemble"]["loss"])
    ema = logits_of(run, finished[2], images_of(run))
    shares = probabilities(ema)
    mean = np.log((shares + shares[:, list(member.order)]) / 2)
    expected = [classification_scores(x, labels_of(run), names)["loss"] for x in (ema, mean)]
    assert losses == pytest.approx(expected, rel=1e-5) and losses[0] != losses[1]


def test_members_must_know_the_classes(finished, tmp_path):
    _, run, state = finished
    finished_run.write(tmp_path / "run", options=finished_run.VIT, model__num_classes=9)
    with pytest.raises(InputError, match="run of config.eval.ensemble has 9 classes, this run 8"):
        open_member(str(tmp_path / "run"), run, run.task.class_names)
    (tmp_path / "run/classes.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="other classes than this run: it has 'a', 'b' and"):
        open_member(str(tmp_path / "run"), run, run.task.class_names)
    model = nnx.merge(run.graphdef, state.params, state.batch_stats)
    save_weights(model, tmp_path / "w.npz", format="jaxvision")
    weights = dict(np.load(tmp_path / "w.npz"))
    del weights["head/kernel"], weights["head/bias"]
    np.savez(tmp_path / "w.npz", **weights)
    with pytest.raises(InputError, match="w.npz does not fill a ViT"):
        open_member(str(tmp_path / "w.npz"), run, run.task.class_names)


def test_a_file_stands_beside_a_run_with_adapters(finished, tmp_path):
    _, run, state = finished
    model = nnx.merge(run.graphdef, state.params, state.batch_stats)
    save_weights(model, tmp_path / "w.npz", format="jaxvision")
    optimizer = dataclasses.replace(run.options.optimizer, preset="lora")
    lora = make_run(dataclasses.replace(run.options, optimizer=optimizer))
    member = open_member(str(tmp_path / "w.npz"), lora, run.task.class_names)
    jax.tree.map(np.testing.assert_array_equal, member.weights[0], state.params)


def test_scores_of_a_model_that_diverged_and_of_many_classes(tmp_path, figures):
    labels = np.array([0, 1, 2])
    logits = np.eye(3) * 4
    logits[1, 0] = np.nan
    scores = classification_scores(logits, labels, ("a", "b"))
    assert scores["loss"] is None and scores["calibration"] is None
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert [c["class"] for c in scores["classes"]] == ["a", "b", "2"]
    json.dumps(scores, allow_nan=False)

    logits = np.zeros((3, 150), np.float32)
    logits[:, 7] = 1.0
    scores = classification_scores(logits, labels, ())
    assert scores["confusion"]["matrix"] is None
    assert scores["confusion"]["most_confused"][0] == {
        "true": "0", "predicted": "7", "count": 1, "of": 1,
    }  # fmt: skip
    json.dumps(scores, allow_nan=False)
    plot_confusion(scores, tmp_path / "c.png")
    assert [t.get_text() for t in figures[0].axes[0].get_yticklabels()] == [
        "0 → 7",
        "1 → 7",
        "2 → 7",
    ]
    right = classification_scores(np.eye(30) * 4, np.arange(30), ())
    plot_confusion(right, tmp_path / "c.png")
    assert figures[1].axes[0].texts[0].get_text() == "no mistakes"


def test_calibration_is_measured_on_the_other_half():
    # Even images are right in 3 of 4 at margin 4, odd ones in 1 of 2: T = 4 / log 3 and infinity.
    logits = np.array([[4.0, 0.0]] * 8)
    labels = np.array([0, 0, 0, 1, 0, 0, 1, 1])
    calibration = classification_scores(logits, labels, ())["calibration"]
    rows = [r for r in calibration["reliability_after_temperature"] if r["count"]]
    confidences = [row["confidence"] for row in rows]
    assert confidences == pytest.approx([1 / (1 + np.exp(-0.04)), 0.75])
    assert [row["accuracy"] for row in rows] == [0.75, 0.5]
    sure = 1 / (1 + np.exp(-4))
    assert calibration["ece"] == pytest.approx(sure - 5 / 8)
    expected = np.mean([0.75 - confidences[0], confidences[1] - 0.5])
    assert calibration["ece_after_temperature"] == pytest.approx(expected)
    assert classification_scores(logits[:1], labels[:1], ())["calibration"]["temperature"] == 0.01


def test_pictures(tmp_path, figures):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40)
    logits = rng.normal(size=(40, 3)) + 2 * np.eye(3)[labels]
    scores = classification_scores(logits, labels, ("cat", "dog", "Staffordshire bullterrier"))
    plot_confusion(scores, tmp_path / "c.png")
    axes = figures[0].axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["cat", "dog", "Staffordshire bul…"]
    cells = {tuple(map(int, t.get_position())): int(t.get_text()) for t in axes.texts}
    matrix = np.array(scores["confusion"]["matrix"])
    assert cells == {(c, r): n for (r, c), n in np.ndenumerate(matrix) if n}
    plot_reliability(scores["calibration"], tmp_path / "r.png")
    before, after, *_ = figures[1].axes
    assert before.get_title(loc="left") == f"As trained: ECE {scores['calibration']['ece']:.2%}"
    assert after.get_title(loc="left").startswith("Temperature ")
    heights = [bar.get_height() for bar in before.patches]
    table = scores["calibration"]["reliability"]
    assert heights == [row["accuracy"] or 0.0 for row in table] and len(heights) == 15


def test_real_labels_and_folders_of_labels(tmp_path):
    rng = np.random.default_rng(0)
    for split, folders in (("train", ("n01", "n02")), ("test", ("0", "1"))):
        for i, name in enumerate(folders * 3, start=1):
            folder = tmp_path / split / name
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"ILSVRC2012_val_{i:08d}.png")
    data = {"data__name": "folder", "data__path": str(tmp_path), "eval__class_folders": "indices"}
    run, _ = finished_run.write(tmp_path / "run", **data)
    path = tmp_path / "real.json"
    path.write_text("[[0, 1], [], [0, 1], [], [], []]")
    results = evaluate_fully(config(run, real_labels=str(path)), tmp_path / "run")
    scores = results["weights"]["eval"]
    assert scores["real_accuracy"] == 1.0 and scores["real_examples"] == 2
    assert scores["accuracy"] < 1.0 and results["examples"] == 6
    assert [c["class"] for c in scores["classes"]] == ["n01", "n02"]
    path.write_text("[[], [], [], [], [], []]")
    with pytest.raises(InputError, match="no right label for any image"):
        evaluate_fully(config(run, real_labels=str(path)), tmp_path / "run")


def test_every_device_count_gives_the_same(finished):
    folder, run, _ = finished
    several = evaluate_fully(config(run, tta="five_crop"), folder, devices=8)
    one = evaluate_fully(config(run, tta="five_crop"), folder)
    for name in ("eval", "eval_ema"):
        assert one["weights"][name]["loss"] == pytest.approx(
            several["weights"][name]["loss"], rel=1e-6
        )


def test_weights_by_name_are_a_member_with_their_own_preprocessing(monkeypatch, tmp_path):
    tag, path = "cifar_resnet20.akamaster", tmp_path / "w.safetensors"
    save_weights(jv.create_model("cifar_resnet20"), path, format="akamaster")
    monkeypatch.setattr(pretrained.PretrainedWeights, "fetch", lambda self: path)
    run, _ = finished_run.write(
        tmp_path / "run",
        name="cifar_resnet20",
        options={},
        model__num_classes=10,
        data__mean=HALF,
        data__std=HALF,
        data__eval_resize=40,
    )
    names = sorted(CIFAR10, reverse=True)
    member = open_member(tag, run, tuple(names))
    assert member.order == tuple(map(CIFAR10.index, names))
    photo = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    pixels = member.preprocess_fn(jnp.asarray(member.transform(photo, None)[None]))
    np.testing.assert_allclose(pixels, jv.preprocess(photo, tag), atol=1e-5)
    with pytest.raises(InputError, match="has other classes than this run"):
        open_member(tag, run, tuple("abcdefghij"))
