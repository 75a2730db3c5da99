"""The rules beside those of test_optimizer.py: against torch, timm, prodigyopt and schedulefree."""

import dataclasses
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from making import make_optimizer, make_schedule
from opening import evaluate_run, train
from train import helpers
from train.optim.test_optimizer import blocks_apart
from train.test_loop import Killed, config, metrics

from jaxvision.errors import InputError
from jaxvision.options.options import Options
from jaxvision.train.checkpoint import Checkpointer
from jaxvision.train.gradients import sharpness_aware
from jaxvision.train.optim.optimizer import decay_mask
from jaxvision.train.optim.param_groups import ParamGroup, param_names
from jaxvision.train.optim.update_rules import is_muon_matrix
from jaxvision.train.optim.weight_average import make_schedule_free
from jaxvision.train.sharding import put_batch
from jaxvision.train.state import TrainState, abstract_model

STEPS = 50
SHAPES = {
    "stem": {"kernel": (3, 3, 3, 8), "bias": (8,)},
    "depthwise": {"kernel": (3, 3, 1, 8)},
    "patch_embed": {"kernel": (4, 4, 3, 8)},
    "blocks": {"mlp": {"kernel": (2, 8, 24), "bias": (2, 24)}, "norm": {"scale": (2, 8)}},
    "head": {"kernel": (8, 5), "bias": (5,)},
}
NEW = ("muon", "nadamw", "adan", "adopt", "lars", "prodigy", "schedule_free_adamw")
NEW = (*NEW, "schedule_free_sgd")


def _poison(images):
    return jnp.where(jnp.all(images == 255), jnp.nan, helpers.preprocess(images))


def tree(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(0, 0.1, shape)),
        SHAPES,
        is_leaf=lambda x: type(x) is tuple,
    )


def constant(rate):
    return make_schedule("constant", learning_rate=rate, total_steps=STEPS)


def run(params, gradients, tx, average=None):
    """Returns the parameters after the updates, and their average if there is one."""

    @jax.jit
    def step(params, state, mean, gradient, count):
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        if average is not None:
            keep = average.decay(count)
            mean = jax.tree.map(lambda m, p: keep * m + (1 - keep) * p, mean, params)
        return params, state, mean

    state, mean = tx.init(params), params
    for count, gradient in enumerate(gradients, start=1):
        params, state, mean = step(params, state, mean, gradient, jnp.int32(count))
    return params, mean


def as_torch(name, array):
    """Returns a kernel as torch has it: outputs first; the matrix of Muon with two dimensions."""
    array = np.moveaxis(array, -1, 0) if array.ndim > 1 else array
    return array.reshape(len(array), -1) if name == "muon" and array.ndim > 1 else array


