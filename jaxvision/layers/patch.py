"""From pixels to tokens: one linear map per patch, or a few strided convolutions."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.conv import Conv, ConvNormAct
from jaxvision.layers.linear import flat_product
from jaxvision.layers.norm import layer_norm
from jaxvision.layers.over_batch import over_batch

_LECUN_NORMAL = jax.nn.initializers.lecun_normal()


class PatchEmbed(nnx.Module):
    """Cuts the image into square patches and maps each to a token.

    Equal to a convolution whose stride is its window, but computed as one matrix product. The
    kernel keeps the layout of that convolution, HWIO, so that weights of one map onto it.

    Args:
      in_channels: Number of channels of the image.
      width: Number of channels of a token.
      patch_size: Side of a patch in pixels.
      use_bias: Whether a bias is added.
      kernel_init: Initialiser of the kernel, by default that of torchvision; the bias starts at 0.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values.

    Source: Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, eq. 1.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        patch_size: int,
        use_bias: bool = True,
        kernel_init: jax.nn.initializers.Initializer = _LECUN_NORMAL,
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        shape = (patch_size, patch_size, in_channels, width)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.dtype(param_dtype)))
        self.bias = nnx.Param(jnp.zeros((width,), param_dtype)) if use_bias else None
        self.patch_size = patch_size
        self.dtype = dtype

    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch rows columns new_channels"]:
        """Returns the grid of tokens; `train` changes nothing here.

        Raises:
          ValueError: if the image is not a whole number of patches.
        """
        del train
        batch, height, width, channels = images.shape
        size = self.patch_size
        check_divisible(height, width, size)
        patches = images.astype(self.dtype).reshape(
            batch, height // size, size, width // size, size, channels
        )
        patches = patches.transpose(0, 1, 3, 2, 4, 5)  # batch rows columns size size channels
        patches = patches.reshape(batch, height // size, width // size, size * size * channels)
        kernel = self.kernel[...].astype(self.dtype).reshape(size * size * channels, -1)
        tokens = flat_product(patches, kernel)
        if self.bias is None:
            return tokens
        return tokens + self.bias[...].astype(self.dtype).reshape(1, 1, 1, -1)


class OverlapPatchEmbed(nnx.Module):
    """Maps windows that overlap their neighbours to tokens, and normalises these.

    Zeros lie on all four sides, so that a side of n pixels has ceil(n / stride) tokens, whatever n.

    Args:
      in_channels: Number of channels of the image.
      width: Number of channels of a token.
      kernel_size: Side of a window in pixels, odd.
      stride: Number of pixels from one window to the next.
      norm_eps: Epsilon of the LayerNorm.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values: Kaiming normal by fan-out as in timm, bias 0.

    Source: Wang et al. 2022, PVT v2, section 3.3 "Overlapping Patch Embedding".
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        kernel_size: int,
        stride: int,
        norm_eps: float,
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        dtypes: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        self.proj = Conv(
            in_channels, width, kernel_size, stride=stride, use_bias=True, rngs=rngs, **dtypes
        )
        self.norm = layer_norm(width, eps=norm_eps, rngs=rngs, **dtypes)

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns new_channels"]:
        """Returns the grid of tokens."""
        return self.norm(self.proj(images))


class ConvStem(nnx.Module):
    """Reaches the same grid by 3x3 convolutions of stride 2 and a final 1x1 one.

    Trains faster and steadier than large patches, above all in short runs and with SGD.

    Args:
      in_channels: Number of channels of the image.
      width: Number of channels of a token.
      patch_size: Side of a token in pixels, a power of 2: one convolution for each factor 2.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values.

    Raises:
      ValueError: if `patch_size` is not a power of 2, or `width` cannot be halved often enough.

    Source: Xiao et al. 2021, Early Convolutions Help Transformers See Better, section 4. The
      channels double with each convolution and end at `width`; unlike there, no block is taken away
      in exchange.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        patch_size: int,
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        steps = patch_size.bit_length() - 1
        if patch_size < 2 or patch_size != 2**steps:
            raise ValueError(f"stem='conv' needs a patch_size of 2, 4, 8, ..., got {patch_size}.")
        if width % 2 ** (steps - 1):
            raise ValueError(
                f"stem='conv' halves the width {steps - 1} times, which {width} does not allow: "
                f"use a multiple of {2 ** (steps - 1)}."
            )
        channels = [in_channels] + [width // 2 ** (steps - 1 - i) for i in range(steps)]
        self.convs = nnx.List(
            ConvNormAct(
                channels[i],
                channels[i + 1],
                3,
                stride=2,
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )
            for i in range(steps)
        )
        self.proj = Conv(
            width, width, 1, use_bias=True, dtype=dtype, param_dtype=param_dtype, rngs=rngs
        )
        self.patch_size = patch_size

    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch rows columns new_channels"]:
        """Returns the grid of tokens; moves the running statistics if `train`.

        Raises:
          ValueError: if the image is not a whole number of patches.
        """
        check_divisible(images.shape[1], images.shape[2], self.patch_size)
        for conv in self.convs:
            images = conv(images, train=train)
        return self.proj(images)


def whole_patches(
    images: Float[Array, "batch height width channels"], patch_size: int
) -> Float[Array, "batch rows columns channels"]:
    """Returns the image without the last rows and columns that fill no patch.

    A convolution without padding, whose stride is its window, does not see these either.

    Args:
      images: Images, or a map.
      patch_size: Side of a patch in pixels.

    Raises:
      ValueError: if there is no whole patch; the message gives the sizes.
    """
    height, width = images.shape[1:3]
    if height < patch_size or width < patch_size:
        raise ValueError(
            f"A map of {height} x {width} pixels holds no patch of {patch_size} x {patch_size}: "
            "give the model larger images."
        )
    return images[:, : height // patch_size * patch_size, : width // patch_size * patch_size]


def check_divisible(height: int, width: int, patch_size: int) -> None:
    """Raises ValueError unless both sides are a whole number of patches."""
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"An image of {height} x {width} pixels does not divide into patches of {patch_size}: "
            f"resize it, or use {height // patch_size * patch_size} x "
            f"{width // patch_size * patch_size}."
        )


def prepend_tokens(
    prefix: Sequence[nnx.Variable], grid: Float[Array, "batch rows columns width"]
) -> Float[Array, "batch tokens width"]:
    """Returns a grid as a row of tokens behind learned ones.

    Args:
      prefix: Learned tokens [1, 1, width], such as a class token.
      grid: Tokens of the patches.
    """
    batch, rows, columns, width = grid.shape
    learned = [over_batch(token[...].astype(grid.dtype), batch) for token in prefix]
    return jnp.concatenate([*learned, grid.reshape(batch, rows * columns, width)], axis=1)
