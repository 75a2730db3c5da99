"""What every model family shares: the row of its table, its dtypes, its check of the input."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How an evaluation image is prepared: it belongs to the weights as much as to the model.

    Attributes:
      mean: subtracted from each channel, of values in 0..1.
      std: divides each channel afterwards.
      interpolation: of the resize, "bilinear" or "bicubic".
      crop_fraction: image_size / short side before the centre crop.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bilinear"
    crop_fraction: float = 0.875


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """One variant of one family.

    Attributes:
      name: what `create_model` takes.
      family: the file in `jaxvision/models`.
      build: (config, rngs=...) -> module.
      config: the family's frozen dataclass; its fields are the overrides of `create_model`.
      image_size: side in pixels that the variant was published at.
      preprocess: evaluation preprocessing of the published weights.
      num_params: published number of parameters with 1000 classes; of a captioner, the number that
        its config gives.
      source: paper and table.
      timm: name of the same model in timm, None if timm has none.
      torchvision: its name in torchvision.
      hf: a Hugging Face repository whose transformers model computes the same.
      task: "classification" or "captioning".
    """

    name: str
    family: str
    build: Callable[..., nnx.Module]
    config: Any
    image_size: int
    preprocess: Preprocess
    num_params: int
    source: str
    timm: str | None = None
    torchvision: str | None = None
    hf: str | None = None
    task: str = "classification"

    @property
    def peers(self) -> dict[str, str]:
        """The libraries that have this model, and what they call it."""
        names = {"timm": self.timm, "torchvision": self.torchvision, "hf": self.hf}
        return {source: name for source, name in names.items() if name is not None}

    @property
    def aliases(self) -> tuple[str, ...]:
        """The other names that `create_model` takes."""
        return tuple(name for name in dict.fromkeys(self.peers.values()) if name != self.name)


def param_dtype(dtype: str) -> str:
    """Returns the dtype of parameters and logits: float64 for float64, else float32.

    Raises:
      ValueError: if `dtype` is no floating-point dtype that models run in, or float64 is switched
        off.
    """
    if dtype in ("float32", "bfloat16", "float16"):
        return "float32"
    if dtype != "float64":
        raise ValueError(
            f"dtype must be 'float32', 'bfloat16', 'float16' or 'float64', got {dtype!r}."
        )
    if not jax.config.read("jax_enable_x64"):
        raise ValueError("dtype='float64' needs JAX in 64-bit mode: set JAX_ENABLE_X64=1.")
    return "float64"


def layer_dtypes(dtype: str) -> dict[str, Any]:
    """Returns the two dtype arguments that every layer takes, for a compute dtype."""
    return {"dtype": dtype, "param_dtype": param_dtype(dtype)}


def check_images(images: jax.Array, in_channels: int) -> None:
    """Raises ValueError unless the images are [batch, height, width, in_channels]."""
    if images.ndim != 4 or images.shape[-1] != in_channels:
        raise ValueError(
            f"Expected images [batch, height, width, {in_channels}], got shape {images.shape}: "
            "channels come last."
        )


def check_rate(name: str, rate: float) -> None:
    """Raises ValueError unless the rate is in [0, 1)."""
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"{name} is a probability of dropping, in [0, 1), got {rate}.")
