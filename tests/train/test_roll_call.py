"""Processes that are missing or there twice, as threads that meet at one port."""

import concurrent.futures
import contextlib
import logging
import os
import socket
import time

import pytest
from launching import free_port

from jaxvision.errors import InputError
from jaxvision.train import distributed, roll_call
from jaxvision.train.roll_call import call_roll


def meet(*processes, timeout=20.0, port=None):
    """Returns what becomes of processes (index, count): "" or the error's message."""
    port = port or free_port()

    def come(process):
        index, count = process
        try:
            address = f"127.0.0.1:{port}"
            call_roll(address, count=count, index=index, timeout_seconds=timeout)
        except InputError as error:
            return str(error)
        return ""

    with concurrent.futures.ThreadPoolExecutor(len(processes)) as threads:
        return list(threads.map(come, processes))


def connect(port, message):
    """Sends a message to the first process, once it is there, and ends."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port)) as connection,
        ):
            if connection.getsockname() != connection.getpeername():
                return connection.sendall(message)
        time.sleep(0.1)


def test_all_are_there():
    assert meet((2, 3), (0, 3), (1, 3)) == ["", "", ""]
    assert meet((0, 1)) == [""]


def test_one_is_missing(caplog, monkeypatch):
    monkeypatch.setattr(roll_call, "SAY_SECONDS", 0.5)
    with caplog.at_level(logging.INFO):
        told = meet((0, 4), (2, 4), timeout=2.0)
    assert told[0] == told[1] and told[0].startswith("Of 4 processes, 1, 3 did not come within 2 s")
    assert "Waiting for process 1, 3 of 4" in caplog.text


def test_the_first_is_missing():
    (message,) = meet((1, 2), timeout=1.0)
    assert message.startswith("Process 1 of 2 waited 1 s for process 0 of 2 at 127.0.0.1:")


def test_one_is_there_twice():
    told = meet((0, 3), (1, 3), (1, 3))
    assert len(set(told)) == 1 and told[0].startswith("JAX_PROCESS_ID is 1 of two processes")
    assert f"process id {os.getpid()} on the host {socket.gethostname()}" in told[0]


def test_the_first_is_there_twice():
    told = meet((0, 2), (0, 2))
    assert len(set(told)) == 1 and told[0].startswith("JAX_PROCESS_ID is 0 of two processes")


def test_another_count():
    told = meet((0, 2), (1, 3))
    assert len(set(told)) == 1 and "JAX_NUM_PROCESSES is 3 of process 1" in told[0]


def test_one_that_ended_while_it_waited_may_come_again():
    port = free_port()
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        first = threads.submit(meet, (0, 3), port=port)
        for message in (b'{"process": 1, "of": 3, "who": "x"}\n', b"GET / HTTP/1.1\n"):
            connect(port, message)
        # Only now: with process 2 there, the first 1 would end the roll call as it comes.
        assert meet((1, 3), (2, 3), port=port) == ["", ""]
        assert first.result() == [""]


def test_the_port_is_in_use():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (message,) = meet((0, 2), port=port)
    assert message.startswith(f"Port {port} of JAX_COORDINATOR_ADDRESS cannot be opened (Address")


@pytest.mark.parametrize(
    ("address", "count", "index", "expected"),
    [
        ("localhost", "2", "1", "must be HOST:PORT of the first process, got 'localhost'"),
        ("localhost:http", "2", "1", "must be HOST:PORT"),
        ("localhost:99999", "2", "1", "must be HOST:PORT"),
        ("localhost:1234", "2", "2", "JAX_PROCESS_ID must be in 0..1, as JAX_NUM_PROCESSES is 2"),
        ("localhost:1234", "2", "-1", "JAX_PROCESS_ID must be a whole number, got '-1'"),
        ("localhost:1234", "two", "1", "JAX_NUM_PROCESSES must be a whole number, got 'two'"),
        ("no.such.host.invalid:1234", "2", "1", "no.such.host.invalid:1234 is not known"),
    ],
)
def test_wrong_variables(monkeypatch, address, count, index, expected):
    for name, value in zip(distributed._BY_HAND, (address, count, index), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as error:
        distributed.initialize("auto", timeout_seconds=5)
    assert expected in str(error.value)


def test_no_cluster(monkeypatch):
    def nothing_found(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(distributed.jax.distributed, "initialize", nothing_found)
    with pytest.raises(InputError, match="--distributed=on finds no cluster to join"):
        distributed.initialize("on")
