"""One survey for all tests that only look at it: it takes some seconds."""

from __future__ import annotations

import pytest

from cloister import sandbox
from cloister.cli.attack import Survey, survey


@pytest.fixture(scope="session")
def this_machine() -> sandbox.Machine:
    return sandbox.machine()


@pytest.fixture(scope="session")
def surveyed() -> Survey:
    return survey()
