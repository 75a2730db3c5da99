"""Averages the last checkpoints of a run into one file of weights.

The run must have kept them: train with --config.checkpoint.keep=5.

For example: jaxvision average runs/mine averaged.safetensors --last=5 --recalibrate=100
"""

import argparse

from jaxvision.commands.arguments import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("folder", help="of a run")
    parser.add_argument("output", help="a new .safetensors or .npz file")
    parser.add_argument("--last", type=count, default=5, help="checkpoints; 5 by default")
    parser.add_argument(
        "--recalibrate",
        type=count,
        metavar="BATCHES",
        help="measure the statistics of BatchNorms anew, on so many training batches of the run",
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the file; returns the exit code."""
    from jaxvision.command_line import say, show_progress
    from jaxvision.evaluation.averages import average_checkpoints, recalibrate_weights
    from jaxvision.interop.formats import check_writable, write_weights

    check_writable(arguments.output)
    show_progress(f"reading {arguments.folder}")
    weights, steps = average_checkpoints(arguments.folder, last=arguments.last)
    if arguments.recalibrate:
        show_progress("measuring the statistics of BatchNorms")
        weights = recalibrate_weights(arguments.folder, weights, batches=arguments.recalibrate)
    write_weights(arguments.output, weights)
    show_progress()
    say(f"wrote the mean of the steps {', '.join(map(str, steps))} to {arguments.output}")
    return 0
