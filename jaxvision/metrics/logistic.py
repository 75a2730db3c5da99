"""Multinomial logistic regression on features: the linear probe."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Float32, Int

Weights = dict[str, Array]  # "kernel" [width, classes] and "bias" [classes]


def objective(
    weights: Weights,
    features: Float[Array, "examples width"],
    labels: Int[Array, " examples"],
    l2: Float32[Array, ""],
) -> Float32[Array, ""]:
    """Returns the mean cross-entropy in nats + l2 / 2 times the squared kernel.

    scikit-learn's LogisticRegression has the same optimum for C = 1 / (examples * l2). The bias is
    not regularised.
    """
    logits = jnp.dot(features, weights["kernel"], precision="highest") + weights["bias"][None]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses) + l2 / 2 * jnp.sum(jnp.square(weights["kernel"]))


@jax.jit
def fit_logistic(
    weights: Weights,
    features: Float[Array, "examples width"],
    labels: Int[Array, " examples"],
    l2: Float32[Array, ""],
    max_steps: Int[Array, ""],
    tolerance: Float32[Array, ""],
) -> tuple[Weights, Int[Array, ""]]:
    """Returns the weights with the least objective, and the steps of L-BFGS that it took.

    Args:
      weights: Weights to start from.
      features: Features of the examples; best standardised.
      labels: Class indices of the examples.
      l2: Strength of the L2 regularisation, see `objective`.
      max_steps: Number of steps after which it ends, whatever the gradient.
      tolerance: Size of the gradient's largest entry at which it ends, as scikit-learn's `tol`.

    Source: Nocedal & Wright 2006, Numerical Optimization, algorithm 7.5, with a zoom line search.
    """
    solver = optax.lbfgs(memory_size=10)

    def value(weights: Weights) -> Array:
        return objective(weights, features, labels, l2)

    value_and_grad = optax.value_and_grad_from_state(value)

    def step(carry: Any) -> Any:
        weights, state, count, _ = carry
        loss, grad = value_and_grad(weights, state=state)
        updates, state = solver.update(grad, state, weights, value=loss, grad=grad, value_fn=value)
        weights = optax.apply_updates(weights, updates)
        after = optax.tree.get(state, "grad")
        return weights, state, count + 1, optax.tree.norm(after, ord=jnp.inf)

    def goes_on(carry: Any) -> Array:
        _, _, count, largest = carry
        return (count < max_steps) & (largest > tolerance)

    start = (weights, solver.init(weights), jnp.zeros_like(max_steps), jnp.full((), jnp.inf))
    weights, _, count, _ = jax.lax.while_loop(goes_on, step, start)
    return weights, count
