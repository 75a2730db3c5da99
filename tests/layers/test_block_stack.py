import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxvision.layers.block_stack import build_blocks, run_blocks, stack_blocks, unstack_blocks
from jaxvision.layers.encoder_block import EncoderBlock

DEPTH = 3


def make(rngs):
    return EncoderBlock(
        8,
        2,
        mlp_ratio=2.0,
        dropout_rate=0.2,
        attention_dropout_rate=0.2,
        norm_eps=1e-6,
        dtype="float32",
        param_dtype="float32",
        rngs=rngs,
    )


def build(scan):
    return build_blocks(make, DEPTH, scan=scan, rngs=nnx.Rngs(0))


def pure(module):
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def assert_equal(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_both_forms_start_from_bit_equal_values():
    listed, stacked = {"blocks": pure(build(False))}, {"blocks": pure(build(True))}
    assert_equal(stack_blocks(listed), stacked)
    assert_equal(unstack_blocks(stacked), listed)
    kernels = stacked["blocks"]["attn"]["query"]["kernel"]
    assert kernels.shape == (DEPTH, 8, 8)
    assert not np.allclose(kernels[0], kernels[1])


@pytest.mark.parametrize("remat", [False, True])
def test_both_forms_run_alike(remat):
    tokens = jax.random.normal(jax.random.key(1), (4, 5, 8))

    def run(blocks, tokens):
        def step(block, tokens, rate, rngs):
            tokens = block(tokens, drop_path_rate=rate, train=True, rngs=rngs)
            return tokens, tokens.mean()

        key = jax.random.key(2)
        return run_blocks(blocks, tokens, step, rates=(0.0, 0.3, 0.6), key=key, remat=remat)

    listed, means = jax.jit(run)(build(False), tokens)
    stacked, stacked_means = jax.jit(run)(build(True), tokens)
    np.testing.assert_allclose(listed, stacked, atol=1e-6)
    np.testing.assert_allclose(means, stacked_means, atol=1e-6)
    assert means.shape == (DEPTH,)


def kept_for_the_backward_pass(remat):
    """Returns the trailing shapes that the forward scan of a gradient writes for each block."""

    def step(block, tokens, rate, rngs):
        return block(tokens, drop_path_rate=rate, train=True, rngs=rngs), None

    def loss(blocks, tokens):
        key = jax.random.key(2)
        return run_blocks(blocks, tokens, step, rates=(0.0,) * DEPTH, key=key, remat=remat)[0].sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss, allow_int=True))(build(True), jnp.ones((4, 5, 8)))
    forward = next(e for e in jaxpr.eqns if e.primitive.name == "scan")
    each = forward.params["jaxpr"].jaxpr.outvars  # of a block; a carry goes out as it is
    stacked = [v for v, x in zip(forward.outvars, each, strict=True) if v.aval != x.aval]
    return sorted(v.aval.shape[1:] for v in stacked if v.aval.shape[1:2] == (4,))


def test_the_backward_pass_keeps_the_products_and_the_masks_or_the_tokens_alone():
    tokens, hidden, heads, weights = (4, 5, 8), (4, 5, 16), (4, 5, 2, 4), (4, 2, 5, 5)
    rows, tops = (4, 5, 1), (4, 2, 5, 1)  # of the norms, of the attention
    assert kept_for_the_backward_pass(remat=True) == [tokens]
    kept = kept_for_the_backward_pass(remat=False)
    assert kept.count(weights) == 1  # the mask; no scores
    assert set(kept) <= {tokens, hidden, heads, weights, rows, tops}


def test_every_block_draws_its_own_numbers():
    def step(block, carry, rate, rngs):
        return carry, jax.random.uniform(rngs.dropout())

    for scan in (False, True):
        _, drawn = run_blocks(build(scan), 0.0, step, rates=(0.0,) * DEPTH, key=jax.random.key(0))
        assert len(np.unique(drawn)) == DEPTH


@pytest.mark.parametrize("depth", [2, 4, 5])
def test_steps_take_turns(depth):
    def step(factor):
        def run(block, tokens, rate, rngs):
            tokens = tokens + factor * (block(tokens) + rate * jax.random.uniform(rngs.dropout()))
            return tokens, tokens.mean()

        return run

    turns, tokens = (step(1.0), step(-2.0)), jnp.arange(12.0).reshape(3, 4)
    rates = tuple(0.1 * i for i in range(depth))

    @jax.jit
    def run(blocks):
        def loss(blocks):
            tokens_out, means = run_blocks(blocks, tokens, turns, rates=rates, key=key)
            return jnp.sin(tokens_out).sum(), means

        return jax.value_and_grad(loss, has_aux=True)(blocks)

    key = jax.random.key(2)
    listed, stacked = (
        build_blocks(lambda rngs: nnx.Linear(4, 4, rngs=rngs), depth, scan=scan, rngs=nnx.Rngs(0))
        for scan in (False, True)
    )
    (loss, means), grads = run(listed)
    (stacked_loss, stacked_means), stacked_grads = run(stacked)
    np.testing.assert_allclose(loss, stacked_loss, rtol=1e-5)
    np.testing.assert_allclose(means, stacked_means, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        stack_blocks({"blocks": pure(grads)}),
        {"blocks": pure(stacked_grads)},
    )
    expected = tokens
    for i, block in enumerate(listed):
        rngs = nnx.Rngs(dropout=jax.random.split(key, depth)[i])
        expected, mean = turns[i % 2](block, expected, rates[i], rngs)
        np.testing.assert_allclose(means[i], mean, rtol=1e-5)


