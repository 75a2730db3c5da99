"""Lists models with parameters, multiply-adds, activations and published weights.

For example: jaxvision models 'vit*' resnet50
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument(
        "patterns", nargs="*", default=["*"], help="names, aliases or patterns such as 'vit*'"
    )
    parser.add_argument(
        "--weights", action="store_true", help="list their published weights instead"
    )
    parser.add_argument("--json", action="store_true", help="print a list of objects instead")


def run(arguments: argparse.Namespace) -> int:
    """Prints the table; returns the exit code."""
    import dataclasses
    import json

    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing is computed

    from jaxvision.command_line import say, show_progress
    from jaxvision.profiling.model_cards import cards_table, model_cards, weights_table

    if arguments.weights:
        say(weights_table(arguments.patterns))
        return 0
    cards = []
    for card in model_cards(arguments.patterns):
        cards.append(card)
        show_progress(f"{len(cards)} models, {card.name}")
    show_progress()
    if arguments.json:
        say(json.dumps([dataclasses.asdict(card) for card in cards], indent=2))
    else:
        say(cards_table(cards))
    return 0
