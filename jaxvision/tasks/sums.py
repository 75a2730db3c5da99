"""Exact evaluation: masked sums over a finite dataset, divided once."""

import collections
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BATCHES_IN_FLIGHT = 2  # the host runs at most this far ahead of the devices


def evaluate_sums(
    eval_step: Callable[[Any, Any, dict], dict],
    weights: dict[str, tuple[Any, Any]],
    batches: Iterable[dict],
) -> dict[str, float]:
    """Returns the mean of every metric over all valid examples, for each set of weights.

    The numbers do not depend on the batch size or the device count: padding is masked, and sums are
    divided by the number of valid examples at the end.

    Args:
      eval_step: Function of `make_eval_step`.
      weights: Sets of weights, {prefix: (params, batch_stats)}, e.g. of `eval` and `eval_ema`.
      batches: Device batches; every process must bring the same number.

    Returns:
      {"<prefix>/<metric>": mean}.

    Raises:
      ValueError: if there is no valid example.
    """
    totals: dict | None = None
    in_flight: collections.deque = collections.deque()
    for batch in batches:
        sums = {prefix: eval_step(*tree, batch) for prefix, tree in weights.items()}
        totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
        in_flight.append(totals)
        if len(in_flight) > BATCHES_IN_FLIGHT:  # so that a bar over the batches tells the truth
            jax.block_until_ready(in_flight.popleft())
    return divide_sums(totals)


def divide_sums(totals: dict | None) -> dict[str, float]:
    """Returns {"<prefix>/<metric>": mean} of {prefix: {metric: (sum, count)}} on the devices.

    Where sum and count are arrays, of one place for each class, it is the mean of their quotients
    over the classes that were counted.

    Raises:
      ValueError: if there is no valid example.
    """
    results = {}
    for prefix, metrics in jax.device_get(totals or {}).items():
        for name, (total, count) in metrics.items():
            total, count = np.asarray(total, np.float64), np.asarray(count, np.float64)
            if not count.any():
                raise ValueError("The evaluation split has no valid example.")
            results[f"{prefix}/{name}"] = float(np.mean(total[count > 0] / count[count > 0]))
    if not results:
        raise ValueError("The evaluation split has no valid example.")
    return results
