"""Few-shot and linear probe: against closed forms, and of a run from the command line."""

import json

import finished_run
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from flax import nnx

from jaxvision.__main__ import main
from jaxvision.errors import InputError
from jaxvision.evaluation.embed import remove_head
from jaxvision.evaluation.labelled import Runner
from jaxvision.interop.trained import open_trained
from jaxvision.metrics.few_shot import BIAS, RidgeClassifier, draw_shots
from jaxvision.metrics.logistic import fit_logistic, objective
from jaxvision.metrics.outputs import Outputs
from jaxvision.metrics.probe import (
    check_shots,
    few_shot,
    linear_probe,
    split_features,
)
from jaxvision.models.registry import create_model


def outputs(labels, width=6, noise=0.3, seed=0):
    """Returns features around one random centre for each class."""
    labels = np.asarray(labels, np.int32)
    centres = np.random.default_rng(99).normal(size=(labels.max() + 1, width))
    values = centres[labels] + noise * np.random.default_rng(seed).normal(size=(len(labels), width))
    return Outputs(values.astype(np.float32), labels, np.arange(len(labels)))


@pytest.mark.parametrize("shots", [4, 40])  # fewer and more than features
@pytest.mark.parametrize("l2", [2.0**-10, 8.0])
def test_ridge_is_the_solution_of_the_normal_equations(shots, l2):
    data = outputs(np.arange(shots) % 3, width=9)
    model = RidgeClassifier(data.values, data.labels, num_classes=3)
    x = data.values.astype(np.float64)
    x = (x - x.mean(0)) / (x.std(0) + 1e-5)
    x = np.concatenate([x, np.full((shots, 1), BIAS)], axis=1)
    y = np.where(np.eye(3)[data.labels] > 0, 1.0, -1.0)
    expected = np.linalg.solve(x.T @ x + l2 * np.eye(10), x.T @ y)
    np.testing.assert_allclose(model.weights(l2), expected, rtol=1e-6, atol=1e-9)
    guesses = (x @ expected).argmax(-1)
    accuracy = model.accuracy(data.values, data.labels, l2=l2)
    assert accuracy == np.mean(guesses == data.labels)


def test_two_points_by_hand():
    # Features -1 and 1, whitened to themselves; X'X = diag(2, 2 * 100^2), X'Y = +-(2, 0).
    model = RidgeClassifier(np.array([[-1.0], [1.0]]), np.array([0, 1]), num_classes=2)
    expected = np.array([[-2.0, 2.0], [0.0, 0.0]]) / 4
    np.testing.assert_allclose(model.weights(2.0), expected, atol=2e-5)


def test_shots_are_drawn_of_every_class():
    labels = np.array([2, 0, 1, 0, 2, 1, 0, 2, 2, 1])
    drawn = draw_shots(labels, shots=3, seed=0)
    assert sorted(labels[drawn]) == [0] * 3 + [1] * 3 + [2] * 3 and len(set(drawn)) == 9
    assert list(drawn) == list(draw_shots(labels, shots=3, seed=0))
    assert list(drawn) != list(draw_shots(labels, shots=3, seed=1))


def fit(features, labels, l2, classes=2):
    weights = {"kernel": jnp.zeros((features.shape[1], classes)), "bias": jnp.zeros(classes)}
    data = (jnp.asarray(features, jnp.float32), jnp.asarray(labels))
    return fit_logistic(
        weights, *data, jnp.float32(l2), jnp.int32(300), jnp.float32(1e-6)
    ), data  # fmt: skip


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_logistic_regression_in_closed_form(l2):
    # x = +-1, and the label agrees with its sign in 3 of 4: kernel (-a, a), and in its optimum
    # 3 / 4 - sigmoid(2 a) = l2 a.
    features = np.array([[1.0]] * 4 + [[-1.0]] * 4)
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 1], np.int32)
    (weights, steps), _ = fit(features, labels, l2)
    kernel = np.asarray(weights["kernel"])[0]
    a = kernel[1]
    assert kernel[0] == pytest.approx(-a, abs=1e-5) and steps < 50
    assert 0.75 - 1 / (1 + np.exp(-2 * a)) == pytest.approx(l2 * a, abs=1e-5)
    if not l2:
        assert 2 * a == pytest.approx(np.log(3), abs=1e-4)


def test_logistic_regression_has_scipys_optimum():
    data, l2 = outputs(np.arange(60) % 4, noise=1.5), 1e-2
    (weights, _), (features, labels) = fit(data.values, data.labels, l2, classes=4)
    ours = float(objective(weights, features, labels, jnp.float32(l2)))

    def value(flat):
        kernel, bias = flat[:24].reshape(6, 4), flat[24:]
        logits = data.values.astype(np.float64) @ kernel + bias
        top = logits.max(-1, keepdims=True)
        log_sums = top[:, 0] + np.log(np.exp(logits - top).sum(-1))
        losses = log_sums - logits[np.arange(60), data.labels]
        return losses.mean() + l2 / 2 * (kernel**2).sum()

    theirs = scipy.optimize.minimize(value, np.zeros(28), method="BFGS", tol=1e-8)
    assert ours == pytest.approx(theirs.fun, abs=1e-5)
    np.testing.assert_allclose(
        np.asarray(weights["kernel"]), theirs.x[:24].reshape(6, 4), atol=2e-3
    )


