"""Runs to be tortured: starts them, looks at them from outside, and compares what is left."""

import hashlib
import logging
import os
import pathlib
import random
import time
import uuid

import jax
import launching
import numpy as np
from opening import make_run

from jaxvision.train.checkpoint import Checkpointer
from jaxvision.train.writer import read_metrics

logger = logging.getLogger(__name__)

STEPS = 50
# Often enough that something is always in flight, and every step leaves a line to compare.
OFTEN = launching.options(
    total_steps=STEPS, checkpoint__every_steps=3, eval__every_steps=20, log__every_steps=1
)
# Explores other moments each time; give the seed that a failed run has printed to repeat it.
SEED = int(os.environ.get("JAXVISION_TORTURE_SEED") or int.from_bytes(os.urandom(4), "little"))


def new_rng(name):
    return random.Random(f"{SEED} {name}")


class Run:
    """One launch of a run, with everything that it prints in a file.

    Pipes would do as well, were it not for workers that hold them open when their parent is gone.
    """

    def __init__(self, module, workdir, *arguments, log_folder=None, environment=None, **options):
        self.workdir = pathlib.Path(workdir)
        folder = pathlib.Path(log_folder or self.workdir.parent)
        self.log_file = folder / f"{self.workdir.name}-{uuid.uuid4().hex[:8]}.log"
        self.token = f"JAXVISION_TORTURE_RUN={self.log_file}"
        with self.log_file.open("w") as log:
            self.process = launching.start(
                f"--config={module.__file__}",
                f"--workdir={workdir}",
                launching.CACHE,
                *OFTEN,
                *getattr(module, "OPTIONS", []),
                *arguments,
                environment=dict([self.token.split("=", 1)]) | (environment or {}),
                stdout=log,
                stderr=log,
                **options,
            )

    @property
    def log(self):
        return self.log_file.read_text()

    def wait_for_step(self, step):
        launching.wait_for_step([self.process], self.workdir, step)

    def wait_for_log(self, text, timeout=120):
        deadline = time.monotonic() + timeout
        while text not in self.log and self.process.poll() is None:
            assert time.monotonic() < deadline, f"no '{text}' in {timeout} s: {self.log}"
            time.sleep(0.005)

    def end(self, timeout=200):
        """Waits for the end; returns the exit code."""
        try:
            return self.process.wait(timeout)
        finally:
            self.process.kill()

    def assert_nothing_survives(self):
        """Workers end with their run, within seconds."""
        deadline = time.monotonic() + 5
        while self.survivors() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not self.survivors(), "processes outlive the run that started them"

    def survivors(self):
        """Returns the processes of this launch, by the environment that they inherited."""
        found = []
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if self.token.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:  # it ended meanwhile, or belongs to somebody else
                pass
        return found


def finish(module, workdir, *arguments, **options):
    """Runs to the end, which must be a good one."""
    run = Run(module, workdir, *arguments, **options)
    assert run.end() == 0, run.log
    return run


def saves_in_flight(workdir):
    return list(pathlib.Path(workdir).glob("checkpoints/*.orbax-checkpoint-tmp*"))


def state_hash(module, workdir):
    """Returns the sha256 of path, dtype and bytes of every leaf of a finished run's state."""
    config = module.get_config()
    config.total_steps = STEPS
    with Checkpointer(pathlib.Path(workdir) / "checkpoints", read_only=True) as checkpointer:
        state, _, step = checkpointer.restore(make_run(config).abstract_state)
    assert step == getattr(module, "END", STEPS)  # of a run that ends early
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(state):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        leaf = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def assert_same_end(case, module, workdir, whole):
    """Compares a run that was disturbed with one that was not, bit for bit, and logs both."""
    found, expected = (state_hash(module, folder) for folder in (workdir, whole))
    logger.info("%s; sha256 %s = %s; seed %d", case, expected[:16], found[:16], SEED)
    assert found == expected
    assert curve(workdir) == curve(whole)


def curve(workdir):
    """Returns all that a run has logged, in its order, except for times."""
    return [
        {name: value for name, value in record.items() if name != "train/images_per_second"}
        for record in read_metrics(workdir)
    ]
