"""A model and its training step need neither data readers nor configs."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
# What GPU images lack that have JAX, Flax, optax and orbax.
STEP = """
import sys

for name in ("array_record", "beartype", "grain", "ml_collections", "tensorboardX",
             "tensorflow_datasets"):
    sys.modules[name] = None
sys.path[:0] = [".", "benchmarks"]
import ours

model = ours.training("vit_ti16", width=8, depth=1, num_heads=1)
model.train_step.lower(model.abstract, model.batch(2))
"""


def test_a_training_step_without_what_only_runs_need():
    command = [sys.executable, "-c", STEP]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
