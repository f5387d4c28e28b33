"""The commands that show how Cloister stands on this machine: the demo and the doctor."""

from __future__ import annotations

import dataclasses
import json
from argparse import Namespace

from .failure import USAGE, CommandError

__all__ = ["demo", "doctor"]


def demo(arguments: Namespace) -> int:
    """``cloister demo``: 0 if every wall held, and else 1."""
    from cloister.demo import show

    try:
        report = show.run(
            arguments.output,
            allow_degraded=arguments.allow_degraded,
            trace_ipc=arguments.trace_ipc,
            trace_payload=arguments.trace_payload,
        )
    except ValueError as error:  # InvalidArgument is one
        raise CommandError(str(error), USAGE) from error
    except OSError as error:
        raise CommandError(f"{arguments.output}: {error.strerror}") from error
    if arguments.json:
        print(json.dumps({**dataclasses.asdict(report), "held": report.held}, indent=2, ensure_ascii=False))
    else:
        from rich.console import Console

        from cloister.demo.report import show as show_report

        show_report(report, Console())
    return 0 if report.held else 1


def doctor(arguments: Namespace) -> int:
    """``cloister doctor``: 0 if every process gets what its policy requires and nothing gets through, and else 3."""
    from . import examination, policy

    if arguments.attack:
        from . import attack_report

        return attack_report.run(as_json=arguments.json)
    if arguments.policy:
        policy.show(arguments.policy, as_json=arguments.json)
        return 0
    found = examination.examine()
    if arguments.json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        examination.show(found)
    return 3 if found.refused else 0
