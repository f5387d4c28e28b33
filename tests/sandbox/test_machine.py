"""What ``cloister doctor`` is told about this machine."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from cloister import sandbox
from cloister.errors import LaunchError
from cloister.sandbox import NAMESPACES, Layer
from tests.sandbox.locked import BASIC


def test_every_layer_is_told_of_with_its_kernel_and_in_a_sentence(this_machine: sandbox.Machine) -> None:
    assert [status.layer for status in this_machine.layers] == list(Layer)
    for status in this_machine.layers:
        assert status.sentence.endswith(".")
        assert status.since[0] in "23456"
    assert this_machine.kernel == platform.release()


def test_a_layer_that_is_not_here_is_told_with_the_reason_and_the_kernel_that_has_it() -> None:
    bare = sandbox.Machine("5.4.0", "x86_64", landlock_abi=0, available=frozenset({Layer.SECCOMP}))
    sentences = {status.layer: status.sentence for status in bare.layers}
    assert "Linux has it from 5.13 on" in sentences[Layer.LANDLOCK]
    assert "version 0" in sentences[Layer.LANDLOCK_SCOPE]
    assert "not here: " in sentences[Layer.USER_NAMESPACE]
    assert "not here" not in sentences[Layer.SECCOMP]


def test_it_says_what_a_process_would_get(this_machine: sandbox.Machine) -> None:
    report = this_machine.expects(replace(BASIC, namespaces=NAMESPACES - {Layer.NETWORK_NAMESPACE}))
    assert "network_namespace" not in report.layers
    assert set(report.layers) <= {layer.value for layer in this_machine.available}


def test_asking_changes_nothing_in_the_program_that_asks() -> None:
    def restrictions() -> list[str]:
        lines = Path("/proc/self/status").read_text().splitlines()
        return [line for line in lines if line.startswith(("NoNewPrivs", "Seccomp", "Cap", "Uid"))]

    before = (restrictions(), dict(os.environ), Path.cwd())
    sandbox.machine()
    assert (restrictions(), dict(os.environ), Path.cwd()) == before


def test_a_probe_that_cannot_be_started_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(LaunchError, match="did not answer"):
        sandbox.machine()


def test_a_probe_that_fails_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(LaunchError, match="ended with 1"):
        sandbox.machine()
