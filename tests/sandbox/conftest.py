from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister import sandbox
from tests.sandbox import locked


@pytest.fixture(scope="session")
def this_machine() -> sandbox.Machine:
    return sandbox.machine()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    with locked.open_folder() as folder:
        yield folder
