"""Writes report.html of a run, or of several beside each other: one page that opens from disk.

It reads the folders only: no model, no data. What needs them is gathered at the end of a run.

For example: jaxvision report runs/a runs/b --output=compared.html
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run")
    parser.add_argument(
        "--output",
        metavar="HTML",
        help="default: report.html in the folder of the run; of several, in the current one",
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the page; returns the exit code."""
    from jaxvision.command_line import say
    from jaxvision.errors import InputError
    from jaxvision.files import output_path
    from jaxvision.report.page import PAGE_FILE, write_page

    runs = [output_path(folder) for folder in arguments.runs]
    usual = runs[0] / PAGE_FILE if len(runs) == 1 else PAGE_FILE
    path = output_path(arguments.output or usual)
    if arguments.output and path.suffix != ".html":
        raise InputError(f"--output must be a path that ends with .html, got {arguments.output}.")
    say(f"wrote {write_page(runs, path)}")
    return 0
