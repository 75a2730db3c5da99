import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from making import make_optimizer, make_schedule

import jaxvision
from jaxvision.errors import InputError
from jaxvision.options.optimizer import OPTIMIZERS
from jaxvision.train.optim.optimizer import decay_mask
from jaxvision.train.optim.param_groups import ParamGroup, param_names
from jaxvision.train.state import abstract_model

STEPS = 20
# Measured on parameters up to 1: 3.3e-7 in float32, below 1e-13 in float64 (make parity).
BAR = 1e-13 if jax.config.jax_enable_x64 else 1e-6
PARAMS = {
    "patch_embed": {"kernel": (4, 4, 3, 8), "bias": (8,)},
    "blocks": {  # two blocks, stacked: the biases have two dimensions
        "norm1": {"scale": (2, 8), "bias": (2, 8)},
        "mlp": {"kernel": (2, 8, 8), "bias": (2, 8)},
        "layer_scale": {"gamma": (2, 8)},
    },
    "cls_token": (1, 1, 8),
    "pos_embed": (1, 17, 8),
    "embed": {"embedding": (10, 8)},
}


def tree(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(0, 0.1, shape), jnp.result_type(float)),
        PARAMS,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def blocks_apart(tree):
    """Returns the tree with a list of two blocks instead of the stack of two, as PyTorch has it."""
    blocks = {i: jax.tree.map(lambda x, i=i: x[i], tree["blocks"]) for i in range(2)}
    return tree | {"blocks": blocks}


def constant(rate):
    return make_schedule("constant", learning_rate=rate, total_steps=STEPS)