def test_without_rates_and_key_the_step_gets_zero_and_none():
    def step(block, carry, rate, rngs):
        assert rate == 0.0 and rngs is None
        return carry + 1, None

    for scan in (False, True):
        carry, outputs = run_blocks(build(scan), 0, step, rates=(0.0,) * DEPTH)
        assert carry == DEPTH and outputs is None


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    opt_state: object
    ema_params: dict | None


def test_round_trip_inside_optimizer_states():
    params = {
        "encoder": {"blocks": pure(build(False)), "norm": {"scale": jnp.ones(8)}},
        "stages": {0: {"blocks": pure(build(False))}},
    }
    labels = {
        "encoder": {"blocks": "frozen", "norm": "adam"},
        "stages": {0: {"blocks": {i: "adam" for i in range(DEPTH)}}},
    }
    tx = optax.partition(
        {"adam": optax.adamw(1e-3), "frozen": optax.set_to_zero()},
        labels,
        mask_compatible_extra_args=True,
    )
    state = State(jnp.int32(3), params, tx.init(params), None)
    stacked = stack_blocks(state)
    assert set(stacked.params["stages"][0]["blocks"]) == {"norm1", "attn", "norm2", "mlp"}
    # Moments of the frozen stack hold no arrays, so nothing tells their depth.
    again = unstack_blocks(stacked)
    assert_equal(again.params, state.params)
    for left, right in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(left, right)
    # A state made from stacked parameters has the same form as the stacked state.
    assert jax.tree.structure(stack_blocks(again)) == jax.tree.structure(stacked)


def test_unstack_under_jit_and_abstract():
    stacked = {"blocks": pure(build(True))}
    assert_equal(jax.jit(unstack_blocks)(stacked), unstack_blocks(stacked))
    abstract = jax.eval_shape(unstack_blocks, stacked)
    assert abstract["blocks"][2]["mlp"]["fc1"]["kernel"].shape == (8, 16)
    assert jax.eval_shape(stack_blocks, abstract)["blocks"]["norm1"]["scale"].shape == (DEPTH, 8)


def test_other_trees_stay_as_they_are():
    tree = {"stages": {0: {0: jnp.ones(2), 1: jnp.ones(3)}}, "blocks": jnp.ones(4), "head": None}
    assert_equal(stack_blocks(tree), tree)
    assert_equal(unstack_blocks(tree), tree)


def test_messages():
    with pytest.raises(ValueError, match="numbered from 0 and equal in names"):
        stack_blocks({"blocks": {0: {"a": jnp.ones(2)}, 1: {"b": jnp.ones(2)}}})
    with pytest.raises(ValueError, match="numbered from 0 and equal in names"):
        stack_blocks({"blocks": {0: jnp.ones(2), 1: jnp.ones(3)}})
    with pytest.raises(ValueError, match="numbered from 0 and equal in names"):
        stack_blocks({"blocks": {1: jnp.ones(2), 2: jnp.ones(2)}})
    with pytest.raises(ValueError, match="equal depth"):
        unstack_blocks({"blocks": {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 3))}})


@pytest.mark.parametrize("scan", [False, True])
def test_offload_computes_the_same_and_keeps_its_tokens_on_the_host(scan):
    tokens, blocks = jax.random.normal(jax.random.key(1), (8, 5, 8)), build(scan)

    def step(block, tokens, rate, rngs):
        return block(tokens, drop_path_rate=rate, train=True, rngs=rngs), None

    def gradient(tokens, remat):
        def loss(blocks, tokens):
            key, rates = jax.random.key(2), (0.0, 0.3, 0.6)
            return (
                run_blocks(blocks, tokens, step, rates=rates, key=key, remat=remat)[0] ** 2
            ).sum()

        graph, params = nnx.split(blocks)
        return jax.grad(lambda p, x: loss(nnx.merge(graph, p), x), argnums=(0, 1))(params, tokens)

    expected = jax.jit(gradient, static_argnums=1)(tokens, True)
    # Also where the batch is split over devices.
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.device_put(tokens, jax.NamedSharding(mesh, jax.P("data")))
    for inputs in (tokens, split):
        found = jax.jit(gradient, static_argnums=1)(inputs, "offload")
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
    jaxpr = str(jax.make_jaxpr(gradient, static_argnums=1)(tokens, "offload"))
    assert "MemorySpace.Host" in jaxpr
    assert "MemorySpace.Host" not in str(jax.make_jaxpr(gradient, static_argnums=1)(tokens, True))
