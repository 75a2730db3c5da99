"""Puts a run on the Hugging Face hub, where timm opens it, with a card of its data and results.

For example: jaxvision push runs/mine owner/name
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("workdir", metavar="run", help="the folder of a run")
    parser.add_argument("repository", help="owner/name; it is made if it is not there")
    parser.add_argument("--private", action="store_true", help="a new one is seen by you alone")
    parser.add_argument("--folder", help="write the files there, and upload nothing")


def run(arguments: argparse.Namespace) -> int:
    """Uploads, or writes, the repository; returns the exit code."""
    from jaxvision.command_line import say
    from jaxvision.evaluation.push import push, write_repository
    from jaxvision.terminal import waiting

    if arguments.folder:
        folder = write_repository(
            arguments.workdir, arguments.folder, repository=arguments.repository
        )
        say(f"wrote {folder}")
        return 0
    with waiting(f"Uploading to {arguments.repository}"):
        address = push(arguments.workdir, arguments.repository, private=arguments.private)
    say(f"{address}: jv.from_pretrained({address!r}) opens it")
    return 0