def ours(params, gradients, tx):
    @jax.jit
    def step(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for gradient in gradients:
        params, state = step(params, state, gradient)
    return params


def theirs(params, gradients, make, *, weight_decay, clip_norm=0.0):
    """Runs a PyTorch optimizer with the decayed and the other parameters as two groups."""
    import torch

    params, gradients = blocks_apart(params), [blocks_apart(gradient) for gradient in gradients]

    leaves = [torch.nn.Parameter(torch.tensor(np.asarray(x))) for x in jax.tree.leaves(params)]
    decayed = jax.tree.leaves(decay_mask(params))
    groups = [
        {
            "params": [x for x, d in zip(leaves, decayed, strict=True) if d == wanted],
            "weight_decay": w,
        }
        for wanted, w in ((True, weight_decay), (False, 0.0))
    ]
    optimizer = make(groups)
    for gradient in gradients:
        for leaf, value in zip(leaves, jax.tree.leaves(gradient), strict=True):
            leaf.grad = torch.tensor(np.asarray(value))
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(leaves, clip_norm)
        optimizer.step()
    return jax.tree.unflatten(jax.tree.structure(params), [x.detach().numpy() for x in leaves])


def peer(name):
    """Returns the options of ours, and the PyTorch optimizer they stand for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm.optim
        import torch.optim
    betas = {"betas": (0.9, 0.99)}
    return {
        "adamw": (3e-3, {}, lambda g: torch.optim.AdamW(g, lr=3e-3, eps=1e-8, **betas)),
        "sgd": (
            0.1,
            {"momentum": 0.9, "nesterov": True},
            lambda g: torch.optim.SGD(g, lr=0.1, momentum=0.9, nesterov=True),
        ),
        "sgd_plain": (0.1, {"momentum": 0.0}, lambda g: torch.optim.SGD(g, lr=0.1)),
        "sgd_heavy_ball": (
            0.1,
            {"momentum": 0.9, "nesterov": False},
            lambda g: torch.optim.SGD(g, lr=0.1, momentum=0.9),
        ),
        "lamb": (
            1e-2,
            {},
            lambda g: timm.optim.Lamb(g, lr=1e-2, eps=1e-8, max_grad_norm=None, **betas),
        ),
        "lion": (1e-3, {}, lambda g: timm.optim.Lion(g, lr=1e-3, **betas)),
        "adam": (3e-3, {}, lambda g: torch.optim.Adam(g, lr=3e-3, eps=1e-8, **betas)),
        "rmsprop": (
            1e-3,
            {},
            lambda g: torch.optim.RMSprop(g, lr=1e-3, alpha=0.99, momentum=0.9),
        ),
        "rmsprop_plain": (
            1e-3,
            {"momentum": 0.0},
            lambda g: torch.optim.RMSprop(g, lr=1e-3, alpha=0.99),
        ),
        "rmsprop_tf": (
            1e-2,
            {},
            lambda g: timm.optim.RMSpropTF(g, lr=1e-2, alpha=0.99, eps=1e-8, momentum=0.9),
        ),
    }[name]


@pytest.mark.parity
@pytest.mark.parametrize("clip_norm", [0.0, 1.0], ids=["", "clipped"])
@pytest.mark.parametrize(
    ("name", "weight_decay"),
    [
        ("adamw", 0.0),
        ("adamw", 0.3),
        ("sgd", 0.0),
        ("sgd", 0.3),
        ("sgd_plain", 0.3),
        ("sgd_heavy_ball", 0.3),
        ("lamb", 0.3),  # without decay timm does not rescale either, ours does
        ("lion", 0.0),
        ("lion", 0.3),
        ("adam", 0.3),
        ("rmsprop", 0.3),
        ("rmsprop_plain", 0.3),
        ("rmsprop_tf", 0.3),
    ],
)
def test_torch(name, weight_decay, clip_norm):
    rate, options, make = peer(name)
    params, gradients = tree(0), [tree(seed) for seed in range(1, STEPS + 1)]
    norms = [float(optax.tree.norm(g)) for g in gradients]
    assert min(norms) > 2  # so that a norm of 1 clips every one
    tx = make_optimizer(
        params,
        name=name if name in OPTIMIZERS else name.split("_")[0],
        schedule=constant(rate),
        weight_decay=weight_decay,
        b2=0.99,
        clip_norm=clip_norm,
        **options,
    )
    got = ours(params, gradients, tx)
    expected = theirs(params, gradients, make, weight_decay=weight_decay, clip_norm=clip_norm)
    moved = max(
        jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), got, params))
    )
    assert moved > 1e-2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=BAR),
        blocks_apart(got),
        expected,
    )


@pytest.mark.parity
def test_torch_with_a_schedule():
    import torch

    schedule = make_schedule("warmup_cosine", learning_rate=1e-2, total_steps=STEPS, warmup_steps=5)
    params, gradients = tree(0), [tree(seed) for seed in range(1, STEPS + 1)]
    tx = make_optimizer(params, name="adamw", schedule=schedule, weight_decay=0.1)
    got = ours(params, gradients, tx)

    class Scheduled(torch.optim.AdamW):
        count = 0

        def step(self):
            for group in self.param_groups:
                group["lr"] = float(schedule(self.count))
            self.count += 1
            super().step()

    expected = theirs(params, gradients, Scheduled, weight_decay=0.1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=BAR),
        blocks_apart(got),
        expected,
    )


@pytest.mark.parity
@pytest.mark.parametrize("factor", [0.01, 0.3])
def test_adaptive_clipping_is_that_of_timm(factor):
    import torch
    from timm.utils.agc import adaptive_clip_grad

    params, gradient = tree(0), tree(1)
    # timm counts the units of an array that is no kernel along its first axis, we along its last.
    for name in ("cls_token", "pos_embed", "embed"):
        del params[name], gradient[name]
    gradient["patch_embed"]["bias"] = gradient["patch_embed"]["bias"] * 1e-3
    tx = make_optimizer(
        params,
        name="sgd",
        schedule=constant(1.0),
        weight_decay=0.0,
        momentum=0.0,
        clip_factor=factor,
    )
    updates, _ = tx.update(gradient, tx.init(params), params)
    got, apart = blocks_apart(updates), (blocks_apart(params), blocks_apart(gradient))

    def theirs(param, grad):
        leaf = torch.nn.Parameter(torch.tensor(np.moveaxis(np.asarray(param), -1, 0).copy()))
        leaf.grad = torch.tensor(np.moveaxis(np.asarray(grad), -1, 0).copy())
        adaptive_clip_grad(leaf, clip_factor=factor)
        return -np.moveaxis(leaf.grad.numpy(), 0, -1)

    expected = jax.tree.map(theirs, *apart)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), got, expected)
    kept = got["patch_embed"]["bias"] + gradient["patch_embed"]["bias"]
    assert np.abs(kept).max() == 0 and optax.tree.norm(updates) < optax.tree.norm(gradient)


def test_adaptive_clipping_spares_the_head():
    params = {"head": {"kernel": jnp.ones((3, 2))}, "stem": {"kernel": jnp.ones((3, 2))}}
    gradient = jax.tree.map(lambda x: 9 * x, params)
    options = {"name": "sgd", "schedule": constant(1.0), "weight_decay": 0.0, "momentum": 0.0}
    tx = make_optimizer(params, **options, clip_factor=0.1)
    updates, _ = tx.update(gradient, tx.init(params), params)
    np.testing.assert_array_equal(updates["head"]["kernel"], -gradient["head"]["kernel"])
    np.testing.assert_allclose(updates["stem"]["kernel"], -0.1, rtol=1e-6)


# The rate that prodigy finds depends on all parameters together.
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "prodigy"])
def test_multipliers_of_groups(name):
    """A group at half the rate and no decay moves as under half the rate and no decay."""
    params, gradients = tree(0), [tree(seed) for seed in range(1, 4)]
    names = param_names(params)
    slow = ParamGroup("slow", learning_rate=0.5, weight_decay=0.0)
    groups = {n: slow if n.startswith("blocks/1/") else ParamGroup() for n in names}
    options = {"name": name, "b2": 0.9}
    make = functools.partial(make_optimizer, params, **options)
    mixed = ours(params, gradients, make(schedule=constant(0.01), weight_decay=0.1, groups=groups))
    fast = ours(params, gradients, make(schedule=constant(0.01), weight_decay=0.1))
    half = ours(params, gradients, make(schedule=constant(0.005), weight_decay=0.0))
    mixed, fast, half = map(blocks_apart, (mixed, fast, half))
    expected = fast | {"blocks": {0: fast["blocks"][0], 1: half["blocks"][1]}}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-7), mixed, expected)


def first_update(**options):
    params, gradient = tree(0), tree(1)
    tx = make_optimizer(params, schedule=constant(1.0), **options)
    return tx.update(gradient, tx.init(params), params)[0], gradient, params


def test_clipping_comes_first_and_spares_small_gradients():
    sgd = {"name": "sgd", "weight_decay": 0.0, "momentum": 0.0}
    update, gradient, _ = first_update(**sgd, clip_norm=0.5)
    np.testing.assert_allclose(optax.tree.norm(update), 0.5, rtol=1e-6)
    jax.tree.map(
        lambda u, g: np.testing.assert_allclose(u, -g * 0.5 / optax.tree.norm(gradient), rtol=1e-5),
        update,
        gradient,
    )
    update, gradient, _ = first_update(**sgd, clip_norm=1e3)
    jax.tree.map(lambda u, g: np.testing.assert_array_equal(u, -g), update, gradient)
    # The decay is added after the clip, so that it does not shrink with the gradient.
    update, _, params = first_update(**(sgd | {"weight_decay": 1.0}), clip_norm=1e-9)
    np.testing.assert_allclose(
        update["blocks"]["mlp"]["kernel"], -params["blocks"]["mlp"]["kernel"], atol=1e-8
    )


def test_decay_goes_by_name_not_by_dimensions():
    mask = decay_mask(tree(0))
    assert mask == {
        "patch_embed": {"kernel": True, "bias": False},
        "blocks": {
            "norm1": {"scale": False, "bias": False},
            "mlp": {"kernel": True, "bias": False},
            "layer_scale": {"gamma": False},
        },
        "cls_token": False,
        "pos_embed": False,
        "embed": {"embedding": True},
    }


@pytest.mark.parametrize(
    ("model", "decayed", "others"),
    [
        ("vit_b16", 86_292_480, 275_176),
        ("vit_ti16", 5_647_872, 69_544),
        ("resnet50", 25_502_912, 54_120),
    ],
)
def test_decayed_parameters_of_models_are_those_of_timm(model, decayed, others):
    _, params, _ = abstract_model(lambda rngs: jaxvision.create_model(model, rngs=rngs))
    counts = {True: 0, False: 0}
    for x, decay in zip(*map(jax.tree.leaves, (params, decay_mask(params))), strict=True):
        counts[decay] += x.size
    assert counts == {True: decayed, False: others}


def test_mask_of_shapes_is_the_mask_of_arrays():
    assert decay_mask(jax.eval_shape(lambda: tree(0))) == decay_mask(tree(0))


def test_unknown_parameter_name_says_where_to_add_it():
    params = {"neck": [{"kernel": jnp.ones(2)}, {"temperature": jnp.ones(())}]}
    with pytest.raises(InputError, match="neck/1/temperature: .*add 'temperature' to `not_dec"):
        make_optimizer(params, name="sgd", schedule=constant(1.0), weight_decay=0.0)
    assert decay_mask(params, frozenset({"temperature"}))["neck"][1] == {"temperature": False}
    assert decay_mask(params, frozenset({"neck"}))["neck"] == [
        {"kernel": False},
        {"temperature": False},
    ]


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "lion"])
def test_no_decay_adds_no_state_and_keeps_its_structure(name):
    params = tree(0)
    with_decay, without = (
        make_optimizer(params, name=name, schedule=constant(1.0), weight_decay=w).init(params)
        for w in (0.1, 0.0)
    )
    assert jax.tree.structure(with_decay) == jax.tree.structure(without)
    moments = {"adamw": 2, "sgd": 1, "lamb": 2, "lion": 1}[name]
    arrays = [x for x in jax.tree.leaves(without) if x.ndim]
    assert len(arrays) == moments * len(jax.tree.leaves(params))


def test_sgd_without_momentum_keeps_no_buffer():
    tx = make_optimizer(tree(0), name="sgd", schedule=constant(1.0), weight_decay=0.1, momentum=0.0)
    assert all(x.ndim == 0 for x in jax.tree.leaves(tx.init(tree(0))))


def test_lamb_leaves_biases_alone():
    update, gradient, params = first_update(name="lamb", weight_decay=0.0)
    # The first Adam step is -sign(gradient); LAMB gives it the norm of the parameter instead.
    np.testing.assert_allclose(jnp.abs(update["patch_embed"]["bias"]), 1.0, rtol=1e-5)
    kernel = jnp.linalg.norm(params["patch_embed"]["kernel"].ravel())
    np.testing.assert_allclose(
        jnp.linalg.norm(update["patch_embed"]["kernel"].ravel()), kernel, rtol=1e-5
    )


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "lion"])
def test_stacked_blocks_are_updated_as_a_list_of_blocks_is(name):
    params, gradients = tree(0), [tree(seed) for seed in range(1, 4)]
    options = {"name": name, "schedule": constant(0.01), "weight_decay": 0.1, "clip_norm": 1.0}
    together = ours(params, gradients, make_optimizer(params, **options))
    params, gradients = blocks_apart(params), [blocks_apart(gradient) for gradient in gradients]
    apart = ours(params, gradients, make_optimizer(params, **options))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
        blocks_apart(together),
        apart,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "adamx"}, "did you mean 'adam'"),
        ({"name": "sgd", "weight_decay": -1.0}, "optimizer.weight_decay must be in 0.0"),
        ({"name": "sgd", "clip_norm": -1.0}, "optimizer.clip_norm must be in 0.0"),
        ({"name": "sgd", "momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"name": "adamw", "b2": 99.0}, r"b2 must be in \[0, 1\), got 99.0"),
    ],
)
def test_errors(options, message):
    with pytest.raises(InputError, match=message):
        make_optimizer(tree(0), **({"schedule": constant(1.0), "weight_decay": 0.0} | options))
