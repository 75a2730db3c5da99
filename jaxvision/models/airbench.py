"""The network of the CIFAR-10 speed runs: a frozen whitening, then convolutions and max-pooling."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.errors import InputError, check_choice
from jaxvision.layers.activation import ACTIVATIONS
from jaxvision.layers.conv import Conv
from jaxvision.layers.linear import linear
from jaxvision.layers.mlp import gelu
from jaxvision.layers.norm import BatchNorm
from jaxvision.layers.pool import max_pool
from jaxvision.models.image_model import ImageModel
from jaxvision.models.spec import ModelSpec, Preprocess, check_images, layer_dtypes, param_dtype

_ACTIVATIONS = {"gelu": gelu, "relu": ACTIVATIONS["relu"]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AirbenchConfig:
    """Every choice of an Airbench.

    Attributes:
      stage_widths: Number of channels in each stage; each stage halves the map.
      whiten_size: Side of the patches that the first convolution whitens, in pixels.
      whiten_eps: Number added to the variance of a patch along each of its axes.
      activation: Name of the activation: "gelu" or "relu".
      head_scale: Factor of what the head reads, and so of the logits.
      in_channels: Number of channels of the image.
      num_classes: Number of outputs of the head; 0: no head, the call returns the pooled features.
      norm_eps: Epsilon of every batch norm.
      norm_momentum: Momentum of every batch norm, in torch's sense.
      dtype: Compute dtype; parameters, statistics and logits are float32 (float64 if this is).
    """

    stage_widths: tuple[int, ...] = (64, 256, 256)
    whiten_size: int = 2
    whiten_eps: float = 5e-4
    activation: str = "gelu"
    head_scale: float = 1 / 9
    in_channels: int = 3
    num_classes: int = 10
    norm_eps: float = 1e-12
    norm_momentum: float = 0.4
    dtype: str = "float32"

    def __post_init__(self):
        check_choice("activation", self.activation, tuple(_ACTIVATIONS))

    @property
    def whiten_width(self) -> int:
        """Channels of the whitened image: each axis of a patch, and its negative."""
        return 2 * self.in_channels * self.whiten_size**2


class AirbenchBlock(nnx.Module):
    """Two 3x3 convolutions, the first of which is followed by max-pooling.

    Args:
      config: Config of the model.
      in_channels: Number of channels of the input.
      width: Number of channels of the output.
      rngs: Source of the initial values.
    """

    def __init__(self, config: AirbenchConfig, in_channels: int, width: int, *, rngs: nnx.Rngs):
        dtypes = layer_dtypes(config.dtype)
        conv = {"kernel_init": dirac, "rngs": rngs, **dtypes}
        norm = {"eps": config.norm_eps, "momentum": config.norm_momentum, **dtypes}
        self.conv1 = Conv(in_channels, width, 3, **conv)
        self.norm1 = BatchNorm(width, use_scale=False, **norm)
        self.conv2 = Conv(width, width, 3, **conv)
        self.norm2 = BatchNorm(width, use_scale=False, **norm)
        self.activation = _ACTIVATIONS[config.activation]

    def __call__(
        self, inputs: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch new_height new_width new_channels"]:
        """Returns the new map; moves the running statistics if `train`."""
        outputs = max_pool(self.conv1(inputs), kernel_size=2, stride=2)
        outputs = self.norm1.activated(outputs, self.activation, train=train)
        return self.norm2.activated(self.conv2(outputs), self.activation, train=train)


class Airbench(ImageModel):
    """Network of the airbench speed runs, which started from those of Page and of Tysam.

    The first convolution makes the numbers of a patch uncorrelated and of variance 1: its kernel
    is set by `fit_to_images`, and the recipe freezes it. The first channels of each other
    convolution start as the identity, the rest as torch's Conv2d.

    Args:
      config: Config of the model.
      rngs: Source of the initial values.

    Source: Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, section 3 and appendix A,
      https://arxiv.org/abs/2404.00498.
    """

    config: AirbenchConfig
    weight_sources = "jaxvision.interop.airbench:SOURCES"

    def __init__(self, config: AirbenchConfig, *, rngs: nnx.Rngs):
        self.config = config
        channels, dtypes = config.whiten_width, layer_dtypes(config.dtype)
        self.stem = Conv(
            config.in_channels,
            channels,
            config.whiten_size,
            use_bias=True,
            kernel_init=dirac,
            rngs=rngs,
            **dtypes,
        )
        stages = []
        for width in config.stage_widths:
            stages.append(nnx.List([AirbenchBlock(config, channels, width, rngs=rngs)]))
            channels = width
        self.stages = nnx.List(stages)
        dtype = param_dtype(config.dtype)
        self.head = (
            linear(
                channels,
                config.num_classes,
                use_bias=False,
                kernel_init=_torch_default,
                dtype=dtype,
                param_dtype=dtype,
                rngs=rngs,
            )
            if config.num_classes
            else None
        )

    def trunk(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "batch rows columns features"], dict[int, jax.Array]]:
        """Returns the map of the last stage, and the maps of all; the images may have any size."""
        check_images(images, self.config.in_channels)
        outputs = _ACTIVATIONS[self.config.activation](self.stem(images))
        maps = {}
        for i, (block,) in enumerate(self.stages):
            outputs = block(outputs, train=train)
            maps[2 ** (i + 1)] = outputs
        return outputs, maps

    def pool(self, features: jax.Array) -> Float[Array, "batch channels"]:
        """Returns the maximum of each channel, times `head_scale`."""
        return jnp.max(features, axis=(1, 2)) * self.config.head_scale

    def fit_to_images(self, images: Float[np.ndarray, "images height width channels"]) -> None:
        """Sets the first convolution so that it whitens patches of images.

        Args:
          images: Normalised training images, a few thousand.
        """
        size, eps = self.config.whiten_size, self.config.whiten_eps
        kernel = whitening_kernel(images, size, eps)
        self.stem.kernel[...] = jnp.asarray(kernel, self.stem.kernel.dtype)


def dirac(key: Any, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
    """Returns a kernel in HWIO whose first channels pass on the input, the others as in torch."""
    del out_sharding  # an initialiser's, which no layer here gives
    kernel = _torch_default(key, shape, dtype)
    same = min(shape[2], shape[3])
    identity = np.zeros((*shape[:3], same))
    centre = [(side - 1) // 2 if side % 2 else side // 2 for side in shape[:2]]
    identity[centre[0], centre[1], np.arange(same), np.arange(same)] = 1.0
    return jnp.concatenate([jnp.asarray(identity, dtype), kernel[..., same:]], axis=-1)


# U(-1/sqrt(in), 1/sqrt(in)), what torch.nn.Linear and Conv2d start with.
_torch_default = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def whitening_kernel(
    images: Float[np.ndarray, "images height width channels"], size: int, eps: float
) -> Float[np.ndarray, "size size channels features"]:
    """Returns the kernel in HWIO that turns patches into uncorrelated numbers, and its negative.

    Computed in float64. The axes of the largest variance come first.

    Args:
      images: Images whose patches are whitened.
      size: Side of a patch in pixels.
      eps: Number added to the variance along each axis.

    Note: the covariance is that around 0, as the published code takes it.

    Source: Page 2019, How to train your ResNet 8: back to Newton.
    """
    windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
    channels = images.shape[-1]
    total = np.zeros((channels * size * size,) * 2)
    for part in np.array_split(windows, -(-len(images) // 500)):  # 500 images: some 50 MB
        rows = part.reshape(-1, channels * size * size).astype(np.float64)
        total += rows.T @ rows
    if not np.all(np.isfinite(total)):
        raise InputError("Images with values that are not finite cannot be whitened.")
    values, vectors = np.linalg.eigh(total / (windows.size / len(total)))
    axes = (vectors / np.sqrt(values + eps))[:, ::-1].reshape(channels, size, size, -1)
    kernel = axes.transpose(1, 2, 0, 3)
    return np.concatenate([kernel, -kernel], axis=-1)


def _spec(name: str, widths: tuple[int, ...], num_params: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="airbench",
        build=Airbench,
        config=AirbenchConfig(stage_widths=widths),
        image_size=32,
        preprocess=Preprocess(
            mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616), crop_fraction=1.0
        ),
        num_params=num_params,
        source="Jordan 2024, appendix A",
    )


SPECS = (_spec("airbench94", (64, 256, 256), 1_971_640),)
