"""Writes weights under the names of another library; they load there with strict=True.

For example: jaxvision convert runs/mine out.safetensors --format=timm
"""

import argparse

from jaxvision.commands.arguments import add_weights_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("input", help="a file of weights, or the folder of a run")
    parser.add_argument("output", help="a new .safetensors or .npz file; of peft, a new folder")
    parser.add_argument("--adapter", help="a folder of peft, to change the weights by")
    parser.add_argument(
        "--format",
        required=True,
        choices=[
            *("timm", "torchvision", "hf", "augreg", "efficientnet_pytorch", "akamaster"),
            "jaxvision",
            "peft",
            *("torch", "cs231n", "cs231n_2025"),
        ],
        help="whose names to write; akamaster: of a ResNet for CIFAR; peft: the adapters of a run "
        "of lora or ia3 alone; last three: of a captioner",
    )
    parser.add_argument("--model", help="name or alias; a run knows its own")
    add_weights_size(parser)
    parser.add_argument("--part", help="which weights of a file that has several, e.g. teacher")


def run(arguments: argparse.Namespace) -> int:
    """Writes the file; returns the exit code."""
    from jaxvision.command_line import say, show_progress
    from jaxvision.errors import InputError
    from jaxvision.interop.adapter_file import save_adapter, with_adapter
    from jaxvision.interop.formats import check_writable
    from jaxvision.interop.load import save_weights
    from jaxvision.interop.trained import open_trained

    if arguments.format == "peft":
        for name in ("adapter", "model", "weights_size", "part"):
            if getattr(arguments, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"--format=peft writes the adapters of a run: leave {option} out.")
        show_progress(f"reading {arguments.input}")
        save_adapter(arguments.input, arguments.output)
        show_progress()
        say(f"wrote the adapters and the head of {arguments.input} to {arguments.output}")
        return 0
    check_writable(arguments.output)
    show_progress(f"reading {arguments.input}")
    size = arguments.weights_size  # the model has it too: nothing is resized
    options = {} if size is None else {"image_size": size}
    trained = open_trained(
        arguments.input, arguments.model, part=arguments.part, weights_size=size, **options
    )
    model = trained.model
    if arguments.adapter:
        model = with_adapter(model, trained.spec, arguments.adapter)
    show_progress(f"writing {arguments.output}")
    save_weights(model, arguments.output, format=arguments.format)
    show_progress()
    say(f"{trained.spec.name}: {trained.report}")
    if arguments.adapter:
        say(f"changed by {arguments.adapter}")
    say(f"wrote {arguments.output} with the names of {arguments.format}")
    return 0
