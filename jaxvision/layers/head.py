import jax
from flax import nnx

from jaxvision.layers.linear import linear


def linear_head(
    width: int,
    num_classes: int,
    *,
    kernel_init: jax.nn.initializers.Initializer,
    param_dtype: str,
    rngs: nnx.Rngs,
) -> nnx.Linear | None:
    """Returns the classifier of a model, or None for `num_classes` = 0.

    It computes in the dtype of its parameters, so that logits are float32 in a bfloat16 model too.

    Args:
      width: Number of channels of the pooled features.
      num_classes: Number of logits.
      kernel_init: Initialiser of the kernel; the bias starts at 0.
      param_dtype: Dtype of the parameters and of the logits.
      rngs: Source of the initial values.
    """
    if num_classes == 0:
        return None
    return linear(
        width,
        num_classes,
        kernel_init=kernel_init,
        dtype=param_dtype,
        param_dtype=param_dtype,
        rngs=rngs,
    )
