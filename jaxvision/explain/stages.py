"""Maps of any stage of any model, and tokens put back onto the grid of their patches."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxvision.errors import InputError
from jaxvision.explain.target import target_logits
from jaxvision.layers.tap import Tapped, capture, capture_gradients

Maps = Float[Array, "batch rows columns features"]


def feature_maps(
    model: nnx.Module, images: Float[Array, "batch height width channels"]
) -> list[Maps]:
    """Returns the map of every stage, in their order.

    A stage is what the family calls so; of EfficientNet and MobileNet also the last convolution. Of
    models with tokens on a grid (ViT, DeiT, hybrid, PVT v1) it is a block, and its map what the
    block's attention reads: of what the last block returns only the class token counts.

    Args:
      model: Image model, in evaluation.
      images: Normalised images.
    """
    return _feature_maps(model, images)


@jax.jit
def _feature_maps(model: Any, images: jax.Array) -> list[jax.Array]:
    name = tap_of(model)
    return [on_grid(each.value, each, model, images) for each in _captured(model, images, name)]


def _captured(model: Any, images: jax.Array, name: str) -> list[Tapped]:
    return capture(lambda: model(images), name)[1]


def stage_and_gradient(
    model: Any,
    images: Float[Array, "batch height width channels"],
    targets: Int[Array, " batch"],
    stage: int,
) -> tuple[Maps, Maps]:
    """Returns the map of a stage, and the gradient of the target's logit at it.

    Args:
      model: Image model.
      images: Normalised images.
      targets: Class of each image.
      stage: Index of the stage; negative: from the end.
    """

    def objective(logits: jax.Array) -> jax.Array:
        return target_logits(logits, targets).sum()

    name = tap_of(model)
    _, found, gradients = capture_gradients(lambda: model(images), objective, name)
    check_stage(stage, len(found))
    each, gradient = found[stage], gradients[stage]
    return on_grid(each.value, each, model, images), on_grid(gradient, each, model, images)


def stage_map(model: Any, images: Float[Array, "batch height width channels"], stage: int) -> Maps:
    """Returns the map of a stage; see `feature_maps`."""
    found = _captured(model, images, tap_of(model))
    check_stage(stage, len(found))
    return on_grid(found[stage].value, found[stage], model, images)


def check_stage(stage: int, count: int) -> None:
    """Raises InputError unless there is a stage of this number."""
    if not -count <= stage < count:
        raise InputError(
            f"The model has {count} stages, numbered 0 to {count - 1}, or -1 to -{count} from the"
            f" end, got {stage}."
        )


def tap_of(model: Any) -> str:
    """Returns the name of the taps that are a model's stages."""
    return model.stage_tap


def on_grid(tokens: jax.Array, tapped: Tapped, model: Any, images: jax.Array) -> Maps:
    """Returns a map as it is, and of tokens those of the patches, on their grid.

    Args:
      tokens: Map or tokens, or something of their shape.
      tapped: Value that they belong to.
      model: Model of the tokens.
      images: Images that the model was given.
    """
    if tokens.ndim == 4:
        return tokens
    prefix, (rows, columns) = token_grid(tapped, model, images)
    patches = tokens[:, prefix : prefix + rows * columns]
    return patches.reshape(len(tokens), rows, columns, -1)


def token_grid(tapped: Tapped, model: Any, images: jax.Array) -> tuple[int, tuple[int, int]]:
    """Returns the number of tokens before the patches, and the grid of these."""
    facts = dict(tapped.facts)
    if "grid" in facts:  # only the last stage of a pyramid may have a token before the patches
        rows, columns = facts["grid"]
        return tapped.value.shape[1] - rows * columns, (rows, columns)
    size = model.config.patch_size
    return model.config.num_prefix_tokens, (images.shape[1] // size, images.shape[2] // size)
