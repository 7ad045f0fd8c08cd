"""These tests fsync thousands of times; a folder in memory, where there is one, spares the disk."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture
def tmp_path(tmp_path_factory):
    if not (MEMORY.is_dir() and os.access(MEMORY, os.W_OK)):
        yield tmp_path_factory.mktemp("runs")
        return
    folder = Path(tempfile.mkdtemp(prefix="trueup-test-", dir=MEMORY))
    yield folder
    shutil.rmtree(folder)
