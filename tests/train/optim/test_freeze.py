"""Parameters that are frozen, for good or until their step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from making import make_optimizer
from train import helpers

from jaxvision.models.image_model import LayerGroups
from jaxvision.options.optimizer import OPTIMIZERS
from jaxvision.train.checkpoint import Checkpointer
from jaxvision.train.optim.freeze import stop_frozen_gradients
from jaxvision.train.optim.param_groups import assign_groups
from jaxvision.train.optim.weight_average import Ema
from jaxvision.train.sharding import put_batch
from jaxvision.train.state import abstract_model, abstract_state

START = 3


def schedule(count):
    return 0.01 * (1 + jnp.asarray(count, jnp.float32))


def setup(build, *, name="adamw", clip_norm=0.5, **groups):
    """Returns the options of `helpers.make` and the groups."""
    _, params, _ = abstract_model(build)
    assigned = assign_groups(params, layer_groups=LayerGroups(), **groups)
    tx = make_optimizer(
        params,
        name=name,
        schedule=schedule,
        weight_decay=0.1,
        clip_norm=clip_norm,
        clip_factor=0.5,
        groups=assigned,
    )
    return {"build": build, "tx": tx, "stop_frozen": stop_frozen_gradients(assigned)}, assigned


VIT = functools.partial(helpers.build_vit, depth=4, scan=True)
VIT_LIST = functools.partial(helpers.build_vit, depth=4, scan=False)
CASES = pytest.mark.parametrize(
    "build",
    [
        pytest.param(VIT, id="stacked"),
        pytest.param(VIT_LIST, id="list", marks=pytest.mark.repeats),
        pytest.param(helpers.build_resnet, id="resnet"),
    ],
)


def by_name(tree):
    """Returns {path with one name for each block: array on the host}."""
    from jaxvision.interop.rules import flatten
    from jaxvision.layers.block_stack import unstack_blocks

    return flatten(unstack_blocks(jax.device_get(tree)))


def bits(x):
    return np.asarray(x).tobytes()


def history(steps, **options):
    """Returns the parameters after 0, 1, ... steps, the last state and the metrics."""
    state, step, mesh, _ = helpers.make(**options)
    seen, metrics = [by_name(state.params)], []
    for i in range(steps):
        state, m = step(state, put_batch(helpers.batch(i), mesh))
        seen.append(by_name(state.params))
        metrics.append(jax.device_get(m))
    assert step._cache_size() == 1
    return seen, state, metrics


@CASES
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_frozen_parameters_keep_every_bit_and_own_no_state(build, name):
    options, groups = setup(build, preset="late", name=name)
    seen, state, _ = history(3, **options)
    frozen = {n for n, g in groups.items() if g.start_step is None}
    assert frozen and frozen < seen[0].keys()
    still = {path for path, value in seen[0].items() if bits(value) == bits(seen[-1][path])}
    assert still >= frozen and not any(path.startswith("head") for path in still)
    # Behind a branch that begins with a scale of 0, the first gradients of SGD are too small.
    assert still == frozen or build is helpers.build_resnet
    arrays = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
    moments = {"adamw": 2, "sgd": 1}[name]
    size = sum(seen[0][path].size for path in seen[0].keys() - frozen)
    assert sum(x.size for x in arrays) == moments * size


def test_minus_zero_stays_minus_zero():
    params = {"a": {"kernel": jnp.full((2, 2), -0.0)}, "head": {"kernel": jnp.ones((2, 2))}}
    groups = assign_groups(params, layer_groups=LayerGroups(), preset="head")
    tx = make_optimizer(params, name="sgd", schedule=schedule, weight_decay=0.1, groups=groups)
    gradient = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(gradient, tx.init(params), params)
    after = optax.apply_updates(params, updates)
    assert bits(after["a"]["kernel"]) == bits(params["a"]["kernel"])


@CASES
def test_clipping_and_the_norm_are_those_of_what_is_trained(build):
    options, groups = setup(build, preset="head", name="sgd")
    _, _, metrics = history(1, **options)
    whole, _ = setup(build, name="sgd")
    state, _, _, graphdef = helpers.make(**whole)
    reference = reference_gradient(graphdef, state)
    wanted = {n: g for n, g in reference.items() if n.startswith("head")}
    np.testing.assert_allclose(metrics[0]["grad_norm"], optax.tree.norm(wanted), rtol=1e-5)

    # The optimizer alone, given gradients of everything: the head is clipped by its own norm.
    params = jax.tree.map(lambda x: jnp.ones_like(x), state.params)
    tx = make_optimizer(
        params,
        name="sgd",
        schedule=lambda count: 1.0,
        weight_decay=0.0,
        momentum=0.0,
        clip_norm=0.5,
        groups=groups,
    )
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(optax.tree.norm(updates), 0.5, rtol=1e-6)


def reference_gradient(graphdef, state):
    from flax import nnx

    from jaxvision.tasks.classification import Classification

    def loss(params):
        model = nnx.merge(graphdef, params, state.batch_stats, copy=True)
        batch = jax.tree.map(jnp.asarray, helpers.batch(0))
        images = helpers.preprocess(batch["image"])
        task, rngs = Classification(), nnx.Rngs(dropout=0)
        return task.loss(model, task.prepare(batch | {"image": images}), rngs=rngs)[0]

    return by_name(jax.jit(jax.grad(loss))(state.params))


@CASES
def test_unfreezing_moves_nothing_before_its_step(build):
    name = "adamw"
    timetable = {"preset": "head", "unfreeze": ((START, "late"),)}
    options, groups = setup(build, name=name, **timetable)
    seen, _, _ = history(START + 3, **options)
    late = {n for n, g in groups.items() if g.start_step == START}
    frozen = {n for n, g in groups.items() if g.start_step is None}
    for path in late | frozen:
        assert len({bits(values[path]) for values in seen[: START + 1]}) == 1
    for path in late:
        assert bits(seen[START][path]) != bits(seen[-1][path]), path
    for path in frozen:
        assert bits(seen[0][path]) == bits(seen[-1][path])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_unfrozen_moments_and_counts_begin_at_their_step(name):
    """What is unfrozen moves as under an optimizer that is made at that step."""
    rng = np.random.default_rng(0)
    shapes = {"blocks": {"kernel": (4, 3, 3)}, "head": {"kernel": (3, 2), "bias": (2,)}}
    draw = functools.partial(
        jax.tree.map,
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    params, gradients = draw(), [draw() for _ in range(START + 4)]
    make = functools.partial(make_optimizer, name=name, weight_decay=0.1, b2=0.9)
    groups = assign_groups(
        params, layer_groups=LayerGroups(), preset="head", unfreeze=((START, "blocks/[23]/"),)
    )
    tx = make(params, schedule=schedule, groups=groups)
    state, values = tx.init(params), params
    for gradient in gradients:
        updates, state = jax.jit(tx.update)(gradient, state, values)
        values = optax.apply_updates(values, updates)

    # The last two blocks by an optimizer that begins at START, at the rates of the run.
    part = {"blocks": {"kernel": params["blocks"]["kernel"][2:]}}
    late = make(part, schedule=lambda count: schedule(count + START))
    late_state = late.init(part)
    for gradient in gradients[START:]:
        updates, late_state = late.update(
            {"blocks": {"kernel": gradient["blocks"]["kernel"][2:]}}, late_state, part
        )
        part = optax.apply_updates(part, updates)
    moved = values["blocks"]["kernel"]
    np.testing.assert_allclose(moved[2:], part["blocks"]["kernel"], rtol=0, atol=1e-6)
    assert bits(moved[:2]) == bits(params["blocks"]["kernel"][:2])
    assert state.count == START + 4
    if name == "adamw":
        counts = state.parts[f"from_{START}"][0].count, state.parts["from_0"][0].count
        assert [int(count) for count in counts] == [4, START + 4]


@CASES
def test_a_run_goes_on_in_the_middle_of_its_timetable(build, tmp_path):
    timetable = {"preset": "head", "unfreeze": ((2, "late"), (5, "full"))}
    options, _ = setup(build, **timetable)
    options["average"] = Ema(0.9)
    state, step, mesh, _ = helpers.make(**options)
    abstract = abstract_state(build, options["tx"], mesh=mesh, ema=True)
    for i in range(4):
        state, _ = step(state, put_batch(helpers.batch(i), mesh))
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(4, state, {"next": 1})
        checkpointer.wait()
        restored, _, _ = checkpointer.restore(abstract)
    helpers.assert_equal(restored, state)
    for i in range(4, 7):
        state, _ = step(state, put_batch(helpers.batch(i), mesh))
        restored, _ = step(restored, put_batch(helpers.batch(i), mesh))
    helpers.assert_equal(restored, state)


def test_a_checkpoint_of_stacked_blocks_loads_into_a_list_of_blocks(tmp_path):
    timetable = {"preset": "head", "unfreeze": ((2, "late"),)}
    stacked, _ = setup(VIT, **timetable)
    apart, _ = setup(VIT_LIST, **timetable)
    state, step, mesh, _ = helpers.make(**stacked)
    for i in range(3):
        state, _ = step(state, put_batch(helpers.batch(i), mesh))
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(3, state, {"next": 1})
        checkpointer.wait()
        restored, _, _ = checkpointer.restore(abstract_state(VIT_LIST, apart["tx"], mesh=mesh))
    helpers.assert_equal(restored.opt_state, state.opt_state)
    for path, value in by_name(state.params).items():
        np.testing.assert_array_equal(by_name(restored.params)[path], value)


def test_skipped_steps_do_not_count_towards_the_timetable():
    options, groups = setup(VIT, preset="head", unfreeze=((1, "full"),))
    state, step, mesh, _ = helpers.make(**options)
    before = by_name(state.params)
    poison = lambda images: helpers.preprocess(images) * jnp.nan  # noqa: E731
    _, bad_step, _, _ = helpers.make(**options, preprocess_fn=poison)
    state, metrics = bad_step(state, put_batch(helpers.batch(0), mesh))
    assert metrics["skipped_steps"] == 1
    state, _ = step(state, put_batch(helpers.batch(0), mesh))
    after = by_name(state.params)
    moved = {path for path in before if bits(before[path]) != bits(after[path])}
    assert moved == {"head/kernel", "head/bias"}


def test_what_is_frozen_costs_no_backward_pass():
    whole, _ = setup(VIT)
    head, _ = setup(VIT, preset="head")
    flops = []
    for options in (whole, head):
        state, step, mesh, _ = helpers.make(**options)
        lowered = step.lower(state, put_batch(helpers.batch(0), mesh))
        flops.append(lowered.compile().cost_analysis()["flops"])
    assert flops[1] < 0.5 * flops[0]


def test_sharded_like_one_device():
    options, _ = setup(VIT, preset="head", unfreeze=((1, "late"),))
    alone, _ = helpers.run(3, **options)
    mesh = helpers.make_mesh(fsdp=2, devices=jax.devices()[:4])
    together, _ = helpers.run(3, mesh=mesh, **options)
    # Adam's first steps divide gradients by their own size, so the order of a sum shows: 2e-5.
    assert helpers.max_difference(alone.params, together.params) < 1e-4


def test_everything_trained_stops_no_gradient():
    _, groups = setup(VIT, layer_decay=0.5)
    assert stop_frozen_gradients(groups) is None
    late = {n: dataclasses.replace(g, start_step=2) for n, g in groups.items()}
    assert stop_frozen_gradients(late) is not None
