"""Lists the recipe cards that `train` takes, or prints one: the beginning of your own.

For example: jaxvision configs
             jaxvision configs vit_b16 > mine.py
"""

import argparse
import pathlib


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("card", nargs="?", help="name of the one to print; common: all options")


def run(arguments: argparse.Namespace) -> int:
    """Prints the table or the card; returns the exit code."""
    import ast

    from jaxvision.cards import SCHEMA, cards_folder, find_card, list_cards
    from jaxvision.command_line import say

    if arguments.card is None:
        names = list_cards()
        width = max(map(len, names))
        for name in names:
            source = (cards_folder() / f"{name}.py").read_text(encoding="utf-8")
            about = ast.get_docstring(ast.parse(source)) or ""
            say(f"{name:<{width}}  {about.partition(chr(10))[0]}")
    elif arguments.card == SCHEMA:
        say((cards_folder() / f"{SCHEMA}.py").read_text(encoding="utf-8").rstrip())
    else:
        say(
            pathlib.Path(find_card(arguments.card).partition(":")[0])
            .read_text(encoding="utf-8")
            .rstrip()
        )
    return 0