def theirs(name, params, gradients, rate, weight_decay, monkeypatch):
    """Returns the parameters after the steps of a PyTorch optimizer, and their average."""
    import prodigyopt
    import schedulefree
    import torch

    timm_optim: Any = importlib.import_module("timm.optim")
    made: Any
    params, gradients = blocks_apart(params), [blocks_apart(g) for g in gradients]
    leaves = [
        torch.nn.Parameter(torch.tensor(as_torch(name, np.asarray(x)).copy()))
        for x in jax.tree.leaves(params)
    ]
    decayed, matrix = (jax.tree.leaves(f(params)) for f in (decay_mask, is_muon_matrix))

    def groups(among=None):
        chosen = [
            (x, d)
            for i, (x, d) in enumerate(zip(leaves, decayed, strict=True))
            if among is None or among[i]
        ]
        split = [
            {"params": [x for x, d in chosen if d == w], "weight_decay": weight_decay * w}
            for w in (True, False)
        ]
        return [group for group in split if group["params"]]

    betas = {"lr": rate, "betas": (0.9, 0.99), "eps": 1e-8}
    if name == "muon":  # in bfloat16 by definition: here the same lines in float64
        monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())
        made = [
            torch.optim.Muon(groups(matrix), lr=rate, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(groups([not m for m in matrix]), **betas),
        ]
    elif name == "nadamw":
        # Its products of betas have the default precision.
        module = importlib.import_module("torch.optim.nadam")
        monkeypatch.setattr(module, "_get_scalar_dtype", lambda *_, **__: torch.float64)
        made = [
            torch.optim.NAdam(groups(), **betas, decoupled_weight_decay=True, momentum_decay=1e9)
        ]
    elif name == "adan":
        made = [timm_optim.Adan(groups(), lr=rate, eps=1e-8, no_prox=True)]
    elif name == "adopt":
        made = [timm_optim.Adopt(groups(), **betas, clip_exp=0.25, decoupled=True)]
        with torch.no_grad():  # its first step measures only; ours decays in it, too
            for x, d in zip(leaves, decayed, strict=True):
                x.mul_(1 - rate * weight_decay * d)
    elif name == "lars":
        made = [
            timm_optim.Lars(
                groups(), lr=rate, momentum=0.9, nesterov=True, trust_coeff=1e-3, eps=1e-8
            )
        ]
        for group in made[0].param_groups:
            group["always_adapt"] = False
    elif name == "prodigy":
        made = [prodigyopt.Prodigy(groups(), **betas, use_bias_correction=True)]
    elif name == "schedule_free_adamw":
        made = [schedulefree.AdamWScheduleFree(groups(), **betas, warmup_steps=10)]
    else:
        made = [schedulefree.SGDScheduleFree(groups(), lr=rate, momentum=0.9, warmup_steps=10)]
    if name.startswith("schedule_free"):
        made[0].train()
    for gradient in gradients:
        for leaf, value in zip(leaves, jax.tree.leaves(gradient), strict=True):
            leaf.grad = torch.tensor(as_torch(name, np.asarray(value)).copy())
        for optimizer in made:
            optimizer.step()
    last = [x.detach().numpy().copy() for x in leaves]
    if name.startswith("schedule_free"):
        made[0].eval()
    return last, [x.detach().numpy() for x in leaves]


@pytest.mark.parity
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("name", NEW)
def test_torch(name, weight_decay, monkeypatch):
    """50 steps in float64 are those of the PyTorch peer."""
    if name == "lars" and not weight_decay:
        pytest.skip("timm does not adapt without decay, ours does")
    rate = {"lars": 1.0, "prodigy": 1.0, "muon": 0.02, "schedule_free_sgd": 0.1}.get(name, 0.01)
    with jax.enable_x64(True):
        params, gradients = tree(0), [tree(seed) for seed in range(1, STEPS + 1)]
        if name == "prodigy":  # its rate grows along gradients that agree
            gradients = [jax.tree.map(lambda g, m: g + 3 * m, x, tree(99)) for x in gradients]
        free = name.startswith("schedule_free")
        schedule = make_schedule(
            "constant", learning_rate=rate, total_steps=STEPS, warmup_steps=10 * free
        )
        tx = make_optimizer(
            params, name=name, schedule=schedule, weight_decay=weight_decay, b2=0.99, momentum=0.9
        )
        average = make_schedule_free(0.9, schedule, 10) if free else None
        got = run(params, gradients, tx, average)
        expected = theirs(name, params, gradients, rate, weight_decay, monkeypatch)
        for ours, peers in zip(got[: 1 + free], expected, strict=False):
            flat = jax.tree.leaves(blocks_apart(ours))
            before = jax.tree.leaves(blocks_apart(params))
            for a, b, start in zip(flat, peers, before, strict=True):
                np.testing.assert_allclose(as_torch(name, np.asarray(a)), b, rtol=1e-12, atol=1e-12)
                assert np.abs(a - start).max() > 1e-4


@pytest.mark.parametrize("name", ["muon", "prodigy"])
def test_steps(name):
    """What is not finite changes nothing; micro-batches change nothing but the rounding."""
    graphdef, params, _ = abstract_model(helpers.build_vit)
    tx = make_optimizer(params, name=name, schedule=constant(0.01), weight_decay=0.1, clip_norm=1.0)
    state, step, mesh, _ = helpers.make(tx=tx, preprocess_fn=_poison, accumulate_steps=2)
    state, _ = step(state, put_batch(helpers.batch(0), mesh))
    before = jax.device_get((state.params, state.opt_state))
    bad = helpers.batch(1)
    bad["image"][:] = 255
    state, found = step(state, put_batch(bad, mesh))
    assert int(found["skipped_steps"]) == 1
    helpers.assert_equal(jax.device_get((state.params, state.opt_state)), before)
    state, _ = step(state, put_batch(helpers.batch(2), mesh))
    assert helpers.max_difference(state.params, before[0]) > 0


def test_schedule_free_run_resumes_bit_for_bit(tmp_path, monkeypatch):
    """It is evaluated at the average, whose BatchNorms are measured anew."""
    options = {
        "model.name": "resnet18",
        "model.kwargs": dict(stage_widths=(8, 16), stage_depths=(1, 1), stem="cifar"),
        "optimizer.name": "schedule_free_adamw",
        "schedule.name": "constant",
        "schedule.warmup_steps": 3,
        "ema_decay": 0.0,
        "swa.batch_norm_batches": 2,
        "total_steps": 6,
        "checkpoint.every_steps": 3,
        "checkpoint.best_metric": "eval_schedule_free/accuracy",
        "eval.every_steps": 6,
    }
    whole: Any = train(config(**options), tmp_path / "whole")
    last = [m for m in metrics(tmp_path / "whole") if "eval_schedule_free/loss" in m][-1]
    found = evaluate_run(config(**options), tmp_path / "whole")
    assert found["eval_schedule_free/loss"] == last["eval_schedule_free/loss"]
    assert found["eval_schedule_free/loss"] != found["eval/loss"]
    at = optax.contrib.schedule_free_eval_params(whole.opt_state[-1], whole.params)
    assert helpers.max_difference(at, whole.ema_params) < 1e-5

    save = Checkpointer.save

    def save_then_die(self, step, *args):
        save(self, step, *args)
        self.wait()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", save_then_die)
        with pytest.raises(Killed):
            train(config(**options), tmp_path / "parts")
    helpers.assert_equal(train(config(**options), tmp_path / "parts"), whole)


def test_muon_takes_matrices():
    assert is_muon_matrix(tree(0)) == {
        "stem": {"kernel": True, "bias": False},
        "depthwise": {"kernel": False},
        "patch_embed": {"kernel": False},
        "blocks": {"mlp": {"kernel": True, "bias": False}, "norm": {"scale": False}},
        "head": {"kernel": False, "bias": False},
    }


def test_an_update_of_muon_is_nearly_orthogonal_in_each_block():
    params = tree(0)
    tx = make_optimizer(params, name="muon", schedule=constant(1.0), weight_decay=0.0)
    update, _ = tx.update(tree(1), tx.init(params), params)
    for block in update["blocks"]["mlp"]["kernel"]:
        sizes = np.linalg.svd(np.asarray(block), compute_uv=False) / (0.2 * np.sqrt(24))
        assert 0.6 < sizes.min() and sizes.max() < 1.3


@pytest.mark.parametrize("name", ["muon", "lars", "prodigy", "schedule_free_sgd"])
def test_stacks_groups_and_frozen_parts(name):
    """A stack of blocks moves as a list of them; a frozen parameter keeps every bit."""
    params, gradients = tree(0), [tree(seed) for seed in range(1, 4)]
    names = param_names(params)
    groups = dict.fromkeys(names, ParamGroup())
    groups["stem/kernel"] = ParamGroup("frozen", start_step=None)
    groups["blocks/1/mlp/kernel"] = ParamGroup("slow", learning_rate=0.5, weight_decay=0.0)
    options = {"name": name, "schedule": constant(0.01), "weight_decay": 0.1, "clip_norm": 1.0}
    make = {"groups": groups, **options}
    together, _ = run(params, gradients, make_optimizer(params, **make))
    apart = blocks_apart(params)
    apart, _ = run(apart, [blocks_apart(g) for g in gradients], make_optimizer(apart, **make))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-6),
        blocks_apart(together),
        apart,
    )
    np.testing.assert_array_equal(together["stem"]["kernel"], params["stem"]["kernel"])
    assert np.abs(together["head"]["kernel"] - params["head"]["kernel"]).max() > 0


