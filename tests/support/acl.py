"""The rights that the documentation says a user of Redis needs, so that tests have no others."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.servers import RedisAt

__all__ = ["PASSWORD", "USER", "as_user", "let_in"]

PAGE = Path(__file__).parents[2] / "docs" / "backends.md"
USER, PASSWORD = "resilient", "s3cret"


def let_in(server: RedisAt, prefix: str, *, cluster: bool = False) -> None:
    """Make a user that has just these rights under a prefix."""
    page = PAGE.read_text(encoding="utf-8")
    rule = re.search(r"^ACL SETUSER billing on >secret (.*)$", page, re.MULTILINE)
    assert rule is not None
    rights = rule[1].replace("billing:", prefix).split()
    if cluster:
        more = re.search(r"On a cluster it also needs `([^`]*)`", page)
        assert more is not None
        rights += more[1].split()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", *rights)


def as_user(url: str) -> str:
    """The URL with the user's name and password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{USER}:{PASSWORD}@{rest}"
