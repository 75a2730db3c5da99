"""What a trunk has beside itself while it learns by momentum contrast: MoCo v3."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from jaxvision.layers.activation import relu
from jaxvision.layers.linear import linear
from jaxvision.layers.norm import BatchNorm
from jaxvision.layers.patch import PatchEmbed
from jaxvision.layers.position import sincos_2d
from jaxvision.models.image_model import PRETRAINING
from jaxvision.models.spec import layer_dtypes, param_dtype
from jaxvision.models.vit import ViT
from jaxvision.options.moco import MocoOptions

# U(-1/sqrt(in), 1/sqrt(in)), what torch.nn.Linear starts with.
_TORCH_LINEAR = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Mlp(nnx.Module):
    """Linear layers without bias, each followed by a BatchNorm, and by a ReLU but for the last.

    Args:
      widths: Number of channels of the input, and of the output of each layer.
      last_norm: Whether there is a BatchNorm, without scale and bias, behind the last layer.
      dtype: Compute dtype.
      rngs: Source of the initial values.

    Source: Chen et al. 2021, MoCo v3, appendix A.
    """

    def __init__(self, widths: tuple[int, ...], *, last_norm: bool, dtype: str, rngs: nnx.Rngs):
        dtypes: dict[str, Any] = layer_dtypes(dtype)
        make = functools.partial(
            linear, use_bias=False, kernel_init=_TORCH_LINEAR, rngs=rngs, **dtypes
        )
        *inner, last = widths[1:]
        self.layers = nnx.List(make(*pair) for pair in zip(widths[:-1], widths[1:], strict=True))
        self.norms = nnx.List(BatchNorm(width, **dtypes) for width in inner)
        self.last_norm = (
            BatchNorm(last, use_scale=False, use_bias=False, **dtypes) if last_norm else None
        )

    def __call__(
        self, inputs: Float[Array, "batch width"], *, train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Returns the outputs; moves the running statistics if `train`."""
        for layer, norm in zip(self.layers, self.norms):  # noqa: B905 - the last has none here
            inputs = norm.activated(layer(inputs), relu, train=train)
        outputs = self.layers[-1](inputs)
        return outputs if self.last_norm is None else self.last_norm(outputs, train=train)


class Branch(nnx.Module):
    """An encoder with the projector behind it, both moved by momentum instead of gradients.

    Its weights are kept among the statistics of the model: what a step moves without a gradient.

    Args:
      encoder: Trunk whose values it starts from.
      projector: Projector whose values it starts from.
    """

    def __init__(self, encoder: nnx.Module, projector: Mlp):
        self.encoder: Any = _as_statistics(nnx.clone(encoder))
        self.projector: Any = _as_statistics(nnx.clone(projector))

    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch outputs"]:
        """Returns the keys of images; moves the running statistics if `train`."""
        return self.projector(self.encoder(images, train=train, rngs=rngs), train=train)


class Pretraining(nnx.Module):
    """Projector, predictor and momentum encoder beside a trunk.

    Args:
      trunk: Image model without a head.
      width: Number of channels that the trunk returns.
      options: Options of config.moco.
      dtype: Compute dtype.
      rngs: Source of the initial values.
    """

    def __init__(
        self, trunk: nnx.Module, width: int, options: MocoOptions, *, dtype: str, rngs: nnx.Rngs
    ):
        hidden, outputs = options.hidden_width, options.output_width
        inner = (hidden,) * (options.projector_layers - 1)
        self.projector = Mlp((width, *inner, outputs), last_norm=True, dtype=dtype, rngs=rngs)
        self.predictor = Mlp(
            (outputs, hidden, outputs), last_norm=options.predictor_norm, dtype=dtype, rngs=rngs
        )
        self.momentum = Branch(trunk, self.projector)
        self.updates = nnx.BatchStat(jnp.zeros((), param_dtype(dtype)))

    def move(self, trunk: nnx.Module, keep: Float[Array, ""]) -> None:
        """Moves the momentum encoder towards the trunk and the projector, and counts.

        Args:
          trunk: Trunk that this stands beside.
          keep: Share of itself that the momentum encoder keeps, in [0, 1].
        """
        target = {"encoder": _values(trunk), "projector": _values(self.projector)}
        target["encoder"].pop(PRETRAINING, None)
        new: dict[Any, Any] = flatten_dict(target)
        old: dict[Any, Any] = flatten_dict(_values(self.momentum, nnx.BatchStat))
        # In this form what is the same in both, as frozen parts are, keeps every bit.
        moved = {
            path: old[path]
            + (1 - keep).astype(value.dtype) * jax.lax.stop_gradient(value - old[path])
            for path, value in new.items()
        }
        nnx.update(self.momentum, unflatten_dict(moved))
        self.updates[...] = self.updates[...] + 1


