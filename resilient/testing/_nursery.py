"""The process from which `kill_at_random` forks those that it kills: it only imports the function.

python -m resilient.testing._nursery call answer
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import inspect
import os
import pickle
import signal
import sys
import traceback
from functools import reduce
from pathlib import Path
from typing import Any

__all__: list[str] = []

DIE_WITH_PARENT = 1
"""`prctl(PR_SET_PDEATHSIG)` of Linux: no child outlives the harness."""


def main() -> None:
    """Fork a child for each line of input; write its pid, and a line when it has ended."""
    call, answer = Path(sys.argv[1]), Path(sys.argv[2])
    module, name, args = pickle.loads(call.read_bytes())
    function = reduce(getattr, name.split("."), importlib.import_module(module))
    lines, replies = sys.stdin, os.dup(1)
    os.dup2(2, 1)  # what the function prints is no reply
    for _ in lines:
        pid = os.fork()
        if pid == 0:
            try:
                os.close(replies)
                run(function, args, answer)
            finally:
                os._exit(0)  # whatever happens: else it would go on as a second nursery
        os.write(replies, b"%d\n" % pid)
        os.waitpid(pid, 0)
        os.write(replies, b"ended\n")


def run(function: Any, args: tuple[Any, ...], answer: Path) -> None:
    """Run the function, and leave its answer in one piece."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    try:
        result = function(*args)
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
        outcome = pickle.dumps((result, None))
    except BaseException:
        outcome = pickle.dumps((None, traceback.format_exc()))
    part = answer.with_suffix(".part")
    part.write_bytes(outcome)
    part.rename(answer)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
