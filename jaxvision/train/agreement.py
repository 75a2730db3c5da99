"""What the processes of a run must have in common, compared before the first step.

Processes that differ in a learning rate or in an image would train on together, each another model;
in a number of steps, they would wait for each other for ever.
"""

import hashlib
import itertools
import json
import logging
import os
import pathlib
import socket
import threading
import time
from typing import Any

import jax
import numpy as np

from jaxvision.data.source import CorruptImageError
from jaxvision.errors import InputError
from jaxvision.options.options import Options
from jaxvision.train.distributed import coordination_client
from jaxvision.train.lock import lock_token
from jaxvision.train.roll_call import SAY_SECONDS
from jaxvision.train.run import Run
from jaxvision.train.workdir import as_json, flat

logger = logging.getLogger(__name__)

# What is told, in this order: before data is opened, after it, and with the folder locked.
_TOPICS = ("start", "data", "token", "workdir")
_TIMEOUT_SECONDS = (
    1800.0  # a process may look through millions of files, and a slower one for longer
)
_TOKEN_SECONDS = 30  # until a network disk shows a new file everywhere
# May differ: where files are, and how fast they are read.
_LOCAL = (
    "compilation_cache",
    "data.path",
    "data.images",
    "data.num_workers",
    "data.num_threads",
    "data.prefetch_examples",
    "distill.teacher_weights",
)
_NAMES, _SAMPLES, _CLASSES = 100_000, 16, 1000  # of records and classes that are looked at

_untold: list[str] = list(_TOPICS)  # by this process
_agreed = threading.Event()


def agree_on_start(options: Options, mode: str) -> None:
    """Compares code, versions, mode and options of all processes; each raises the same error."""
    if jax.process_count() == 1:
        return
    config = {f"config.{k}": v for k, v in flat(as_json(options)).items() if k not in _LOCAL}
    _agree(
        "start",
        {"the code of jaxvision": _code_digest(), "jax": jax.__version__, "--mode": mode}
        | config
        | {"the devices": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"},
    )


def agree_on_data(run: Run) -> None:
    """Compares classes and records of all processes; each raises the same error."""
    if jax.process_count() == 1:
        return
    task: Any = run.task
    words = getattr(getattr(task, "vocabulary", None), "words", ())
    classes = [*(getattr(task, "class_names", None) or words)]
    facts: dict[str, Any] = {"the number of outputs": run.num_outputs}
    facts |= {f"class {i}": name for i, name in enumerate(classes[:_CLASSES])}
    facts["the digest of the class list"] = _digest(map(str, classes))
    for split, source in (("training", run.train_source), ("evaluation", run.eval_source)):
        facts[f"the number of {split} records"] = len(source)
        names, content = _records(source, run.options.data.path)
        facts[f"the digest of the names of {split} records"] = names
        facts[f"the digest of some {split} records"] = content
    _agree("data", facts)


def agree_on_lock(workdir: pathlib.Path) -> None:
    """Checks that the lock of the first process is in the folder of all."""
    if jax.process_count() == 1:
        return
    if jax.process_index() == 0:
        token = lock_token(workdir)
        _post("token", {"token": token})
    else:
        token = _fetch("token", 0, _TIMEOUT_SECONDS).get("token", "")
        deadline = time.monotonic() + _TOKEN_SECONDS
        while lock_token(workdir) != token and time.monotonic() < deadline:
            time.sleep(0.1)
    _agree("workdir", {"the lock in --workdir": lock_token(workdir)})


def agree_on_run(*, holds_run: bool) -> None:
    """Checks that the folder of a run holds one for all processes, or for none."""
    _agree("workdir", {"that --workdir holds a run": holds_run})


def tell_others(error: InputError) -> bool:
    """Lets the others end with the error of this process.

    Returns:
      Whether they will look; otherwise all have agreed, and may wait for this one in a step.
    """
    if jax.distributed.is_initialized() and not _agreed.is_set():
        for topic in (*_untold,):
            _post(topic, {"error": str(error)})
    return not _agreed.is_set()


def _agree(topic: str, facts: dict[str, Any]) -> None:
    """Compares the facts of all processes; every one raises the error about the first that differs.

    Args:
      topic: One of _TOPICS.
      facts: Values of JSON by what a message calls them.

    Raises:
      InputError: if a process differs, has failed, or does not come.
    """
    if jax.process_count() == 1:
        return
    _post(topic, {"facts": facts})
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    expected: dict[str, Any] = {}
    for index in range(jax.process_count()):
        found = _fetch(topic, index, deadline - time.monotonic())
        expected = expected or found["facts"]
        names = (*expected, *(name for name in found["facts"] if name not in expected))
        for name in names:
            here, there = found["facts"].get(name), expected.get(name)
            if here != there:
                raise InputError(
                    f"The processes differ: {name} is {there!r} in process 0 and {here!r} in "
                    f"{_who(index, found)}. Start all with one command, one version of the code "
                    "and the same data, and with a --workdir on a disk that they share."
                )
    if topic == _TOPICS[-1]:
        _agreed.set()


def _who(index: int, found: dict[str, Any]) -> str:
    return f"process {index} (process id {found['id']} on the host {found['host']})"


def _post(topic: str, content: dict[str, Any]) -> None:
    who = {"host": socket.gethostname(), "id": os.getpid()}
    _untold.remove(topic)
    coordination_client().key_value_set(_key(topic, jax.process_index()), json.dumps(who | content))


def _fetch(topic: str, index: int, seconds: float) -> dict[str, Any]:
    """Returns what a process tells; says for whom it waits.

    Raises:
      InputError: if the process has failed, or does not come.
    """
    start = time.monotonic()
    whom = f"process {index} of {jax.process_count()} ({topic})"
    while True:
        try:
            wait = 1000 * SAY_SECONDS
            found = json.loads(
                coordination_client().blocking_key_value_get(_key(topic, index), wait)
            )
            break
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        waited = time.monotonic() - start
        if waited > seconds:
            raise InputError(f"Waited {waited:.0f} s for {whom}: look at the log of that one.")
        logger.info("Waiting for %s: %.0f s of %.0f s.", whom, waited, seconds)
    if "error" in found:
        who = _who(index, found)
        raise InputError(f"{who[0].upper()}{who[1:]} ended: {found['error']}")
    return found


def _key(topic: str, index: int) -> str:
    return f"jaxvision/{topic}/{index}"


def _code_digest() -> str:
    """Returns a digest of the package's files, as two checkouts may have one version."""
    package = pathlib.Path(__file__).parent.parent
    files = sorted(package.rglob("*.py"))
    return _digest(f"{path.relative_to(package)} {path.read_text()}" for path in files)


def _records(source: Any, root: str) -> tuple[str, str]:
    """Returns digests of the records' names, without the folder, and of some records."""
    root = os.path.expanduser(root)
    spread = np.unique(np.linspace(0, len(source) - 1, _NAMES).astype(int)).tolist()
    names = _digest(source.describe(i).replace(root, "", 1) for i in spread)
    some = itertools.islice(spread, 0, None, -(-len(spread) // _SAMPLES))
    return names, _digest(_content(source, i) for i in some)


def _content(source: Any, index: int) -> str:
    try:
        record = source[index]
    except CorruptImageError:
        return "corrupt"
    values = (np.asarray(x).tobytes() for x in record.values())
    return hashlib.sha256(b"\0".join(values)).hexdigest()


def _digest(texts: Any) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{text}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
