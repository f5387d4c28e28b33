"""How processes live: started by exec or forked from the zygote, held by a handle, never left behind."""

from .handle import ChildProcess, ExitStatus
from .launcher import Zygote, launch

__all__ = ["ChildProcess", "ExitStatus", "Zygote", "launch"]
