"""Attention weights of every layer, each over the whole image; and the gradients at them."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxvision.errors import InputError
from jaxvision.explain.stages import token_grid
from jaxvision.explain.target import target_logits
from jaxvision.layers.tap import Tapped, capture, capture_gradients


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["weights"],
    meta_fields=["prefix", "grid", "source_grid"],
)
@dataclasses.dataclass(frozen=True)
class LayerAttention:
    """Attention of one layer.

    Attributes:
      weights: Weights [batch, heads, targets, sources]: how much each token looks at each. Rows sum
        to 1, but for what tokens at the border of Swin's windows give to padding.
      prefix: Number of tokens before the patches, such as a class token; the same among targets and
        sources.
      grid: Rows and columns of the targets behind the prefix.
      source_grid: Rows and columns of the sources behind the prefix: fewer in PVT.
    """

    weights: Any  # an array, or what stands for one in a pytree
    prefix: int
    grid: tuple[int, int]
    source_grid: tuple[int, int]

    def seen(self) -> Float[Array, "batch heads rows columns"]:
        """Returns how much each place of the image is looked at, by every head.

        It is the class token that looks, or, where there is none, the mean of all tokens.
        """
        if self.prefix:
            rows = self.weights[:, :, 0, self.prefix :]
        else:
            rows = self.weights.mean(axis=2)
        return rows.reshape(*rows.shape[:2], *self.source_grid)


def attention_maps(
    model: nnx.Module,
    images: Float[Array, "batch height width channels"],
    *,
    layers: tuple[int, ...] | None = None,
) -> list[LayerAttention]:
    """Returns the attention weights of the layers, the first of the model first.

    Attention in windows is put back to where the windows came from, shifts rolled back: a token
    looks at no token of another window. The fine stages of a Swin have large weights: 40 MB a head
    at 56 x 56 tokens.

    Args:
      model: Image model with attention, in evaluation.
      images: Normalised images.
      layers: Indices of the layers; negative: from the end. None: all.

    Raises:
      InputError: if the model has no attention, or not this layer.
    """
    return _attention_maps(model, images, layers)


@functools.partial(jax.jit, static_argnums=2)
def _attention_maps(
    model: Any, images: jax.Array, layers: tuple[int, ...] | None
) -> list[LayerAttention]:
    _, found = capture(lambda: model(images), "attention")
    check_attention(found)
    chosen = range(len(found)) if layers is None else layers
    for layer in chosen:
        if not -len(found) <= layer < len(found):
            raise InputError(
                f"The model has {len(found)} layers of attention, numbered from 0, got {layer}."
            )
    return [over_the_image(found[layer], model, images) for layer in chosen]


def check_attention(found: list[Tapped]) -> None:
    """Raises InputError if no attention was found."""
    if not found:
        raise InputError(
            "The model has no attention to draw: take a ViT, DeiT, hybrid, Swin or PVT, or"
            " grad_cam, which every image model has."
        )


def check_same_tokens(found: list[Tapped], model: Any) -> None:
    """Raises InputError unless there is attention, and all layers attend to the same tokens.

    Args:
      found: Attention of each layer.
      model: Model of the layers.
    """
    check_attention(found)
    if not hasattr(model.config, "num_prefix_tokens"):
        raise InputError(
            "A rollout multiplies the attention of layers that all see the same tokens, as in ViT,"
            f" DeiT and hybrids; those of {type(model).__name__} do not: take grad_cam or"
            " attention_maps."
        )


def weights_and_gradients(
    model: Any,
    images: Float[Array, "batch height width channels"],
    targets: Int[Array, " batch"],
) -> tuple[list[LayerAttention], list[jax.Array]]:
    """Returns the attention of every layer, and the gradient of the target's logit at its weights.

    Args:
      model: Image model whose attention is over all tokens.
      images: Normalised images.
      targets: Class of each image.
    """

    def objective(logits: jax.Array) -> jax.Array:
        return target_logits(logits, targets).sum()

    _, found, gradients = capture_gradients(lambda: model(images), objective, "attention")
    check_same_tokens(found, model)
    layers = [over_the_image(each, model, images) for each in found]
    pairs = zip(found, gradients, layers, strict=True)
    return layers, [
        weights_gradient(each, gradient)[:, :, : layer.weights.shape[2]]
        for each, gradient, layer in pairs
    ]


def weights_gradient(
    tapped: Tapped, gradient: Float[Array, "batch targets heads head_dim"]
) -> Float[Array, "batch heads targets sources"]:
    """Returns the gradient at the weights of an attention, of that at what it returned.

    Args:
      tapped: Attention.
      gradient: Gradient at its value.
    """
    return jnp.einsum("BTNH,BSNH->BNTS", gradient, tapped.beside["values"])


def over_the_image(tapped: Tapped, model: Any, images: jax.Array) -> LayerAttention:
    """Returns an attention as one of all tokens of an image.

    Args:
      tapped: Attention.
      model: Model that it is of.
      images: Images that the model was given.
    """
    weights, facts = tapped.beside["weights"], dict(tapped.facts)
    if "window" in facts:
        full = _windows_put_back(weights, facts)
        return LayerAttention(full, 0, facts["grid"], facts["grid"])
    prefix, grid = token_grid(tapped, model, images)
    weights = weights[:, :, : prefix + math.prod(grid)]  # behind them there may be padding
    return LayerAttention(weights, prefix, grid, _source_grid(weights.shape[-1] - prefix, grid))


def _source_grid(count: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Returns the rows and columns of sources that were reduced from a grid."""
    for ratio in range(1, max(grid) + 1):
        reduced = grid[0] // ratio, grid[1] // ratio
        if math.prod(reduced) == count:
            return reduced
    side = math.isqrt(count)  # of the pooled reduction, whatever the grid
    return side, side


def _windows_put_back(weights: jax.Array, facts: dict[str, Any]) -> jax.Array:
    """Returns weights [batch, heads, tokens, tokens] of those in windows."""
    places = _places(facts["grid"], facts["window"], facts["shift"], facts["pad_first"])
    count, size = places.shape
    # Windows are examples, or, on a GPU, heads: see `attend_side_by_side`.
    if weights.shape[0] == facts["batch"]:
        shape = (facts["batch"], count, -1, *weights.shape[2:])
    else:
        shape = (facts["batch"], count, *weights.shape[1:])
    windows = weights.reshape(shape)[..., :size, :size].swapaxes(1, 2)
    tokens = math.prod(facts["grid"])
    full = jnp.zeros((*windows.shape[:2], tokens, tokens), windows.dtype)
    # Padding has a place behind the last token: what is written there is dropped.
    return full.at[:, :, places[:, :, None], places[:, None, :]].set(windows, mode="drop")


def _places(
    grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], pad_first: bool
) -> Int[np.ndarray, "windows tokens"]:
    """Returns the number of each token of each window; that of padding is the number of tokens."""
    none = math.prod(grid)
    numbers = np.arange(none).reshape(grid)
    padding = [(0, -side % step) for side, step in zip(grid, window, strict=True)]
    back = (-shift[0], -shift[1])
    if pad_first:
        numbers = np.roll(np.pad(numbers, padding, constant_values=none), back, axis=(0, 1))
    else:
        numbers = np.pad(np.roll(numbers, back, axis=(0, 1)), padding, constant_values=none)
    (height, width), (rows, columns) = numbers.shape, window
    tiles = numbers.reshape(height // rows, rows, width // columns, columns)
    return tiles.swapaxes(1, 2).reshape(-1, rows * columns)
