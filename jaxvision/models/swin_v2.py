"""Swin Transformer V2: the same maps and windows, with three changes that let the model grow.

Norms after the branches, cosines as scores, and position biases that are computed, not stored.
"""

import dataclasses
from typing import Any

from flax import nnx

from jaxvision.layers.cosine_attention import CosineAttention
from jaxvision.layers.position_bias import ContinuousPositionBias
from jaxvision.models.spec import ModelSpec, Preprocess, layer_dtypes, param_dtype
from jaxvision.models.swin import Swin, SwinConfig, size_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwinV2Config(SwinConfig):
    """Every choice of a Swin Transformer V2: those of the first version, and two more.

    Attributes:
      trained_windows: Side of each stage's windows in the training that set the scale of the
        coordinates, for a model that went on with larger windows; None: this model's own.
      key_bias: Whether to keep a bias of the keys that is never used, as torchvision's files do.
    """

    window_size: int = 8
    image_size: int | tuple[int, int] = 256
    trained_windows: tuple[int, ...] | None = None
    key_bias: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.trained_windows and len(self.trained_windows) != len(self.stage_depths):
            raise ValueError(
                f"trained_windows must name {len(self.stage_depths)} stages, got "
                f"{self.trained_windows}."
            )


class SwinV2(Swin):
    """Swin Transformer V2.

    Initial values as timm: linear kernels trunc-normal 0.02, biases 0, the norms behind the
    branches 0.

    Args:
      config: Config of the model.
      rngs: Source of the initial values.

    Source: Liu et al. 2022, Swin Transformer V2: Scaling Up Capacity and Resolution,
      https://arxiv.org/abs/2111.09883.
    """

    config: SwinV2Config
    weight_sources = "jaxvision.interop.swin:SOURCES_V2"
    not_decayed = Swin.not_decayed | {"logit_scale"}
    norm_first = False

    def _attention(self, stage: int, rngs: nnx.Rngs) -> Any:
        config = self.config
        return CosineAttention(
            config.stage_width(stage),
            config.stage_heads[stage],
            key_bias=config.key_bias,
            attention_dropout_rate=config.attention_dropout_rate,
            implementation=config.attention,
            rngs=rngs,
            **layer_dtypes(config.dtype),
        )

    def _position_bias(self, stage: int, rngs: nnx.Rngs) -> Any:
        config = self.config
        window = unit = config.stage_window(stage)
        if config.trained_windows:
            unit = (config.trained_windows[stage], config.trained_windows[stage])
        return ContinuousPositionBias(
            window,
            config.stage_heads[stage],
            unit=unit,
            param_dtype=param_dtype(config.dtype),
            rngs=rngs,
        )


def _spec(
    name: str,
    size: str,
    num_params: int,
    *,
    window_size: int = 8,
    image_size: int = 256,
    resized_to: int = 0,
    trained_windows: tuple[int, ...] | None = None,
    timm: str | None = None,
    torchvision: str | None = None,
    hf: str | None = None,
) -> ModelSpec:
    """Returns a row; `resized_to` is the image's short side before the centre crop."""
    crop = image_size / resized_to if resized_to else (0.9 if image_size == 256 else 1.0)
    return ModelSpec(
        name=name,
        family="swin_v2",
        build=SwinV2,
        config=SwinV2Config(
            window_size=window_size,
            # The last stage's map is smaller than a window of 16.
            windows="padded" if window_size == 8 else "fitted",
            image_size=image_size,
            trained_windows=trained_windows,
            key_bias=torchvision is not None,
            **size_fields(size),
        ),
        image_size=image_size,
        preprocess=Preprocess(interpolation="bicubic", crop_fraction=crop),
        num_params=num_params,
        source="Liu et al. 2022, section 4.1 and table 1",
        timm=timm,
        torchvision=torchvision,
        hf=hf,
    )


def _by_timm(size: str, word: str, num_params: int, window_size: int) -> ModelSpec:
    return _spec(
        f"swin_v2_{size}_w{window_size}",
        size,
        num_params,
        window_size=window_size,
        timm=f"swinv2_{word}_window{window_size}_256",
        hf=f"microsoft/swinv2-{word}-patch4-window{window_size}-256",
    )


def _grown(size: str, word: str, num_params: int, window_size: int, image_size: int) -> ModelSpec:
    """Returns a model trained with windows of 12 and finished with larger ones."""
    windows, sizes = f"12to{window_size}", f"192to{image_size}"
    return _spec(
        f"swin_v2_{size}_w{windows}",
        size,
        num_params,
        window_size=window_size,
        image_size=image_size,
        trained_windows=(12, 12, 12, 6),
        timm=f"swinv2_{word}_window{windows}_{sizes}",
        hf=f"microsoft/swinv2-{word}-patch4-window{windows}-{sizes}-22kto1k-ft",
    )


SPECS = (
    _spec("swin_v2_t", "t", 28_351_570, resized_to=260, torchvision="swin_v2_t"),
    _spec("swin_v2_s", "s", 49_737_442, resized_to=260, torchvision="swin_v2_s"),
    _spec("swin_v2_b", "b", 87_930_848, resized_to=272, torchvision="swin_v2_b"),
    _by_timm("t", "tiny", 28_347_154, 8),
    _by_timm("t", "tiny", 28_347_154, 16),
    _by_timm("s", "small", 49_728_418, 8),
    _by_timm("s", "small", 49_728_418, 16),
    _by_timm("b", "base", 87_918_816, 8),
    _by_timm("b", "base", 87_918_816, 16),
    _grown("b", "base", 87_918_816, 16, 256),
    _grown("b", "base", 87_918_816, 24, 384),
    _grown("l", "large", 196_739_932, 16, 256),
    _grown("l", "large", 196_739_932, 24, 384),
)
