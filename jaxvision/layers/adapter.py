"""What is learnt beside a layer that stays as it is: LoRA, IA3.

A layer with an `adapter` hands it its inputs and itself as a function; the adapter returns the
outputs. So nothing else of a model knows of it: blocks stack, shard and resume with the adapter as
with any other parameter, no gradient of the frozen kernel is computed, and dropout has the inputs
it needs. (One sum of kernels before the call would need neither, but the whole gradient.) Since
both kinds are linear in the kernel, `merge_adapters` leaves a plain layer.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.dropout import drop

ADAPTER = "adapter"  # the last but one name in the path of every parameter of an adapter

# (inputs, the layer without its adapter) -> outputs
Adapter = Callable[[jax.Array, Callable[[jax.Array], jax.Array]], jax.Array]


def adapted(
    adapter: Adapter | None, inputs: jax.Array, layer: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Returns what a layer with or without an adapter makes of its inputs.

    Args:
      adapter: Adapter of the layer; None: it has none.
      inputs: Inputs of the layer.
      layer: Layer itself, as a function.
    """
    return layer(inputs) if adapter is None else adapter(inputs, layer)


class Lora(nnx.Module):
    """A change of low rank: the outputs get scale * inputs @ A @ B on top.

    A starts as the kernel of a `torch.nn.Linear`, B at 0, so that a new one changes nothing.

    Args:
      kernel_shape: Shape of the kernel beside it, whose last two axes are inputs and outputs.
      depth: Number of blocks that are stacked on the first axis; 0: none is.
      rank: Number of channels between A and B.
      scale: Factor of the product, alpha / rank.
      dropout_rate: Probability that A does not see an input, in training.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values.

    Source: Hu et al. 2021, LoRA, section 4.1.
    """

    keys: Any = None  # of this call's dropout, one for each block of a stack

    def __init__(
        self,
        kernel_shape: tuple[int, ...],
        *,
        depth: int = 0,
        rank: int,
        scale: float,
        dropout_rate: float,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ):
        *_, width, features = kernel_shape
        stack = (depth,) if depth else ()
        bound = 1 / math.sqrt(width)
        shape = (*stack, width, rank)
        self.lora_a = nnx.Param(
            jax.random.uniform(rngs.params(), shape, param_dtype, -bound, bound)
        )
        self.lora_b = nnx.Param(jnp.zeros((*stack, rank, features), param_dtype))
        self.scale = scale
        self.dropout_rate = dropout_rate

    def __call__(
        self, inputs: Float[Array, "*shape width"], layer: Callable[[jax.Array], jax.Array]
    ) -> Float[Array, "*shape features"]:
        """Returns the outputs of the layer and of the change together."""
        outputs = layer(inputs)
        a, b = (x[...].astype(outputs.dtype) for x in (self.lora_a, self.lora_b))
        inputs = inputs.astype(outputs.dtype)
        if self.keys is not None:
            inputs = drop(inputs, self.dropout_rate, self.keys)
        rows = inputs.reshape(-1, inputs.shape[-1])
        return outputs + (self.scale * (rows @ a @ b)).reshape(outputs.shape)


class Ia3(nnx.Module):
    """A factor for each output of a layer, or for each input. They start at 1.

    Args:
      kernel_shape: Shape of the kernel beside it, whose last two axes are inputs and outputs.
      depth: Number of blocks that are stacked on the first axis; 0: none is.
      of_inputs: Whether inputs are scaled; False: outputs with their bias.
      param_dtype: Dtype of the parameters.

    Source: Liu et al. 2022, Few-Shot Parameter-Efficient Fine-Tuning, section 3.3.
    """

    def __init__(
        self,
        kernel_shape: tuple[int, ...],
        *,
        depth: int = 0,
        of_inputs: bool,
        param_dtype: Any,
    ):
        size = kernel_shape[-2 if of_inputs else -1]
        factors = jnp.ones((depth, size) if depth else (size,), param_dtype)
        self.ia3_inputs = nnx.Param(factors) if of_inputs else None
        self.ia3_outputs = None if of_inputs else nnx.Param(factors)

    def __call__(
        self, inputs: Float[Array, "*shape width"], layer: Callable[[jax.Array], jax.Array]
    ) -> Float[Array, "*shape features"]:
        """Returns the outputs of the layer, with inputs or outputs scaled."""
        if self.ia3_inputs is not None:
            return layer(_scaled(inputs, self.ia3_inputs[...]))
        assert self.ia3_outputs is not None
        return _scaled(layer(inputs), self.ia3_outputs[...])


