"""A run with several labels an image, from the table to `predict`."""

import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from opening import evaluate_fully, make_run, train
from PIL import Image
from train import helpers

import jaxvision as jv
from configs import common, multi_label_shapes, smoke
from jaxvision.data.image_files import find_images
from jaxvision.data.sources.label_sets import label_matrix
from jaxvision.errors import InputError
from jaxvision.evaluation.explain import explain_images
from jaxvision.evaluation.predict import best_classes, predict, prediction_lines
from jaxvision.evaluation.push import write_repository
from jaxvision.files import read_json
from jaxvision.interop.trained import open_trained
from jaxvision.metrics.multi_label import multi_label_scores, sigmoid
from jaxvision.plots.label_grid import plot_label_sets
from jaxvision.tasks.multi_label import MultiLabel
from jaxvision.train.mix import mix
from jaxvision.train.sharding import make_mesh


def config(**options):
    result = smoke.get_config()
    with result.unlocked():
        common.multi_label(result)
    result.data.shapes.num_train, result.data.shapes.num_eval = 64, 50
    result.total_steps, result.eval_batch_size = 4, 24
    result.checkpoint.every_steps = 2
    result.update_from_flattened_dict(options)
    return result


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    from jaxvision.report.end import write_report

    folder = tmp_path_factory.mktemp("run")
    run = make_run(config(accumulate_steps=2), folder)
    state = train(config(accumulate_steps=2), folder)
    write_report(run, state, folder)
    return folder, run, state


def test_a_run_goes_on_bit_for_bit(finished, tmp_path):
    folder, _, whole = finished
    shutil.copytree(folder, tmp_path / "parts")
    for step in (tmp_path / "parts" / "checkpoints").iterdir():
        if step.name != "2":
            shutil.rmtree(step)
    resumed = train(config(accumulate_steps=2), tmp_path / "parts")
    helpers.assert_equal(resumed.params, whole.params)


def test_evaluation_is_that_of_all_images_at_once(finished):
    folder, run, state = finished
    source, model = run.eval_source, jv.from_pretrained(folder)
    images = np.stack([source[i]["image"] for i in range(50)])
    logits = model.model(model.preprocess(images))
    labels, thresholds = label_matrix(source), read_json(folder / "thresholds.json")
    at = np.array([thresholds[name] for name in source.class_names])
    expected = multi_label_scores(sigmoid(np.asarray(logits)), labels, at)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = next(line for line in lines[::-1] if "eval_ema/map" in line)
    results = evaluate_fully(config(accumulate_steps=2), folder)
    assert results == read_json(folder / "evaluation.json")
    assert results["thresholds"] == "of the run" and results["examples"] == 50
    found = results["weights"]["eval_ema"]
    for name in ("map", "map_micro", "f1", "f1_micro", "f1_tuned", "f1_micro_tuned"):
        assert found[name] == pytest.approx(expected[name], abs=0.02)  # ties of float32
        assert logged[f"eval_ema/{name}"] == pytest.approx(found[name], abs=0.02)
    assert logged["eval_ema/loss"] == pytest.approx(found["loss"], rel=1e-5)
    assert [row["class"] for row in found["classes"]] == list(source.class_names)
    for row, column in zip(found["classes"], labels.T, strict=True):
        assert row["tp"] + row["fn"] == column.sum() and row["fp"] + row["tn"] == 50 - column.sum()
    assert np.array(found["confusion"]["matrix"]).shape == (20, 20)


def test_predict_says_all_labels_above_their_thresholds(finished, tmp_path):
    folder, run, _ = finished
    for i in range(3):
        Image.fromarray(run.eval_source[i]["image"]).save(tmp_path / f"{i}.png")
    trained = open_trained(str(folder))
    assert trained.thresholds is not None and len(trained.thresholds) == 20
    names, images = trained.class_names, find_images(str(tmp_path))
    model = jv.from_pretrained(folder)
    for i, prediction in enumerate(predict(trained, images, class_names=names)):
        logits = model.model(model.preprocess(run.eval_source[i]["image"]))
        shares = sigmoid(np.asarray(logits))[0]
        margin = np.abs(shares - trained.thresholds) > 1e-5
        said = {guess.name for guess in prediction.guesses}
        for name, share, at, clear in zip(names, shares, trained.thresholds, margin, strict=True):
            assert not clear or (name in said) == (share >= at)
        got = [guess.probability for guess in prediction.guesses]
        assert got == sorted(got, reverse=True)
        assert {guess.name for guess in model.predict(tmp_path / f"{i}.png")} == said
    everything = list(predict(trained, images, class_names=names, threshold=0.0))
    assert all(len(prediction.guesses) == 20 for prediction in everything)
    (nothing,) = predict(trained, images[:1], class_names=names, threshold=1.0)
    assert prediction_lines(nothing, "text") == [f"{nothing.image}: none"]
    assert json.loads(prediction_lines(everything[0], "json")[0])["guesses"][0]["name"] in names