def test_probes_of_separable_classes():
    train, test = outputs(np.arange(90) % 3, noise=0.1), outputs(np.arange(30) % 3, 6, 0.1, seed=1)
    data = split_features(train, test, ("a", "b", "c"))
    assert list(np.bincount(data.held_out.labels)) == [3, 3, 3]
    assert list(np.bincount(data.fit.labels)) == [27, 27, 27]
    assert not set(data.fit.records) & set(data.held_out.records)
    assert check_shots(data, None) == [1, 5, 10, 25] and check_shots(data, [27]) == [27]
    many = outputs(np.arange(2_000) % 2, noise=0.1)  # 50 of each class would choose by chance
    assert len(split_features(many, test, ("a", "b")).held_out.labels) == 200
    result = few_shot(data, shots=5)
    assert result["accuracy"] == 1.0 and result["deviation"] == 0.0
    assert str(result["l2"]) in result["held_out"]
    result = linear_probe(data)
    assert result["accuracy"] == 1.0 and max(result["held_out"].values()) == 1.0
    with pytest.raises(InputError, match="only 27 .* give --shots of at most 27, got 28"):
        check_shots(data, [1, 28])
    with pytest.raises(InputError, match="'b' has 1 training images"):
        split_features(outputs([0, 0, 1, 2, 2]), test, ("a", "b", "c"))


def test_labels_that_do_not_depend_on_the_features_are_not_learned():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    values = rng.normal(size=(200, 4)).astype(np.float32)
    train = Outputs(values, labels, np.arange(200))
    values, records = rng.normal(size=(4000, 4)).astype(np.float32), np.arange(4000)
    test = Outputs(values, records % 2, records)
    data = split_features(train, test, ("a", "b"))
    for accuracy in (few_shot(data, shots=10)["accuracy"], linear_probe(data)["accuracy"]):
        assert 0.4 < accuracy < 0.6


@pytest.mark.parametrize("name", ["deit_ti16_distilled", "mobilenet_v3_small", "resnet18"])
def test_without_a_head_there_are_features(name):
    model = nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0)))
    width = model.head.kernel.shape[0]
    remove_head(model)
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    assert jax.eval_shape(lambda model, images: model(images), model, images).shape == (2, width)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, *finished_run.write(folder, data__shapes__num_train=96)


def test_features_are_what_the_head_reads(finished):
    folder, run, state = finished
    trained = open_trained(str(folder))
    kernel, bias = (
        np.asarray(x[...]) for x in (trained.model.head.kernel, trained.model.head.bias)
    )
    remove_head(trained.model)
    features = Runner(trained, batch_size=9)(trained.model, run.eval_source)
    images = np.stack([run.eval_source[i]["image"] for i in range(16)])
    model = nnx.merge(run.graphdef, state.ema_params, state.ema_batch_stats)
    logits = np.asarray(model(run.preprocess_fn(jnp.asarray(images))))
    np.testing.assert_allclose(features.values @ kernel + bias, logits, atol=1e-5)
    assert list(features.records) == list(range(16))


def test_from_the_command_line(finished, tmp_path, capsys):
    folder, *_ = finished
    out = tmp_path / "probe.json"
    arguments = ["probe", f"--run={folder}", "--shots=1,2", f"--out={out}", "--batch=32"]
    assert main(arguments) == 0
    facts, header, *rows, wrote = capsys.readouterr().out.splitlines()
    assert facts.startswith("vit_ti16, 16 features; 96 training and 16 evaluation images of 8 cl")
    assert header.split() == ["probe", "accuracy", "deviation", "l2"]
    assert [row.split()[0] for row in rows] == ["20-nn", "1-shot", "2-shot", "linear"]
    results = json.loads(out.read_text())
    assert results["model"] == "vit_ti16" and results["features"] == 16
    for row, name in zip(rows, ("20_nn", "1_shot", "2_shot", "linear"), strict=True):
        assert row.split()[1] == f"{results['probes'][name]['accuracy']:.4f}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "Give --weights=TAG, FILE or RUN"),
        ("--run={run} --pretrained", "Give --weights=TAG, FILE or RUN"),
        ("--run={tmp}", "config.json and checkpoints/"),
        ("--weights={tmp}/w.npz", "There is no run and no file of weights {tmp}/w.npz"),
        ("--weights={tmp}/w.npz --model=resnet18", "no file of weights {tmp}/w.npz"),
        ("--run={run} --shots=0", "at least 1"),
        ("--run={run} --shots=many", "'many'"),
        ("--run={run} --shots=1,99", "give --shots of at most"),
        ("--run={run} --data=pets", "'pets'"),
        ("--run={run} --data=folder", "path, which is empty"),
        ("--run={run} --out={tmp}/no/p.json", "There is no folder {tmp}/no"),
    ],
)
def test_wrong_input(finished, tmp_path, capsys, arguments, expected):
    places = {"run": finished[0], "tmp": tmp_path}
    try:
        code = main(["probe", *arguments.format(**places).split()])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2 and not out and err.count("\n") == 1, err
    assert expected.format(**places) in err
