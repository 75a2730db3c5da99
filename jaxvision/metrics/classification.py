"""Classification metrics, one value per example: batch means are wrong for a padded last batch."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int


def topk_correct(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"], *, k: int
) -> Float32[Array, " batch"]:
    """Returns 1 where the true class is among the k best, else 0.

    The place of the true class is counted: the classes with a greater logit, and those with an
    equal logit and a lower index. So exactly k classes of an example are right, k = 1 agrees with
    `argmax`, and a model that gives every class the same logit scores what chance gives. An example
    whose true logit is NaN is wrong: a diverged model must not look perfect.

    Args:
      logits: Scores of the classes; higher is better.
      labels: Indices of the true classes.
      k: Number of guesses; with k >= the number of classes every finite example is right.

    Raises:
      ValueError: if k is less than 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    true_logit = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    earlier = jnp.arange(logits.shape[-1])[None, :] < labels[:, None]
    # "not <=" instead of ">": every comparison with NaN is false, and NaN must count as better.
    better = ~(logits <= true_logit) | ((logits == true_logit) & earlier)
    return (jnp.sum(better, axis=-1) < min(k, logits.shape[-1])).astype(jnp.float32)


def correct_by_class(
    correct: Float32[Array, " batch"],
    labels: Int[Array, " batch"],
    mask: Bool[Array, " batch"],
    *,
    num_classes: int,
) -> tuple[Float32[Array, " classes"], Float32[Array, " classes"]]:
    """Returns the right guesses and the examples of each class, of which balanced accuracy is made.

    The mean of the classes' recalls is that of scikit-learn's `balanced_accuracy_score`, once the
    sums of all batches are added up.

    Args:
      correct: 1 where a guess is right, else 0.
      labels: Indices of the true classes.
      mask: False where an example only fills the batch.
      num_classes: Number of classes.
    """
    zeros = jnp.zeros(num_classes, jnp.float32)
    valid = mask.astype(jnp.float32)
    return zeros.at[labels].add(correct * valid), zeros.at[labels].add(valid)
