"""MobileNetV3, as torchvision and timm compute it."""

import dataclasses

import jax
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.activation import ACTIVATIONS, hard_sigmoid
from jaxvision.layers.conv import kaiming_fan_out, make_divisible
from jaxvision.layers.inverted_residual import InvertedResidual
from jaxvision.layers.linear import linear
from jaxvision.models.image_model import LayerGroups
from jaxvision.models.mobilenet import Block, BlockRow, MobileNet, MobileNetConfig
from jaxvision.models.spec import HALF, ModelSpec, Preprocess, param_dtype


def _row(
    kernel_size: int,
    inside: int,
    of: int,
    channels: int,
    squeeze: bool,
    activation: str,
    stride: int = 1,
) -> BlockRow:
    """Returns a line of tables 1 and 2, which give the channels inside instead of the expansion."""
    return BlockRow(
        kernel_size=kernel_size,
        expansion=inside / of,
        channels=channels,
        squeeze=squeeze,
        activation=activation,
        stride=stride,
    )


# Tables 1 and 2 of the paper between the first convolution and the last one: kernel, expanded size,
# input, output, squeeze-and-excite, non-linearity, stride.
_LARGE = (
    _row(3, 16, 16, 16, False, "relu"),
    _row(3, 64, 16, 24, False, "relu", stride=2),
    _row(3, 72, 24, 24, False, "relu"),
    _row(5, 72, 24, 40, True, "relu", stride=2),
    _row(5, 120, 40, 40, True, "relu"),
    _row(5, 120, 40, 40, True, "relu"),
    _row(3, 240, 40, 80, False, "hard_swish", stride=2),
    _row(3, 200, 80, 80, False, "hard_swish"),
    _row(3, 184, 80, 80, False, "hard_swish"),
    _row(3, 184, 80, 80, False, "hard_swish"),
    _row(3, 480, 80, 112, True, "hard_swish"),
    _row(3, 672, 112, 112, True, "hard_swish"),
    _row(5, 672, 112, 160, True, "hard_swish", stride=2),
    _row(5, 960, 160, 160, True, "hard_swish"),
    _row(5, 960, 160, 160, True, "hard_swish"),
)
_SMALL = (
    _row(3, 16, 16, 16, True, "relu", stride=2),
    _row(3, 72, 16, 24, False, "relu", stride=2),
    _row(3, 88, 24, 24, False, "relu"),
    _row(5, 96, 24, 40, True, "hard_swish", stride=2),
    _row(5, 240, 40, 40, True, "hard_swish"),
    _row(5, 240, 40, 40, True, "hard_swish"),
    _row(5, 120, 40, 48, True, "hard_swish"),
    _row(5, 144, 48, 48, True, "hard_swish"),
    _row(5, 288, 48, 96, True, "hard_swish", stride=2),
    _row(5, 576, 96, 96, True, "hard_swish"),
    _row(5, 576, 96, 96, True, "hard_swish"),
)


