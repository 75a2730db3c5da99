"""Types of arguments that several commands take."""

import argparse
import re
from typing import Any


def count(text: str) -> int:
    """Returns a whole number of at least 1."""
    if not re.fullmatch(r"[0-9]+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def counts(text: str) -> list[int]:
    """Returns whole numbers that commas separate."""
    return [count(part) for part in text.split(",")]


def probability(text: str) -> float:
    """Returns a number in 0..1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"expected a probability in 0..1, got {text!r}")
    return value


def image_size(text: str) -> tuple[int, int]:
    """Returns (height, width) of "224" or "288x224"."""
    if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*)?", text):
        raise argparse.ArgumentTypeError(
            f"expected pixels as 224 or, height before width, as 288x224, got {text!r}"
        )
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def add_weights_size(parser: argparse.ArgumentParser) -> None:
    """Adds the argument that says which images the weights of a file belong to."""
    parser.add_argument(
        "--weights-size",
        type=image_size,
        metavar="PIXELS",
        help="of the images that the weights belong to, 224 or 288x224, if they do not say so",
    )


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say where labelled images are."""
    parser.add_argument("--data", help="as config.data.name; a run knows its own")
    parser.add_argument("--path", help="as config.data.path")
    parser.add_argument("--train-split", help="as config.data.train_split")
    parser.add_argument("--eval-split", help="as config.data.eval_split")


def data_arguments(arguments: argparse.Namespace) -> dict[str, str | None]:
    """Returns what the arguments of `add_data_arguments` say, as `DataOptions` takes it."""
    return {
        "name": arguments.data,
        "path": arguments.path,
        "train_split": arguments.train_split,
        "eval_split": arguments.eval_split,
    }


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say which model, with which weights."""
    parser.add_argument(
        "--weights",
        "--run",
        help="a tag as resnet50.a1_in1k, hub:owner/name, a file, or the folder of a run",
    )
    parser.add_argument("--model", help="name or alias, where the weights do not tell it")
    parser.add_argument(
        "--pretrained", action="store_true", help="published weights of --model, instead of a file"
    )
    parser.add_argument("--part", help="which weights of a file that has several, e.g. teacher")
    add_weights_size(parser)


def weights_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns what the arguments of `add_weights_arguments` say, as `open_trained` takes it.

    Raises:
      InputError: if they name no weights, or two.
    """
    from jaxvision.errors import InputError
    from jaxvision.interop.pretrained import check_no_path, weights_of

    weights, model = arguments.weights, arguments.model
    if bool(weights) == arguments.pretrained or (arguments.pretrained and not model):
        raise InputError(
            "Give --weights=TAG, FILE or RUN, or --model=NAME with --pretrained for its published"
            " weights."
        )
    if arguments.pretrained:
        weights = check_no_path(weights_of(model))
    return {
        "weights": weights,
        "name": model,
        "part": arguments.part,
        "weights_size": arguments.weights_size,
    }
