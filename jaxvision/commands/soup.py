"""Averages the weights of several models, all of them or those that help.

For example: jaxvision soup runs/a runs/b runs/c --out=soup.safetensors --greedy

The models must have been fine-tuned from the same weights; others do not lie in one basin, and
their mean knows nothing. --greedy adds one after the other, the best first, and keeps those with
which the accuracy on the evaluation split is not lower. (Wortsman et al. 2022, Model soups.)
"""

import argparse

from jaxvision.commands.arguments import add_data_arguments, count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("models", nargs="+", help="files of weights, or folders of runs")
    parser.add_argument("--out", required=True, help="a new .safetensors or .npz file")
    parser.add_argument("--format", default="jaxvision", help="whose names to write; see convert")
    parser.add_argument("--model", help="name or alias; a run knows its own")
    parser.add_argument("--greedy", action="store_true", help="leave out what makes it worse")
    parser.add_argument(
        "--recalibrate",
        type=count,
        metavar="BATCHES",
        help="measure the statistics of BatchNorms anew, on so many training batches of the first",
    )
    add_data_arguments(parser)
    parser.add_argument("--batch", type=count, default=128, help="images at once; default: 128")


def run(arguments: argparse.Namespace) -> int:
    """Writes the file; returns the exit code."""
    import pathlib
    from collections.abc import Sequence

    from jaxvision.command_line import say, show_progress
    from jaxvision.commands.arguments import data_arguments
    from jaxvision.errors import InputError
    from jaxvision.evaluation.averages import recalibrate_weights
    from jaxvision.evaluation.labelled import DataOptions, Runner, accuracy, open_eval_split
    from jaxvision.evaluation.soup import greedy_soup, mean_weights, open_ingredients
    from jaxvision.interop.assign import assign_weights, weight_names
    from jaxvision.interop.formats import check_writable
    from jaxvision.interop.load import save_weights
    from jaxvision.interop.rules import Weights
    from jaxvision.interop.trained import check_classifier

    check_writable(arguments.out)
    paths = arguments.models
    if len(set(paths)) < max(2, len(paths)):
        raise InputError("A soup needs at least two models, each given once.")
    if arguments.recalibrate and not pathlib.Path(paths[0]).expanduser().is_dir():
        raise InputError(f"--recalibrate needs the data of a run, and {paths[0]} is none.")
    show_progress("reading the models")
    trained, ingredients = open_ingredients(paths, arguments.model)
    model = trained.model
    weight_names(model, format=arguments.format)  # refuses an unknown one before the work

    size = getattr(model.config, "image_size", None)

    def fill(weights: Weights) -> None:
        assign_weights(model, dict(weights), source="jaxvision", image_size=size)

    def mix(models: Sequence[Weights]) -> Weights:
        weights = mean_weights(models)
        if arguments.recalibrate:
            show_progress("measuring the statistics of BatchNorms")
            weights = recalibrate_weights(paths[0], weights, batches=arguments.recalibrate)
        return weights

    if arguments.greedy:
        check_classifier(trained, paths[0])
        options = DataOptions(**data_arguments(arguments))
        source = open_eval_split(
            options,
            paths[0],
            image_size=size or trained.spec.image_size,
            class_names=trained.class_names,
        )
        runner = Runner(trained, batch_size=arguments.batch)

        def score(weights: Weights) -> float:
            show_progress(f"{len(source):,} images")
            fill(weights)
            return accuracy(runner(model, source))

        soup = greedy_soup(ingredients, score, mix)
        weights = soup.weights
        show_progress()
        for path in paths:
            state = "in the soup" if path in soup.chosen else "left out"
            say(f"{path}: accuracy {soup.scores[path]:.4f}, {state}")
        say(f"soup of {len(soup.chosen)}: accuracy {soup.score:.4f} on {len(source):,} images")
    else:
        weights = mix([each.weights for each in ingredients])
        show_progress()
        say(f"mean of {len(paths)} models")
    fill(weights)
    save_weights(model, arguments.out, format=arguments.format)
    say(f"wrote {arguments.out} with the names of {arguments.format}")
    if not arguments.recalibrate and any(name.endswith("/var") for name in weights):
        say("The statistics of its BatchNorms are averaged too: --recalibrate measures them.")
    return 0