def _scaled(inputs: jax.Array, factors: jax.Array) -> jax.Array:
    return inputs * factors.astype(inputs.dtype).reshape((1,) * (inputs.ndim - 1) + (-1,))


def draw_adapter_keys(model: nnx.Module, key: jax.Array) -> None:
    """Gives each LoRA with dropout the key of one training call, or of its part in each block.

    They cannot come with the call: no layer beside them has any randomness. A model without such
    adapters stays as it is.

    Args:
      model: Model that is called once and then thrown away.
      key: Key of the call.
    """
    modules = [module for _, module in nnx.iter_modules(model)]
    drops = [module for module in modules if isinstance(module, Lora) and module.dropout_rate]
    for i, module in enumerate(drops):
        stack = module.lora_a.shape[:-2]
        own = jax.random.fold_in(key, i)
        module.keys = nnx.data(jax.random.split(own, stack) if stack else own)


def without_adapters(tree: Any) -> Any:
    """Returns nested dicts of parameters without those of adapters."""
    if not isinstance(tree, dict):
        return tree
    return {name: without_adapters(child) for name, child in tree.items() if name != ADAPTER}


def lora_scale(model: nnx.Module) -> float:
    """Returns the scale that all LoRAs of a model have; 1 if there is none."""
    modules = (module for _, module in nnx.iter_modules(model))
    return next((module.scale for module in modules if isinstance(module, Lora)), 1.0)


def merge_adapters(tree: Any, scale: float) -> Any:
    """Returns nested dicts of parameters in which each kernel has what its adapter changes.

    Args:
      tree: Nested dicts of arrays, stacked or block by block.
      scale: Factor of the product of a LoRA's matrices; unused of others.
    """
    if not isinstance(tree, dict):
        return tree
    merged = {name: merge_adapters(child, scale) for name, child in tree.items() if name != ADAPTER}
    if isinstance(adapter := tree.get(ADAPTER), dict):
        merged |= _merged(tree, adapter, scale)
    return merged


def _merged(layer: dict, adapter: dict, scale: float) -> dict:
    """Returns kernel and bias of a layer, rounded once."""
    kernel, bias = layer["kernel"], layer.get("bias")
    wide = np.asarray(kernel, np.float64)
    if "lora_a" in adapter:
        a, b = (np.asarray(adapter[name], np.float64) for name in ("lora_a", "lora_b"))
        wide = wide + scale * (a @ b).reshape(wide.shape)
    elif "ia3_inputs" in adapter:
        factors = np.asarray(adapter["ia3_inputs"], np.float64)
        wide = wide * _beside(factors, wide.ndim, axis=-2)
    else:
        factors = np.asarray(adapter["ia3_outputs"], np.float64)
        wide = wide * _beside(factors, wide.ndim, axis=-1)
        if bias is not None:
            bias = (np.asarray(bias, np.float64) * factors).astype(bias.dtype)
    merged = {"kernel": wide.astype(kernel.dtype)}
    return merged if bias is None else merged | {"bias": bias}


def _beside(factors: np.ndarray, ndim: int, *, axis: int) -> np.ndarray:
    """Returns factors of one axis, or of one in each block, with the dimensions of a kernel."""
    shape = [1] * ndim
    shape[axis] = factors.shape[-1]
    if factors.ndim == 2:
        shape[0] = len(factors)
    return factors.reshape(shape)
