"""The main program of a worker process: `python -m tests.support.worker module:function args`.

See `tests.support.processes` for what it is for.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import json
import os
import queue
import sys
import threading
import traceback
from typing import Any

INBOX: queue.SimpleQueue[Any] = queue.SimpleQueue()
_channel = -1


def say(message: dict[str, Any]) -> None:
    """Write one line to the test; one `write`, so that threads do not mix theirs."""
    os.write(_channel, json.dumps(message).encode() + b"\n")


def main(name: str, arguments: str) -> int:
    """Import the function, wait for the others, run it, and tell how it ended."""
    # What the function prints goes to stderr, where pytest shows it; stdout is the channel.
    global _channel
    _channel = os.dup(1)
    os.dup2(2, 1)
    threading.Thread(target=_listen, name="worker-inbox", daemon=True).start()
    try:
        module, _, qualified = name.partition(":")
        fn = functools.reduce(getattr, qualified.split("."), importlib.import_module(module))
        say({"event": "ready", "value": os.getpid()})
        INBOX.get()
        result = fn(*json.loads(arguments))  # type: ignore[operator]  # found by its name
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
        say({"result": result})
    except BaseException:
        say({"error": traceback.format_exc()})
        return 1
    return 0


def _listen() -> None:
    # The test's process has died when its end of the pipe closes: then nobody needs this one.
    for line in sys.stdin.buffer:
        INBOX.put(json.loads(line))
    os._exit(3)


if __name__ == "__main__":
    # Under its importable name, so that `tell` and `receive` find the same module.
    from tests.support import worker

    sys.exit(worker.main(sys.argv[1], sys.argv[2]))