@pytest.mark.parametrize("adaptive", [False, True])
def test_sharpness_aware_gradient(adaptive):
    """It is that of davda54/sam's two steps: written out by torch's autograd."""
    import torch

    start = np.array([0.5, -2.0, 1.0], np.float32)

    def gradient_fn(state, batch, key, constants):
        return jax.grad(lambda p: jnp.sum(p["w"] ** 4))(state.params), {"loss": 0.0}, {}

    nothing: Any = dict.fromkeys(f.name for f in dataclasses.fields(TrainState))
    state = TrainState(**nothing | {"params": {"w": jnp.asarray(start)}})
    sam = sharpness_aware(gradient_fn, rho=0.1, adaptive=adaptive)
    got, _, _ = sam(state, {}, jax.random.key(0), None)
    w = torch.tensor(start, requires_grad=True)
    (w**4).sum().backward()
    assert w.grad is not None
    scale = 0.1 / ((w.abs() if adaptive else 1.0) * w.grad).norm()
    uphill = (w + (w**2 if adaptive else 1.0) * w.grad * scale).detach().requires_grad_()
    (uphill**4).sum().backward()
    assert uphill.grad is not None
    np.testing.assert_allclose(got["w"], uphill.grad.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": {"name": "warmup_cosine"}}, "needs a rate that stays"),
        ({"schedule": {"name": "constant", "cooldown_steps": 3}}, "without a cooldown"),
        ({"ema_decay": 0.9}, "averages the weights itself"),
        ({"swa": {"start_percent": 75.0}}, "averages the weights itself"),
        ({"optimizer": {"unfreeze": ((1, "full"),)}}, "leave --config.optimizer.unfreeze out"),
        ({"optimizer": {"b1": 0.0}}, "b1 must be above 0"),
        ({"optimizer": {"adan_betas": (0.9, 1.0, 0.9)}}, "adan_betas must be three numbers"),
        ({"optimizer": {"sam_rho": -1.0}}, "sam_rho must be in 0.0"),
    ],
)
def test_errors(options: Any, message):
    """What makes no sense beside a schedule-free rule is refused in one sentence."""
    from jaxvision.options.averaging import SwaOptions
    from jaxvision.options.optimizer import OptimizerOptions
    from jaxvision.options.schedule import ScheduleOptions

    optimizer = {"name": "schedule_free_adamw"} | options.pop("optimizer", {})
    schedule = options.pop("schedule", {"name": "constant"})
    with pytest.raises(InputError, match=message):
        if "swa" in options:
            options["swa"] = SwaOptions(**options["swa"])
        Options(
            optimizer=OptimizerOptions(**optimizer), schedule=ScheduleOptions(**schedule), **options
        )
