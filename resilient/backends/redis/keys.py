"""The names of keys and channels: one prefix a tenant, one hash slot an entity.

A multi-key script may touch keys of one slot only, on a cluster. So whatever belongs to one entity
carries one hash tag: a user's key with a tag of its own (`{acme}:42`) is used as it is, and any
other has its `%`, `{` and `}` escaped, so that the whole primary name can be the helpers' tag.
https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
"""

from __future__ import annotations

import re

from resilient.errors import ConfigurationError

__all__ = ["Keys"]

_WHOLE_TAGS = re.compile(r"[^{}]*(?:\{[^{}]+\}[^{}]*)*")
_ENDS_IN_SEQUENCE = re.compile(r":(?=\d+\Z)")
_GLOB = re.compile(r"[*?\[\]\\]")


class Keys:
    """The names under one prefix.

    Args:
        prefix: What they begin with.
        clustered: Whether a job's names need a tag, which each of its checkpoints has then.
    """

    def __init__(self, prefix: str, *, clustered: bool = False) -> None:
        if not _WHOLE_TAGS.fullmatch(prefix):
            raise ConfigurationError(
                f"prefix={prefix!r} has a brace that is no part of a whole hash tag: "
                "write {tenant}: or leave braces out"
            )
        self.prefix = prefix
        self._has_tag = "{" in prefix
        self.clustered = clustered

    def names(self, kind: str, key: str, *helpers: str) -> list[str]:
        """The primary key of an entity, and its helpers' keys in the same slot."""
        if has_tag(key):
            plain = key
        else:
            plain = escaped(key)
            if not self._has_tag:
                primary = f"{self.prefix}{kind}:{plain}"
                return [primary, *[f"{{{primary}}}:{helper}" for helper in helpers]]
        return [
            f"{self.prefix}{kind}:{plain}",
            *[f"{self.prefix}{kind}-{helper}:{plain}" for helper in helpers],
        ]

    def primary(self, kind: str) -> str:
        """What the primary keys of a kind begin with."""
        return f"{self.prefix}{kind}:"

    def job(self, task: str) -> list[str]:
        """A job's run, its steps, its waiters, and what its checkpoints' names begin with."""
        plain = task if has_tag(task) else _ENDS_IN_SEQUENCE.sub("%3A", escaped(task))
        if self.clustered and not self._has_tag:
            # Two different starts, so that the job "a" is another one than the job "{a}".
            plain = f"%{task}" if has_tag(task) else f"{{{plain or '%'}}}"
        return [
            f"{self.prefix}checkpoint-run:{plain}",
            f"{self.prefix}checkpoint-steps:{plain}",
            f"{self.prefix}checkpoint-waiters:{plain}",
            f"{self.prefix}checkpoint:{plain}",
        ]

    def tag(self, tag: str) -> str:
        """The number of a cache tag; of any slot."""
        return f"{self.prefix}cache-tag:{tag}"

    def broadcast(self, channel: str) -> str:
        """The channel on which every process hears the same."""
        return f"{self.prefix}events:{channel}"

    def signal(self, process: str) -> str:
        """The channel of one process."""
        return f"{self.prefix}signal:{process}"

    def key_of(self, kind: str, name: str) -> str | None:
        """The user's key in the name of a primary key; `None` for any other name."""
        start = f"{self.prefix}{kind}:"
        if not name.startswith(start):
            return None
        plain = name[len(start) :]
        return plain if has_tag(plain) else unescaped(plain)

    def pattern(self, kind: str, beginning: str = "") -> str:
        """A glob for `SCAN`: the primary keys of a kind whose user keys begin like this."""
        return _GLOB.sub(r"\\\g<0>", f"{self.prefix}{kind}:{beginning}") + "*"


def has_tag(key: str) -> bool:
    """Whether Redis hashes only a part of the key: what is in its first braces, if anything."""
    start = key.find("{")
    return start >= 0 and key.find("}", start + 1) > start + 1


def escaped(key: str) -> str:
    """The key without braces."""
    if "%" not in key and "{" not in key and "}" not in key:
        return key
    return key.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")


def unescaped(plain: str) -> str:
    """The key that was escaped."""
    if "%" not in plain:
        return plain
    return plain.replace("%7D", "}").replace("%7B", "{").replace("%25", "%")
