"""EfficientNet and EfficientNet-Lite, as torchvision, timm and transformers compute them."""

import dataclasses
import math

from flax import nnx

from jaxvision.layers.activation import ACTIVATIONS
from jaxvision.layers.conv import make_divisible
from jaxvision.layers.inverted_residual import InvertedResidual
from jaxvision.models.mobilenet import Block, BlockRow, MobileNet, MobileNetConfig
from jaxvision.models.spec import HALF, ModelSpec, Preprocess

# Table 1 of the paper, stages 2 to 8.
_B0 = (
    BlockRow(expansion=1, kernel_size=3, channels=16, repeats=1, stride=1, squeeze=True),
    BlockRow(expansion=6, kernel_size=3, channels=24, repeats=2, stride=2, squeeze=True),
    BlockRow(expansion=6, kernel_size=5, channels=40, repeats=2, stride=2, squeeze=True),
    BlockRow(expansion=6, kernel_size=3, channels=80, repeats=3, stride=2, squeeze=True),
    BlockRow(expansion=6, kernel_size=5, channels=112, repeats=3, stride=1, squeeze=True),
    BlockRow(expansion=6, kernel_size=5, channels=192, repeats=4, stride=2, squeeze=True),
    BlockRow(expansion=6, kernel_size=3, channels=320, repeats=1, stride=1, squeeze=True),
)
_LITE0 = tuple(dataclasses.replace(row, squeeze=False) for row in _B0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EfficientNetConfig(MobileNetConfig):
    """Every choice of an EfficientNet; see `MobileNetConfig`.

    Attributes:
      rows: Rows of the paper's table of blocks.
      depth: Multiplier of the repeats of all rows, which are rounded up.
      last_width: Number of channels of the last convolution, before the multiplier.
      activation: Name of the activation of the convolutions, and inside the squeeze-and-excitation.
      scale_ends: Whether the multipliers apply to stem and last convolution (width), first and last
        row (depth); not in EfficientNet-Lite.
      drop_path_rate: Drop-path rate; the branch of block i of n, from 0, gets this rate * i / n.
    """

    rows: tuple[BlockRow, ...] = _B0
    depth: float = 1.0
    last_width: int = 1280
    activation: str = "silu"
    scale_ends: bool = True
    drop_path_rate: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        if self.depth <= 0:
            raise ValueError(f"A network needs a depth above 0, got {self.depth}.")

    @property
    def stem_channels(self) -> int:
        """Channels of the stem."""
        return super().stem_channels if self.scale_ends else self.stem_width

    @property
    def last_channels(self) -> int:
        """Channels of the 1x1 convolution behind the blocks."""
        return make_divisible(self.last_width * self.width) if self.scale_ends else self.last_width

    def repeats(self, row: BlockRow) -> int:
        """Returns the number of blocks of a row."""
        if not self.scale_ends and row in (self.rows[0], self.rows[-1]):
            return row.repeats
        return math.ceil(self.depth * row.repeats)

    def squeezed(self, in_channels: int, expanded_channels: int) -> int:
        """Returns a quarter of the channels of the block's input."""
        del expanded_channels
        return max(1, in_channels // 4)


class EfficientNet(MobileNet):
    """A stem, inverted residuals with squeeze-and-excitation, a 1x1 convolution.

    Width, depth and image size grow together: by 1.1^f, 1.2^f and 1.15^f (section 3.3), in the
    rounded coefficients of the published code. The gate is a sigmoid.

    Source: Tan and Le 2019, EfficientNet: Rethinking Model Scaling for Convolutional Neural
      Networks, https://arxiv.org/abs/1905.11946.
    """

    config: EfficientNetConfig
    weight_sources = "jaxvision.interop.efficientnet:SOURCES"

    def make_block(
        self, shape: Block, drop_path_rate: float, *, rngs: nnx.Rngs
    ) -> InvertedResidual:
        """Returns a new block."""
        activation = ACTIVATIONS[shape.activation]
        return InvertedResidual(
            shape.in_channels,
            shape.expanded_channels,
            shape.out_channels,
            kernel_size=shape.kernel_size,
            stride=shape.stride,
            squeezed_channels=shape.squeezed_channels,
            activation=activation,
            squeeze_activation=activation,
            drop_path_rate=drop_path_rate,
            rngs=rngs,
            **self.config.conv_options(),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Size:
    """One size of the published code: multipliers, pixels, rate; parameters with 1000 classes."""

    width: float
    depth: float
    pixels: int
    dropout_rate: float
    num_params: int


_SIZES = {
    "b0": _Size(width=1.0, depth=1.0, pixels=224, dropout_rate=0.2, num_params=5_288_548),
    "b1": _Size(width=1.0, depth=1.1, pixels=240, dropout_rate=0.2, num_params=7_794_184),
    "b2": _Size(width=1.1, depth=1.2, pixels=260, dropout_rate=0.3, num_params=9_109_994),
    "b3": _Size(width=1.2, depth=1.4, pixels=300, dropout_rate=0.3, num_params=12_233_232),
    "b4": _Size(width=1.4, depth=1.8, pixels=380, dropout_rate=0.4, num_params=19_341_616),
    "b5": _Size(width=1.6, depth=2.2, pixels=456, dropout_rate=0.4, num_params=30_389_784),
    "b6": _Size(width=1.8, depth=2.6, pixels=528, dropout_rate=0.5, num_params=43_040_704),
    "b7": _Size(width=2.0, depth=3.1, pixels=600, dropout_rate=0.5, num_params=66_347_960),
    "lite0": _Size(width=1.0, depth=1.0, pixels=224, dropout_rate=0.2, num_params=4_652_008),
    "lite1": _Size(width=1.0, depth=1.1, pixels=240, dropout_rate=0.2, num_params=5_416_680),
    "lite2": _Size(width=1.1, depth=1.2, pixels=260, dropout_rate=0.3, num_params=6_092_072),
    "lite3": _Size(width=1.2, depth=1.4, pixels=300, dropout_rate=0.3, num_params=8_197_096),
    "lite4": _Size(width=1.4, depth=1.8, pixels=380, dropout_rate=0.4, num_params=13_006_568),
}
# Short side, in pixels, that torchvision resizes to before its crop. It evaluates b2 at 288, where
# timm evaluates b2 at 256, b3 at 288, b4 at 320 and b5 at 448; the paper's sizes are in _SIZES.
_RESIZE = {"b0": 256, "b1": 256, "b2": 260, "b3": 320, "b4": 384, "b5": 456, "b6": 528, "b7": 600}


def _spec(name: str, preprocess: Preprocess, *, eps: float, momentum: float = 0.1, **peers):
    size_name = name.removeprefix("tf_").removeprefix("efficientnet_")
    size, lite = _SIZES[size_name], "lite" in size_name
    return ModelSpec(
        name=name,
        family="efficientnet",
        build=EfficientNet,
        config=EfficientNetConfig(
            rows=_LITE0 if lite else _B0,
            width=size.width,
            depth=size.depth,
            activation="relu6" if lite else "silu",
            scale_ends=not lite,
            padding="same" if name.startswith("tf_") else "symmetric",
            dropout_rate=size.dropout_rate,
            norm_eps=eps,
            norm_momentum=momentum,
        ),
        image_size=size.pixels,
        preprocess=preprocess,
        num_params=size.num_params,
        source="TensorFlow's EfficientNet-Lite" if lite else "Tan and Le 2019, tables 1 and 2",
        **peers,
    )


def _plain(size: str) -> ModelSpec:
    """Returns torchvision's model; timm's is another one from b5 on, where eps and momentum differ.

    Source: torchvision took the weights of b0 to b4 from timm, those of b5 to b7 from a port of
      TensorFlow's.
    """
    name, pixels = f"efficientnet_{size}", _SIZES[size].pixels
    preprocess = Preprocess(interpolation="bicubic", crop_fraction=pixels / _RESIZE[size])
    if size in ("b5", "b6", "b7"):
        return _spec(name, preprocess, eps=1e-3, momentum=0.01, torchvision=name)
    return _spec(name, preprocess, eps=1e-5, torchvision=name, timm=name)


def _tensorflow_crop(size: str, mean_std: dict, interpolation: str = "bicubic") -> Preprocess:
    """Returns TensorFlow's evaluation crop: 32 pixels less than the short side."""
    pixels = _SIZES[size].pixels
    return Preprocess(interpolation=interpolation, crop_fraction=pixels / (pixels + 32), **mean_std)


_B = [f"b{i}" for i in range(8)]
_LITE = [f"lite{i}" for i in range(5)]
_HALVES = {"mean": HALF, "std": HALF}

# tf_: TensorFlow's padding and epsilon, whose weights timm and transformers have.
SPECS = (
    *(_plain(size) for size in _B),
    *(
        _spec(
            f"tf_efficientnet_{size}",
            _tensorflow_crop(size, {}),
            eps=1e-3,
            timm=f"tf_efficientnet_{size}",
            hf=f"google/efficientnet-{size}",
        )
        for size in _B
    ),
    *(
        _spec(
            f"efficientnet_{size}",
            _tensorflow_crop(size, {}),
            eps=1e-5,
            timm=f"efficientnet_{size}",
        )
        for size in _LITE
    ),
    *(
        _spec(
            f"tf_efficientnet_{size}",
            _tensorflow_crop(
                size, _HALVES, "bilinear" if size in ("lite3", "lite4") else "bicubic"
            ),
            eps=1e-3,
            timm=f"tf_efficientnet_{size}",
        )
        for size in _LITE
    ),
)
