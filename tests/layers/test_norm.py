import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision.errors import InputError
from jaxvision.layers.activation import ACTIVATIONS, silu
from jaxvision.layers.norm import BatchNorm, _normalise_batch, layer_norm

DTYPES = {"dtype": "float32", "param_dtype": "float32"}
EVERY = (0, 1, 2)  # inputs, scale, bias
DERIVATIVES = (
    lambda f: jax.jacfwd(f, EVERY),
    lambda f: jax.jacrev(f, EVERY),
    lambda f: jax.hessian(lambda *a: jnp.sin(f(*a)).sum(), EVERY),
    lambda f: jax.jacrev(jax.jacrev(lambda *a: jnp.sin(f(*a)).sum(), EVERY), EVERY),
)


def test_layer_norm_is_exact_far_from_zero():
    norm = layer_norm(64, eps=1e-6, rngs=nnx.Rngs(0), **DTYPES)
    inputs = 1000.0 + np.random.default_rng(0).normal(size=(4, 64)).astype("f")
    wide = inputs.astype("d")
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
    # Measured: 1e-4 with the exact variance, 0.3 with E[x^2] - E[x]^2.
    np.testing.assert_allclose(norm(jnp.asarray(inputs)), expected, atol=5e-4)


def test_layer_norm_eps_is_the_one_given():
    inputs = jnp.array([[1e-3, -1e-3]])
    norm = layer_norm(2, eps=1e-5, rngs=nnx.Rngs(0), **DTYPES)
    np.testing.assert_allclose(norm(inputs)[0, 0], 1e-3 / np.sqrt(1e-6 + 1e-5), rtol=1e-5)


def test_batch_norm_training_follows_torch():
    norm = BatchNorm(3, momentum=0.2, **DTYPES)
    norm.scale[...], norm.bias[...] = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.1, 0.2, 0.3])
    inputs = np.random.default_rng(0).normal(2.0, 3.0, size=(4, 5, 6, 3)).astype("f")
    output = norm(jnp.asarray(inputs), train=True)
    flat = inputs.reshape(-1, 3).astype("d")
    normalised = (inputs - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    expected = normalised * [1.0, 2.0, 3.0] + [0.1, 0.2, 0.3]
    np.testing.assert_allclose(output, expected, atol=1e-5)
    # The new value weighs `momentum`, and the running variance is unbiased.
    np.testing.assert_allclose(norm.mean[...], 0.2 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.8 + 0.2 * flat.var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_without_a_scale_it_is_that_of_a_scale_of_one(train):
    make = functools.partial(BatchNorm, 5, dtype="float32", param_dtype="float32")
    plain, scaled = make(use_scale=False), make()
    assert plain.scale is None and jax.tree.structure(nnx.state(plain, nnx.Param)).num_leaves == 1
    inputs = jax.random.normal(jax.random.key(0), (4, 3, 3, 5)) * 2 + 1

    def loss(norm):
        return jnp.sum(norm(inputs, train=train) ** 3)

    for norm in (plain, scaled):
        norm.bias[...] = jnp.arange(5.0)
    ours, theirs = nnx.grad(loss)(plain), nnx.grad(loss)(scaled)
    np.testing.assert_allclose(ours["bias"][...], theirs["bias"][...], rtol=1e-6)
    np.testing.assert_array_equal(plain(inputs, train=train), scaled(inputs, train=train))
    np.testing.assert_array_equal(plain.var[...], scaled.var[...])


def test_batch_norm_evaluation_uses_and_keeps_the_running_statistics():
    norm = BatchNorm(2, **DTYPES)
    norm.mean[...], norm.var[...] = jnp.array([1.0, -1.0]), jnp.array([4.0, 9.0])
    inputs = jnp.ones((3, 2, 2, 2))
    expected = [0.0, 2 / np.sqrt(9 + 1e-5)]
    np.testing.assert_allclose(norm(inputs)[0, 0, 0], expected, atol=1e-6)
    np.testing.assert_array_equal(norm.mean[...], [1.0, -1.0])
    np.testing.assert_array_equal(norm.var[...], [4.0, 9.0])


def test_batch_norm_is_exact_far_from_zero():
    norm = BatchNorm(1, **DTYPES)
    inputs = 1000.0 + np.random.default_rng(0).normal(size=(64, 1)).astype("f")
    wide = inputs.astype("d")
    expected = (wide - wide.mean()) / wide.std()
    np.testing.assert_allclose(norm(jnp.asarray(inputs), train=True), expected, atol=5e-4)


def test_batch_norm_keeps_float32_statistics_in_bfloat16():
    norm = BatchNorm(2, dtype="bfloat16", param_dtype="float32")
    output = norm(jnp.ones((2, 2, 2, 2), jnp.bfloat16), train=True)
    assert output.dtype == jnp.bfloat16
    assert norm.mean[...].dtype == norm.var[...].dtype == jnp.float32


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (1, 2), (0, 4, 4, 2)])
def test_one_value_per_channel_is_refused_in_training(shape):
    norm = BatchNorm(2, **DTYPES)
    graphdef, state = nnx.split(norm)
    inputs = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(InputError, match="Expected more than 1 value per channel when training"):
        jax.eval_shape(lambda s, x: nnx.merge(graphdef, s)(x, train=True), state, inputs)
    assert norm(jnp.ones(shape)).shape == shape
    norm.frozen = True
    assert norm(jnp.ones(shape), train=True).shape == shape


