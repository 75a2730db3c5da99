"""The trackers for real: W&B offline, MLflow in a folder, TensorBoard's events."""

import json
import math
import signal
import struct
import subprocess
import sys
import types

import finished_run
import numpy as np
import pytest
from PIL import Image

from jaxvision.errors import InputError
from jaxvision.interop.run_folder import open_run
from jaxvision.options.options import Options, as_json, read_options
from jaxvision.options.run import LogOptions
from jaxvision.train import trackers as module
from jaxvision.train.trackers import Trackers
from jaxvision.train.workdir import open_workdir

# The first part of a run: opens the trackers, writes four steps, and is killed.
KILLED = """
import os, pathlib, signal, sys, time
from jaxvision.options.options import Options
from jaxvision.options.run import LogOptions
from jaxvision.train.trackers import Trackers
options = Options(log=LogOptions(to=(sys.argv[1],)), seed=7)
trackers = Trackers(pathlib.Path(sys.argv[2]), options)
for step in range(1, 5):
    trackers.write(step, {"train/loss": 1 / step, "train/nan": float("nan")})
    trackers.write(step, {"eval/accuracy": step / 10})
time.sleep(1)  # a checkpoint takes longer
os.kill(os.getpid(), signal.SIGKILL)
"""
OFFLINE = {"WANDB_MODE": "offline", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def run_and_kill(name, folder, monkeypatch):
    """Runs steps 1 to 4, kills, and goes on from the checkpoint of step 2 to the end at step 6."""
    for variable, value in (OFFLINE | {"JAX_PLATFORMS": "cpu"}).items():
        monkeypatch.setenv(variable, value)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, name, str(folder)],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(folder / "curves.png")
    options = Options(log=LogOptions(to=(name,)), seed=7)
    with Trackers(folder, options, resume_step=2) as trackers:
        for step in range(3, 7):
            trackers.write(step, {"train/loss": 1 / step, "train/nan": math.nan})
            trackers.write(step, {"eval/accuracy": step / 10})
        trackers.pictures(6, [folder / "curves.png"])
    return json.loads((folder / "trackers.json").read_text())[name]