def _values(module: nnx.Module, kind: type[nnx.Variable] = nnx.Param) -> dict[str, Any]:
    return nnx.to_pure_dict(nnx.state(module, kind))


def _as_statistics(module: nnx.Module) -> nnx.Module:
    """Returns a module whose parameters became statistics, each in an array of its own."""
    for _, each in nnx.iter_modules(module):
        for name, value in list(vars(each).items()):
            if isinstance(value, nnx.Param):
                setattr(each, name, nnx.BatchStat(jnp.copy(value[...])))
    return module


def build_with_momentum(
    rngs: nnx.Rngs, *, build: Any, width: int, options: MocoOptions, dtype: str
) -> nnx.Module:
    """Returns a trunk with all that it needs to learn by contrast, at `PRETRAINING`.

    The trunk's own weights have the names that they have without; whoever reads them from a run
    leaves the rest out. A Vision Transformer starts as in the paper's code.

    Args:
      rngs: Source of the initial values.
      build: Function that builds the trunk from `nnx.Rngs`.
      width: Number of channels that the trunk returns.
      options: Options of config.moco.
      dtype: Compute dtype.

    Source: Chen et al. 2021, An Empirical Study of Training Self-Supervised Vision Transformers,
      https://arxiv.org/abs/2104.02057.
    """
    model: Any = build(rngs)
    if isinstance(model, ViT):
        _prepare_vit(model, rngs, freeze_patches=options.freeze_patches)
    setattr(model, PRETRAINING, Pretraining(model, width, options, dtype=dtype, rngs=rngs))
    return model


def _prepare_vit(model: ViT, rngs: nnx.Rngs, *, freeze_patches: bool) -> None:
    """Gives a Vision Transformer Xavier uniform kernels and a fixed table of positions."""
    config, frozen = model.config, model.frozen_prefixes
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, nnx.Linear):
            _redraw(layer, rngs)
    if isinstance(model.patch_embed, PatchEmbed):
        kernel = model.patch_embed.kernel[...]
        xavier = jax.nn.initializers.xavier_uniform()
        flat = xavier(rngs.params(), (kernel[..., 0].size, config.width), kernel.dtype)
        model.patch_embed.kernel[...] = flat.reshape(kernel.shape)
        if freeze_patches:
            frozen = (*frozen, "patch_embed/")
    if model.pos_embed is not None:
        model.pos_embed[...] = _positions(model)
        frozen = (*frozen, "pos_embed")
    model.frozen_prefixes = frozen


def _redraw(layer: nnx.Linear, rngs: nnx.Rngs) -> None:
    """Draws a kernel anew, or those of a stack of blocks."""
    kernel = layer.kernel[...]
    stack = tuple(range(kernel.ndim - 2))
    draw = jax.nn.initializers.xavier_uniform(batch_axis=stack)
    layer.kernel[...] = draw(rngs.params(), kernel.shape, kernel.dtype)


def _positions(model: ViT) -> jax.Array:
    """Returns the table of fixed positions, zeros for the tokens before the patches.

    The paper's code has the rows' sinusoids before those of the columns.
    """
    config = model.config
    columns, rows = np.split(sincos_2d(*config.grid, config.width, with_longest=False), 2, axis=1)
    table = np.concatenate([rows, columns], axis=1)
    table = np.pad(table, ((config.num_prefix_positions, 0), (0, 0)))
    return jnp.asarray(table, param_dtype(config.dtype))[None]
