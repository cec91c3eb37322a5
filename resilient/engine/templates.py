"""Key templates: `"invoice:{invoice.id}"` becomes a function of the arguments that returns the key.

No two lists of field texts meet in one key. Why: every separator of the template (any character
of its literal parts that is no letter and no digit) is percent-escaped in the values, and between
two fields there must be one. So the separators in a key are those of the template, which tell
where each value starts and ends; and an escaped value reads back to one text only.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from inspect import Parameter, Signature
from string import Formatter
from typing import Any, TypeAlias, cast

from resilient.engine.names import label
from resilient.engine.signatures import RESERVED, compile_with_signature, signature_of
from resilient.errors import ConfigurationError, KeyMissing

__all__ = ["Field", "KeyFunction", "compile_keyword_template", "compile_template", "parse_template"]

KeyFunction: TypeAlias = Callable[..., str]
"""Called with the arguments of the decorated function, it returns their key."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a template, such as `{user.emails[0]}`.

    Attributes:
        text: What stands between the braces.
        root: The parameter that it starts from.
        expression: The same as Python text.
    """

    text: str
    root: str
    expression: str

    @property
    def is_whole(self) -> bool:
        """Whether it is a parameter itself, not something in one."""
        return self.text == self.root


def parse_template(template: str, *, where: str) -> tuple[str | Field, ...]:
    """Split a template into its literal texts and its fields.

    Args:
        template: Literal text with fields in braces; `{{` and `}}` are literal braces.
        where: Whose template it is, for the error.

    Raises:
        ConfigurationError: It is empty, its braces do not match, a field is not of the form
            `name`, `name.attribute`, `name[0]` or `name[key]`, or nothing separates two fields.
    """
    if not isinstance(cast("object", template), str) or not template.strip():
        raise ConfigurationError(f"{where}: {template!r} is no key template: expected a text")
    try:
        return _parts(template)
    except ValueError as error:
        raise ConfigurationError(f"{where}: the template {template!r}{error}") from None


@lru_cache(256)
def _parts(template: str) -> tuple[str | Field, ...]:
    """The parts of a template; `ValueError` tells what is wrong, as the end of a sentence."""
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f": {error}") from None
    parts: list[str | Field] = []
    for literal, name, spec, conversion in pieces:
        if literal:
            parts.append(literal)
        if name is None:
            continue
        if spec or conversion:
            raise ValueError(
                f" has a format or a conversion in its field {{{name}}}; a key is made of the "
                "values themselves"
            )
        parts.append(_field(name))
    _check_separators(parts)
    return tuple(parts)


def compile_template(
    function: Callable[..., Any],
    template: str,
    *,
    policy: str,
    empty_ok: bool = False,
    prefix: str = "",
    signature: Signature | None = None,
) -> KeyFunction:
    """Compile a template into a function that has the function's own parameters.

    Scalars are written as a person would write them (`5`, `EUR`, `2024-05-01`); everything else
    in its canonical text, behind a mark that no escaped text contains.

    Args:
        function: Whose arguments the fields name.
        template: For example `"invoice:{invoice_id}"`; without fields it is a literal key.
        policy: The decorator's name, for errors.
        empty_ok: Whether a field may be `None` or empty; `None` and `""` still differ.
        prefix: What every key starts with, literally.
        signature: The parameters, where they are not the function's.

    Raises:
        ConfigurationError: The template is malformed or names an unknown parameter. When called:
            an argument has no identity but its address.
        KeyMissing: When called: a field is `None` or empty, or cannot be read.

    Example:
        >>> def charge(order_id, amount=1): ...
        >>> compile_template(charge, "charge:{order_id}", policy="idempotent")("a:7", 5)
        'charge:a%3A7'
    """
    where = label(policy, function)
    parameters = signature or signature_of(function, policy=policy)
    lines, namespace = _body(template, parameters, where, empty_ok=empty_ok, prefix=prefix)
    return compile_with_signature(function, lines, namespace, signature=parameters)


def compile_keyword_template(template: str, *, policy: str) -> KeyFunction:
    """Compile a template that belongs to no function: its fields are given by keyword.

    Raises:
        ConfigurationError: The template is malformed.

    Example:
        >>> compile_keyword_template("payments:{tenant}", policy="CircuitBreaker")(tenant="acme")
        'payments:acme'
    """
    parts = parse_template(template, where=policy)
    roots = dict.fromkeys(part.root for part in parts if isinstance(part, Field))
    signature = Signature([Parameter(root, Parameter.KEYWORD_ONLY) for root in roots])
    lines, namespace = _body(template, signature, policy)
    return compile_with_signature(str, lines, namespace, name=policy, signature=signature)


def _body(
    template: str,
    signature: Signature,
    where: str,
    *,
    empty_ok: bool = False,
    prefix: str = "",
) -> tuple[list[str], dict[str, object]]:
    """Return the lines of a key function, and what they refer to."""
    parts = parse_template(template, where=where)
    escape = _escaper(part for part in parts if isinstance(part, str))
    namespace: dict[str, object] = {f"{RESERVED}Unreadable": _UNREADABLE}
    lines: list[str] = []
    terms = [repr(prefix)] if prefix else []
    for number, part in enumerate(parts):
        if isinstance(part, str):
            terms.append(repr(part))
            continue
        _check_known(part, template, signature, where)
        write, value, refuse = (
            f"{RESERVED}{word}_{number}" for word in ("write", "value", "refuse")
        )
        namespace[write] = _writer(part, where, escape, empty_ok=empty_ok)
        terms.append(f"{write}({part.root if part.is_whole else value})")
        if not part.is_whole:
            namespace[refuse] = _unreadable(part, where)
            lines += [
                f"try: {value} = {part.expression}",
                f"except {RESERVED}Unreadable as {RESERVED}error: {refuse}({RESERVED}error)",
            ]
    return [*lines, f"return {' + '.join(terms)}"], namespace


def _check_known(field: Field, template: str, signature: Signature, where: str) -> None:
    if field.root not in signature.parameters:
        raise ConfigurationError(
            f"{where}: the field {{{field.text}}} of the template {template!r} names no "
            f"parameter; known are: {', '.join(signature.parameters) or 'none'}"
        )


# --- fields ----------------------------------------------------------------------------------

_FIELD = re.compile(r"(?P<root>[^\W\d]\w*)(?P<path>(\.[^\W\d]\w*|\[[^][{}]+\])*)")
_STEP = re.compile(r"\.(?P<attribute>\w+)|\[(?P<index>[^]]+)\]")

_UNREADABLE = (AttributeError, LookupError, TypeError)


def _field(text: str) -> Field:
    if text.isidentifier() and not keyword.iskeyword(text):  # most are, and this is quick
        return Field(text, text, text)
    match = _FIELD.fullmatch(text)
    words = re.findall(r"(?:^|\.)(\w+)", text)
    if match is None or any(map(keyword.iskeyword, words)):
        raise ValueError(
            f" has the field {{{text}}}, which is not of the form "
            "{name}, {name.attribute}, {name[0]} or {name[key]}"
        )
    steps = (
        f".{step['attribute']}" if step["attribute"] else f"[{_index(step['index'])!r}]"
        for step in _STEP.finditer(match["path"])
    )
    return Field(text, match["root"], match["root"] + "".join(steps))


def _index(text: str) -> int | str:
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text


def _unreadable(field: Field, where: str) -> Callable[[Exception], None]:
    def refuse(error: Exception) -> None:
        raise KeyMissing(
            f"{where}: the key field {{{field.text}}} cannot be read: {error}"
        ) from error

    return refuse


def _writer(
    field: Field, where: str, escape: Callable[[str], str], *, empty_ok: bool
) -> Callable[[Any], str]:
    """Return the function that writes the field's values."""

    def write(value: Any) -> str:
        # The two commonest kinds of value first: most of them need no look at their characters.
        if type(value) is str and value:
            return value if value.isalnum() else escape(value)
        if type(value) is int and 0 <= value < 1 << 63:
            return repr(value)
        if not empty_ok and (value is None or (isinstance(value, _SIZED) and not value)):
            raise KeyMissing(
                f"{where}: the key field {{{field.text}}} is {value!r}, which identifies nothing"
            )
        from resilient.engine.canonical import canonical, plain_text  # slow to import, and rare

        text = None if value is None else plain_text(value)
        if text is not None:
            return escape(text)
        try:
            return _MARK + escape(canonical(value))
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: the key field {{{field.text}}}: {error}") from None

    return write


