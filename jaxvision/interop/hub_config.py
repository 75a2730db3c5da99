"""What the `config.json` of timm and transformers says of the weights beside it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jaxvision.data.class_lists import imagenet_names, imagenet_wordnet_ids
from jaxvision.errors import InputError, shorten
from jaxvision.models.registry import get_spec, is_known
from jaxvision.models.spec import ModelSpec, Preprocess
from jaxvision.options.data import INTERPOLATIONS
from jaxvision.options.size import Size, is_size

# Pillow's numbers of its filters, by which transformers names them.
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
# Image processors of transformers for which a size of one number is a square.
_SQUARE = ("DeiT", "EfficientNet", "Pvt", "ViT")
# What timm writes into model_args and our config calls otherwise.
ARGUMENTS = {"img_size": "image_size", "in_chans": "in_channels", "global_pool": "pool"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """What belongs to weights beside the arrays.

    Attributes:
      name: Name of the weights: a tag, an address, a path.
      source: Library whose names the weights have; None: it is not told.
      model: Name of the model; None: it is not told.
      options: Fields of the model's config that differ from the published ones.
      image_size: Size of the images that they want, in pixels; None: it is not told.
      preprocess: Preprocessing of an image for them; None: it is not told.
      class_names: Names of the classes by label; empty if they are not told.
    """

    name: str
    source: str | None = None
    model: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    image_size: Size | None = None
    preprocess: Preprocess | None = None
    class_names: tuple[str, ...] = ()


def describe_config(
    stored: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, *, name: str
) -> Description:
    """Returns what the files say.

    Args:
      stored: Content of `config.json`, of timm or of transformers.
      preprocessor: Content of `preprocessor_config.json` of transformers; None: there is none.
      name: Name of the weights.

    Raises:
      InputError: if they ask for what cannot be computed here.
    """
    try:
        if "architecture" in stored:
            return _of_timm(stored, name)
        return _of_transformers(stored, preprocessor, name)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"The config.json of {name} is damaged ({type(error).__name__}: {shorten(error)})."
        ) from error


def _of_timm(stored: Mapping[str, Any], where: str) -> Description:
    name, cfg = stored["architecture"], stored.get("pretrained_cfg") or {}
    if not isinstance(name, str) or not is_known(name):
        raise InputError(f"{where} is a model {shorten(name)!r} of timm, which is not here.")
    spec = get_spec(name)
    options = _options(spec, stored.get("model_args") or {}, where)
    _, height, width = cfg.get("input_size") or (3, spec.image_size, spec.image_size)
    usual = spec.preprocess
    mode = cfg.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise InputError(f"{where} wants the crop_mode {shorten(mode)!r}, which is not here.")
    interpolation = cfg.get("interpolation") or usual.interpolation
    preprocess = Preprocess(
        mean=_three(cfg.get("mean") or usual.mean),
        std=_three(cfg.get("std") or usual.std),
        interpolation=_known_filter(interpolation, where),
        crop_fraction=float(cfg.get("crop_pct") or usual.crop_fraction),
        crop_mode=mode,
    )
    outputs = stored.get("num_classes", cfg.get("num_classes"))
    names = tuple(map(str, stored.get("label_names") or cfg.get("label_names") or ()))
    texts = stored.get("label_descriptions") or cfg.get("label_descriptions") or {}
    names = tuple(str(texts.get(name, name)) for name in names)
    if names == imagenet_wordnet_ids() or (not names and outputs == 1000):
        names = imagenet_names()
    return Description(
        name=where,
        source="timm",
        model=spec.name,
        options=options,
        image_size=_size(height, width),
        preprocess=preprocess,
        class_names=names,
    )


def _options(spec: ModelSpec, arguments: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns our options for the arguments of a model of timm."""
    fields = {field.name for field in dataclasses.fields(spec.config)}
    options = {}
    for argument, value in arguments.items():
        if argument == "num_classes" or argument.endswith("_rate"):
            continue  # told by the weights; changes nothing of an evaluation
        option = ARGUMENTS.get(argument, argument)
        if option == "pool" and option not in fields and value == "avg":
            continue
        if option == "image_size" and isinstance(value, list):
            value = _size(*value)
        elif option == "pool":
            value = {"avg": "average"}.get(value, value)
        if option not in fields or isinstance(value, dict):
            raise InputError(
                f"{where} is a {spec.timm} with {argument}={shorten(value)!r}, which {spec.name}"
                " has no option for."
            )
        options[option] = tuple(value) if isinstance(value, list) else value
    return options


