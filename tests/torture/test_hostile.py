"""Whatever a file holds, its reader returns or raises InputError, soon and in little memory."""

import logging
import os
import subprocess
import sys

import launching
import pytest
from torture import runs
from torture.hostile_files import READERS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux"),
]
SECONDS = os.environ.get("JAXVISION_TORTURE_SECONDS", "60")  # of damaged files; crafted ones before

logger = logging.getLogger(__name__)


@pytest.mark.parametrize("reader", READERS)
def test_damaged_and_hostile_files(reader):
    # A process of its own: it forks, and has no threads of JAX.
    result = subprocess.run(
        [sys.executable, "tests/torture/hostile.py", reader, SECONDS, str(runs.SEED)],
        cwd=launching.ROOT,
        env=os.environ | {"PYTHONPATH": f"{launching.ROOT}:{launching.ROOT}/tests"},
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert result.returncode == 0, result.stdout + result.stderr[-10_000:]
    logger.info("%sseed %d", result.stdout, runs.SEED)
