"""Says which of some texts goes with an image: a classifier whose classes are words.

For example: jaxvision zeroshot photos/ --run=runs/clip --labels="a dog,a cat"
             jaxvision zeroshot photos/ --model=clip_vit_b32 --weights=clip/ --labels=labels.txt
               --templates "a photo of {}" "a drawing of {}"
             jaxvision zeroshot --run=runs/clip --data=shapes --templates "a {}"
"""

import argparse

from jaxvision.commands.arguments import add_weights_arguments, count, weights_arguments
from jaxvision.commands.predict import print_predictions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("images", nargs="*", help="images, folders or zip files; or --data")
    add_weights_arguments(parser)
    parser.add_argument("--tokenizer", help="of a file of weights: file or folder; a run has it")
    parser.add_argument("--labels", help="the classes, between commas, or a text file, one a line")
    parser.add_argument(
        "--templates",
        nargs="+",
        default=["{}"],
        help="texts with {} in the place of the label, whose mean is taken; default: the label",
    )
    parser.add_argument("--top", type=count, default=5, help="labels of each image; default: 5")
    parser.add_argument("--batch", type=count, default=32, help="images at once; default: 32")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a JSON object a line")
    form.add_argument("--csv", action="store_true", help="print a row for each label of an image")
    labelled = parser.add_argument_group("of labelled images, to tell how many are right")
    labelled.add_argument("--data", help="as config.data.name")
    labelled.add_argument("--path", help="as config.data.path")
    labelled.add_argument("--eval-split", help="as config.data.eval_split; default: test")
    labelled.add_argument("--label-column", help="as config.data.label_column")


def run(arguments: argparse.Namespace) -> int:
    """Prints a line for each image, or how many are right; returns 2 if an image failed."""
    from jaxvision.command_line import show_progress
    from jaxvision.data.image_files import find_images
    from jaxvision.errors import InputError
    from jaxvision.evaluation.zero_shot import check_texts, check_words, open_image_text

    if bool(arguments.images) == bool(arguments.data):
        raise InputError("Give images, or --data of labelled ones.")
    labels = _labels(arguments.labels)
    if arguments.images and not labels:
        raise InputError("Give --labels, the classes between commas or a file with one a line.")
    if not arguments.data and (arguments.path or arguments.eval_split or arguments.label_column):
        raise InputError("--path, --eval-split and --label-column belong to --data: give it, too.")
    check_texts(labels or ["a", "b"], arguments.templates)  # those of the data come later
    images = [image for path in arguments.images for image in find_images(path)]
    weights = weights_arguments(arguments)
    show_progress(f"reading {weights['weights']}")
    trained, vocabulary = open_image_text(tokenizer=arguments.tokenizer, **weights)
    check_words(labels, vocabulary)
    if arguments.data:
        return _evaluate(arguments, trained, vocabulary, labels, weights["weights"])
    return _classify(arguments, trained, vocabulary, labels, images)


def _labels(text: str | None) -> list[str]:
    """Returns the labels that commas separate, or the lines of a file."""
    import pathlib

    from jaxvision.data.classes import read_class_names

    if not text:
        return []
    file = pathlib.Path(text).expanduser()
    if "," not in text and file.is_file():
        return list(read_class_names(file))
    return [label.strip() for label in text.split(",")]


def _classify(arguments: argparse.Namespace, trained, vocabulary, labels: list, images) -> int:
    from jaxvision.evaluation.predict import predict
    from jaxvision.evaluation.zero_shot import zero_shot

    classifier = zero_shot(trained, vocabulary, labels, arguments.templates)
    predictions = predict(
        classifier,
        images,
        class_names=classifier.class_names,
        top=arguments.top,
        batch_size=arguments.batch,
    )
    return print_predictions(predictions, arguments, count=len(images))


def _evaluate(
    arguments: argparse.Namespace, trained, vocabulary, labels: list, weights: str
) -> int:
    import json

    from jaxvision.command_line import say, show_progress
    from jaxvision.evaluation.zero_shot import evaluate_zero_shot, open_labelled

    where = {"path": arguments.path or "", "label_column": arguments.label_column or ""}
    split = arguments.eval_split or "test"
    source = open_labelled(trained, weights, arguments.data, split, **where)
    show_progress(f"evaluating on {arguments.data}")
    scores = evaluate_zero_shot(
        trained,
        vocabulary,
        source,
        labels=labels,
        templates=arguments.templates,
        batch_size=arguments.batch,
    )
    show_progress()
    if arguments.json:
        say(json.dumps(scores))
        return 0
    top5 = f", top 5 {scores['top5_accuracy']:.4f}" if "top5_accuracy" in scores else ""
    say(
        f"accuracy {scores['accuracy']:.4f}{top5} on {scores['images']:,} images of "
        f"{len(scores['classes'])} classes"
    )
    return 0
