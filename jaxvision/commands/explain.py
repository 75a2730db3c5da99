"""Draws what a classifier looks at on images, or a captioner at each word.

For example: python -m jaxvision explain dog.jpg --run=runs/mine --method=gradcam,occlusion
"""

import argparse

from jaxvision.commands.arguments import add_weights_arguments, weights_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("images", nargs="+", help="images, folders or zip files")
    add_weights_arguments(parser)
    parser.add_argument(
        "--method",
        metavar="NAME[,NAME]",
        help="gradcam, gradcam++, eigencam, integrated-gradients, smoothgrad, occlusion, attention,"
        " rollout, gradient-rollout; default: gradcam. Of a captioner: attention, gradient;"
        " default: both",
    )
    parser.add_argument(
        "--target", metavar="CLASS[,CLASS]", help="names or numbers; default: the most probable"
    )
    parser.add_argument(
        "--stage", type=int, help="of gradcam, gradcam++ and eigencam, from 0; default: the last"
    )
    parser.add_argument("--classes", help="text file, one class name a line; a run has its own")
    parser.add_argument("--out", default="explained", help="folder; default: explained")
    parser.add_argument("--json", action="store_true", help="write the maps' numbers, too")


def run(arguments: argparse.Namespace) -> int:
    """Writes a PNG for each image; returns 2 if an image could not be used."""
    from jaxvision.command_line import fail, say, show_progress
    from jaxvision.data.image_files import find_images
    from jaxvision.evaluation.explain_files import describe, explainer, free_stems, write
    from jaxvision.files import output_path

    images = [image for path in arguments.images for image in find_images(path)]
    weights = weights_arguments(arguments)
    folder = output_path(arguments.out)
    show_progress(f"reading {weights['weights']}")
    explain = explainer(
        weights,
        methods=arguments.method.split(",") if arguments.method is not None else None,
        targets=arguments.target,
        stage=arguments.stage,
        classes=arguments.classes,
    )
    failed = 0
    for number, (stem, drawing) in enumerate(
        zip(free_stems(images), explain(images), strict=True), start=1
    ):
        show_progress()
        if drawing.error:
            failed += 1
            fail(drawing.error)
        else:
            paths = write(drawing, folder, stem, with_json=arguments.json)
            say(describe(drawing, paths))
        show_progress(f"{number} of {len(images)} images")
    show_progress()
    return 2 if failed else 0