_SIZED = (str, bytes, bytearray, tuple, list, dict, set, frozenset)


# --- escaping --------------------------------------------------------------------------------

_MARK = "%="
"""Before a canonical text. No escaped text contains it: `=` is no hexadecimal digit."""

_ALWAYS = "%{}\x00-\x1f\x7f\ud800-\udfff"
"""Braces would make a hash tag of a value; control characters and lone surrogates cannot be
stored everywhere."""


def _separators(literal: str) -> set[str]:
    # Letters and digits stay as they are in values, and `%` has its own meaning there.
    return {c for c in literal if not c.isalnum() and c != "%"}


def _check_separators(parts: list[str | Field]) -> None:
    last: Field | None = None
    between = ""
    for part in parts:
        if isinstance(part, str):
            between += part
            continue
        if last is not None and not _separators(between):
            raise ValueError(
                f" needs a separator, such as ':', between "
                f"{{{last.text}}} and {{{part.text}}}: their values could run into one another"
            )
        last, between = part, ""


def _escaper(literals: Iterable[str]) -> Callable[[str], str]:
    separators = "".join(sorted(_separators("".join(literals))))
    return lambda text: _unsafe(separators).sub(_percent, text)


@lru_cache(256)
def _unsafe(separators: str) -> re.Pattern[str]:
    """What is escaped in values; compiled with the first that has more than letters and digits."""
    return re.compile(f"[{re.escape(separators)}{_ALWAYS}]")


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))
