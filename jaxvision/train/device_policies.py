"""RandAugment, TrivialAugment and AutoAugment on the devices: one image, under a key of its own.

What a draw means is `Choices.table`, the host's too. Only the random bits are others: threefry's
of an example's key here, Philox's there.

A branch per operation (`lax.switch`) under `jax.vmap` computes all of them for every example. Here
every example goes through four stages instead, each once, with numbers that change nothing where
its operation is another: a table of levels, levels (solarize, posterize), a blend, a warp. An
operation of RandAugment on 256 images of 224 pixels moves 0.5 GB on an H100, and 1.3 GB in
branches, by the compiled programs; on a CPU, an image takes 4 ms of a core, and 9 ms. One example
after the other (`lax.map`) takes 0.2 ms there, as on the host, but a GPU would wait for each of
them in turn, and a batch that is split over devices would be gathered.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxvision.data.augment.operations import Choices, warp_matrix
from jaxvision.train import device_ops, device_warp
from jaxvision.train.device_warp import Pixels

_WARPS = frozenset(("shear_x", "shear_y", "translate_x", "translate_y", "rotate"))
_BLENDS = ("brightness", "contrast", "color", "sharpness")
_LEVELS = frozenset(("solarize", "invert"))
_TABLES = ("identity", "autocontrast", "equalize")
_Values = jax.Array | np.ndarray | np.generic


class Numbers(NamedTuple):
    """What the stages do to one image, or with a leading axis to several.

    Attributes:
      warp: Coefficients of the warp, see `warp_coefficients`.
      start: Place in `_BLENDS` of what is blended with the image.
      factor: Factor of the blend; 1: none.
      threshold: Level from which on levels are inverted; 256: none.
      mask: Bits of a level that are left; 255: all.
      table: Place in `_TABLES` of the table of levels.
    """

    warp: _Values
    start: _Values
    factor: _Values
    threshold: _Values
    mask: _Values
    table: _Values


def numbers_of(
    rows: list[tuple[str, float]], height: int, width: int, *, bilinear: bool
) -> Numbers:
    """Returns the numbers of several operations, computed in float64 as the host's.

    Args:
      rows: Names of `OPERATIONS`, each with its signed strength.
      height: Height of the images, in pixels.
      width: Width of the images, in pixels.
      bilinear: Whether warps interpolate, or else take the nearest pixel.
    """

    def one(name: str, strength: float) -> Numbers:
        threshold = {"solarize": int(np.ceil(strength)), "invert": 0}.get(name, 256)
        matrix = warp_matrix(name, strength, height, width)
        return Numbers(
            device_warp.warp_coefficients(matrix, bilinear=bilinear),
            np.int32(_BLENDS.index(name) if name in _BLENDS else 0),
            np.float32(1 + strength if name in _BLENDS else 1),
            np.int32(threshold),
            np.int32(256 - (1 << (8 - int(strength))) if name == "posterize" else 255),
            np.int32(_TABLES.index(name) if name in _TABLES else 0),
        )

    return jax.tree.map(lambda *parts: np.stack(parts), *(one(*row) for row in rows))


def apply_numbers(
    image: Pixels, numbers: Numbers, *, names: frozenset[str], bilinear: bool
) -> Pixels:
    """Returns the image after the operation of which these are the numbers.

    Args:
      image: Image to change.
      numbers: Numbers of one operation, see `numbers_of`.
      names: Names of all operations that the numbers may be of; stages of others are left out.
      bilinear: Whether warps interpolate, or else take the nearest pixel.
    """
    before = image  # all stages look at this one, so that none is computed for each use of it
    makers = {
        "autocontrast": device_ops.autocontrast_table,
        "equalize": device_ops.equalize_table,
    }
    if names & set(makers):
        counts = device_ops.histogram(before)
        table = jnp.broadcast_to(jnp.arange(256, dtype=jnp.uint8)[:, None], (256, 3))
        for name in sorted(names & set(makers)):
            table = jnp.where(numbers.table == _TABLES.index(name), makers[name](counts), table)
        image = device_ops.look_up(image, table)
    if names & _LEVELS:
        image = device_ops.solarize(image, jnp.asarray(numbers.threshold))
    if "posterize" in names:
        image = device_ops.posterize(image, jnp.asarray(numbers.mask))
    if names & set(_BLENDS):
        starts = {
            "contrast": device_ops.mean_level,
            "color": device_ops.grayscale,
            "sharpness": device_ops.smooth,
        }
        start = jnp.zeros_like(image)  # brightness: black
        for name in sorted(names & set(starts)):
            other = starts[name](before).astype(jnp.uint8)
            start = jnp.where(numbers.start == _BLENDS.index(name), other, start)
        image = device_ops.blend(start, image, jnp.asarray(numbers.factor))
    if names & _WARPS:
        image = device_warp.warp(image, jnp.asarray(numbers.warp), bilinear=bilinear)
    return image


def apply_policy(
    key: PRNGKeyArray, image: Pixels, *, choices: Choices, bilinear: bool = False
) -> Pixels:
    """Returns the image after the rounds of a policy.

    Args:
      key: Key of the example.
      image: Image to change.
      choices: What the policy chooses from.
      bilinear: Whether warps interpolate, or else take the nearest pixel.
    """
    _, table, probabilities = choices.table(*image.shape[:2])
    draw = functools.partial(draw_rows, table=table, probabilities=probabilities)
    rows = jax.vmap(draw)(jax.random.split(key, choices.rounds)).ravel()
    return apply_rows(image, rows, choices=choices, bilinear=bilinear)


def aug_mix(
    key: PRNGKeyArray,
    image: Pixels,
    *,
    choices: Choices,
    width: int,
    depths: tuple[int, int],
    bilinear: bool,
) -> Pixels:
    """Returns a blend of the image with its versions after short chains of operations.

    The weights are `AugMix`'s of alpha 1: others are drawn by rejection, in which devices would
    wait for each other.

    Args:
      key: Key of the example.
      image: Image to change.
      choices: What each operation of a chain is chosen from.
      width: Number of chains.
      depths: Least and greatest number of operations in a chain.
      bilinear: Whether warps interpolate, or else take the nearest pixel.
    """
    share_key, weights_key, depth_key, rows_key = jax.random.split(key, 4)
    share = jax.random.uniform(share_key, dtype=jnp.float32)  # of the versions together
    weights = jax.random.exponential(weights_key, (width,), jnp.float32)
    depth = jax.random.randint(depth_key, (width,), depths[0], depths[1] + 1)
    _, table, probabilities = choices.table(*image.shape[:2])
    draw = functools.partial(draw_rows, table=table, probabilities=probabilities)
    rows = jax.vmap(draw)(jax.random.split(rows_key, width * depths[1]))
    happens = jnp.arange(depths[1])[None] < depth[:, None]
    rows = jnp.where(happens, rows.reshape(width, depths[1]), 0)
    apply = functools.partial(apply_rows, choices=choices, bilinear=bilinear)
    versions = jax.vmap(apply, (None, 0))(image, rows).astype(jnp.float32)
    return blend_versions(image, versions, share * weights / weights.sum())


def blend_versions(
    image: Pixels, versions: Float[Array, "chains height width 3"], weights: Float[Array, " chains"]
) -> Pixels:
    """Returns the sum of versions by their weights, and of the image by what is left of 1."""
    blend = image.astype(jnp.float32) * (1 - weights.sum())
    for weight, version in zip(weights, versions, strict=True):
        blend += weight * version
    return jnp.round(blend).astype(jnp.uint8)


def apply_rows(
    image: Pixels, drawn: Int[Array, " steps"], *, choices: Choices, bilinear: bool
) -> Pixels:
    """Returns the image after some operations in turn, all by the one program of a loop.

    Args:
      image: Image to change.
      drawn: Numbers of the operations, see `Choices.table`.
      choices: What the policy chooses from.
      bilinear: Whether warps interpolate, or else take the nearest pixel.
    """
    height, width = image.shape[:2]
    rows, _, _ = choices.table(height, width)
    numbers = jax.tree.map(jnp.asarray, numbers_of(rows, height, width, bilinear=bilinear))
    names = frozenset(name for name, _ in rows)

    def step(image: Pixels, row: jax.Array) -> tuple[Pixels, None]:
        chosen = jax.tree.map(lambda of_rows: of_rows[row], numbers)
        return apply_numbers(image, chosen, names=names, bilinear=bilinear), None

    return jax.lax.scan(step, image, drawn)[0]


def draw_rows(key: PRNGKeyArray, table: np.ndarray, probabilities: np.ndarray) -> jax.Array:
    """Returns the numbers of the operations that one round draws, see `Choices.table`.

    Args:
      key: Key of the round.
      table: Number of the operation for [plan, step, whether the other sign was drawn].
      probabilities: Probability [plan, step] that it happens, or else the first does: none.
    """
    plan_key, chance_key, sign_key = jax.random.split(key, 3)
    plans, steps = probabilities.shape
    plan = jax.random.randint(plan_key, (), 0, plans)
    chance = jax.random.uniform(chance_key, (steps,), jnp.float32)
    other = jax.random.bernoulli(sign_key, shape=(steps,)).astype(jnp.int32)
    drawn = jnp.asarray(table)[plan, jnp.arange(steps), other]
    return jnp.where(chance < jnp.asarray(probabilities)[plan], drawn, 0)
