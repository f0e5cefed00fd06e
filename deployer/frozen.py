"""Frozen dataclasses that cost little to define.

The standard library writes and compiles six functions for each frozen dataclass, half a millisecond each time
the program starts; `deployer check` has a hundred of them, which was a third of its time. Here one set of functions
serves all. For type checkers, and in every use (`fields`, `replace`, `is_dataclass`, `match`), they are dataclasses.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen):
        """The decorator; only `frozen=True` is served."""
        if frozen is not True:
            raise TypeError("only frozen=True is served")
        return _define


def _define(cls: type) -> type:
    cls.__doc__ = cls.__doc__ or cls.__name__  # else the standard library writes a signature into it
    for function in (__init__, __repr__, __eq__, __hash__, __setattr__, __delattr__):
        setattr(cls, function.__name__, function)
    return dataclasses.dataclass(init=False, repr=False, eq=False)(cls)


def __init__(self: Any, *words: Any, **named: Any) -> None:
    kind = type(self)
    fields = [field for field in kind.__dataclass_fields__.values() if field.init]
    if len(words) > len(fields):
        raise TypeError(f"{kind.__name__} takes {len(fields)} values, not {len(words)}")
    values = self.__dict__
    for field, word in zip(fields, words, strict=False):
        values[field.name] = word
    for field in fields[len(words) :]:
        name = field.name
        if name in named:
            values[name] = named.pop(name)
        elif field.default is not dataclasses.MISSING:
            values[name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            values[name] = field.default_factory()
        else:
            raise TypeError(f"{kind.__name__} needs a value for `{name}`")
    if named:
        raise TypeError(f"{kind.__name__} has no place for {', '.join(f'`{name}`' for name in named)}")


def __repr__(self: Any) -> str:
    shown = [name for name, field in self.__dataclass_fields__.items() if field.repr]
    inside = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
    return f"{type(self).__qualname__}({inside})"


def __eq__(self: Any, other: object) -> Any:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def __hash__(self: Any) -> int:
    return hash(_values(self))


def _values(self: Any) -> tuple[Any, ...]:
    found = self.__dict__
    return tuple([found[name] for name in self.__dataclass_fields__])


def __setattr__(self: Any, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def __delattr__(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
