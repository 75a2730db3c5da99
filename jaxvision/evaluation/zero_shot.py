"""A classifier made of words: an image is of the class whose texts go with it best."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.data.captions.features import ENCODER_FILE
from jaxvision.data.captions.vocabulary import Vocabulary, check_vocabulary
from jaxvision.data.captions.vocabulary_file import load_vocabulary
from jaxvision.data.source import Source
from jaxvision.data.sources.open_source import open_source
from jaxvision.errors import InputError, shorten
from jaxvision.evaluation.embed import with_encoder
from jaxvision.evaluation.labelled import Runner
from jaxvision.evaluation.scores import classification_scores
from jaxvision.interop.run_folder import VOCABULARY_FILE, is_run, open_run
from jaxvision.interop.trained import Trained, open_trained, wanted_size
from jaxvision.models.image_text import ImageText
from jaxvision.models.registry import get_spec
from jaxvision.tasks.retrieval_scores import make_text_step, text_vectors

_MOST_LABELS = 100_000


class ZeroShotClassifier(nnx.Module):
    """Gives an image a logit for each class: how well the class's texts go with it.

    Args:
      pair: Encoders of images and texts.
      vectors: Vector of each class, of length 1.
    """

    def __init__(self, pair: ImageText, vectors: np.ndarray):
        self.pair, self.config = pair, pair.config
        self.vectors = nnx.Param(jnp.asarray(vectors))

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch classes"]:
        """Returns the logits of normalised images."""
        return self.pair.logits(self.pair.embed_images(images), self.vectors[...])


def open_image_text(
    weights: str, name: str | None = None, *, tokenizer: str | None = None, **options: Any
) -> tuple[Trained, Vocabulary]:
    """Returns a pair of encoders with its weights, and the vocabulary of its texts.

    A model that was trained on features gets the encoder that computed them.

    Args:
      weights: Tag, file of weights or folder of a run, see `open_trained`.
      name: Name of the model; None: the one that the weights tell.
      tokenizer: File or folder of the tokenizer, see `load_vocabulary`; None: that of the run, or
        the one in the folder of the weights.
      **options: Further options of `open_trained`.

    Raises:
      InputError: if the weights are of another model, or the tokenizer is missing or another.
    """
    trained = open_trained(weights, name, **options)
    get_spec(trained.spec.name, task="image_text")
    place = pathlib.Path(os.path.expanduser(weights))
    if is_run(weights):
        run = open_run(weights)
        if tokenizer is not None:
            raise InputError(f"{weights} is a run, which has its words: leave --tokenizer out.")
        tokenizer = str(run.folder / VOCABULARY_FILE)
        if trained.model.config.encoder is None:
            trained = with_encoder(
                trained, weights, run.folder / ENCODER_FILE, None, kinds=("pooled",)
            )
    elif tokenizer is None:
        folder = place if place.is_dir() else place.parent
        if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json")):
            raise InputError(
                f"{weights} has no tokenizer beside it: give --tokenizer=PATH, the folder or file "
                "that was published with the model."
            )
        tokenizer = str(folder)
    vocabulary, config = load_vocabulary(tokenizer), trained.model.config
    check_vocabulary(vocabulary, size=config.vocab_size, where=weights)
    if config.text_pool == "end" and vocabulary.end != config.end_token:
        raise InputError(
            f"The texts of {tokenizer} end with the token {vocabulary.end}, and those of "
            f"{trained.spec.name} with {config.end_token}: take the tokenizer of the model."
        )
    return trained, vocabulary


def zero_shot(
    trained: Trained,
    vocabulary: Vocabulary,
    labels: Sequence[str],
    templates: Sequence[str] = ("{}",),
) -> Trained:
    """Returns a classifier of labels that the model was not trained on as classes.

    The vector of a class is the mean of those of its texts, one of each template.

    Args:
      trained: Pair of encoders.
      vocabulary: Vocabulary of its texts.
      labels: Names of the classes.
      templates: Texts with {} in the place of the label.

    Raises:
      InputError: for fewer than two labels, one twice, or a template without {}; if the model does
        not read a label, not to its end, or as another.

    Source: Radford et al. 2021, section 3.1.4.
    """
    check_texts(labels, templates)
    _check_read(labels, templates, vocabulary, trained.model.config.max_length)
    texts = [template.replace("{}", label) for label in labels for template in templates]
    graphdef, *states = nnx.split(trained.model, nnx.Param, nnx.BatchStat)
    vectors = text_vectors(
        make_text_step(graphdef),
        tuple(map(nnx.to_pure_dict, states)),
        texts,
        vocabulary,
        trained.model.config.max_length,
    )
    means = vectors.reshape(len(labels), len(templates), -1).mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    model = ZeroShotClassifier(trained.model, means)
    return dataclasses.replace(trained, model=model, class_names=tuple(labels))


def check_texts(labels: Sequence[str], templates: Sequence[str]) -> None:
    """Checks the words of a classifier.

    Args:
      labels: Names of the classes.
      templates: Texts with {} in the place of the label.

    Raises:
      InputError: for fewer than two labels, one twice, or a template without {}.
    """
    if not 2 <= len(labels) <= _MOST_LABELS or not all(map(str.strip, labels)):
        raise InputError(
            f"Give two labels or more, none of them empty and at most {_MOST_LABELS:,}, got "
            f"{shorten(list(labels))}: --labels='a dog,a cat', or a file with one a line."
        )
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if list(labels).count(label) > 1)
        raise InputError(f"--labels has {shorten(twice)} twice: give each once.")
    for template in templates:
        if "{}" not in template:
            raise InputError(
                f"A template has {{}} in the place of the label, as 'a photo of {{}}', got "
                f"{shorten(template)}."
            )


def check_words(labels: Sequence[str], vocabulary: Vocabulary) -> None:
    """Checks that a vocabulary of whole words has those of labels that somebody thought of.

    Raises:
      InputError: for a label with a word that the model never saw.
    """
    for label in labels:
        if vocabulary.unk in vocabulary.ids(label):
            raise InputError(
                f"The label {shorten(label)!r} has a word that the model never saw, and cannot tell"
                " from any other: give words of its captions."
            )


def _check_read(
    labels: Sequence[str], templates: Sequence[str], vocabulary: Vocabulary, max_length: int
) -> None:
    """Checks that a vocabulary tells the labels apart, and that no text is cut."""
    seen: dict[tuple[int, ...], str] = {}
    for label in labels:
        tokens = tuple(vocabulary.ids(label))
        if not tokens:
            raise InputError(f"The label {shorten(label)!r} has no words: give another.")
        if tokens in seen:
            raise InputError(
                f"The model reads the labels {shorten(seen[tokens])!r} and {shorten(label)!r} as "
                "the same: give each once."
            )
        seen[tokens] = label
        for template in templates:
            length = len(vocabulary.ids(template.replace("{}", label))) + vocabulary.num_specials
            if length > max_length:
                raise InputError(
                    f"The label {shorten(label)!r} makes a text of {length} tokens, but the model "
                    f"reads {max_length}: give a shorter one."
                )


def evaluate_zero_shot(
    trained: Trained,
    vocabulary: Vocabulary,
    source: Source,
    *,
    labels: Sequence[str] = (),
    templates: Sequence[str] = ("{}",),
    batch_size: int = 32,
) -> dict[str, Any]:
    """Returns what `classification_scores` says of a split of labelled images.

    Args:
      trained: Pair of encoders.
      vocabulary: Vocabulary of its texts.
      source: Images, with a label each.
      labels: Words of the classes, in the order of the data's; empty: the names of the classes.
      templates: Texts with {} in the place of the label.
      batch_size: Number of images that are computed at once.

    Raises:
      InputError: if the images have another number of classes.
    """
    names = source.class_names
    if labels and len(labels) != len(names):
        raise InputError(
            f"The data has {len(names)} classes ({shorten(', '.join(names))}), and --labels "
            f"{len(labels)}: give one for each, in their order, or leave --labels out."
        )
    classifier = zero_shot(trained, vocabulary, labels or names, templates)
    outputs = Runner(classifier, batch_size=batch_size)(classifier.model, source)
    scores = classification_scores(outputs.values, outputs.labels, tuple(names))
    return {"images": len(outputs.labels), **scores}


def open_labelled(trained: Trained, weights: str, name: str, split: str, **where: Any) -> Source:
    """Returns labelled images for a pair of encoders.

    Args:
      trained: Pair of encoders.
      weights: File of its weights, or its run, as whose shapes the built-in ones are drawn.
      name: Name of the data, see `open_source`.
      split: Name of the split.
      **where: Further options of `open_source`.

    Raises:
      InputError: if the data is missing.
    """
    encoder = trained.model.encoder
    size = wanted_size(encoder, get_spec(trained.model.config.encoder))
    shapes = open_run(weights).config["data"]["shapes"] if is_run(weights) else None
    return open_source(name, split, image_size=size, shapes=shapes, **where)
