"""Processes that differ: every kind of difference ends with the same sentence in all of them."""

import threading

import bad_files
import jax
import pytest
from opening import make_run

from configs import smoke
from jaxvision.errors import InputError
from jaxvision.options.options import read_options
from jaxvision.train import agreement


class Texts:
    """What two processes tell each other, in one."""

    def __init__(self):
        self.texts = {}

    def key_value_set(self, key, text):
        assert key not in self.texts
        self.texts[key] = text

    def blocking_key_value_get(self, key, milliseconds):
        if key not in self.texts:
            raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: waited")
        return self.texts[key]


@pytest.fixture
def process(monkeypatch):
    """Returns a function that goes on as one of two processes."""
    texts = Texts()
    monkeypatch.setattr(agreement, "coordination_client", lambda: texts)
    monkeypatch.setattr(agreement, "_TIMEOUT_SECONDS", 0.0)
    monkeypatch.setattr(agreement, "_TOKEN_SECONDS", 0)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)

    def become(index):
        monkeypatch.setattr(jax, "process_index", lambda: index)
        monkeypatch.setattr(agreement, "_untold", [*agreement._TOPICS])
        monkeypatch.setattr(agreement, "_agreed", threading.Event())

    return become


def differ(process, ask, first, second):
    """Returns what both processes say after `ask(first)` and `ask(second)`; "": they agree."""
    process(1)
    with pytest.raises(InputError, match=r"Waited 0 s for process 0 of 2 \("):
        ask(second)
    said = []
    process(0)
    try:
        ask(first)
    except InputError as error:
        said.append(str(error))
    return "".join(said)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ""),
        ({"seed": 1}, "config.seed is 0 in process 0 and 1 in process 1 (process id "),
        ({"batch_size": 32}, "config.batch_size is 16 in process 0 and 32 in process 1"),
        ({"total_steps": 31}, "config.total_steps is 30 in process 0 and 31 in process 1"),
        ({"optimizer.learning_rate": 0.1}, "config.optimizer.learning_rate is 0.005 in process 0"),
        ({"eval.every_steps": 2}, "config.eval.every_steps is 15 in process 0 and 2 in process 1"),
        ({"data.num_threads": 7, "data.path": "/local"}, ""),
    ],
)
def test_options(process, change, expected):
    config = smoke.get_config()
    first = read_options(config)
    config.update_from_flattened_dict(change)
    second = read_options(config)
    said = differ(process, lambda o: agreement.agree_on_start(o, "train"), first, second)
    assert (expected in said) if expected else not said


def test_code(process, monkeypatch):
    def ask(digest):
        monkeypatch.setattr(agreement, "_code_digest", lambda: digest)
        agreement.agree_on_start(read_options(smoke.get_config()), "train")

    assert "the code of jaxvision is 'a' in process 0 and 'b'" in differ(process, ask, "a", "b")
    assert len(agreement._code_digest()) == 1


def pictures(folder, names):
    for name, content in names.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


IMAGE, OTHER = bad_files.image(), bad_files.image("BMP")
CAT_DOG = {f"{split}/{name}/x.png": IMAGE for split in ("train", "test") for name in ("cat", "dog")}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (CAT_DOG, ""),
        ({k.replace("dog", "fox"): v for k, v in CAT_DOG.items()}, "class 1 is 'dog' in process 0"),
        (CAT_DOG | {"train/dog/y.png": IMAGE}, "the number of training records is 2 in process 0"),
        (CAT_DOG | {"test/dog/x.png": OTHER}, "the digest of some evaluation records is"),
        (
            {k.replace("train/dog/x", "train/dog/z"): v for k, v in CAT_DOG.items()},
            "the digest of the names of training records is",
        ),
    ],
)
def test_data(process, tmp_path, names, expected):
    runs = []
    for folder, files in (("a", CAT_DOG), ("b", names)):
        pictures(tmp_path / folder, files)
        config = smoke.get_config()
        source = {"data.name": "folder", "data.path": str(tmp_path / folder)}
        config.update_from_flattened_dict(source)
        runs.append(make_run(config))
    said = differ(process, agreement.agree_on_data, *runs)
    assert (expected in said) if expected else not said


def test_workdir(process, tmp_path):
    for name, token in (("a", "here 1 token"), ("b", "there 2 token")):
        pictures(tmp_path, {f"{name}/.lock": token.encode()})
    process(0)
    with pytest.raises(InputError, match=r"Waited 0 s for process 1 of 2 \(workdir\)"):
        agreement.agree_on_lock(tmp_path / "a")
    process(1)
    with pytest.raises(InputError, match="the lock in --workdir is 'here 1 token' in process 0"):
        agreement.agree_on_lock(tmp_path / "b")
    assert agreement.tell_others(InputError("x"))


def test_the_error_of_one_is_that_of_all(process):
    process(0)
    assert agreement.tell_others(InputError("There is no data."))
    process(1)
    options = read_options(smoke.get_config())
    with pytest.raises(InputError) as error:
        agreement.agree_on_start(options, "train")
    assert str(error.value).startswith("Process 0 (process id ")
    assert str(error.value).endswith(" ended: There is no data.")


def test_after_the_last_comparison_nobody_listens(process):
    process(1)
    with pytest.raises(InputError):
        agreement.agree_on_run(holds_run=True)
    process(0)
    agreement.agree_on_run(holds_run=True)
    assert not agreement.tell_others(InputError("x"))