def _minimal(rows: tuple[BlockRow, ...]) -> tuple[BlockRow, ...]:
    """Returns the rows for hardware that is slow at 5x5 kernels, squeezing and hard swish."""
    return tuple(
        dataclasses.replace(row, kernel_size=3, squeeze=False, activation="relu") for row in rows
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MobileNetV3Config(MobileNetConfig):
    """Every choice of a MobileNetV3; see `MobileNetConfig`.

    Attributes:
      rows: Rows of the paper's table of blocks.
      stem_width: Number of channels of the stem; a width multiplier below 0.75 leaves them alone.
      last_width: Number of channels of the last convolution before the pooling, before the
        multiplier.
      hidden_width: Number of channels of the layer between pooling and head.
      activation: Name of the activation of stem, last convolution and hidden layer.
      dropout_rate: Dropout rate before the head.
    """

    rows: tuple[BlockRow, ...] = _LARGE
    stem_width: int = 16
    last_width: int = 960
    hidden_width: int = 1280
    activation: str = "hard_swish"
    dropout_rate: float = 0.2

    @property
    def stem_channels(self) -> int:
        """Channels of the stem."""
        return self.stem_width if self.width < 0.75 else super().stem_channels

    @property
    def last_channels(self) -> int:
        """Channels of the 1x1 convolution behind the blocks."""
        return make_divisible(self.last_width * self.width)

    def squeezed(self, in_channels: int, expanded_channels: int) -> int:
        """Returns a quarter of the channels inside the block, as a multiple of 8."""
        return make_divisible(expanded_channels / 4)


class MobileNetV3(MobileNet):
    """A stem, inverted residuals of which some squeeze, a 1x1 convolution, a hidden layer.

    The hidden layer is behind the pooling, where a 1x1 convolution costs a 49th ("efficient last
    stage"). The gate is a hard sigmoid.

    Source: Howard et al. 2019, Searching for MobileNetV3, https://arxiv.org/abs/1905.02244.
    """

    config: MobileNetV3Config
    weight_sources = "jaxvision.interop.mobilenet:V3_SOURCES"
    layer_groups = LayerGroups(behind="last_conv/", with_head="hidden/")  # as timm counts

    def __init__(self, config: MobileNetV3Config, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        dtype = param_dtype(config.dtype)
        self.hidden = linear(
            config.last_channels,
            config.hidden_width,
            kernel_init=kaiming_fan_out,
            dtype=dtype,
            param_dtype=dtype,
            rngs=rngs,
        )

    def make_block(
        self, shape: Block, drop_path_rate: float, *, rngs: nnx.Rngs
    ) -> InvertedResidual:
        """Returns a new block."""
        return InvertedResidual(
            shape.in_channels,
            shape.expanded_channels,
            shape.out_channels,
            kernel_size=shape.kernel_size,
            stride=shape.stride,
            squeezed_channels=shape.squeezed_channels,
            activation=ACTIVATIONS[shape.activation],
            gate=hard_sigmoid,
            drop_path_rate=drop_path_rate,
            rngs=rngs,
            **self.config.conv_options(),
        )

    def head_channels(self, channels: int) -> int:
        """Returns the channels of the hidden layer."""
        del channels
        return self.config.hidden_width

    def pool(
        self, features: Float[Array, "batch rows columns features"]
    ) -> Float[Array, "batch head_channels"]:
        """Returns the hidden layer of the mean of the map."""
        return ACTIVATIONS[self.config.activation](self.hidden(super().pool(features)))

    def trunk(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "batch rows columns features"], dict[int, jax.Array]]:
        """Returns the last map, that of the last convolution, and what `pyramid` returns."""
        maps = self.pyramid(images, train=train, rngs=rngs)
        return list(maps.values())[-1], maps

    def pyramid(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> dict[int, jax.Array]:
        """Returns the last map of each stride; at the last one that of the last convolution."""
        maps = super().pyramid(images, train=train, rngs=rngs)
        if self.last_conv is not None:
            maps[max(maps)] = self.last_conv(maps[max(maps)], train=train)
        return maps


def _spec(
    name: str,
    num_params: int,
    *,
    width: float = 1.0,
    preprocess: Preprocess,
    torchvision: str | None = None,
    timm: str | None = None,
    **options,
) -> ModelSpec:
    small = "small" in name
    rows = _SMALL if small else _LARGE
    minimal = "minimal" in name
    return ModelSpec(
        name=name,
        family="mobilenet_v3",
        build=MobileNetV3,
        config=MobileNetV3Config(
            rows=_minimal(rows) if minimal else rows,
            width=width,
            last_width=576 if small else 960,
            hidden_width=1024 if small else 1280,
            activation="relu" if minimal else "hard_swish",
            **options,
        ),
        image_size=224,
        preprocess=preprocess,
        num_params=num_params,
        source=f"Howard et al. 2019, {'table 2' if small else 'table 1'}",
        torchvision=torchvision,
        timm=timm,
    )


def _torchvision(name: str, num_params: int) -> ModelSpec:
    return _spec(
        name,
        num_params,
        preprocess=Preprocess(),
        norm_eps=1e-3,
        norm_momentum=0.01,
        torchvision=name,
    )


def _timm(name: str, width: float, num_params: int, interpolation: str = "bicubic") -> ModelSpec:
    preprocess = Preprocess(interpolation=interpolation)
    return _spec(name, num_params, width=width, preprocess=preprocess, timm=name)


def _tf(name: str, width: float, num_params: int) -> ModelSpec:
    return _spec(
        name,
        num_params,
        width=width,
        preprocess=Preprocess(HALF, HALF),
        padding="same",
        norm_eps=1e-3,
        timm=name,
    )


# Three libraries of weights, three sets of numbers: torchvision's epsilon and momentum, timm's own,
# and the padding and epsilon of TensorFlow's weights in timm.
SPECS = (
    _torchvision("mobilenet_v3_large", 5_483_032),
    _torchvision("mobilenet_v3_small", 2_542_856),
    _timm("mobilenetv3_large_100", 1.0, 5_483_032),
    _timm("mobilenetv3_large_075", 0.75, 3_993_528, "bilinear"),
    _timm("mobilenetv3_small_100", 1.0, 2_542_856),
    _timm("mobilenetv3_small_075", 0.75, 2_041_872),
    _timm("mobilenetv3_small_050", 0.5, 1_593_224),
    _tf("tf_mobilenetv3_large_100", 1.0, 5_483_032),
    _tf("tf_mobilenetv3_large_075", 0.75, 3_993_528),
    _tf("tf_mobilenetv3_large_minimal_100", 1.0, 3_924_288),
    _tf("tf_mobilenetv3_small_100", 1.0, 2_542_856),
    _tf("tf_mobilenetv3_small_075", 0.75, 2_041_872),
    _tf("tf_mobilenetv3_small_minimal_100", 1.0, 2_044_736),
)