def _of_transformers(
    stored: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, where: str
) -> Description:
    size = stored.get("image_size")
    if isinstance(size, list):
        size = _size(*size)
    labels = {int(label): name for label, name in (stored.get("id2label") or {}).items()}
    names = tuple(str(labels[label]) for label in range(len(labels)))
    if all(name == f"LABEL_{label}" for label, name in enumerate(names)):
        names = ()
    preprocess = None
    if preprocessor is not None and "size" in preprocessor and "image_mean" in preprocessor:
        preprocess, seen = _of_processor(preprocessor, where)
        size = seen if size is None else size
    if size is not None and not is_size(size):
        raise ValueError(f"image_size is {size!r}")
    return Description(
        name=where, source="hf", image_size=size, preprocess=preprocess, class_names=names
    )


def _of_processor(processor: Mapping[str, Any], where: str) -> tuple[Preprocess, Size]:
    """Returns the preprocessing of an image processor of transformers, and the size of its crop."""
    scale = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1.0
    if not math.isclose(float(scale), 1 / 255) or processor.get("rescale_offset"):
        raise InputError(
            f"{where} wants pixels scaled by {scale:.6g} and"
            f" {'an' if processor.get('rescale_offset') else 'no'} offset, where models here take"
            " them in 0..1: prepare the images yourself."
        )
    kind = str(processor.get("image_processor_type") or processor.get("feature_extractor_type"))
    size, crop = processor.get("size"), processor.get("crop_size")
    centre = bool(processor.get("do_center_crop", False))
    if isinstance(size, int):
        # Before transformers 4.25 a number was the side of a square, of DeiT's before its crop too,
        # but the short side for others that crop, and ConvNeXt's, whose rule is its own.
        shortest = kind.startswith("ConvNext") or (centre and not kind.startswith(_SQUARE))
        size = {"shortest_edge": size} if shortest else {"height": size, "width": size}
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    if not isinstance(size, dict):
        raise ValueError(f"its size is {shorten(size)}")
    if "shortest_edge" not in size:
        seen, mode, fraction = _size(size["height"], size["width"]), "squash", 1.0
        if centre and crop is not None:
            fraction = crop["height"] / size["height"]
            seen = _size(crop["height"], crop["width"])
    elif kind.startswith("ConvNext"):
        side = int(size["shortest_edge"])
        fraction = float(processor.get("crop_pct") or 224 / 256) if side < 384 else 1.0
        seen, mode = side, "center" if side < 384 else "squash"
    else:
        side = int(size["shortest_edge"])
        seen, mode, fraction = side, "center", 1.0
        if centre and crop is not None:
            seen = _size(crop["height"], crop["width"])
            fraction = min(crop["height"], crop["width"]) / side
    normalise = bool(processor.get("do_normalize", True))
    std = _three(processor["image_std"]) if normalise else (1.0, 1.0, 1.0)
    # EfficientNet's processor divides by the deviation once more for models with a head.
    again = kind.startswith("EfficientNet") and processor.get("include_top", True)
    return (
        Preprocess(
            mean=_three(processor["image_mean"]) if normalise else (0.0, 0.0, 0.0),
            std=_three([x * x for x in std]) if again else std,
            interpolation=_known_filter(_FILTERS.get(processor.get("resample", 2)), where),
            crop_fraction=fraction,
            crop_mode=mode,
        ),
        seen,
    )


def _known_filter(name: Any, where: str) -> str:
    if name not in INTERPOLATIONS:
        raise InputError(
            f"{where} wants images resized by {shorten(name)!r}, which is not among "
            f"{', '.join(INTERPOLATIONS)}."
        )
    return name


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


def _size(height: Any, width: Any) -> Size:
    size = (int(height), int(width))
    if not is_size(size):
        raise ValueError(f"the size is {size}")
    return size[0] if size[0] == size[1] else size
