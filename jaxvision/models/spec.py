"""What every model family shares: the row of its table, its dtypes, its check of the input."""

import dataclasses
import math
import numbers
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NoReturn

import jax
import jax.numpy as jnp
from flax import nnx

from jaxvision.errors import InputError, shorten
from jaxvision.options.size import MAX_SIDE, Size

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# Of tasks whose models have no classifier.
_OUTPUTS = {"captioning": "vocab_size", "image_text": "vocab_size", "masked_autoencoding": None}


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How an evaluation image is prepared: it belongs to the weights as much as to the model.

    Attributes:
      mean: Mean of each channel, of values in 0..1, which is subtracted.
      std: Standard deviation of each channel, which the difference is divided by.
      interpolation: Interpolation of the resize, with antialias: "bilinear", "bicubic", ...
      crop_fraction: Ratio of the crop's side to the image's short side before the centre crop.
      crop_mode: "center" resizes the short side and keeps the aspect ratio, "squash" resizes both
        sides.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bilinear"
    crop_fraction: float = 0.875
    crop_mode: str = "center"

    def resize(self, side: int) -> int:
        """Returns the pixels that an image's side is resized to before a crop of `side` pixels.

        Rounded down, as timm does; the rest of a division in floating point does not count.
        """
        return math.floor(side / self.crop_fraction + 1e-6)


class Model(nnx.Module):
    """What a model of any task says of its family, beside what it computes.

    Attributes:
      config: Config of the model, the family's frozen dataclass.
      weight_sources: Names of the weights in other libraries, {library: `interop.adapt.Source`}; or
        "module:NAME" of such a table, which is imported once weights are exchanged; None: weights
        are read and written under our own names alone.
      not_decayed: Names of parameters that weight decay leaves alone, and of modules all of whose
        parameters it leaves alone, beside those that it never touches (`bias`, `scale`, ...).
      upper_bounds: Largest value of parameters by their name, which no update exceeds.
      frozen_prefixes: First parts of the paths of parameters that the model itself keeps as they
        are, of a class or of an instance.
      spec_name: Name of the model's row, of what `create_model` has made.
      preprocess: Preprocessing of an image for the weights that were loaded; None: none were, or
        nobody tells.
      wanted_size: Size of the images that the weights were published for, in pixels, which matters
        where the config has none; None: nobody tells.
    """

    config: Any
    weight_sources: ClassVar[str | Mapping[str, Any] | None] = None
    not_decayed: ClassVar[frozenset[str]] = frozenset()
    upper_bounds: ClassVar[Mapping[str, float]] = {}
    frozen_prefixes: tuple[str, ...] = ()
    spec_name: str | None = None
    preprocess: Preprocess | None = None
    wanted_size: Size | None = None

    def train(self, **attributes: Any) -> NoReturn:
        """Refuses what would change nothing: a model keeps no mode.

        Raises:
          InputError: always.
        """
        raise InputError(
            "A model has no mode to switch: pass train=True to the call, model(images, train=True, "
            "rngs=nnx.Rngs(dropout=0))."
        )

    def eval(self, **attributes: Any) -> NoReturn:
        """Refuses what would change nothing: a model keeps no mode.

        Raises:
          InputError: always.
        """
        raise InputError(
            "A model has no mode to switch: model(images) evaluates, model(images, train=True) "
            "trains."
        )


