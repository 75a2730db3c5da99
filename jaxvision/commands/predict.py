"""Says what is on images: files, folders and zip files.

For example: jaxvision predict photos --weights=runs/mine
"""

import argparse
from collections.abc import Iterable

from jaxvision.commands.arguments import (
    add_weights_arguments,
    count,
    probability,
    weights_arguments,
)
from jaxvision.options.run import VIEWS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("images", nargs="+", help="images, folders or zip files")
    add_weights_arguments(parser)
    parser.add_argument("--top", type=count, default=5, help="classes of each image; default: 5")
    parser.add_argument(
        "--threshold",
        type=probability,
        help="of a run with several labels an image: say each class from this probability on; "
        "default: those that its validation chose",
    )
    parser.add_argument("--classes", help="text file, one class name a line; a run has its own")
    parser.add_argument("--batch", type=count, default=32, help="images at once; default: 32")
    parser.add_argument(
        "--tta",
        choices=VIEWS,
        default="none",
        help="views of each image whose logits are averaged; default: none",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a JSON object a line")
    form.add_argument("--csv", action="store_true", help="print a row for each class of an image")


def run(arguments: argparse.Namespace) -> int:
    """Prints a line for each image; returns 2 if an image could not be used."""
    from jaxvision.command_line import show_progress
    from jaxvision.data.image_files import find_images
    from jaxvision.errors import InputError
    from jaxvision.evaluation.predict import predict, read_classes
    from jaxvision.interop.trained import check_classifier, open_trained

    images = [image for path in arguments.images for image in find_images(path)]
    weights = weights_arguments(arguments)
    show_progress(f"reading {weights['weights']}")
    trained = open_trained(**weights)
    check_classifier(trained, weights["weights"])
    names = read_classes(arguments.classes, trained) if arguments.classes else trained.class_names
    if arguments.threshold is not None and trained.thresholds is None:
        raise InputError(
            "--threshold is for a run of --config.task=multi_label, whose images have several "
            "labels: give --top instead."
        )
    predictions = predict(
        trained,
        images,
        class_names=names,
        top=arguments.top,
        threshold=arguments.threshold,
        batch_size=arguments.batch,
        views=arguments.tta,
    )
    return print_predictions(predictions, arguments, count=len(images))


def print_predictions(predictions: Iterable, arguments: argparse.Namespace, *, count: int) -> int:
    """Prints each prediction as --json or --csv ask; returns 2 if an image could not be used.

    Args:
      predictions: Predictions of `evaluation.predict`, one after the other.
      arguments: Arguments of the command, with `json` and `csv`.
      count: Number of images.
    """
    from jaxvision.command_line import fail, say, show_progress
    from jaxvision.evaluation.predict import prediction_lines

    form = "json" if arguments.json else "csv" if arguments.csv else "text"
    show_progress()
    if form == "csv":
        say("image,rank,class,name,probability")
    failed = 0
    for number, prediction in enumerate(predictions, start=1):
        show_progress()
        if prediction.error:
            failed += 1
            fail(prediction.error)
        for line in prediction_lines(prediction, form):
            say(line)
        show_progress(f"{number} of {count} images")
    show_progress()
    return 2 if failed else 0
