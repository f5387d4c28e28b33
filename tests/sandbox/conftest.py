from __future__ import annotations

import pytest

from cloister import sandbox


@pytest.fixture(scope="session")
def this_machine() -> sandbox.Machine:
    return sandbox.machine()
