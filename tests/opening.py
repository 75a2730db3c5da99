"""What the command line does, for tests: opens the run of a config, on one device by default."""

import jax

from jaxvision.evaluation import evaluate
from jaxvision.options.options import Options, read_options
from jaxvision.preflight import find_lr as finder
from jaxvision.preflight import preflight as flight
from jaxvision.report import end
from jaxvision.train import loop, setup


def make_run(config, workdir=None, *, devices=1, training=True):
    """Returns the run of a config, or of options, on the first devices."""
    options = config if isinstance(config, Options) else read_options(config)
    return setup.make_run(
        options, devices=jax.devices()[:devices], workdir=workdir, training=training
    )


def train(config, workdir, *, devices=1):
    return loop.train(make_run(config, workdir, devices=devices), workdir)


def evaluate_run(config, workdir, *, devices=1):
    return loop.evaluate_run(make_run(config, workdir, devices=devices, training=False), workdir)


def evaluate_fully(config, workdir, *, devices=1):
    return evaluate.evaluate_fully(
        make_run(config, workdir, devices=devices, training=False), workdir
    )


def write_report(config, state, workdir, *, devices=1):
    return end.write_report(make_run(config, workdir, devices=devices), state, workdir)


def preflight(config, workdir, *, devices=1, **options):
    return flight.preflight(make_run(config, workdir, devices=devices), workdir, **options)


def find_lr(config, workdir, *, devices=1):
    return finder.find_lr(make_run(config, workdir, devices=devices), workdir)
