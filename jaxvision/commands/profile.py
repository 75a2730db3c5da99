"""Measures a model: parameters, multiply-adds, latency, throughput, memory, and each module.

For example: jaxvision profile resnet50 --image-size=288x224 --batch=1,32
"""

import argparse

from jaxvision.commands.arguments import count, counts, image_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("model", help="name or alias")
    parser.add_argument(
        "--image-size", type=image_size, help="pixels: 224 or 288x224; default: as published"
    )
    parser.add_argument("--batch", type=counts, default=[1, 32], help="batch sizes, as 1,32")
    parser.add_argument("--depth", type=count, default=2, help="levels of the tree of modules")


def run(arguments: argparse.Namespace) -> int:
    """Prints the tree and the table; returns the exit code."""
    from jaxvision.command_line import say, show_progress
    from jaxvision.models.registry import get_spec
    from jaxvision.profiling.profile import (
        device_name,
        module_tree,
        time_model,
        times_table,
        tree_table,
    )

    spec = get_spec(arguments.model, task="classification")
    height, width = arguments.image_size or (spec.image_size, spec.image_size)
    tree = module_tree(spec.name, height, width, depth=arguments.depth)
    say(f"{spec.name}, one image of {height} x {width} (a MAC is one multiply-add, two FLOPs):\n")
    say(f"{tree_table(tree)}\n")
    timings = []
    for batch in arguments.batch:
        show_progress(f"batch size {batch}")
        timings += time_model(spec.name, height, width, [batch])
    show_progress()
    say(f"Forward pass in float32 on {device_name()}:\n")
    say(times_table(spec.name, tree[0], timings))
    return 0
