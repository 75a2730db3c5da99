"""Serves a model on this machine: a page to drop images on, and POST /predict.

For example: jaxvision serve --run=runs/mine
             jaxvision serve --model=efficientnet_lite0 --pretrained --port=8080
"""

import argparse
from typing import TYPE_CHECKING

from jaxvision.commands.arguments import add_weights_arguments, count, weights_arguments

if TYPE_CHECKING:
    from jaxvision.serving.engine import Engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    add_weights_arguments(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; default: 127.0.0.1, this machine"
    )
    parser.add_argument("--port", type=_port, default=8000, help="default: 8000; 0: a free one")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="name of this server, too"
    )
    parser.add_argument("--top", type=count, default=5, help="classes of each image; default: 5")
    parser.add_argument(
        "--maps",
        metavar="NAME[,NAME]",
        help="explanations, compiled ahead: gradcam, gradcam++, eigencam, attention, rollout,"
        " gradient-rollout, or none; default: gradcam, and of attention what the model has",
    )
    parser.add_argument("--classes", help="text file, one class name a line; a run has its own")
    parser.add_argument("--beam", type=count, help="of captions; 1: greedy; default: the run's")
    parser.add_argument(
        "--samples", metavar="PATH", help="images to try; default: of the run's evaluation"
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument("--batch", type=count, default=8, help="images at once; default: 8")
    limits.add_argument(
        "--queue", type=count, default=64, help="requests at once, others get 503; default: 64"
    )
    limits.add_argument("--max-mb", type=count, default=32, help="of a request; default: 32")
    limits.add_argument(
        "--max-pixels", type=count, default=50_000_000, help="of an image; default: 50000000"
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"expected a number of 0 to 65535, got {text!r}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Serves until a signal comes; returns 128 and the signal's number."""
    from jaxvision.errors import InputError

    try:
        from jaxvision.serving.app import make_app
        from jaxvision.serving.server import Server, address_of, bind
    except ModuleNotFoundError as error:
        raise InputError(
            f"serve needs {error.name}, which is not installed: pip install 'jaxvision-nnx[serve]'."
        ) from error
    import logging
    import signal

    from jaxvision.command_line import LogFormatter, LogHandler, say
    from jaxvision.compile_cache import cache_compilation
    from jaxvision.serving.batcher import Batcher, batch_sizes
    from jaxvision.serving.guard import Guard, Limits, allowed_hosts
    from jaxvision.serving.samples import find_samples
    from jaxvision.terminal import nothing_shown_after, waiting

    handler = LogHandler()
    handler.setFormatter(LogFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    weights = weights_arguments(arguments)
    bound = bind(arguments.host, arguments.port)  # a port in use is known before minutes of work
    limits = Limits(
        max_bytes=arguments.max_mb << 20, max_pixels=arguments.max_pixels, queue=arguments.queue
    )
    cache_compilation()
    with nothing_shown_after():
        with waiting(f"Reading {weights['weights']}"):
            engine = open_engine(arguments, weights)
            samples = find_samples(arguments.samples, weights["weights"], engine)
        batcher = Batcher(engine, batch_sizes(arguments.batch))
        batcher.start()
    hosts, any_address = allowed_hosts(bound.getsockname()[0], arguments.host)
    app = make_app(engine, batcher, limits, samples)
    guard = Guard(app, limits, hosts=(*hosts, *arguments.allow_host), any_address=any_address)
    ready = f"Serving {engine.name} at {address_of(bound)} (Ctrl-C stops)"
    server = Server(guard, lambda: say(ready))
    server.run(sockets=[bound])
    if server.signum is None:
        return 0
    name = signal.Signals(server.signum).name
    say(f"Stopped by {name} after {guard.answered:,} requests.")
    return 128 + server.signum


def open_engine(arguments: argparse.Namespace, weights: dict) -> "Engine":
    """Returns the model behind the server: a captioner, where the weights are a run of one.

    Args:
      arguments: Arguments of the command.
      weights: Model and weights, as `weights_arguments` returns them.
    """
    from jaxvision.errors import InputError
    from jaxvision.evaluation.caption import open_captioner, run_settings
    from jaxvision.evaluation.predict import read_classes
    from jaxvision.interop.run_folder import is_run, open_run
    from jaxvision.interop.trained import check_classifier, open_trained
    from jaxvision.serving.engine import CaptionEngine, ClassEngine

    path = weights["weights"]
    if is_run(path) and open_run(path).config["task"] == "captioning":
        if arguments.maps is not None:
            raise InputError(f"{path} is a captioner, whose words have maps: leave --maps out.")
        trained, vocabulary, options = open_captioner(path)
        changes = {} if arguments.beam is None else {"num_beams": arguments.beam}
        return CaptionEngine(trained, vocabulary, run_settings(vocabulary, options, **changes))
    if arguments.beam is not None:
        raise InputError(f"{path} is no run of a captioner: leave --beam out.")
    trained = open_trained(**weights)
    check_classifier(trained, weights["weights"])
    names = read_classes(arguments.classes, trained) if arguments.classes else trained.class_names
    maps = None if arguments.maps is None else arguments.maps.split(",")
    return ClassEngine(trained, names, top=arguments.top, maps=[] if maps == ["none"] else maps)
