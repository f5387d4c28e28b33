"""The command that serves processes to this user's other programs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from argparse import Namespace

from cloister.browser.portal import Portal
from cloister.errors import InvalidArgument, printable

from .failure import USAGE, CommandError

__all__ = ["portal"]


def portal(arguments: Namespace) -> int:
    """``cloister portal``: until Ctrl-C, or until SIGTERM and then 0. Never back by itself but with an error."""
    try:
        asyncio.run(_serve(arguments))
    except InvalidArgument as error:
        raise CommandError(str(error), USAGE) from error
    except asyncio.CancelledError:
        pass
    return 0


async def _serve(arguments: Namespace) -> None:
    task = asyncio.current_task()
    if task is not None:  # as asyncio.run() does for Ctrl-C
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    serving = Portal(
        arguments.folder, max_processes=arguments.max_processes, allow_degraded=arguments.allow_degraded
    )
    async with serving:
        if arguments.json:
            sockets = {kind: str(path) for kind, path in serving.sockets.items()}
            print(json.dumps({"pid": os.getpid(), "sockets": sockets}), flush=True)
        else:
            for kind, path in serving.sockets.items():
                print(f"{kind} at {printable(str(path))}", flush=True)
        await serving.serve_forever()
