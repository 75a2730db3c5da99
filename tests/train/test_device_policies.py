"""Policies on the devices: the host's operations, strengths and pixels, from draws of their own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train.test_device_ops import pictures

from jaxvision.data.augment import operations
from jaxvision.data.augment.auto_augment import POLICIES, AutoAugment
from jaxvision.data.augment.operations import apply_operation
from jaxvision.data.augment.policies import AugMix, RandAugment, TrivialAugment
from jaxvision.train.device_policies import (
    apply_numbers,
    apply_policy,
    aug_mix,
    blend_versions,
    draw_rows,
    numbers_of,
)

HOSTS = {
    **{f"RandAugment {m}": RandAugment(2, m) for m in (0, 9, 30)},
    "TrivialAugment": TrivialAugment(),
    **{f"AutoAugment {name}": AutoAugment(name) for name in POLICIES},
}
# Largest difference in levels; all others are equal.
INEXACT = {"contrast": 1, "color": 1, "sharpness": 1, "brightness": 1}


@functools.partial(jax.jit, static_argnames=("names", "bilinear"))
def every_row(images, numbers, names, bilinear):
    one = functools.partial(apply_numbers, names=names, bilinear=bilinear)
    return jax.vmap(lambda row: jax.vmap(lambda image: one(image, row))(images))(numbers)


@pytest.mark.parametrize(("size", "interpolation"), [((24, 31), "nearest"), ((24, 24), "bilinear")])
def test_every_operation_at_every_strength_is_the_hosts(size, interpolation):
    """Of all policies together, in the one form that computes each stage once."""
    policies = [*HOSTS.values(), AugMix(severity=10)]
    rows = {row for policy in policies for row in policy.choices.table(*size)[0]}
    rows |= {row for m in range(31) for row in RandAugment(1, m).choices.table(*size)[0]}
    rows, bilinear = sorted(rows), interpolation == "bilinear"
    random, _, natural, _, _, narrow, *_ = pictures(*size)
    images = [random, natural, narrow]
    names = frozenset(name for name, _ in rows)
    assert names == frozenset(operations.OPERATIONS) and len(rows) > 500
    numbers = numbers_of(rows, *size, bilinear=bilinear)
    found = np.asarray(every_row(jnp.asarray(np.stack(images)), numbers, names, bilinear))
    worst = dict.fromkeys(names, 0)
    for (name, strength), ours in zip(rows, found, strict=True):
        for image, one in zip(images, ours, strict=True):
            theirs = apply_operation(image, name, strength, interpolation=interpolation)
            worst[name] = max(worst[name], int(np.abs(one.astype(int) - theirs).max()))
    warps = {"shear_x", "shear_y", "rotate"} if bilinear else set()
    limits = INEXACT | dict.fromkeys(warps, 1)
    assert {name: value for name, value in worst.items() if value > limits.get(name, 0)} == {}


class Prescribed(np.random.Generator):
    """A generator that gives the host what a round of the device has drawn."""

    def __init__(self, plan, chances, others, plans):
        super().__init__(np.random.Philox(0))
        self.plan, self.plans, self.step = plan, plans, -1
        self.chances, self.others = chances, others

    def integers(self, end):
        if end == 2:
            return self.others[max(self.step, 0)]
        if end == self.plans:
            return self.plan
        return self.plan // 31 if end == 14 else self.plan % 31  # TrivialAugment draws both

    def random(self):
        self.step += 1
        return self.chances[self.step]


@pytest.mark.parametrize("name", HOSTS)
def test_host_and_device_choose_the_same_from_the_same_draw(name, monkeypatch):
    host, image = HOSTS[name], np.zeros((20, 24, 3), np.uint8)
    choices = host.choices
    rows, table, probabilities = choices.table(20, 24)
    done = []
    monkeypatch.setattr(
        operations, "apply_operation", lambda image, *row, **_: done.append(row) or image
    )
    rng, (plans, steps) = np.random.default_rng(0), probabilities.shape
    for plan in [*range(plans)] * 3:
        chances, others = rng.random(steps, np.float32), rng.integers(0, 2, steps)
        done.clear()
        host(image, Prescribed(plan, chances.astype(float), others, plans))
        drawn = np.where(chances < probabilities[plan], table[plan, range(steps), others], 0)
        happened = [rows[row] for row in drawn if row or probabilities[plan].min() == 1]
        assert done == happened * choices.rounds


@pytest.mark.parametrize("name", ["RandAugment 9", "TrivialAugment", "AutoAugment svhn"])
def test_draws_are_even(name):
    rows, table, probabilities = HOSTS[name].choices.table(20, 24)
    keys = jax.random.split(jax.random.key(0), 20_000)
    draw = functools.partial(draw_rows, table=table, probabilities=probabilities)
    drawn = np.asarray(jax.jit(jax.vmap(draw))(keys))
    expected = np.zeros(len(rows))
    for plan, chances in zip(table, probabilities, strict=True):
        for pair, chance in zip(plan, chances, strict=True):
            np.add.at(expected, pair, chance / 2)
            expected[0] += 1 - chance
    found = np.bincount(drawn.ravel(), minlength=len(rows)) / len(keys)
    np.testing.assert_allclose(found, expected / len(table), atol=0.012)


def test_a_policy_applies_what_it_draws():
    choices = AutoAugment("imagenet").choices
    rows, table, probabilities = choices.table(24, 24)
    image = pictures(24, 24)[2]
    run = jax.jit(functools.partial(apply_policy, choices=choices))
    for seed in range(30):
        key = jax.random.key(seed)
        drawn = draw_rows(jax.random.split(key, 1)[0], table, probabilities)
        expected = image
        for row in drawn:
            name, strength = rows[int(row)]
            expected = apply_operation(expected, name, strength)
        assert np.abs(np.asarray(run(key, jnp.asarray(image)), int) - expected).max() <= 2


def test_aug_mix_without_operations_is_the_image_and_blends_as_the_host():
    image, *others = (jnp.asarray(one) for one in pictures(24, 24)[:4])
    weights = jnp.float32([0.2, 0.05, 0.4])
    versions = jnp.stack(others).astype(jnp.float32)
    found = np.asarray(blend_versions(image, versions, weights), int)
    exact = np.asarray(image) * 0.35 + np.tensordot(np.float64([0.2, 0.05, 0.4]), versions, 1)
    assert np.abs(found - exact).max() <= 0.501
    choices = dataclasses.replace(AugMix().choices, plans=((("identity", None, 0),),))
    mixed = aug_mix(
        jax.random.key(0), image, choices=choices, width=3, depths=(1, 3), bilinear=True
    )
    np.testing.assert_array_equal(mixed, image)


def test_sharpness_of_a_large_image_beside_a_warp():
    """XLA for CPUs wrote the sharpened pixels over those that it had yet to read."""
    image = pictures(224, 224)[2]
    numbers = numbers_of([("sharpness", 0.9)] * 8, 224, 224, bilinear=True)
    names = frozenset(("sharpness", "rotate"))
    found = every_row(jnp.asarray(image)[None], numbers, names, True)[:, 0]
    theirs = apply_operation(image, "sharpness", 0.9)
    assert np.abs(np.asarray(found, int) - theirs).max() <= 1
