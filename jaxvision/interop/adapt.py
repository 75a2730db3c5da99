"""What may differ between a file and a model, and how the array is made to fit."""

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxvision.errors import InputError, shorten
from jaxvision.interop.rules import Rule, Weights
from jaxvision.layers.position import resize_position_embedding
from jaxvision.options.size import Size

_NONE = "the file has none, the model keeps its own"
_NOT_THERE = "the file has none in this place, the model keeps its own"
_MOST_NUMBERS = 2**28  # of a position table that is made, 1 GiB

# What a user does about weights whose grid nobody can tell.
HOW_TO_TELL = (
    "give the size of the images that they were trained on, as image_size=(height, width) of "
    "load_weights, --weights-size of a command, config.model.init_image_size of a run or "
    "config.distill.teacher_image_size of its teacher"
)

Grid = tuple[int, int]
Resize = Callable[[np.ndarray, Grid, Grid, int], np.ndarray]
Fit = Callable[[np.ndarray, tuple[int, ...], Any, Size | None], tuple[np.ndarray, str] | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """How one library keeps the weights of one family.

    Attributes:
      rules: Function (config) -> the table of names.
      requires: Fields of the config and the only value that the library knows, or a function of the
        config that returns it.
      fits: Functions by our path, or by a shell pattern of several: (array in our layout, wanted
        shape, config, image size that the array belongs to or None) -> the array in that shape and
        what was done, or None if it fits as it is, or cannot be made to fit.
      usual: Fields of the config and the value that the library takes unless it is told another;
        a file does not say which, so loading into a model with another value says so.
      heads: Paths of our classifiers; the model keeps its own for other classes.
      classes: Path of an array of ours as long as there are classes; None: the first head's bias,
        or its kernel where it has none.
      beside_head: Names in a file that only its classifiers read; left out with them.
      end: Our parts between the last feature map and the head, which an encoder made for its maps
        alone has not; the model keeps its own then, as it keeps its head.
      unused: Function (config) -> shell patterns of names that the model cannot use, whatever else
        the file holds, such as those that served its training only.
      prepare: Function (weights, config) that makes the arrays of any file of the library look as
        the table says.
    """

    rules: Callable[[Any], tuple[Rule, ...]]
    requires: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fits: Mapping[str, Fit] = dataclasses.field(default_factory=dict)
    usual: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    heads: tuple[str, ...] = ("head", "head_hidden")
    classes: str | None = None
    beside_head: tuple[str, ...] = ()
    end: tuple[str, ...] = ()
    unused: Callable[[Any], tuple[str, ...]] = lambda config: ()
    prepare: Callable[[Weights, Any], Weights] = lambda weights, config: dict(weights)


def fit_channels(
    kernel: np.ndarray, shape: tuple[int, ...], config: object, image_size: Size | None = None
) -> tuple[np.ndarray, str] | None:
    """Returns the first kernel for another number of channels, as timm's `adapt_input_conv` does.

    One channel gets the sum of all; more, or fewer, get them in turn from the first, scaled by the
    ratio of the numbers so that the outputs keep their size.

    Args:
      kernel: Kernel in HWIO.
      shape: Shape that is wanted.
      config: Config of the model; not used.
      image_size: Size of the images that the kernel saw; not used.
    """
    del config, image_size
    old, new = kernel.shape[2], shape[2]
    if old == new or kernel.shape != (*shape[:2], old, shape[3]):
        return None
    wide = kernel.astype(np.float32)
    if new == 1:
        return wide.sum(axis=2, keepdims=True), f"{old} input channels summed into 1"
    taken = wide[:, :, np.arange(new) % old] * np.float32(old / new)
    done = f"repeated for {new}" if new > old else f"reduced to the first {new}"
    return taken, f"{old} input channels {done}, scaled by {old} / {new}"


def fit_positions(
    table: np.ndarray,
    shape: tuple[int, ...],
    config: Any,
    image_size: Size | None = None,
    *,
    resize: Resize,
    method: str = "bicubic",
    grid: Callable[[Any], Grid] = lambda config: config.grid,
) -> tuple[np.ndarray, str] | None:
    """Returns the position table for another grid of patches; rows before the grid stay.

    Args:
      table: Positions of a grid, row by row, behind those that are in no grid.
      shape: Shape that is wanted.
      config: Config of the model.
      image_size: Size of the images that the table belongs to; None: unknown, so that the table is
        of a square grid, for a square grid, or refused.
      resize: Function (table, old grid, new grid, rows before the grid) -> table.
      method: Description of what `resize` does, for the report.
      grid: Function (config) -> rows and columns of its patches.

    Raises:
      InputError: if nobody can tell the grid of the table, or the new table would take more than a
        gibibyte.
    """
    new = grid(config)
    prefix = shape[1] - math.prod(new)
    count = table.shape[1] - prefix
    if count < 1 or (table.shape[0], table.shape[2]) != (1, shape[2]):
        return None
    if table.shape != shape and math.prod(shape) > _MOST_NUMBERS:
        raise InputError(
            f"The positions of image_size {shorten(getattr(config, 'image_size', '?'))} would be"
            f" {shape}, more numbers than the {_MOST_NUMBERS:,} that a table may have: give a"
            " smaller image_size."
        )
    if image_size is not None:
        old = grid(config_at(config, image_size))
        if math.prod(old) != count:
            raise _unknown(count, f"{image_size} pixels are {old[0]} x {old[1]} patches")
    else:
        side = math.isqrt(count)
        old = side, side
        if side * side != count or new[0] != new[1]:
            raise _unknown(count, f"the model wants {new[0]} x {new[1]}")
    if old == new:
        return None
    resized = resize(table.astype(np.float32), old, new, prefix)
    return resized, f"positions resized from {show(old)} to {show(new)}, {method}"


def _unknown(count: int, found: str) -> InputError:
    """Returns the error of a table whose grid nobody can tell."""
    return InputError(
        f"The weights have {count} positions of patches, whose rows and columns they do not tell, "
        f"and {found}: {HOW_TO_TELL}."
    )


def show(grid: Grid) -> str:
    """Returns "18 x 32"."""
    return f"{grid[0]} x {grid[1]}"


def config_at(config: Any, image_size: Size) -> Any:
    """Returns the config of a model for images of another size.

    Args:
      config: Config of the model.
      image_size: Size of the images, in pixels.

    Raises:
      InputError: if the model cannot have images of this size.
    """
    try:
        return dataclasses.replace(config, image_size=image_size)
    except ValueError as error:
        raise InputError(
            f"The weights cannot belong to images of image_size={image_size}: {error}"
        ) from error


def resize_as_timm(
    table: Float[np.ndarray, "1 tokens width"], old: Grid, new: Grid, prefix: int
) -> Float[np.ndarray, "1 new_tokens width"]:
    """Returns the table resized as `timm.layers.resample_abs_pos_embed` does: with antialias.

    Args:
      table: Position table: prefix rows, then the grid row by row.
      old: Rows and columns of the table's grid.
      new: Rows and columns wanted.
      prefix: Number of rows before the grid.
    """
    resized = resize_position_embedding(jnp.asarray(table), old, new, num_prefix_tokens=prefix)
    return np.asarray(resized)


def resize_as_transformers(
    table: Float[np.ndarray, "1 tokens width"], old: Grid, new: Grid, prefix: int
) -> Float[np.ndarray, "1 new_tokens width"]:
    """Returns the table resized as `interpolate_pos_encoding` of transformers does: no antialias.

    Args:
      table: Position table: prefix rows, then the grid row by row.
      old: Rows and columns of the table's grid.
      new: Rows and columns wanted.
      prefix: Number of rows before the grid.
    """
    resized = resize_position_embedding(
        jnp.asarray(table), old, new, num_prefix_tokens=prefix, antialias=False
    )
    return np.asarray(resized)


def resize_as_augreg(
    table: Float[np.ndarray, "1 tokens width"], old: Grid, new: Grid, prefix: int
) -> Float[np.ndarray, "1 new_tokens width"]:
    """Returns the table resized as timm does when it reads Google's files: bilinear, no antialias.

    Args:
      table: Position table: prefix rows, then the grid row by row.
      old: Rows and columns of the table's grid.
      new: Rows and columns wanted.
      prefix: Number of rows before the grid.
    """
    resized = resize_position_embedding(
        jnp.asarray(table),
        old,
        new,
        num_prefix_tokens=prefix,
        interpolation="bilinear",
        antialias=False,
    )
    return np.asarray(resized)


def resize_as_torchvision(
    table: Float[np.ndarray, "1 tokens width"], old: Grid, new: Grid, prefix: int
) -> Float[np.ndarray, "1 new_tokens width"]:
    """Returns the table resized as `interpolate_embeddings` of torchvision's ViT does.

    Bicubic, no antialias, and with aligned corners: the outermost positions of the old grid are
    those of the new one, where timm aligns the edges of the image.

    Args:
      table: Position table: prefix rows, then the grid row by row.
      old: Rows and columns of the table's grid.
      new: Rows and columns wanted.
      prefix: Number of rows before the grid.
    """
    grid = table[0, prefix:].reshape(*old, -1)
    rows, columns = (_aligned_cubic(*sizes) for sizes in zip(old, new, strict=True))
    resized = np.einsum("Rr,Cc,rcD->RCD", rows, columns, grid, optimize=True)
    resized = resized.reshape(1, new[0] * new[1], -1).astype(table.dtype)
    return np.concatenate([table[:, :prefix], resized], axis=1)


def _aligned_cubic(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Returns the weights of torch's cubic interpolation (a = -0.75) with aligned corners.

    Source: Keys 1981, Cubic convolution interpolation for digital image processing, eq. 4 for a
      general a.
    """
    places = np.linspace(0.0, old - 1.0, new)
    left = np.floor(places).astype(int)
    weights = np.zeros((new, old))
    for offset in (-1, 0, 1, 2):
        distance = np.abs(places - left - offset)
        near = (1.25 * distance - 2.25) * distance**2 + 1.0
        far = ((-0.75 * distance + 3.75) * distance - 6.0) * distance + 3.0
        # Beyond the border the outermost value goes on.
        column = np.clip(left + offset, 0, old - 1)
        np.add.at(weights, (np.arange(new), column), np.where(distance <= 1.0, near, far))
    return weights


def fit_heads(
    weights: Weights, rules: tuple[Rule, ...], shapes: dict, source: Source, config: Any
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Takes out of the weights heads and other parts that the model cannot use.

    Args:
      weights: Arrays by name in the file; changed in place.
      rules: Table of rules.
      shapes: Shape of every path of the model.
      source: Source that the weights come from.
      config: Config of the model.

    Returns:
      The names taken out, and for each part that the model keeps, why.
    """
    unused = source.unused(config)
    taken = [name for name in weights if any(fnmatch.fnmatchcase(name, each) for each in unused)]
    weights_left = {name: array for name, array in weights.items() if name not in taken}
    own = {}
    if not any(_names(weights_left, rules, head) for head in source.heads):
        parts = [part for part in source.end if any(p.startswith(f"{part}/") for p in shapes)]
        own = {part: _NOT_THERE for part in parts if not _names(weights_left, rules, part)}
    for head in source.heads:
        names, reason = _fit_head(weights_left, rules, shapes, head)
        taken += names
        if reason is not None:
            own[head] = reason
    used = any(f"{head}/kernel" in shapes and head not in own for head in source.heads)
    if not used:
        named = {name for rule in rules for name in (rule.source, *rule.aliases)}
        taken += [name for name in source.beside_head if name in weights and name not in named]
    for name in taken:
        del weights[name]
    return tuple(taken), own


def _names(weights: Weights, rules: tuple[Rule, ...], part: str) -> list[str]:
    """Returns the names in a file of what belongs to a part of ours."""
    return [
        name
        for rule in rules
        if isinstance(rule.targets, str) and rule.targets.startswith(f"{part}/")
        for name in (rule.source, *rule.aliases)
        if name in weights
    ]


def _fit_head(
    weights: Weights, rules: tuple[Rule, ...], shapes: dict, head: str
) -> tuple[list[str], str | None]:
    """Returns names to take out, and why the model keeps its own head.

    The reason is None if the model has no such head or uses the one of the file.
    """
    paths = (f"{head}/kernel", f"{head}/bias")
    found = {
        rule.targets: (name, rule.transform.to_jax(weights[name]))
        for rule in rules
        if rule.targets in paths
        for name in (rule.source, *rule.aliases)
        if name in weights
    }
    names = [name for name, _ in found.values()]
    if paths[0] not in shapes:
        return names, None
    if not found:
        return [], _NONE
    if any(path in shapes and path not in found for path in paths):
        return [], None  # not a head of this model at all: `convert` says what is wrong
    kernel = found[paths[0]][1]
    # Few heads have no bias, and then the kernel tells the classes.
    outputs = found[paths[1]][1].shape if paths[1] in found else kernel.shape[1:]
    width, classes = shapes[paths[0]]
    if kernel.shape[1:] == outputs and len(kernel) != width and "head_hidden/kernel" in shapes:
        return names, "the file's has no such hidden layer: the model keeps its own"
    if kernel.shape != (width, *outputs) or outputs == (classes,):
        return [], None
    reason = f"{outputs[0]} classes in the file, {classes} in the model: the model keeps its own"
    return names, reason