def test_what_reads_softmax_elsewhere(finished, tmp_path):
    """An explanation names the class's own probability; what others would misread is refused."""
    folder, run, _ = finished
    Image.fromarray(run.eval_source[0]["image"]).save(tmp_path / "0.png")
    trained = open_trained(str(folder))
    (explained,) = explain_images(trained, find_images(str(tmp_path)), methods=["gradcam"])
    model = jv.from_pretrained(folder)
    logits = model.model(model.preprocess(run.eval_source[0]["image"]))
    shares = sigmoid(np.asarray(logits))[0]
    assert explained.targets == (int(shares.argmax()),)
    np.testing.assert_allclose(explained.probabilities[0], shares.max(), rtol=1e-4)
    with pytest.raises(InputError, match="several labels an image, of which none is the best"):
        best_classes(trained)
    with pytest.raises(InputError, match="several labels an image, which timm's config.json"):
        write_repository(str(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_without_thresholds_says_from_a_half_on(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    path = tmp_path / "run" / "thresholds.json"
    path.write_text('{"circle": 2}')
    with pytest.raises(InputError, match="thresholds.json is damaged"):
        open_trained(str(tmp_path / "run"))
    path.unlink()
    assert open_trained(str(tmp_path / "run")).thresholds == (0.5,) * 20
    assert (finished[0] / "predictions.png").stat().st_size > 10_000
    with pytest.raises(InputError, match="gives images several labels"):
        student = {"distill.teacher_weights": str(finished[0]), "task": "classification"}
        make_run(config(**student, **{"loss.name": "bce"}))


def test_the_picture_says_what_is_wrong(tmp_path, figures):
    labels = np.array([[1, 0, 0], [1, 1, -1], [0, 0, 0]])
    said = np.array([[True, False, False], [False, True, True], [True, False, False]])
    shares = np.array([[0.9, 0.2, 0.1], [0.4, 0.8, 0.7], [0.6, 0.1, 0.0]])
    images = np.zeros((3, 8, 8, 3), np.uint8)
    plot_label_sets(images, labels, shares, said, ("a", "b", "c"), tmp_path / "p.png", title="t")
    panels = [
        (axes.get_title(), axes.texts[0].get_text()) for axes in figures[0].axes if axes.images
    ]
    assert panels == [
        ("a 90%", "all right"),
        ("b 80%, c 70%", "missed: a"),
        ("a 60%", "wrong: a"),
    ]


@pytest.mark.parametrize("name", ["bce", "sigmoid_focal", "asymmetric"])
def test_the_loss_is_the_same_in_micro_batches_and_on_many_devices(name):
    def batch(seed):
        rng = np.random.default_rng(seed)
        labels = rng.integers(-1, 2, (16, helpers.CLASSES)).astype(np.int32)
        labels[:4] = -1  # a micro-batch that hardly anybody knows
        return helpers.batch(seed) | {"label": labels}

    task: Any = MultiLabel(loss_name=name)
    batches = [batch(seed) for seed in range(3)]
    options: dict = dict(tx=helpers.sgd(), task=task, batches=batches)
    whole, metrics = helpers.run(3, **options)
    for more in ({"accumulate_steps": 4}, {"mesh": make_mesh(data=8)}):
        parts, others = helpers.run(3, **options, **more)
        assert helpers.max_difference(whole.params, parts.params) < 1e-6
        assert others[-1]["loss"] == pytest.approx(metrics[-1]["loss"], rel=1e-5)


@pytest.mark.parametrize("options", [{"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}, {}])
def test_mixed_labels_are_those_of_both_images_or_unknown(options):
    alphas = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0} | options
    labels = jnp.array([[1, 0, -1], [1, 1, 0], [0, 0, 1], [0, 1, 1]], jnp.int32)
    images = jnp.broadcast_to(jnp.arange(4.0)[:, None, None, None], (4, 8, 8, 1))
    for seed in range(5):
        mixed, soft = mix(
            jax.random.key(seed),
            images,
            labels,
            num_classes=3,
            mix_probability=1.0,
            cutmix_probability=0.5,
            **alphas,
        )
        share = 1 - float(jnp.mean(mixed[1]))  # of image 0 in image 1 there is 1 - share
        partner = jnp.roll(labels, 1, axis=0)
        own = 1 - share
        expected = own * labels + share * partner
        if not options:
            np.testing.assert_array_equal(soft, labels)
        elif share > 1e-6:
            unknown = (labels < 0) | (partner < 0)
            np.testing.assert_allclose(soft, jnp.where(unknown, -1, expected), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss.name": "softmax_cross_entropy"}, "loss.name must be one of bce, sigmoid_focal, as"),
        ({"task": "classification", "loss.name": "asymmetric"}, "is for --config.task=multi_label"),
        ({"loss.class_weights": "effective"}, "none, balanced or a number for each"),
        ({"loss.class_weights": (1.0,)}, "has 1 weights, but there are 20 classes: circle, cresc"),
        ({"loss.class_weights": "balanced", "loss.name": "sigmoid_focal"}, "by --config.loss.foc"),
        ({"loss.target_threshold": 0.2}, "are for one label an image"),
        ({"eval.tta": "flip"}, "are for --config.task=classification, got 'multi_label'"),
        ({"data.sampling": "balanced"}, "is for --config.task=classification, got 'multi_label'"),
        ({"data.name": "cifar10"}, "must be one of shapes, list, folder, got 'cifar10'"),
        ({"data.label_separator": ""}, "label_separator must be a text"),
        ({"model.num_classes": 8}, "num_classes must be 20"),
        ({"model.name": "captioner", "model.kwargs": {}}, "is a model for captioning"),
        ({"checkpoint.best_metric": "eval/accuracy"}, "must be one of eval/map, eval/map_micro"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make_run(config(**options))


def test_positive_weights_are_negatives_by_positives():
    run = make_run(config(**{"loss.class_weights": "balanced", "data.shapes.num_train": 400}))
    task: Any = run.task
    there = label_matrix(run.train_source).mean(axis=0)
    np.testing.assert_allclose(task.positive_weights, (1 - there) / there)
    held = make_run(config(**{"data.eval_split": "25%", "data.shapes.num_train": 80}))
    assert (len(held.train_source), len(held.eval_source)) == (60, 20)
    assert make_run(multi_label_shapes.get_config()).num_outputs == 20
