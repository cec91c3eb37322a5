"""Objects of classes in stored form: which classes, how they are found again, how rebuilt.

**What a hostile record can do.** Who can write to the store can make a reader build an object of
any class that this file accepts, with any field values. So that this is all:

* only records (dataclass, attrs, msgspec, pydantic), enum members, named tuples and exceptions
  are built; a name in a record is never called as a function, and must be the class's own name;
* they are built without their `__init__`, `__new__`, `__post_init__`, validators and setters
  (a msgspec struct cannot be made without its `__post_init__`), and no class with a `__del__` is;
* a class is looked up in modules that are imported already. A module is imported only if it
  belongs to a package that the program itself has imported, and to no part of the standard
  library: importing runs code, and `antigravity` or `package.__main__` are no data.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from enum import Enum, Flag
from types import MemberDescriptorType, ModuleType
from typing import Any, NamedTuple, cast

import msgspec

from resilient.engine.names import module_named, name_of
from resilient.errors import CodecError

__all__ = ["KINDS", "ClassKind", "Classes", "blank_object", "class_named", "kind_of", "name_for"]

Classes = Mapping[str, type]
"""Classes by name that an annotation has told: these may be local to a function."""


class ClassKind(NamedTuple):
    """A kind of class whose objects can be taken apart and put together again.

    Attributes:
        accepts: Whether a class is of this kind.
        take: Returns what an object is made of.
        make: Returns an object of a class, made of that.
        fields: Returns the fields by name in that, of a kind that has such.
    """

    accepts: Callable[[type], bool]
    take: Callable[[Any], Any]
    make: Callable[[Any, Any], Any]
    fields: Callable[[Any], dict[str, Any]] | None = None


@functools.lru_cache(maxsize=1_000)
def kind_of(cls: type) -> int | None:
    """Return the place in `KINDS` of the kind to which a class belongs, if it does to any."""
    if hasattr(cls, "__del__"):
        return None
    return next((code for code, kind in KINDS.items() if kind.accepts(cls)), None)


def name_for(cls: type, classes: Classes) -> str:
    """Return the name under which a class will be found again.

    Raises:
        CodecError: It would not be: the class is local to a function, or was replaced.
    """
    name = name_of(cls)
    if _found(name, classes) is not cls:
        raise CodecError(
            f"a {name} cannot be stored: its class is not found under that name when it is read; "
            "define it at the top of a module"
        )
    return name


def class_named(name: str, classes: Classes) -> type:
    """Return the class of that name.

    Raises:
        CodecError: There is none, or its module is not one that a record may have imported.
    """
    module = name.partition(":")[0]
    if name not in classes and module_named(module) is None and _may_import(module):
        try:
            importlib.import_module(module)
        except Exception as error:
            raise CodecError(f"the module of the stored {name} cannot be imported") from error
    cls = _found(name, classes)
    if cls is None:
        raise CodecError(f"the stored value is a {name}, and there is no such class here")
    return cls


def _found(name: str, classes: Classes) -> type | None:
    if name in classes:
        return classes[name]
    module, _, qualname = name.partition(":")
    found: Any = module_named(module)
    for part in qualname.split("."):
        found = vars(found).get(part) if isinstance(found, type | ModuleType) else None
    # By its own name only: through aliases, one module's names lead into every other module.
    return found if isinstance(found, type) and name_of(found) == name else None


def _may_import(module: str) -> bool:
    package, _, rest = module.partition(".")
    return (
        bool(rest)
        and "__main__" not in rest.split(".")
        and package in sys.modules
        and package not in sys.stdlib_module_names
    )


# --- records: dataclasses and attrs ----------------------------------------------------------


def _is_fields_class(cls: type) -> bool:
    return dataclasses.is_dataclass(cls) or hasattr(cls, "__attrs_attrs__")


def _take_fields(value: Any) -> dict[str, Any]:
    """Return the whole state, as a pickle would: fields, and whatever else it was given."""
    blank_object(type(value))
    state = _state(value)
    for name, default in _defaults(type(value)):
        if name not in state and default is None:
            raise CodecError(f"a {name_of(type(value))} cannot be stored: {name!r} is not set")
    if "_attrs_cached_hash" in state:
        # Text hashes differ between processes.
        state["_attrs_cached_hash"] = None
    return state


def _make_fields(cls: type, state: dict[str, Any]) -> Any:
    made = blank_object(cls)
    _restore(made, state)
    # A field that was added to the class since has its default.
    for name, default in _defaults(cls):
        if name not in state:
            if default is None:
                raise CodecError(f"the stored {name_of(cls)} has no {name!r}")
            _restore(made, {name: default()})
    return made


def _state(value: object) -> dict[str, Any]:
    state: Any = object.__getstate__(value)
    instance, slots = state if isinstance(state, tuple) else (state, None)
    return {**(instance or {}), **(slots or {})}


def _restore(made: object, state: Mapping[str, Any]) -> None:
    """Put a state where it belongs, past every setter."""
    cls: Any = type(made)
    slots = _slots(cls)
    for name, value in state.items():
        if name in slots:
            slots[name].__set__(made, value)
        elif hasattr(made, "__dict__"):
            made.__dict__[name] = value
        else:
            raise CodecError(f"the stored {name_of(cls)} has the unknown field {name!r}")


@functools.lru_cache(maxsize=1_000)
def _slots(cls: type) -> dict[str, MemberDescriptorType]:
    members = (pair for base in reversed(cls.__mro__) for pair in vars(base).items())
    return {name: slot for name, slot in members if isinstance(slot, MemberDescriptorType)}


def blank_object(cls: type) -> Any:
    """Return an object of a class, without any of its fields.

    Raises:
        CodecError: It is more than its fields.
    """
    try:
        return object.__new__(cls)
    except TypeError:  # it extends a built-in type, whose contents are no fields
        raise CodecError(f"a {name_of(cls)} cannot be stored: it is more than its fields") from None


def _defaults(cls: Any) -> Iterator[tuple[str, Callable[[], Any] | None]]:
    """Yield each field's name, with what makes its default or `None`."""
    if dataclasses.is_dataclass(cls):
        for field in dataclasses.fields(cls):
            if field.default is not dataclasses.MISSING:
                yield field.name, _always(field.default)
            elif field.default_factory is not dataclasses.MISSING:
                yield field.name, field.default_factory
            else:
                yield field.name, None
        return
    for attribute in cls.__attrs_attrs__:
        yield attribute.name, _attrs_default(attribute.default)