def wandb_records(path):
    """Yields the records of a .wandb file: pieces as in LevelDB's log, in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, pieces = path.read_bytes(), 7, b""  # after W&B's own 7 bytes
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # no room for a header: the block is filled up
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        pieces += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole one, or its last piece
            yield Record.FromString(pieces)
            pieces = b""


def test_wandb_offline_goes_on_as_the_same_run_after_a_kill(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    kept = run_and_kill("wandb", tmp_path, monkeypatch)
    ids, rows, config, ends = [], [], {}, []
    for path in sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb")):
        for record in wandb_records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                ids.append(record.run.run_id)
                config = {i.key: json.loads(i.value_json) for i in record.run.config.update}
            elif kind == "history":
                items = record.history.item
                rows.append(
                    {(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in items}
                )
            elif kind == "exit":
                ends.append(record.exit.exit_code)
    assert set(ids) == {kept}
    curve = [(row["step"], row["eval/accuracy"]) for row in rows if "eval/accuracy" in row]
    expected = [1, 2, 3, 4, 3, 4, 5, 6]  # equal where they are computed again
    assert curve == [(step, step / 10) for step in expected]
    assert rows[-1]["curves._type"] == "image-file"
    assert config["seed"] == 7 and config["optimizer"] == as_json(Options())["optimizer"]
    assert len(list((tmp_path / "wandb").glob("offline-run-*/files/media/images/*.png"))) == 1
    assert ends[-1] == 0


# It makes the tables of a new database, which alone takes MLflow 8 s.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_mlflow_in_a_folder_goes_on_as_the_same_run_after_a_kill(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    kept = run_and_kill("mlflow", tmp_path, monkeypatch)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "jaxvision"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == kept and run.info.status == "FINISHED"
    assert run.info.run_name == tmp_path.name
    for name in ("train/loss", "eval/accuracy"):
        curve = [(x.step, x.value) for x in client.get_metric_history(kept, name)]
        value = {"train/loss": lambda s: 1 / s, "eval/accuracy": lambda s: s / 10}[name]
        assert curve == [(step, value(step)) for step in range(1, 7)]  # each once
    assert run.data.params["seed"] == "7" and run.data.params["optimizer.name"] == "adamw"
    assert [x.path for x in client.list_artifacts(kept, "pictures")] == ["pictures/curves.png"]


def test_a_new_run_in_the_folder_is_a_new_one_there(tmp_path):
    first = module._Ids(tmp_path, "wandb", 0)
    first.keep("a")
    assert module._Ids(tmp_path, "wandb", 5).known == "a"
    assert module._Ids(tmp_path, "wandb", 0).known == ""
    (tmp_path / "trackers.json").write_text("{")
    with pytest.raises(InputError, match=r"trackers.json is damaged .*: remove it"):
        module._Ids(tmp_path, "wandb", 5)


class Broken:
    """A tracker whose server goes away at step 2."""

    def __init__(self, *_):
        self.written, self.closed = [], []

    def write(self, step, values):
        if step == 2:
            raise ConnectionError("the network is down")
        self.written.append(step)

    def close(self, *, failed):
        self.closed.append(failed)


def test_a_tracker_that_fails_on_the_way_is_given_up(tmp_path, monkeypatch, caplog):
    broken = Broken()
    monkeypatch.setitem(module._MAKERS, "wandb", ("W&B", lambda *_: broken))
    options = Options(log=LogOptions(to=("wandb", "tensorboard")))
    with Trackers(tmp_path, options) as trackers:
        for step in (1, 2, 3):
            trackers.write(step, {"train/loss": 1.0})
    assert broken.written == [1] and broken.closed == [True]
    assert caplog.messages == ["W&B's record of the run ends here: the network is down."]
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(tmp_path))
    reader.Reload()
    assert [event.step for event in reader.Scalars("train/loss")] == [1, 2, 3]


def test_a_tracker_that_cannot_be_opened_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("No API key configured")

    monkeypatch.setitem(module._MAKERS, "wandb", ("W&B", refuse))
    with pytest.raises(InputError, match=r"W&B cannot be opened \(No API key.*\). Type `wandb log"):
        Trackers(tmp_path, Options(log=LogOptions(to=("wandb",))))


def test_a_missing_package_is_named_before_anything_starts(monkeypatch):
    from jaxvision.options import run

    found = types.SimpleNamespace(util=types.SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr(run, "importlib", found)
    with pytest.raises(InputError, match=r"log.to=wandb needs wandb, .*pip install 'jaxvision-nn"):
        LogOptions(to=("wandb",)).check_installed()
    LogOptions(to=()).check_installed()


def test_tensorboard_gets_pictures(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    Image.fromarray(np.full((5, 9, 3), 200, np.uint8)).save(tmp_path / "curves.png")
    with Trackers(tmp_path, Options(), resume_step=3) as trackers:
        trackers.pictures(3, [tmp_path / "curves.png"])
    reader = accumulator.EventAccumulator(str(tmp_path))
    reader.Reload()
    (picture,) = reader.Images("curves")
    assert (picture.step, picture.width, picture.height) == (3, 9, 5)


@pytest.mark.parametrize("before", [True, False])
def test_a_run_of_before_there_were_several_trackers_resumes(tmp_path, before):
    run, _ = finished_run.write(tmp_path)
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    stored["log"] = {"every_steps": 50, "tensorboard": before}
    path.write_text(json.dumps(stored))
    open_workdir(tmp_path, run.options, run.task)  # or InputError: it holds another run
    path.write_text(json.dumps(stored))
    assert read_options(open_run(tmp_path).config).log == LogOptions()
