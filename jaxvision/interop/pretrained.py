"""Published weights by name: where they lie, what they were trained on, which images they want."""

import csv
import dataclasses
import difflib
import fnmatch
import functools
import os
import pathlib
from fractions import Fraction

from jaxvision.data.class_lists import CIFAR10, imagenet_names
from jaxvision.errors import InputError
from jaxvision.interop import download, hub
from jaxvision.models import registry
from jaxvision.models.spec import HALF, IMAGENET_MEAN, IMAGENET_STD, Preprocess

TABLE = pathlib.Path(__file__).with_name("pretrained.csv")
COLUMNS = (
    "tag", "model", "address", "source", "licence", "data", "outputs", "top1",
    "image_size", "colors", "interpolation", "crop", "crop_mode",
)  # fmt: skip
# Mean and deviation of the pixels, by the word that stands for them in the table.
COLORS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": (HALF, HALF),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


# Images with texts, which have no classes.
_IMAGE_TEXT = frozenset(
    {"DFN-2B", "LAION-2B", "LAION-400M", "LAION-Aesthetics", "MetaCLIP", "WebImageText"}
)


@dataclasses.dataclass(frozen=True)
class PretrainedWeights:
    """One published set of weights: a row of pretrained.csv.

    Attributes:
      tag: Name of the weights, "resnet50.a1_in1k" or, of the Hugging Face hub, "owner/name".
      model: Name of the model that they belong to.
      address: Address of the file: hub:owner/name, https://..., or pip:package/path/in/it.
      source: Library whose names the file has, see `load_weights`.
      licence: Licence of the weights; "": their publisher names none.
      data: Data that they were trained on, the last step last.
      num_outputs: Number of outputs of the head, 0 for none; None: their repository tells.
      top1: Top-1 accuracy in percent at `image_size`, on ImageNet's validation images or CIFAR-10's
        test images, as it was published; None: it was not.
      image_size: Side in pixels of the images that they want; None: their repository tells.
      preprocess: Preprocessing of an image for them; None: their repository tells.
    """

    tag: str
    model: str
    address: str
    source: str
    licence: str
    data: str
    num_outputs: int | None
    top1: float | None
    image_size: int | None
    preprocess: Preprocess | None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by label; empty where the outputs are others than ImageNet's."""
        if self.data.endswith("ImageNet-1k") and self.num_outputs == 1000:
            return imagenet_names()
        return CIFAR10 if self.data == "CIFAR-10" else ()

    @property
    def tells_classes(self) -> bool:
        """Whether the outputs are classes; those of a CLIP are a vector that texts are near to."""
        return bool(self.num_outputs) and self.data.rpartition(" + ")[2] not in _IMAGE_TEXT

    def fetch(self) -> pathlib.Path:
        """Returns the file, downloaded unless it is here already.

        Raises:
          InputError: if it cannot be had, or is another than was published.
        """
        return fetch(self.address)


def fetch(address: str) -> pathlib.Path:
    """Returns the file of an address, downloaded unless it is here already.

    Args:
      address: Address of weights, see `PretrainedWeights`.

    Raises:
      InputError: if it cannot be had, or is another than was published.
    """
    for prefix, get in (
        (hub.PREFIX, hub.fetch),
        (download.WEB, download.fetch),
        (download.PIP, download.find_in_package),
    ):
        if address.startswith(prefix):
            return get(address)
    raise InputError(f"An address begins with {hub.PREFIX}, https:// or pip:, got {address!r}.")


@functools.cache
def _rows() -> dict[str, PretrainedWeights]:
    with open(TABLE, newline="") as file:
        return {row["tag"]: _row(row) for row in csv.DictReader(file)}


def _row(row: dict[str, str]) -> PretrainedWeights:
    preprocess = None
    if row["colors"]:
        mean, std = COLORS[row["colors"]]
        crop = float(Fraction(row["crop"]))
        preprocess = Preprocess(mean, std, row["interpolation"], crop, row["crop_mode"])
    return PretrainedWeights(
        **{name: row[name] for name in COLUMNS[:6]},
        num_outputs=int(row["outputs"]) if row["outputs"] else None,
        top1=float(row["top1"]) if row["top1"] else None,
        image_size=int(row["image_size"]) if row["image_size"] else None,
        preprocess=preprocess,
    )


def list_weights(model: str = "*") -> list[str]:
    """Returns the tags of the published weights of a model, the one that is taken first.

    Args:
      model: Name of a model, see `get_spec`, or a shell pattern of tags, e.g. "vit*in21k".

    Raises:
      InputError: if there is no such model.
    """
    if any(sign in model for sign in "*?["):
        return fnmatch.filter(_rows(), model)
    return [row.tag for row in _of_model(model)]


