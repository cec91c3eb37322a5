"""Tags: names under which many entries can be invalidated at once, in one operation.

A field's value stands in a tag as a person would write it, so that `invalidate_tags("user:7")`
means what it says. Two values that are written alike share a tag: more is invalidated then than
was meant, and never less. (Keys, which must never meet, escape their values.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import Signature
from typing import Any

from resilient.config import Source
from resilient.engine.block import warn_if_in_loop
from resilient.engine.drivers.sync import drive
from resilient.engine.signatures import RESERVED, compile_with_signature
from resilient.engine.templates import Field, parse_template
from resilient.errors import ConfigurationError, KeyMissing
from resilient.policies.cached.changes import invalidated_tags
from resilient.resolving import BackendLike

__all__ = ["ainvalidate_tags", "invalidate_tags", "namespace_tag", "storable", "tags_function"]


def namespace_tag(namespace: str) -> str:
    """The tag of all entries of a namespace, whatever their version."""
    return f"@{namespace}"


def tags_function(
    function: Callable[..., Any],
    templates: Sequence[str],
    first: str,
    signature: Signature,
    where: str,
) -> Callable[..., tuple[str, ...]]:
    """Compile the function of the same arguments that returns the tags of a call.

    Args:
        function: The decorated function.
        templates: One a tag, such as `"user:{user.id}"`.
        first: A tag that every call has.
        signature: The function's parameters.
        where: What errors call it.

    Raises:
        ConfigurationError: `templates` is no tuple of templates over the function's parameters.
            When called: a value has no text but its address.
        KeyMissing: When called: a field cannot be read.
    """
    given: object = templates
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ConfigurationError(f"{where}: tags={templates!r}: expected a tuple of templates")
    if not templates:
        alone = (first,)
        return lambda *args, **kwargs: alone
    terms = [repr(first)]
    for template in templates:
        texts = []
        for part in parse_template(template, where=f"{where}: tags"):
            if isinstance(part, Field):
                _check_known(part, template, signature, where)
                texts.append(f"{RESERVED}text({part.expression})")
            else:
                texts.append(repr(part))
        terms.append(" + ".join(texts))

    def refuse(error: Exception) -> None:
        raise KeyMissing(f"{where}: a field of tags={templates!r} cannot be read: {error}")

    return compile_with_signature(
        function,
        [
            f"try: return ({', '.join(terms)},)",
            f"except {RESERVED}Unreadable as {RESERVED}error: {RESERVED}refuse({RESERVED}error)",
        ],
        {
            f"{RESERVED}text": _text,
            f"{RESERVED}refuse": refuse,
            f"{RESERVED}Unreadable": (AttributeError, LookupError, TypeError),
        },
        signature=signature,
    )


def invalidate_tags(*tags: str, backend: BackendLike | None = None) -> None:
    """Forget every cached value that carries one of the tags, in every process.

    What is being computed at this moment is not stored. It is one operation, however many values
    there are. Call it after the transaction that changed the data has been committed.

    Args:
        *tags: The tags as they read with their fields filled in: `"user:7"`.
        backend: Where, instead of the configured backend.

    Raises:
        BackendError: The backend could not be told: the values may still be served.

    Example:
        >>> import resilient
        >>> @resilient.cached(ttl=60, tags=("user:{user_id}",))
        ... def profile(user_id: int) -> str:
        ...     print("computed")
        ...     return "Ada"
        >>> with resilient.using("memory://"):
        ...     profile(7), profile(7)
        ...     resilient.invalidate_tags("user:7")
        ...     profile(7)
        computed
        ('Ada', 'Ada')
        computed
        'Ada'
    """
    warn_if_in_loop("invalidate_tags()", "await ainvalidate_tags()")
    drive(_invalidated(tags, backend))


async def ainvalidate_tags(*tags: str, backend: BackendLike | None = None) -> None:
    """Forget every cached value that carries one of the tags: see `invalidate_tags`."""
    from resilient.engine.drivers.aio import adrive

    await adrive(_invalidated(tags, backend))


async def _invalidated(tags: tuple[str, ...], backend: BackendLike | None) -> None:
    for tag in tags:
        given: object = tag
        if not isinstance(given, str) or not given:
            raise ConfigurationError(f"invalidate_tags(): {tag!r} is no tag: expected a text")
    found = Source("cache", "invalidate_tags", backend=backend).backend()
    if found is not None and tags:
        await invalidated_tags(found, tuple(map(storable, tags)))


def _check_known(field: Field, template: str, signature: Signature, where: str) -> None:
    if field.root not in signature.parameters:
        raise ConfigurationError(
            f"{where}: the field {{{field.text}}} of the tag {template!r} names no parameter; "
            f"known are: {', '.join(signature.parameters) or 'none'}"
        )


def _text(value: Any) -> str:
    if value is None:
        return "None"
    from resilient.engine.canonical import canonical, plain_text  # slow to import

    text = plain_text(value)
    return storable(canonical(value) if text is None else text)


def storable(text: str) -> str:
    """A tag as backends can store it: without lone surrogates."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
