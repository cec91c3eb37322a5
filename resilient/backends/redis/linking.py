"""Scripts as the server gets them: of what they share only what they call, as late as may be.

The server makes every function anew each time it runs a script, which takes it longer than a
command of a script does. So a function stands right in front of what calls it first, or inside of
the block that does: a call that ends before it gets there does not pay for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["linked"]

_COMMENT = re.compile(r" *--[^\n]*")
_FUNCTION = re.compile(
    r"^local function (?P<name>\w+)\((?P<takes>[^)]*)\).*?^end\n", re.MULTILINE | re.DOTALL
)
_STATEMENT = re.compile(
    r"^(?!end\b|else|[ })])[^\n]*\n(?:(?:end\b|else|[ })])[^\n]*\n|\n)*", re.MULTILINE
)
_BLOCK = re.compile(r"(?P<header>if [^\n]* then\n)(?P<body>(?: [^\n]*\n|\n)*)end\n+", re.DOTALL)
_DECLARED = re.compile(r"\b(?:local|for)\s+([\w, ]+)")
_TEXT = re.compile(r"'[^'\n]*'")
_WORD = re.compile(r"(?<![.\w])[A-Za-z_]\w*")


def linked(text: str) -> str:
    """The script without comments, with its functions where they are needed.

    It is written so that a function stands above what calls it, and begins and ends at the margin,
    as every statement outside of functions does.
    """
    text = _COMMENT.sub("", text)
    functions = {found["name"]: found for found in _FUNCTION.finditer(text)}
    calls = {name: _words(found[0]) & functions.keys() for name, found in functions.items()}
    bound = {
        name: _declared(found[0]) | _names(found["takes"]) for name, found in functions.items()
    }
    free = {name: _words(found[0]) - bound[name] for name, found in functions.items()}

    def needed(piece: str) -> set[str]:
        """What a piece of the script calls, and what that calls."""
        found: set[str] = set()
        new = _words(piece) & functions.keys()
        while new:
            found |= new
            new = {each for name in new for each in calls[name]} - found
        return found

    outside = _FUNCTION.sub(lambda found: "\n" * len(found[0]), text)  # at the same places
    places = [found.start() for found in _STATEMENT.finditer(outside)]
    statements = [found[0].rstrip() + "\n" for found in _STATEMENT.finditer(outside)]
    later = [set[str]()]
    for statement in reversed(statements):
        later.append(later[-1] | needed(statement))
    later.reverse()
    made: set[str] = set()

    def made_now(names: Iterable[str]) -> list[str]:
        """The functions of these names that are not there yet, in the order of the script."""
        wanted = set(names) - made
        return [functions[name][0] for name in functions if name in wanted]

    parts: list[str] = []
    for place, statement, afterwards in zip(places, statements, later[1:], strict=True):
        block = _BLOCK.fullmatch(statement)
        before = needed(statement if block is None else block["header"])
        # What is declared here must not be taken for what a function above it means by that name.
        hidden = _declared(statement) if block is None else set()
        for name in afterwards - made:
            if free[name] & hidden and functions[name].start() < place:
                before |= {name, *needed(functions[name][0])}
        parts += made_now(before)
        made |= before
        if block is None:
            parts.append(statement)
        else:  # what is needed again behind it is made again there
            parts += [block["header"], *made_now(needed(block["body"])), block["body"], "end\n"]
    return "".join(parts)


def _words(piece: str) -> set[str]:
    return set(_WORD.findall(_TEXT.sub("", piece)))


def _declared(piece: str) -> set[str]:
    return {name for found in _DECLARED.findall(piece) for name in _names(found)}


def _names(listed: str) -> set[str]:
    return {name.split()[0] for name in listed.split(",") if name.strip()}
