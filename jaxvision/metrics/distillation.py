"""Losses of a student against its teacher, one value per example."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.metrics.losses import softmax_cross_entropy


def soft_distillation(
    student: Float[Array, "batch classes"],
    teacher: Float[Array, "batch classes"],
    *,
    temperature: float = 1.0,
) -> Float[Array, " batch"]:
    """Returns T^2 KL(teacher / T || student / T) of each example, in nats.

    The factor T^2 keeps the size of the gradient whatever the temperature is. It is computed in
    float32 whatever the compute dtype; float64 logits stay float64.

    Args:
      student: Logits of the student.
      teacher: Logits of the teacher; no gradient goes there.
      temperature: Temperature T, above 0; higher ones show more of how the teacher ranks the wrong
        classes.

    Note:
      The mean over the batch is torch's `kl_div(..., reduction="batchmean")`. DeiT's code divides
      by the batch and by the classes: its alpha gives the gradient direction of
      alpha / (alpha + (1 - alpha) K) here.

    Source: Hinton et al. 2015, Distilling the Knowledge in a Neural Network, section 2.
    """
    dtype = jnp.promote_types(student.dtype, jnp.float32)
    teacher = jax.lax.stop_gradient(teacher)
    ours = jax.nn.log_softmax(student.astype(dtype) / temperature, axis=-1)
    theirs = jax.nn.log_softmax(teacher.astype(dtype) / temperature, axis=-1)
    return temperature**2 * jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1)


def hard_distillation(
    student: Float[Array, "batch classes"], teacher: Float[Array, "batch classes"]
) -> Float[Array, " batch"]:
    """Returns the cross-entropy of each example with the teacher's first choice, in nats.

    Args:
      student: Logits of the student.
      teacher: Logits of the teacher; no gradient goes there.

    Source: Touvron et al. 2021, Training data-efficient image transformers, eq. 3.
    """
    return softmax_cross_entropy(student, jnp.argmax(teacher, axis=-1))


def feature_distillation(
    student: Float[Array, "batch rows columns features"],
    teacher: Float[Array, "batch rows columns features"],
    *,
    kind: str,
) -> Float[Array, " batch"]:
    """Returns how far the student's features are from the teacher's, for each example.

    Args:
      student: Features of the student, projected to the teacher's width.
      teacher: Features of the teacher; no gradient goes there.
      kind: Kind of distance: `mse`: the mean squared difference; `cosine`: 1 - the mean cosine of
        the vectors at each place.

    Source: Romero et al. 2015, FitNets: Hints for Thin Deep Nets, eq. 3.
    """
    dtype = jnp.promote_types(student.dtype, jnp.float32)
    student, teacher = student.astype(dtype), jax.lax.stop_gradient(teacher).astype(dtype)
    if kind == "mse":
        return jnp.mean(jnp.square(student - teacher), axis=(1, 2, 3))
    product = jnp.sum(student * teacher, axis=-1)
    squares = jnp.sum(student * student, axis=-1) * jnp.sum(teacher * teacher, axis=-1)
    # Under the root: where a vector is zero, the cosine is 0 and has a gradient.
    cosine = product * jax.lax.rsqrt(jnp.maximum(squares, 1e-16))
    return 1.0 - jnp.mean(cosine, axis=(1, 2))
