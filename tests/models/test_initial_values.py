import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxvision as jv
from jaxvision.models.captioner import CaptionerConfig
from jaxvision.models.initial_values import build_model

# All three distributions; blocks in a list, stacked, and neither; more elements than one piece.
MODELS = {
    "resnet18": {"stage_depths": (1, 1), "stage_widths": (64, 200)},
    "vit_ti16": {"depth": 2},
    "deit_ti16_distilled": {"depth": 2, "width": 48, "scan": False},
}


def built(build, name, rngs):
    config = dataclasses.replace(jv.get_spec(name).config, num_classes=7, **MODELS[name])
    return build(jv.get_spec(name).build, config, rngs=rngs)


def one_by_one(build, config, *, rngs):
    return build(config, rngs=rngs)


def assert_same(model, expected, *, tolerance=1e-6):
    (graphdef, state), (expected_graphdef, expected_state) = nnx.split(model), nnx.split(expected)
    assert graphdef == expected_graphdef
    assert jax.tree.structure(state) == jax.tree.structure(expected_state)
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(expected_state), strict=True):
        assert (x.dtype, type(x)) == (y.dtype, type(y))
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x.weak_type == y.weak_type
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def test_values_are_those_of_jax_random_bit_by_bit():
    """In a process of its own, because the tests' compiler does not optimise.

    What it makes of one formula then depends on the shape, in the last bit.
    """
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(pathlib.Path(__file__).parents[2])
    cache = jax.config.jax_compilation_cache_dir
    environment["JAX_COMPILATION_CACHE_DIR"] = f"{cache}-optimised"
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    subprocess.run([sys.executable, __file__], env=environment, check=True)


def compare_models():
    for name in MODELS:
        rngs, expected = nnx.Rngs(3, params=11), nnx.Rngs(3, params=11)
        for _ in range(2):  # the second model has other keys
            pair = built(build_model, name, rngs), built(one_by_one, name, expected)
            assert_same(*pair, tolerance=0)
        assert_same(rngs, expected)
        np.testing.assert_array_equal(
            jax.random.key_data(rngs.params()), jax.random.key_data(expected.params())
        )


def test_other_operations_and_large_draws():
    class Model(nnx.Module):
        def __init__(self, config, *, rngs):
            key = rngs.params()
            keys = jax.random.split(key, (2, 3))
            normal = jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (70_000,))))(keys)
            self.normal = nnx.Param(normal)
            self.scaled = nnx.Param(jnp.float32(0.3) * normal + 1)  # `normal` is read twice
            self.cut = nnx.Param(jax.random.truncated_normal(keys[1, 2], -0.5, 3.0, (100, 3)))
            self.uniform = nnx.Param(jax.random.uniform(keys[0, 0], (5,), minval=-3, maxval=0.7))
            self.half = nnx.Param(jax.random.normal(key, (4,), jnp.bfloat16).astype(jnp.float32))
            self.order = nnx.Param(jax.random.permutation(key, 10).astype(jnp.float32))
            self.empty = nnx.Param(jax.random.normal(key, (0, 3)))

    model = build_model(Model, None, rngs=nnx.Rngs(0))
    assert_same(model, Model(None, rngs=nnx.Rngs(0)))


def test_a_model_that_keeps_its_streams():
    class Model(nnx.Module):
        def __init__(self, config, *, rngs):
            self.linear = nnx.Linear(3, 4, rngs=rngs)
            self.rngs = rngs

    rngs, expected = nnx.Rngs(0), nnx.Rngs(0)
    model = build_model(Model, None, rngs=rngs)
    assert model.rngs is rngs
    assert_same(model, Model(None, rngs=expected))


@pytest.mark.parametrize("impl", ["rbg", "threefry2x32"])
def test_other_kinds_of_keys(impl):
    def build(config, *, rngs):
        return nnx.Linear(3, 4, rngs=rngs)

    rngs, expected = (nnx.Rngs(jax.random.key(0, impl=impl)) for _ in range(2))
    assert_same(build_model(build, None, rngs=rngs), build(None, rngs=expected))
    assert_same(rngs, expected)


def test_few_programs_are_compiled():
    compiled = []
    jax.clear_caches()
    listen = lambda event, seconds, **_: compiled.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listen)
    jv.create_model("resnet50", rngs=nnx.Rngs(0))
    jax.monitoring.unregister_event_duration_listener(listen)
    # One for each distribution, and a few for the keys; they were 58.
    assert 1 <= compiled.count("/jax/core/compile/backend_compile_duration") <= 6


def test_a_captioner():
    config = jv.get_spec("captioner").config
    small = dataclasses.replace(
        config,
        encoder="vit_ti16",
        encoder_options=(("depth", 1), ("width", 24)),
        vocab_size=50,
        depth=1,
    )
    assert isinstance(config, CaptionerConfig)
    build = jv.get_spec("captioner").build
    assert_same(build_model(build, small, rngs=nnx.Rngs(0)), build(small, rngs=nnx.Rngs(0)))


if __name__ == "__main__":
    compare_models()
