import logging

import pytest
from torture import runs

from configs import smoke


@pytest.fixture(autouse=True)
def quiet_orbax(caplog):
    caplog.set_level(logging.ERROR, logger="absl")


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The run that nothing happens to."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    runs.finish(smoke, workdir)
    return workdir