def test_statistics_reach_the_caller_of_a_pure_function():
    norm = BatchNorm(2, **DTYPES)
    graphdef, params, stats = nnx.split(norm, nnx.Param, nnx.BatchStat)
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    inputs = jax.random.normal(jax.random.key(0), (4, 3, 3, 2))

    @jax.jit
    def step(params, stats):
        def loss(params):
            model = nnx.merge(graphdef, params, stats, copy=True)
            output = model(inputs, train=True)
            return (output**3).sum(), nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

        return jax.grad(loss, has_aux=True)(params)

    grads, new_stats = step(params, stats)
    assert set(grads) == {"scale", "bias"}
    assert float(jnp.abs(new_stats["mean"]).min()) > 0.0


@pytest.mark.parametrize("activation", [None, silu])
def test_forward_mode_and_second_derivatives_are_those_of_the_formula(activation):
    def moments(inputs, scale, bias):
        mean, var = inputs.mean((0, 1)), inputs.var((0, 1))
        centred = inputs - mean.reshape(1, 1, -1)
        outputs = centred * (scale / jnp.sqrt(var + 1e-5)).reshape(1, 1, -1) + bias.reshape(
            1, 1, -1
        )
        return outputs if activation is None else activation(outputs)

    def ours(*given):
        return _normalise_batch(*given, jnp.zeros(2), 1e-5, "float32", activation)[0]

    given = (jax.random.normal(jax.random.key(0), (3, 2, 2)), jnp.array([1.0, 2.0]), jnp.ones(2))
    for transform in DERIVATIVES:
        left, right = (jax.jit(transform(f))(*given) for f in (ours, moments))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=5e-4), left, right)


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("train", [True, False])
def test_an_activation_inside_is_one_behind(activation, train):
    inputs = jax.random.normal(jax.random.key(0), (4, 3, 3, 2))
    weights = jax.random.normal(jax.random.key(1), inputs.shape)

    def loss(state, inputs, inside):
        norm = nnx.merge(graphdef, state, copy=True)
        if inside:
            outputs = norm.activated(inputs, activation, train=train)
        else:
            outputs = activation(norm(inputs, train=train))
        return (outputs * weights).sum(), outputs

    norm = BatchNorm(2, **DTYPES)
    norm.scale[...], norm.bias[...] = jnp.array([1.0, -2.0]), jnp.array([0.3, 0.1])
    graphdef, state = nnx.split(norm)
    inside, behind = (jax.grad(loss, (0, 1), has_aux=True)(state, inputs, x) for x in (True, False))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), inside, behind)


@pytest.mark.parametrize("mean", [0.0, 3.0, 100.0])
def test_statistics_of_bfloat16_read_once_are_those_read_twice(mean):
    """Also at the first step, when the running mean is a bad guess."""
    inputs = mean + jax.random.normal(jax.random.key(0), (64, 8, 8, 2))
    inputs = inputs.astype(jnp.bfloat16)
    norm = BatchNorm(2, momentum=1.0, dtype="bfloat16", param_dtype="float32")
    norm(inputs, train=True)
    exact = np.asarray(inputs, "d").reshape(-1, 2)
    np.testing.assert_allclose(norm.mean[...], exact.mean(0), rtol=1e-6, atol=1e-6)
    # Measured: 4e-4 where the mean is 100 deviations, whose bfloat16 values are 0.5 apart.
    np.testing.assert_allclose(norm.var[...], exact.var(0, ddof=1), rtol=1e-3)


def test_layer_norm_derivatives_are_those_of_the_formula():
    def formula(inputs, scale, bias):
        centred = inputs - inputs.mean(-1, keepdims=True)
        deviation = jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)
        return centred / deviation * scale.reshape(1, 1, -1) + bias.reshape(1, 1, -1)

    def ours(inputs, scale, bias):
        norm = layer_norm(4, eps=1e-5, rngs=nnx.Rngs(0), **DTYPES)
        norm.scale[...], norm.bias[...] = scale, bias
        return norm(inputs)

    given = (jax.random.normal(jax.random.key(0), (2, 3, 4)), jnp.arange(1.0, 5.0), jnp.ones(4))
    for transform in DERIVATIVES:
        left, right = (jax.jit(transform(f))(*given) for f in (ours, formula))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=5e-5), left, right)


def test_layer_norm_of_bfloat16_keeps_float32_statistics():
    norm = layer_norm(64, eps=1e-6, rngs=nnx.Rngs(0), dtype="bfloat16", param_dtype="float32")
    inputs = (5.0 + jax.random.normal(jax.random.key(0), (4, 64))).astype(jnp.bfloat16)
    outputs, grads = (
        norm(inputs),
        jax.grad(lambda x: norm(x).astype("float32")[..., 0].sum())(inputs),
    )
    assert outputs.dtype == grads.dtype == jnp.bfloat16
    wide = np.asarray(inputs, "d")
    expected = (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True)
    np.testing.assert_allclose(outputs.astype("float32"), expected, atol=0.01)


@pytest.mark.float64
@pytest.mark.quick
def test_batch_norm_in_float64():
    norm = BatchNorm(2, dtype="float64", param_dtype="float64")
    inputs = jax.random.normal(jax.random.key(0), (4, 3, 3, 2), "float64")
    norm(inputs, train=True)
    assert norm.var[...].dtype == jnp.float64
    np.testing.assert_allclose(norm.mean[...], 0.1 * np.asarray(inputs).mean((0, 1, 2)), atol=1e-16)
