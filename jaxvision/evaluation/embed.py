"""What an image model computes of images before its head, and which encoder computed it."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Float32

from jaxvision.data.captions.caption_source import CaptionSource
from jaxvision.data.captions.features import write_features
from jaxvision.data.image_files import ImageFile
from jaxvision.errors import InputError, shorten
from jaxvision.evaluation.predict import in_batches
from jaxvision.files import output_path, read_json, written_aside
from jaxvision.interop.formats import read_npz
from jaxvision.interop.rules import flatten
from jaxvision.interop.trained import Trained, open_trained
from jaxvision.models.captioner import MEMORIES, image_features
from jaxvision.models.image_model import ImageModel
from jaxvision.models.registry import get_spec, is_known
from jaxvision.train.input import make_preprocess

_TEXTS = ("model", "weights", "sha256", "kind", "transform")  # of a description


@dataclasses.dataclass(frozen=True)
class Embedded:
    """One image.

    Attributes:
      image: Path of the image.
      features: Features of the image: [channels], [tokens, channels] or [rows, columns, channels];
        None if the image cannot be used.
      error: Reason why the image cannot be used; None if it can.
    """

    image: str
    features: Float32[np.ndarray, "*space channels"] | None
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class FeatureFile:
    """A file of features.

    Attributes:
      names: Path of each image.
      features: Features of each image.
      encoder: Description of what computed them, see `describe_encoder`.
    """

    names: tuple[str, ...]
    features: Float32[np.ndarray, "images *space channels"]
    encoder: Mapping[str, Any]


def remove_head(model: Any) -> None:
    """Makes a classifier return what its head would read."""
    for name in ("head", "head_hidden", "head_dist"):
        if getattr(model, name, None) is not None:
            setattr(model, name, None)


def open_encoder(weights: str, name: str | None = None, **options: Any) -> Trained:
    """Returns an image model without its head.

    Args:
      weights: Tag, file of weights or folder of a run, see `open_trained`.
      name: Name of the model; None: the one that the weights tell.
      **options: Further options of `open_trained`.

    Raises:
      InputError: if the weights cannot be read or are of no image model.
    """
    trained = open_trained(weights, name, **options)
    if not isinstance(trained.model, ImageModel):
        get_spec(trained.spec.name, task="classification")  # says what it is for
        raise InputError(f"Features are those of an ImageModel, {trained.spec.name} is none.")
    remove_head(trained.model)
    return trained


def describe_encoder(encoder: Trained, weights: str, kind: str) -> dict[str, Any]:
    """Returns what must be known to compute the same features of other images.

    Args:
      encoder: Image model of `open_encoder`.
      weights: File or folder that it was read from.
      kind: Kind of the features: "pooled", "tokens" or "grid".
    """
    path = pathlib.Path(weights).expanduser()
    return {
        "model": encoder.spec.name,
        "weights": str(path.absolute()) if path.exists() else weights,
        "sha256": _digest(encoder.model),
        "kind": kind,
        "transform": repr(encoder.transform),
        "mean": list(encoder.spec.preprocess.mean),
        "std": list(encoder.spec.preprocess.std),
    }


def _digest(model: nnx.Module) -> str:
    """Returns the SHA-256 of all arrays, the same in whatever file they are."""
    state = nnx.to_pure_dict(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    hasher = hashlib.sha256()
    for path, array in sorted(flatten(jax.device_get(state)).items()):
        hasher.update(f"{path} {array.dtype} {array.shape}\n".encode())
        hasher.update(np.ascontiguousarray(array).data)
    return hasher.hexdigest()


def reopen_encoder(
    description: Mapping[str, Any], *, where: str, option: str, weights: str | None = None
) -> Trained:
    """Returns the encoder of `describe_encoder` again.

    Args:
      description: Description of the encoder; it may be from anywhere.
      where: What the description belongs to, for the text of an error.
      option: Option of the command line that takes `weights`, for the text of an error.
      weights: File or folder of the weights; None: where they were.

    Raises:
      InputError: if the description is damaged, the weights are not there any more, or others, or
        the images would be prepared in another way.
    """
    wrong = [key for key in _TEXTS if not isinstance(description.get(key), str)]
    if wrong or description["kind"] not in MEMORIES:
        raise InputError(
            f"The description of the encoder of {where} is damaged ({(wrong or ['kind'])[0]}): "
            "compute the features again by `jaxvision embed`."
        )
    name = description["model"]
    if not is_known(name):
        raise InputError(
            f"{where} has features of {shorten(name)}, which is no model of the package: import it "
            "in Python by jaxvision.get_spec first."
        )
    path = weights or description["weights"]
    try:
        encoder = open_encoder(path, name)
    except InputError as error:
        raise InputError(
            f"{where} has features of {name} with the weights {shorten(path)}, which cannot be "
            f"opened: {str(error).rstrip('.')}. If they have moved, give {option}=PATH."
        ) from error
    found = describe_encoder(encoder, path, description["kind"])
    if found["sha256"] != description["sha256"]:
        raise InputError(
            f"{path} holds other weights than those that made the features of {where} (SHA-256 "
            f"{found['sha256'][:12]} instead of {description['sha256'][:12]}): give the same "
            f"weights by {option}=PATH."
        )
    changed = [key for key in ("transform", "mean", "std") if found[key] != description.get(key)]
    if changed:
        key = changed[0]
        raise InputError(
            f"{path} has the weights of the features of {where}, but prepares images otherwise "
            f"({key}: {shorten(found[key])} instead of {shorten(description.get(key))}): give the "
            f"file or run that they were computed with by {option}=PATH."
        )
    return encoder


def with_encoder(
    trained: Trained,
    run: str,
    description: pathlib.Path,
    weights: str | None,
    *,
    kinds: Sequence[str] = MEMORIES,
) -> Trained:
    """Returns a model that was trained on features as one of images.

    Args:
      trained: Model of features.
      run: Folder of its run.
      description: File with the description of the encoder, see `describe_encoder`.
      weights: File or folder of that encoder's weights; None: where they were.
      kinds: Kinds of features that can be computed again.

    Raises:
      InputError: if the encoder is not known, not there, or another one, or the features are of
        another kind.
    """
    if not description.exists():
        raise InputError(
            f"{run} was trained on features, not on images, and does not know which encoder made "
            "them: compute them by `jaxvision embed`, and train on those."
        )
    try:
        described = read_json(description)
    except ValueError as error:
        raise InputError(f"{description} is damaged ({error}): restore it.") from error
    encoder = reopen_encoder(described, where=run, option="--encoder-weights", weights=weights)
    kind = described["kind"]
    if kind not in kinds:
        raise InputError(
            f"{run} was trained on features of --kind={kind}, and this takes {', '.join(kinds)}: "
            "compute them anew by `jaxvision embed`."
        )
    model = trained.model
    model.encoder = nnx.data(encoder.model)  # in place of None, which is static
    changes = {"encoder": encoder.spec.name, "feature_width": None}
    if hasattr(model.config, "memory"):
        changes["memory"] = kind
    model.config = dataclasses.replace(model.config, **changes)
    spec = dataclasses.replace(trained.spec, preprocess=encoder.spec.preprocess)
    return dataclasses.replace(trained, spec=spec, transform=encoder.transform)


def embed(
    encoder: Trained, images: Sequence[ImageFile], *, kind: str, batch_size: int = 32
) -> Iterator[Embedded]:
    """Yields the features of each image, in their order.

    Args:
      encoder: Image model of `open_encoder`.
      images: Images to look at; those that cannot be decoded come back with an error.
      kind: Kind of the features: "pooled" (what a head would read), "tokens" (the last map, or all
        tokens) or "grid" (the last map).
      batch_size: Number of images that are computed at once.
    """
    preprocess_fn = make_preprocess(
        mean=encoder.spec.preprocess.mean, std=encoder.spec.preprocess.std
    )

    @jax.jit
    def run(model: Any, pixels: jax.Array) -> jax.Array:
        return image_features(model, preprocess_fn(pixels), kind).astype(jnp.float32)

    def compute(pixels: jax.Array, first: int) -> tuple[jax.Array]:
        del first
        return (run(encoder.model, pixels),)

    for image, pixels, answer in in_batches(images, encoder.transform, compute, batch_size):
        if isinstance(pixels, str):
            yield Embedded(image.name, None, pixels)
        else:
            yield Embedded(image.name, answer[0])


def captioned_images(source: CaptionSource) -> list[ImageFile]:
    """Returns the images of a caption source, as `embed` takes them."""

    def read(index: int) -> bytes | np.ndarray:
        image = source[index].get("image")
        assert image is not None, "a source of features has no images"
        return image

    return [
        ImageFile(source.describe(index), functools.partial(read, index), lambda: 0)
        for index in range(len(source))
    ]


def image_side(encoder: Trained) -> tuple[int, int]:
    """Returns (height, width) of the images that an encoder sees."""
    height, width, _ = encoder.transform(np.zeros((4096, 4096, 3), np.uint8), None).shape
    return height, width


def save_captioned(
    folder: str,
    embedded: Iterable[Embedded],
    source: CaptionSource,
    encoder: Mapping[str, Any],
    *,
    dtype: str,
    on_error: Callable[[str], None],
) -> None:
    """Writes the features of captioned images as `config.data.features` takes them.

    An image that cannot be used gets NaN, which a training counts as a corrupt image.

    Args:
      folder: Folder of the split, see `write_features`.
      embedded: Features of every image of the source, in its order.
      source: Captions of the images.
      encoder: Description of the encoder, see `describe_encoder`.
      dtype: Dtype of the file, "float32" or "float16".
      on_error: Function that is told of each image that cannot be used.

    Raises:
      InputError: if none can be used.
    """

    def rows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        unusable, shape = [], None
        for index, image in enumerate(embedded):
            number = np.array([source.image_id(index)])
            if image.features is None:
                unusable.append(number)
                on_error(str(image.error))
                continue
            features = image.features.reshape(1, -1, image.features.shape[-1])
            shape = features.shape
            yield number, features
        if shape is None:
            raise InputError(f"No image can be used, so that {folder} would hold no features.")
        for number in unusable:
            yield number, np.full(shape, np.nan, np.float32)

    write_features(folder, rows(), num_images=len(source), dtype=dtype, encoder=encoder)


def save_features(path: str, file: FeatureFile, *, dtype: str) -> None:
    """Writes a `.npz` with `names`, `features` and `encoder`, a JSON text, whole or not at all.

    Args:
      path: Path of the file.
      file: Content of the file.
      dtype: Dtype of the features in the file, "float32" or "float16".
    """
    target = output_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(target) as unfinished:
        np.savez(
            unfinished,
            names=np.array(file.names),
            features=file.features.astype(dtype),
            encoder=np.array(json.dumps(dict(file.encoder))),
        )


def read_features(path: str) -> FeatureFile:
    """Returns the content of a file of `save_features`.

    Raises:
      InputError: if it is none.
    """
    if not os.path.isfile(os.path.expanduser(path)):
        raise InputError(f"There is no file of features {path}.")
    arrays = read_npz(pathlib.Path(path).expanduser())
    try:
        names, features = arrays["names"], arrays["features"]
        encoder = json.loads(str(arrays["encoder"]))
        if names.dtype.kind != "U" or features.dtype not in (np.float32, np.float16):
            raise ValueError(f"it has names {names.dtype} and features {features.dtype}")
        if features.ndim < 2 or names.shape != features.shape[:1] or not isinstance(encoder, dict):
            raise ValueError(f"it has names {names.shape} of features {features.shape}")
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} holds no features of `jaxvision embed`: {shorten(error)}."
        ) from error
    return FeatureFile(tuple(names.tolist()), features.astype(np.float32), encoder)


def nearest(
    query: Float[np.ndarray, " channels"], features: Float[np.ndarray, "images channels"], top: int
) -> list[tuple[int, float]]:
    """Returns (index, cosine similarity) of the most similar features, the best first.

    Args:
      query: Features of one image.
      features: Features of the images to search.
      top: Number of images that are returned, at most.
    """

    def unit(vectors: np.ndarray) -> np.ndarray:
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)

    similarities = unit(features) @ unit(query)
    best = np.argsort(-similarities, kind="stable")[:top]
    return [(int(index), float(similarities[index])) for index in best]