def _attrs_default(default: Any) -> Callable[[], Any] | None:
    attr: Any = sys.modules["attr"]  # imported by whoever defined the class
    if isinstance(default, attr.Factory):
        return None if default.takes_self else cast("Callable[[], Any]", default.factory)
    return None if default is attr.NOTHING else _always(default)


def _always(value: Any) -> Callable[[], Any]:
    return lambda: value


# --- msgspec structs -------------------------------------------------------------------------


def _take_struct(value: Any) -> list[dict[str, Any]]:
    fields = {name: getattr(value, name) for name in value.__struct_fields__}
    return [fields, dict(getattr(value, "__dict__", {}))]


def _make_struct(cls: type, content: list[dict[str, Any]]) -> Any:
    fields, others = content
    known = {name: fields[name] for name in fields if name in _struct_fields(cls)}
    made = cls(**known)
    for name, value in known.items():
        msgspec.structs.force_setattr(made, name, value)  # what its __post_init__ changed
    _restore(made, others)
    return made


def _struct_fields(cls: type) -> tuple[str, ...]:
    return cast("type[msgspec.Struct]", cls).__struct_fields__


# --- pydantic models -------------------------------------------------------------------------

_MODEL_STATE = (
    "__dict__",
    "__pydantic_fields_set__",
    "__pydantic_extra__",
    "__pydantic_private__",
)


def _is_model(cls: type) -> bool:
    return hasattr(cls, "__pydantic_fields__") and hasattr(cls, "model_config")


def _take_model(value: Any) -> list[Any]:
    return [getattr(value, name) for name in _MODEL_STATE]


def _make_model(cls: type, content: list[Any]) -> Any:
    made = blank_object(cls)
    for name, value in zip(_MODEL_STATE, content, strict=True):
        object.__setattr__(made, name, value)
    return made


# --- named tuples, enum members, exceptions --------------------------------------------------


def _is_named_tuple(cls: type) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def _take_named_tuple(value: Any) -> list[Any]:
    if _state(value) or len(value) != len(value._fields):
        raise CodecError(f"a {name_of(type(value))} cannot be stored: it is more than its fields")
    return list(value)


def _make_named_tuple(cls: Any, items: list[Any]) -> Any:
    if len(items) != len(cls._fields):
        raise CodecError(
            f"the stored {name_of(cls)} has {len(items)} fields, not {len(cls._fields)}"
        )
    return tuple.__new__(cls, items)


def _take_member(value: Any) -> Any:
    return value.value if isinstance(value, Flag) else value.name


def _make_member(cls: Any, told: Any) -> Any:
    return cls(told) if issubclass(cls, Flag) else cls[told]


def _take_error(value: BaseException) -> list[Any]:
    # As the built-in base sees it: with what it keeps outside of `args`, such as a file's name.
    _, args, *state = _built_in_base(type(value)).__reduce__(value)
    content = [list(args), list(value.args), dict(*state)]
    try:
        made = _make_error(type(value), content)
        is_whole = (made.args, str(made), _state(made)) == (value.args, str(value), _state(value))
    except Exception:  # of its constructor, its `__str__`, or the `__eq__` of what it holds
        is_whole = False
    if not is_whole:
        raise CodecError(f"a {name_of(type(value))} cannot be stored: it is more than its args")
    return content


def _make_error(cls: type[BaseException], content: list[Any]) -> BaseException:
    given, args, state = content
    # Its own constructor may want other arguments than it gave to its base, and has had its say.
    base = _built_in_base(cls)
    made: BaseException = base.__new__(cls, *given)
    base.__init__(made, *given)
    made.args = tuple(args)
    _restore(made, state)
    return made


def _built_in_base(cls: type[BaseException]) -> Any:
    return next(base for base in cls.__mro__ if base.__module__ == "builtins")


KINDS: dict[int, ClassKind] = {
    # The codes are stored: they never change their meaning. The first that accepts a class has it.
    64: ClassKind(lambda cls: issubclass(cls, Enum), _take_member, _make_member),
    65: ClassKind(lambda cls: issubclass(cls, BaseException), _take_error, _make_error),
    66: ClassKind(_is_named_tuple, _take_named_tuple, _make_named_tuple),
    67: ClassKind(
        lambda cls: issubclass(cls, msgspec.Struct),
        _take_struct,
        _make_struct,
        lambda content: content[0],
    ),
    68: ClassKind(
        _is_model,
        _take_model,
        _make_model,
        lambda content: {**content[0], **(content[2] or {})},
    ),
    69: ClassKind(_is_fields_class, _take_fields, _make_fields, dict),
}
