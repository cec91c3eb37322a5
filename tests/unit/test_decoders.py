"""What decodes stored values is made by any thread, without harm to the others."""

from __future__ import annotations

import subprocess
import sys

THREADS_THAT_BEGIN_AT_ONCE = """
import sys, threading
import msgspec
from resilient.engine.codecs.guided import codec_of

sys.setswitchinterval(1e-6)
CLASSES = '''
class Part(msgspec.Struct):
    number: "int | None"
    others: "tuple[int, ...]"

class Whole(msgspec.Struct):
    part: "Part | None"
    parts: "tuple[Part, ...]"
    names: "dict[str, list[str]]"
'''

def begin():
    barrier.wait()
    codec = codec_of(Whole)
    value = Whole(Part(1, (2,)), (Part(None, ()),), {"a": ["b"]})
    assert codec.decode(codec.encode(value)) == value

for _ in range(ROUNDS):
    exec(CLASSES)
    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print("done")
"""


def test_threads_that_begin_at_once() -> None:
    """The first values of a class come in several threads: msgspec alone would kill the process."""
    code = THREADS_THAT_BEGIN_AT_ONCE.replace("ROUNDS", "300")
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100
    )
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr
