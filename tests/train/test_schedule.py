import importlib.util
import inspect
import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvision.errors import InputError
from jaxvision.train.schedule import make_schedule

# Seven printed digits and one float32 rounding.
GOLDEN_RTOL = 6e-7


def rates(schedule, steps):
    return np.asarray(jax.vmap(jax.jit(schedule))(jnp.arange(steps)))


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 2e-4),
        (3, 8e-4),
        (4, 1e-3),
        (5, 1e-3),
        (6, 9.997269e-4),
        (52, 5.087587e-4),
        (99, 1.273098e-06),
        (100, 1e-6),
        (1000, 1e-6),
    ],
)
def test_warmup_cosine_golden(step, expected):
    schedule = make_schedule(
        "warmup_cosine",
        learning_rate=1e-3,
        total_steps=100,
        warmup_steps=5,
        end_learning_rate=1e-6,
    )
    np.testing.assert_allclose(schedule(step), expected, rtol=GOLDEN_RTOL)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1),
        (1, 0.09997533),
        (25, 0.08535549),
        (50, 0.0500005),
        (75, 0.01464551),
        (99, 2.567173e-05),
        (100, 1e-6),
    ],
)
def test_cosine_without_warmup_golden(step, expected):
    schedule = make_schedule(
        "warmup_cosine", learning_rate=0.1, total_steps=100, end_learning_rate=1e-6
    )
    np.testing.assert_allclose(schedule(step), expected, rtol=GOLDEN_RTOL)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.1), (29, 0.1), (30, 0.01), (60, 0.001), (90, 1e-4)]
)
def test_step_golden(step, expected):
    schedule = make_schedule("step", learning_rate=0.1, total_steps=100, step_steps=30)
    np.testing.assert_allclose(schedule(step), expected, rtol=GOLDEN_RTOL)


def test_constant_with_warmup():
    schedule = make_schedule("constant", learning_rate=0.5, total_steps=10, warmup_steps=4)
    np.testing.assert_allclose(rates(schedule, 7), [0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5])


@pytest.mark.parametrize("warmup_steps", [0, 1, 7])
def test_optax_convention_is_optax(warmup_steps):
    ours = make_schedule(
        "warmup_cosine",
        learning_rate=1e-3,
        total_steps=60,
        warmup_steps=warmup_steps,
        warmup_convention="optax",
        end_learning_rate=1e-5,
    )
    theirs = optax.warmup_cosine_decay_schedule(0.0, 1e-3, warmup_steps, 60, 1e-5)
    # Near the end optax loses digits in 1 + cos: about 1e-3 x 6e-8.
    np.testing.assert_allclose(rates(ours, 70), rates(theirs, 70), rtol=5e-7, atol=1e-10)


@pytest.mark.parametrize("name", ["warmup_cosine", "step", "constant"])
def test_is_a_float32_scalar_of_a_traced_step(name):
    schedule = make_schedule(name, learning_rate=1e-3, total_steps=10, warmup_steps=2, step_steps=3)
    rate = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
    assert rate.shape == () and rate.dtype == jnp.float32
    # jit may round a product and a sum once instead of twice
    np.testing.assert_allclose(jax.jit(schedule)(5), schedule(5), rtol=2e-7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "warmup_cosin"}, "did you mean 'warmup_cosine'"),
        ({"name": "cosine"}, "did you mean 'warmup_cosine'"),
        ({"warmup_convention": "pytorch"}, "did you mean 'torch'"),
        ({"warmup_steps": 100}, "got 100 warmup steps of 100 steps"),
        ({"warmup_steps": -1}, "got -1 warmup steps"),
        ({"total_steps": 0}, "of 0 steps"),
        ({"learning_rate": -0.1}, "must not be negative, got -0.1"),
        ({"end_learning_rate": 1.0}, r"in 0..0.1 \(the peak\), got 1.0"),
        ({"name": "step"}, "step_steps of at least 1"),
        ({"name": "step", "step_steps": 3, "step_factor": 0.0}, "positive step_factor"),
    ],
)
def test_errors(changes, message):
    options = {"name": "warmup_cosine", "learning_rate": 0.1, "total_steps": 100} | changes
    with pytest.raises(InputError, match=message):
        make_schedule(options.pop("name"), **options)


def test_defaults_are_those_of_the_config():
    path = pathlib.Path(__file__).parents[2] / "configs" / "common.py"
    spec = importlib.util.spec_from_file_location("common", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config().schedule
    parameters = inspect.signature(make_schedule).parameters
    for name in ("warmup_convention", "warmup_steps", "end_learning_rate", "step_factor"):
        assert parameters[name].default == config[name], name


def torch_rates(make_scheduler, steps):
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        scheduler = make_scheduler(optimizer)
        values = []
        for _ in range(steps):
            values.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return values


@pytest.mark.parity
@pytest.mark.parametrize("warmup_steps", [0, 2, 20])
def test_torch_warmup_cosine(warmup_steps):
    from torch.optim import lr_scheduler as torch_lr

    def scheduler(optimizer):
        cosine = torch_lr.CosineAnnealingLR(optimizer, 100 - warmup_steps, eta_min=1e-4)
        if not warmup_steps:
            return cosine
        warmup = torch_lr.LinearLR(optimizer, 1 / warmup_steps, total_iters=warmup_steps - 1)
        return torch_lr.SequentialLR(optimizer, [warmup, cosine], [warmup_steps])

    ours = make_schedule(
        "warmup_cosine",
        learning_rate=0.1,
        total_steps=100,
        warmup_steps=warmup_steps,
        end_learning_rate=1e-4,
    )
    np.testing.assert_allclose(rates(ours, 100), torch_rates(scheduler, 100), rtol=5e-7)


@pytest.mark.parity
@pytest.mark.parametrize("warmup_steps", [0, 5, 12])
@pytest.mark.parametrize("step_steps", [10, 33])
def test_torch_step(warmup_steps, step_steps):
    from torch.optim import lr_scheduler as torch_lr

    def scheduler(optimizer):
        drops = torch_lr.StepLR(optimizer, step_steps, gamma=0.1)
        if not warmup_steps:
            return drops
        warmup = torch_lr.LinearLR(optimizer, 1 / warmup_steps, total_iters=warmup_steps - 1)
        return torch_lr.ChainedScheduler([warmup, drops])

    ours = make_schedule(
        "step",
        learning_rate=0.1,
        total_steps=100,
        warmup_steps=warmup_steps,
        step_steps=step_steps,
    )
    np.testing.assert_allclose(rates(ours, 100), torch_rates(scheduler, 100), rtol=2e-6)