def list_models(
    pattern: str = "*", *, task: str | None = "classification", pretrained: bool = False
) -> list[str]:
    """Returns the names of the models that match, sorted.

    Args:
      pattern: Shell pattern, e.g. "vit*".
      task: Task of the models, "classification", "captioning", ...; None: any.
      pretrained: Whether only models are listed that have published weights.
    """
    names = registry.list_models(pattern, task=task)
    return [name for name in names if _of_model(name)] if pretrained else names


def published_top1(model: str) -> float | None:
    """Returns the top-1 accuracy in percent of the weights that are taken first; None: unknown."""
    rows = _of_model(model) if registry.is_known(model) else []
    return rows[0].top1 if rows else None


def _of_model(name: str) -> list[PretrainedWeights]:
    """Returns the rows of a model: first those of the library whose name was given, timm's next."""
    spec = registry.get_spec(name)
    found = [row for row in _rows().values() if row.model == spec.name]
    order = ["timm", "torchvision", "hf"]
    named = [source for source, theirs in spec.peers.items() if theirs == name]
    if len(named) == 1:  # vit_b_16 is torchvision's name alone; resnet50 is everybody's
        order = [*named, *order]
    places = {source: order.index(source) for source in order}
    return sorted(found, key=lambda row: places.get(row.source, len(order)))


def is_tag(text: str) -> bool:
    """Returns whether a text is the tag of published weights."""
    return text in _rows()


def with_file_name(name: str) -> PretrainedWeights | None:
    """Returns the row of a file by its name, as resnet50-0676ba61.pth; None if it is none's.

    Only names with the digits of a hash are anybody's.
    """
    for row in _rows().values():
        if not row.address.startswith(hub.PREFIX) and row.address.rpartition("/")[2] == name:
            return row
    return None


def with_address(address: str) -> PretrainedWeights | None:
    """Returns the row of an address; None if it is none's."""
    return next((row for row in _rows().values() if row.address == address), None)


def published(path: str | os.PathLike) -> PretrainedWeights | None:
    """Returns the row that a user means by a tag; None: a path is meant, or there is one."""
    text = os.fspath(path)
    return None if os.path.exists(os.path.expanduser(text)) else _rows().get(text)


def check_address(text: str) -> None:
    """Raises InputError for what can be no tag, no path and no address of weights."""
    if not text.strip():
        raise InputError("No weights were given: name a tag, a file, a run, or hub:owner/name.")
    if text.startswith(("http://", download.WEB)):
        raise InputError(
            f"{text} is an address of the web, which is not read: download the file, or give the"
            " tag of published weights."
        )


def check_no_path(row: PretrainedWeights) -> str:
    """Returns the tag of a row, for which no path is taken.

    Raises:
      InputError: if there is a file or folder of that name, which would be read instead.
    """
    if published(row.tag) is None:
        raise InputError(
            f"There is a file or folder {row.tag} here, which would be read instead of the"
            " published weights of that name: move it away."
        )
    return row.tag


def get_weights(tag: str) -> PretrainedWeights:
    """Returns a row of the table.

    Args:
      tag: Tag of the weights, "resnet50.a1_in1k".

    Raises:
      InputError: if there are no such weights; the message names the nearest.
    """
    if tag not in _rows():
        raise InputError(f"There are no published weights {tag!r}{_nearest(tag, list(_rows()))}")
    return _rows()[tag]


def weights_of(model: str, pretrained: str | bool = True) -> PretrainedWeights:
    """Returns the published weights of a model.

    Args:
      model: Name of the model, see `get_spec`.
      pretrained: Tag of the weights, whole or without the model's name, "a1_in1k"; True: the first
        of `list_weights`.

    Raises:
      InputError: if the model has no such weights; the message names the nearest.
    """
    rows = _of_model(model)
    if pretrained is True and rows:
        return rows[0]
    for row in rows:
        if pretrained in (row.tag, row.tag.partition(".")[2]):
            return row
    if not rows:
        raise InputError(
            f"No published weights of {model} are known: see jv.list_models(pretrained=True), or "
            "give a file to load_weights."
        )
    tags = [row.tag for row in rows]
    names = [tag.partition(".")[2] for tag in tags]
    raise InputError(
        f"{model} has no weights {pretrained!r}{_nearest(str(pretrained), [*names, *tags])}"
    )


def nearest_tags(text: str) -> str:
    """Returns the end of a sentence that names the tags nearest to a text."""
    nearest = difflib.get_close_matches(text, list(_rows()), n=3, cutoff=0.5)
    return f": did you mean {', '.join(nearest)}?" if nearest else "."


def _nearest(text: str, names: list[str]) -> str:
    nearest = difflib.get_close_matches(text, names, n=3, cutoff=0.3) or names[:3]
    return f": did you mean {', '.join(nearest)}?"
