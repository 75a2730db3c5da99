"""Model cards: what there is to know about a model before it is built."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax

from jaxvision.errors import InputError
from jaxvision.interop.pretrained import get_weights, list_weights, published_top1
from jaxvision.models.registry import get_spec, list_models
from jaxvision.models.spec import ModelSpec
from jaxvision.profiling.cost import (
    abstract_model,
    count_parameters,
    count_work,
    image_batch,
    total,
)
from jaxvision.profiling.table import text_table


@dataclasses.dataclass(frozen=True)
class Card:
    """One model as published.

    Attributes:
      name: Name that `create_model` takes.
      family: Name of the family.
      aliases: Further names that `create_model` takes.
      task: Task of the model, "classification", "captioning", ....
      parameters: Number of parameters, with the published classes; of a captioner with the
        vocabulary of its row.
      macs: Multiply-adds of one image; FLOPs are twice as many. Of a captioner those of an image,
        or of one vector of features, and a caption of full length.
      activations: Elements of all outputs of convolutions and matrix products, for one image.
      image_size: Side in pixels that the numbers are for.
      peers: Name of the same model by library.
      weights: Tags of the published weights, the one that is taken first.
      top1: Published top-1 accuracy of the first of them in percent; None: unknown.
      source: Paper and table.
    """

    name: str
    family: str
    aliases: tuple[str, ...]
    task: str
    parameters: int
    macs: int
    activations: int
    image_size: int
    peers: dict[str, str]
    weights: tuple[str, ...]
    top1: float | None
    source: str


def model_cards(patterns: Iterable[str] = ("*",)) -> Iterator[Card]:
    """Yields the cards of all models that match, by name.

    Args:
      patterns: Shell patterns such as "vit*", or names and aliases.

    Raises:
      InputError: if a pattern fits nothing; the message names the nearest models.
    """
    names: set[str] = set()
    for pattern in patterns:
        found = list_models(pattern, task=None)
        if not found and set(pattern) & set("*?["):
            raise InputError(f"No model matches {pattern!r}: see `jaxvision models`.")
        names |= set(found or [get_spec(pattern).name])
    return map(model_card, sorted(names))


def model_card(name: str) -> Card:
    """Returns the card of one model; its numbers are counted in an abstract one."""
    spec = get_spec(name)
    model = abstract_model(spec.name)
    inputs = _inputs(spec, model)
    weights = tuple(list_weights(spec.name))
    macs, activations = total(count_work(lambda model, *inputs: model(*inputs), model, *inputs))
    return Card(
        name=spec.name,
        family=spec.family,
        aliases=spec.aliases,
        task=spec.task,
        parameters=spec.num_params or count_parameters(model),
        macs=macs,
        activations=activations,
        image_size=spec.image_size,
        peers=spec.peers,
        weights=weights,
        top1=published_top1(spec.name),
        source=spec.source,
    )


def _inputs(spec: ModelSpec, model: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Returns the shapes that a model is called with."""
    if spec.task == "classification":
        return (image_batch(model, spec.image_size, spec.image_size),)
    tokens = jax.ShapeDtypeStruct((1, model.config.max_length), "int32")
    if model.encoder is None:
        return jax.ShapeDtypeStruct((1, model.feature_width), "float32"), tokens
    return image_batch(model.encoder, spec.image_size, spec.image_size), tokens


def cards_table(cards: Iterable[Card]) -> str:
    """Returns a text table: counts in millions, multiply-adds in units of 1e9."""
    header = (
        "model", "parameters", "GMACs", "Mactivations", "pixels", "weights", "top-1", "peers",
        "source",
    )  # fmt: skip
    return text_table(
        header,
        (
            (
                card.name,
                f"{card.parameters:,}",
                f"{card.macs / 1e9:.3f}",
                f"{card.activations / 1e6:.2f}",
                str(card.image_size),
                _first_and_number(card.weights),
                "" if card.top1 is None else f"{card.top1:.1f}",
                ", ".join(f"{library} {name}" for library, name in card.peers.items()),
                card.source,
            )
            for card in cards
        ),
    )


def _first_and_number(tags: Sequence[str]) -> str:
    """Returns the first tag, and how many more there are."""
    return tags[0] + (f" + {len(tags) - 1}" if len(tags) > 1 else "") if tags else ""


def weights_table(patterns: Iterable[str]) -> str:
    """Returns a text table of published weights.

    Args:
      patterns: Names of models, or shell patterns of models or tags.

    Raises:
      InputError: if a pattern fits nothing.
    """
    tags: dict[str, None] = {}
    for pattern in patterns:
        models = list_models(pattern, task=None)
        found = [tag for name in models or [] for tag in list_weights(name)]
        found = found or list_weights(pattern)
        if not found:
            raise InputError(f"No published weights match {pattern!r}.")
        tags |= dict.fromkeys(found)
    rows = [get_weights(tag) for tag in tags]
    return text_table(
        ("weights", "model", "top-1", "pixels", "outputs", "data", "licence"),
        (
            (
                row.tag,
                row.model,
                "" if row.top1 is None else f"{row.top1:.2f}",
                str(row.image_size or ""),
                "" if row.num_outputs is None else str(row.num_outputs),
                row.data,
                row.licence,
            )
            for row in rows
        ),
    )
