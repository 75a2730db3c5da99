"""Parameter groups with schedules of their own against torch's LambdaLR with one lambda each."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from making import run_length

from configs import common
from jaxvision.errors import InputError
from jaxvision.models.image_model import LayerGroups
from jaxvision.options.options import read_options
from jaxvision.train.optim.optimizer import make_optimizer
from jaxvision.train.optim.update import run_groups, run_schedule

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

STEPS, RATE, DECAY = 12, 0.1, 0.01
# Sums of 12 updates of about 0.1; measured 3e-7 in float32, 1e-16 in float64. Adam's divisor
# 1 - 0.999^t has lost 5e-5 of itself in float32, of which torch computes it in float64.
ATOL = 1e-12 if jax.config.jax_enable_x64 else 2e-6
ADAM_ATOL = 1e-12 if jax.config.jax_enable_x64 else 1e-4
DTYPE = "float64" if jax.config.jax_enable_x64 else "float32"
LENGTH = run_length(STEPS, 64, 64)


def config_of(name, rules, **options):
    config = common.get_config()
    config.batch_size = 64
    config.optimizer.name = name
    config.optimizer.learning_rate = RATE
    config.optimizer.weight_decay = DECAY
    config.optimizer.rules = rules
    config.schedule.warmup_steps = 3
    with config.unlocked():
        config.update_from_flattened_dict(options)
    return read_options(config)


def parameters():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape).astype(DTYPE))  # noqa: E731
    return {
        "blocks": {"mlp": {"kernel": draw(3, 4, 5)}},  # three blocks, stacked
        "stem": {"kernel": draw(4, 4)},
        "head": {"kernel": draw(5, 2)},
    }


def cosine(step, warmup):
    warm = min((step + 1) / warmup, 1.0) if warmup else 1.0
    left = min(max(STEPS - step, 0), STEPS - warmup) / (STEPS - warmup)
    return warm * np.sin(np.pi / 2 * left) ** 2


LAMBDAS = {  # of the rules below, in torch's words
    "blocks/0": lambda step: 1.0,  # constant, without the warmup
    "head": lambda step: 0.5 * cosine(step, 6),  # twice the warmup, half the rate
    "rest": lambda step: cosine(step, 3),
}
RULES = (
    ("blocks/0/", {"schedule": {"name": "constant", "warmup_steps": 0}}),
    ("head/", {"learning_rate": 0.5, "schedule": {"warmup_percent": 50.0}}),
)


@pytest.mark.parametrize("name", ["adamw", "sgd", "rmsprop_tf"])
@pytest.mark.parametrize("start", [0, 4])
def test_each_group_follows_its_own_lambda(name, start):
    if name == "rmsprop_tf":
        timm_optim = pytest.importorskip("timm.optim")
    params = parameters()
    rules = RULES
    options = {}
    if start:  # the head waits, and then has the rate of the run's steps, not of its own
        rules = (RULES[0], ("head/", RULES[1][1] | {"frozen": True}))
        options = {"optimizer.unfreeze": ((start, "head"),)}
    config = config_of(name, rules, **options)
    groups = run_groups(config, params, layer_groups=LayerGroups(), length=LENGTH)
    tx = make_optimizer(
        params, config.optimizer, schedule=run_schedule(config, LENGTH), groups=groups
    )

    blocks = [torch.from_numpy(np.array(x)) for x in params["blocks"]["mlp"]["kernel"]]
    theirs = {
        "blocks/0": [blocks[0]],
        "head": [torch.from_numpy(np.array(params["head"]["kernel"]))],
        "rest": [*blocks[1:], torch.from_numpy(np.array(params["stem"]["kernel"]))],
    }
    for tensors in theirs.values():
        for tensor in tensors:
            tensor.requires_grad_()
    torch_groups = [{"params": tensors} for tensors in theirs.values()]
    if name == "adamw":
        optimizer = torch.optim.AdamW(torch_groups, lr=RATE, weight_decay=DECAY)
    elif name == "sgd":
        optimizer = torch.optim.SGD(
            torch_groups, lr=RATE, momentum=0.9, nesterov=True, weight_decay=DECAY
        )
    else:
        config_eps = config.optimizer.eps
        optimizer = timm_optim.RMSpropTF(
            torch_groups, lr=RATE, alpha=0.999, eps=config_eps, momentum=0.9, weight_decay=DECAY
        )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, list(LAMBDAS.values()))

    state = tx.init(params)
    update = jax.jit(tx.update)
    rng = np.random.default_rng(1)
    for step in range(STEPS):
        grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), DTYPE), params)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        stacked = grads["blocks"]["mlp"]["kernel"]
        parts = {
            "blocks/0": [stacked[0]],
            "head": [grads["head"]["kernel"]],
            "rest": [stacked[1], stacked[2], grads["stem"]["kernel"]],
        }
        for group, tensors in theirs.items():
            for tensor, gradient in zip(tensors, parts[group], strict=True):
                waits = group == "head" and step < start
                tensor.grad = None if waits else torch.from_numpy(np.array(gradient))
        optimizer.step()
        scheduler.step()
    atol = ADAM_ATOL if name == "adamw" else ATOL
    ours = params["blocks"]["mlp"]["kernel"]
    for block, tensor in zip(ours, blocks, strict=True):
        np.testing.assert_allclose(block, tensor.detach().numpy(), rtol=0, atol=atol)
    for module, tensor in (("head", theirs["head"][0]), ("stem", theirs["rest"][-1])):
        np.testing.assert_allclose(
            params[module]["kernel"], tensor.detach().numpy(), rtol=0, atol=atol
        )


def test_one_schedule_for_all_keeps_the_state_as_it_was():
    params = parameters()
    config = config_of("adamw", ())
    plain = make_optimizer(
        params,
        config.optimizer,
        schedule=run_schedule(config, LENGTH),
        groups=run_groups(config, params, layer_groups=LayerGroups(), length=LENGTH),
    )
    config = config_of("adamw", RULES[:1])
    groups = run_groups(config, params, layer_groups=LayerGroups(), length=LENGTH)
    own = make_optimizer(
        params, config.optimizer, schedule=run_schedule(config, LENGTH), groups=groups
    )
    shapes = [jax.tree.map(jnp.shape, tx.init(params)) for tx in (plain, own)]
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])


@pytest.mark.parametrize(
    "own", [{"nam": "constant"}, {"warmup_steps": "3"}, {"name": 3}, "constant"]
)
def test_a_schedule_that_is_none_is_refused(own):
    config = config_of("adamw", (("head/", {"schedule": own}),))
    with pytest.raises(InputError, match="dict of options of\n? ?.*config.schedule"):
        run_groups(config, parameters(), layer_groups=LayerGroups(), length=LENGTH)
