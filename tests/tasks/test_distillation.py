"""A student beside its teacher, in the training step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from making import make_train_step
from train import helpers

import jaxvision as jv
from jaxvision.models.image_model import PROJECTION
from jaxvision.models.registry import create_model
from jaxvision.tasks.classification import Classification
from jaxvision.tasks.distillation import Distillation, Teacher, build_with_projection
from jaxvision.train.sharding import make_mesh, put_batch, state_shardings
from jaxvision.train.state import abstract_model, abstract_state, create_state


def weights_of(model):
    graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, tuple(map(nnx.to_pure_dict, states))


@functools.cache
def teacher():
    """A small ResNet, on another image size, and its weights."""
    graphdef, weights = weights_of(helpers.build_resnet(nnx.Rngs(3)))
    made = Teacher(graphdef=graphdef, scale=(2.0,) * 3, shift=(0.5, 0.0, -0.5), image_size=(24, 24))
    return made, weights


def student(rngs):
    """With a projection from its map of stride 8 to the teacher's last."""
    return build_with_projection(
        rngs,
        build=helpers.build_vit,
        width=16,
        teacher_width=16,
        dtype="float32",
        param_dtype="float32",
    )


def make(build=student, mesh=None, **options):
    mesh = mesh or make_mesh(devices=jax.devices()[:1])
    made, weights = teacher()
    shardings = state_shardings(weights, mesh=mesh)
    constants = jax.device_put(weights, shardings)
    tx = helpers.sgd()
    abstract = abstract_state(build, tx, mesh=mesh)
    state = create_state(build, tx, seed=0, abstract=abstract)
    features = {"features": "cosine", "strides": (8, 2)} if build is student else {}
    task = Distillation(teacher=made, temperature=2.0, label_smoothing=0.1, **features)
    step = make_train_step(
        abstract_model(build)[0],
        task,
        tx,
        schedule=optax.constant_schedule(0.05),
        preprocess_fn=helpers.preprocess,
        shardings=jax.tree.map(lambda x: x.sharding, abstract),
        **options,
    )
    return state, step, mesh, constants


def run(steps=2, **options):
    state, step, mesh, constants = make(**options)
    for i in range(steps):
        state, metrics = step(state, put_batch(helpers.batch(i), mesh), constants)
    return state, jax.device_get(metrics), constants


@functools.cache
def single():
    return run()


def test_the_loss_is_the_weighted_sum_and_the_teacher_stays():
    _, metrics, constants = single()
    parts = 0.5 * metrics["label_loss"] + 0.5 * metrics["teacher_loss"] + metrics["feature_loss"]
    np.testing.assert_allclose(metrics["loss"], parts, rtol=1e-6)
    assert 0 <= metrics["teacher_agreement"] <= 1
    helpers.assert_equal(constants, teacher()[1])


def test_the_teacher_is_an_argument_of_the_program():
    state, step, mesh, constants = make()
    batch = put_batch(helpers.batch(0), mesh)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), constants)
    text = step.lower(state, batch, shapes).as_text()  # weights are not even there
    largest = max(x.size for x in jax.tree.leaves(constants))
    assert "dense_resource" not in text and max(map(len, text.split("\n"))) < 4 * largest


def test_micro_batches_and_devices_give_the_same_update():
    parts = run(accumulate_steps=2, mesh=make_mesh(data=2, fsdp=4))[0]
    assert helpers.max_difference(single()[0].params, parts.params) < 1e-6


def test_the_teacher_sees_its_own_normalisation_and_size():
    made, weights = teacher()
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 24, 24, 3)), jnp.float32)
    model = nnx.merge(made.graphdef, *weights, copy=True)
    shifted = images * 2 + jnp.array([0.5, 0.0, -0.5])[None, None, None]
    logits, maps = made(weights, images)
    np.testing.assert_allclose(logits, model(shifted), rtol=1e-5, atol=1e-6)
    assert {stride: m.shape[1] for stride, m in maps.items()} == {1: 24, 2: 12}
    assert made(weights, images[:, :16, :16])[1][2].shape[1] == 12


def test_the_projection_is_not_part_of_the_student(tmp_path):
    plain, mine = helpers.build_vit(nnx.Rngs(0)), student(nnx.Rngs(0))
    own = nnx.to_pure_dict(nnx.state(mine, nnx.Param))
    projection = own.pop(PROJECTION)
    assert projection["kernel"].shape == (16, 16)
    helpers.assert_equal(own, nnx.to_pure_dict(nnx.state(plain, nnx.Param)))
    jv.save_weights(mine, tmp_path / "w.safetensors")
    other = helpers.build_vit(nnx.Rngs(5))
    jv.load_weights(other, tmp_path / "w.safetensors")
    helpers.assert_equal(nnx.to_pure_dict(nnx.state(other, nnx.Param)), own)
    again = student(nnx.Rngs(6))
    kept = nnx.to_pure_dict(nnx.state(again, nnx.Param))[PROJECTION]
    jv.load_weights(again, tmp_path / "w.safetensors")
    loaded = nnx.to_pure_dict(nnx.state(again, nnx.Param))
    helpers.assert_equal(loaded.pop(PROJECTION), kept)
    helpers.assert_equal(loaded, own)


@pytest.mark.parametrize("kind", ["hard", "none"])
def test_two_heads_learn_from_two_sources(kind):
    options = dict(width=16, depth=1, num_heads=2, patch_size=8, image_size=16)
    model = create_model(
        "deit_ti16_distilled", num_classes=helpers.CLASSES, rngs=nnx.Rngs(0), **options
    )
    made, weights = teacher()
    task = Distillation(teacher=made, kind=kind)
    graphdef, (params, _) = weights_of(model)
    raw = helpers.batch(0, size=4)
    batch = {key: jnp.asarray(raw[key]) for key in ("image", "label")}
    batch["image"] = helpers.preprocess(batch["image"])

    def loss(params):
        merged = nnx.merge(graphdef, params, {}, copy=True)
        return task.loss(merged, batch, rngs=nnx.Rngs(0), constants=weights)

    (value, metrics), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    taught = float(jnp.max(jnp.abs(grads["head_dist"]["kernel"])))
    assert (taught > 0) == (kind == "hard") and jnp.any(grads["head"]["kernel"])
    one, other = model.heads(batch["image"])
    labels = jnp.mean(task.label_losses(one, batch["label"]))
    expected = labels
    if kind == "hard":
        choice = jnp.argmax(made(weights, batch["image"])[0], -1)
        expected = (labels + jnp.mean(task.label_losses(other, choice))) / 2
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    evaluated = task.evaluate(model, batch | {"mask": jnp.ones(4, bool)})
    plain = Classification().evaluate(model, batch | {"mask": jnp.ones(4, bool)})
    assert evaluated.keys() == plain.keys() and evaluated["loss"][0] == plain["loss"][0]


def test_binary_cross_entropy_is_a_choice_of_the_classifier():
    logits, labels = jnp.array([[2.0, -1.0, 0.5]]), jnp.array([0])
    bce = Classification(loss_name="bce").label_losses(logits, labels)
    expected = -np.mean(np.log(1 / (1 + np.exp([-2.0, -1.0, 0.5]))))
    np.testing.assert_allclose(bce, [expected], rtol=1e-6)
