"""A browser to look at pages with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import BINARY, Browser


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if BINARY is None:
        pytest.skip("no Chromium here")
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()
