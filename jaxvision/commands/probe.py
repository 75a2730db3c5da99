"""Tells how good the features of a frozen model are: nearest neighbours, few-shot, linear probe.

For example: jaxvision probe --weights=runs/mine --data=cifar10 --path=data --shots=1,10

The features before the head are computed once, without augmentation. `20-nn` is the vote of the 20
nearest training images, weighted with exp(cosine / 0.07). The rows of `shots` are ridge
regressions on that many images of each class, mean and deviation of three draws; `linear` is a
logistic regression on all training images. l2 is chosen on a tenth of the training images, never on
those of the evaluation split.
"""

import argparse

from jaxvision.commands.arguments import add_data_arguments, add_weights_arguments, count, counts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    add_weights_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--shots", type=counts, help="images of each class; default: 1,5,10,25")
    parser.add_argument("--no-linear", action="store_true", help="leave out the linear probe")
    parser.add_argument("--batch", type=count, default=128, help="images at once; default: 128")
    parser.add_argument("--out", help="a JSON file to write all numbers into")


def run(arguments: argparse.Namespace) -> int:
    """Prints a table and writes the file; returns the exit code."""
    import pathlib

    from jaxvision.command_line import say, show_progress
    from jaxvision.commands.arguments import data_arguments, weights_arguments
    from jaxvision.errors import InputError
    from jaxvision.evaluation.embed import open_encoder
    from jaxvision.evaluation.labelled import DataOptions, Runner, open_splits
    from jaxvision.metrics.neighbours import NEIGHBOURS, knn_accuracy
    from jaxvision.metrics.probe import (
        check_shots,
        few_shot,
        linear_probe,
        split_features,
    )
    from jaxvision.profiling.table import text_table
    from jaxvision.train.workdir import write_json

    opened = weights_arguments(arguments)
    weights = opened["weights"]
    out = pathlib.Path(arguments.out).expanduser() if arguments.out else None
    if out is not None and not out.absolute().parent.is_dir():
        raise InputError(f"There is no folder {out.absolute().parent} to write {out.name} into.")
    show_progress(f"reading {weights}")
    trained = open_encoder(**opened)
    spec = trained.spec
    options = DataOptions(**data_arguments(arguments))
    size = getattr(trained.model.config, "image_size", spec.image_size)
    train, test = open_splits(options, weights, image_size=size)
    runner = Runner(trained, batch_size=arguments.batch)
    features = []
    for source in (train, test):
        show_progress(f"features of {len(source):,} images")
        features.append(runner(trained.model, source))
    data = split_features(features[0], features[1], train.class_names)
    show_progress("nearest neighbours")
    both = [(each.values, each.labels) for each in features]
    accuracy = knn_accuracy(*both[0], *both[1], num_classes=len(train.class_names))
    results: dict[str, dict] = {f"{NEIGHBOURS}_nn": {"accuracy": accuracy}}
    rows = [(f"{NEIGHBOURS}-nn", f"{accuracy:.4f}", "", "")]
    for shots in check_shots(data, arguments.shots):
        show_progress(f"{shots} shots")
        result = results[f"{shots}_shot"] = few_shot(data, shots=shots)
        deviation = f"{result['deviation']:.4f}"
        rows.append((f"{shots}-shot", f"{result['accuracy']:.4f}", deviation, f"{result['l2']:g}"))
    if not arguments.no_linear:
        show_progress("linear probe")
        result = results["linear"] = linear_probe(data)
        rows.append(("linear", f"{result['accuracy']:.4f}", "", f"{result['l2']:g}"))
    show_progress()
    width = features[0].values.shape[1]
    say(
        f"{spec.name}, {width} features; {len(features[0].labels):,} training and "
        f"{len(features[1].labels):,} evaluation images of {len(train.class_names)} classes"
    )
    say(text_table(("probe", "accuracy", "deviation", "l2"), rows))
    if out is not None:
        facts = {"model": spec.name, "weights": str(weights), "features": width}
        write_json(out, facts | {"probes": results})
        say(f"wrote {out}")
    return 0