@dataclasses.dataclass(frozen=True)
class HFPeer:
    """How transformers describes a family, for `jaxvision parity`.

    Attributes:
      name: Name of the classes in transformers, less "Config" and "ForImageClassification".
      fields: Function of our config that returns the fields of the config in transformers.
      options: Fields of our config that theirs has not, with the values that its model computes
        with.
    """

    name: str
    fields: Callable[[Any], dict[str, Any]]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """One variant of one family.

    Attributes:
      name: Name that `create_model` takes.
      build: Class of the model, or a function (config, rngs=...) -> model.
      config: Frozen dataclass of the family; its fields are the overrides of `create_model`.
      family: Name of the family, in lists; "": that of the variant.
      image_size: Side in pixels that the variant was published at.
      preprocess: Evaluation preprocessing of the published weights.
      num_params: Published number of parameters with the published classes, mostly 1000; of a
        captioner, the number that its config gives; None: nobody has published it.
      source: Paper and table that the variant comes from.
      timm: Name of the same model in timm; None: timm has none.
      torchvision: Name of the same model in torchvision.
      torchvision_arguments: Function of the config that returns further arguments of its builder
        in torchvision.
      hf: Hugging Face repository whose transformers model computes the same.
      hf_peer: Description of the model in transformers, which makes it one to compare with.
      task: Task of the model: "classification", "captioning", "image_text" or
        "masked_autoencoding".
    """

    name: str
    build: Callable[..., nnx.Module]
    config: Any
    family: str = ""
    image_size: int = 224
    preprocess: Preprocess = Preprocess()
    num_params: int | None = None
    source: str = ""
    timm: str | None = None
    torchvision: str | None = None
    torchvision_arguments: Callable[[Any], dict[str, Any]] | None = None
    hf: str | None = None
    hf_peer: HFPeer | None = None
    task: str = "classification"

    def __post_init__(self):
        if not self.family:
            object.__setattr__(self, "family", self.name)

    @property
    def peers(self) -> dict[str, str]:
        """The libraries that have this model, and what they call it."""
        names = {"timm": self.timm, "torchvision": self.torchvision, "hf": self.hf}
        return {source: name for source, name in names.items() if name is not None}

    @property
    def aliases(self) -> tuple[str, ...]:
        """The other names that `create_model` takes."""
        return tuple(name for name in dict.fromkeys(self.peers.values()) if name != self.name)

    @property
    def outputs_option(self) -> str | None:
        """The field of the config that is the number of logits: classes, or words."""
        return _OUTPUTS[self.task] if self.task in _OUTPUTS else "num_classes"


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
    """Raises ValueError unless the images are floats [batch, height, width, in_channels]."""
    if images.ndim != 4 or images.shape[-1] != in_channels:
        raise ValueError(
            f"Expected images [batch, height, width, {in_channels}], got shape {images.shape}: "
            "channels come last."
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            f"Expected normalised images of floats, got {images.dtype}: pass "
            "jv.preprocess(images, NAME), with the name of the model, instead of the images."
        )


def check_rates(config: Any) -> None:
    """Raises ValueError unless each field of a config that is called `..._rate` is in [0, 1)."""
    for field in dataclasses.fields(config):
        rate = getattr(config, field.name)
        if field.name.endswith("_rate") and not 0.0 <= rate < 1.0:
            raise ValueError(f"{field.name} is a probability of dropping, in [0, 1), got {rate}.")


def check_numbers(config: Any, usual: Any) -> None:
    """Raises ValueError where numbers of a config are none, or so large that no machine builds it.

    Args:
      config: Config of a model.
      usual: Published config of the model, which says what is a whole number, and what a number.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        if getattr(config, field.name) is None and type(None) in typing.get_args(hints[field.name]):
            continue
        values, like = (
            x if isinstance(x, tuple) else (x,)
            for x in (getattr(config, field.name), getattr(usual, field.name))
        )
        types = {type(x) for x in like}
        if types not in ({int}, {float}):
            continue
        kind, wanted = {
            int: (numbers.Integral, "a whole number"),
            float: (numbers.Real, "a number"),
        }[types.pop()]
        most = 100_000_000
        if field.name == "image_size":
            most = 2 * MAX_SIDE  # height and width
        elif "depth" in field.name:
            most = 600 if kind is numbers.Integral else 10  # blocks, or their multiplier
        good = all(isinstance(x, kind) and not isinstance(x, bool) and x >= 0 for x in values)
        if not good or not sum(values) <= most:
            raise ValueError(
                f"{field.name} must be {wanted} of at most {most:,}, or some that add up to no"
                f" more, got {shorten(getattr(config, field.name))}."
            )
