import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def target_logits(
    logits: Float[Array, "batch classes"], targets: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """Returns the logit of the target of each image; its sum has the gradients of all."""
    return jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]


def input_gradients(
    model, images: Float[Array, "batch height width channels"], targets: Int[Array, " batch"]
) -> Float[Array, "batch height width channels"]:
    """Returns how much the target's logit of each image grows with each of its values."""
    return jax.grad(lambda images: target_logits(model(images), targets).sum())(images)
