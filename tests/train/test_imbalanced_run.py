"""Runs whose classes count differently: what their options become, and which are refused."""

import csv
import json
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from opening import evaluate_fully, make_run, train
from PIL import Image

from configs import smoke
from jaxvision.errors import InputError
from jaxvision.files import read_json


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A table of 16 images of a class, 4 of another and 2 of a third; fewer to evaluate on."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, sizes in (("train", (16, 4, 2)), ("test", (3, 2, 1))):
        with open(folder / f"{split}.csv", "w", newline="") as file:
            rows = csv.writer(file)
            for label, size in enumerate(sizes):
                for i in range(size):
                    name = f"{split}{label}_{i}.png"
                    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / name)
                    rows.writerow((name, "abc"[label]))
    return folder


def config(data, **options):
    result = smoke.get_config()
    result.data.name, result.data.path = "list", str(data)
    result.batch_size, result.total_steps = 8, 6
    result.checkpoint.best_metric = "eval/balanced_accuracy"
    result.update_from_flattened_dict(options)
    return result


def test_weights_and_priors_come_from_the_training_split(data):
    def opened(**options: Any) -> Any:
        return make_run(config(data, **options)).task

    task = opened(**{"loss.class_weights": "balanced"})
    np.testing.assert_allclose(task.class_weights, [22 / 48, 22 / 12, 22 / 6])
    options = {"loss.class_weights": "effective", "loss.effective_beta": 0.9}
    weights = np.array(opened(**options).class_weights)
    numbers = np.array([(1 - 0.9**n) / 0.1 for n in (16, 4, 2)])
    np.testing.assert_allclose(weights, 3 / numbers / (1 / numbers).sum())
    task = opened(**{"loss.logit_adjustment": 2.0})
    np.testing.assert_allclose(task.logit_shifts, 2 * np.log(np.array([16, 4, 2]) / 22))
    task = opened(**{"loss.class_weights": (1, 2.5, 3)})
    assert task.class_weights == (1.0, 2.5, 3.0)
    assert opened().class_weights == ()


def test_a_run_goes_on_bit_for_bit_and_evaluates_balanced_accuracy(data, tmp_path):
    options = {"data.sampling": "balanced", "loss.name": "focal", "loss.class_weights": "effective"}
    options |= {"total_steps": 4, "checkpoint.every_steps": 2, "accumulate_steps": 2}
    whole = train(config(data, **options), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    for folder in (tmp_path / "parts" / "checkpoints").iterdir():
        if folder.name != "2":
            shutil.rmtree(folder)
    resumed = train(config(data, **options), tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)

    evaluate_fully(config(data, **options), tmp_path / "parts")
    scores = read_json(tmp_path / "parts" / "evaluation.json")["weights"]["eval"]
    lines = (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines if '"eval/balanced_accuracy"' in line]
    assert logged[-1]["eval/balanced_accuracy"] == pytest.approx(scores["balanced_accuracy"])


def test_balanced_batches_hold_the_classes_equally_often(data):
    batches = make_run(config(data, **{"data.sampling": "balanced"})).train_batches()
    labels = np.concatenate([next(batches)["label"] for _ in range(22)])  # 8 passes of 22
    batches.close()
    assert (np.abs(np.bincount(labels) - 8 * 22 / 3) <= 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss.class_weights": "balance"}, "did you mean 'balanced'"),
        ({"loss.class_weights": (1.0, -1.0, 1.0)}, "none below 0 and not all 0"),
        ({"loss.class_weights": 2.0}, "or a number for each class"),
        ({"loss.class_weights": (1.0, 2.0)}, "has 2 weights, but there are 3 classes.*: a, b, c"),
        ({"loss.class_weights": "balanced", "model.num_classes": 5}, "class 3 has no training"),
        ({"loss.logit_adjustment": 1.0, "loss.name": "bce"}, "is for --config.loss.name=softmax"),
        ({"loss.logit_adjustment": 1.0, "data.sampling": "sqrt"}, "as often as the data has them"),
        ({"data.sampling": "square"}, "must be uniform, balanced, sqrt or an exponent in 0..1"),
        ({"data.sampling": 1.5}, "exponent in 0..1, got 1.5"),
        ({"checkpoint.best_metric": "eval/balanced"}, "one of eval/accuracy, eval/balanced_acc"),
    ],
)
def test_wrong_options_are_refused(data, options, message):
    with pytest.raises(InputError, match=message):
        make_run(config(data, **options))
