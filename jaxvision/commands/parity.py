"""Holds a model against the real module of timm, torchvision or transformers.

Both get the same random weights; nothing is downloaded. Exit code 1 if they disagree.

For example: jaxvision parity resnet50 --against=torchvision --image-size=64
"""

import argparse

from jaxvision.commands.arguments import count, image_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("model", nargs="?", help="name or alias; or --all")
    parser.add_argument(
        "--against", choices=["timm", "torchvision", "hf"], help="default: each that has the model"
    )
    parser.add_argument("--image-size", type=image_size, help="pixels: 64 or 64x96")
    parser.add_argument("--batch", type=count, default=2, help="images; default: 2")
    parser.add_argument(
        "--dtype", choices=["float64", "float32"], default="float64", help="default: float64"
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="the smallest model of every family against every library, as a Markdown table",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints the certificates; returns the exit code."""
    import jax

    from jaxvision.command_line import say, show_progress
    from jaxvision.errors import InputError

    if bool(arguments.model) == arguments.all:
        raise InputError("Give the name of a model, or --all.")
    jax.config.update("jax_platforms", "cpu")  # where torch computes, too
    jax.config.update("jax_enable_x64", arguments.dtype == "float64")
    try:
        from jaxvision.parity import certificate as report
    except ModuleNotFoundError as error:
        raise InputError(
            f"The comparison needs PyTorch and its libraries ({error}): pip install -e '.[test]'."
        ) from error

    pairs = list(report.pairs(arguments.model, arguments.against))
    rows = []
    for name, library in pairs:
        certificate = report.certify_model(
            name,
            library,
            image_size=arguments.image_size,
            batch_size=arguments.batch,
            dtype=arguments.dtype,
            progress=lambda text, name=name, library=library: show_progress(
                f"{name} and {library}, {len(rows) + 1} of {len(pairs)}: {text}"
            ),
        )
        show_progress()
        rows.append((name, library, certificate))
        if not arguments.all:
            say(f"{name} against {library}, {arguments.dtype}:\n")
            say(f"{report.certificate_text(certificate)}\n")
        elif not certificate.passed:
            say(f"{name} against {library}: {report.verdict(certificate)}\n")
    if arguments.all:
        say(report.certificates_table(rows))
    return 0 if all(certificate.passed for _, _, certificate in rows) else 1
