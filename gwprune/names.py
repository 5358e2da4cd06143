"""Names: chosen from those that are allowed, and turned into what they name when it is used."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from numbers import Integral
from types import ModuleType
from typing import Any

__all__ = ["choice", "function_of", "lazy", "nearest", "refusal", "whole_number"]


def nearest(value: Any, allowed: Iterable[str]) -> str:
    """A hint for an error message.

    Returns:
        ``; did you mean 'x'?`` with the allowed name that is closest to ``value``, or nothing when none is close.
    """
    match = difflib.get_close_matches(str(value), list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def refusal(what: str, value: Any, allowed: Iterable[str]) -> str:
    """What an error says about a name that is none of ``allowed``: the name, all that is allowed, the nearest match."""
    allowed = list(allowed)
    return f"{value!r} is no {what}; allowed: {', '.join(allowed) or 'none'}{nearest(value, allowed)}"


def choice(what: str, value: Any, allowed: Iterable[str]) -> Any:
    """``value``, if it is allowed.

    Args:
        what: the kind of name, e.g. ``"network"``.
        value: what was given.
        allowed: the names that exist.

    Raises:
        ValueError: naming the value, all that is allowed and the nearest match.
    """
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(refusal(what, value, allowed))
    return value


def whole_number(name: str, value: Any, least: int) -> int:
    """``value``, if it is a whole number of at least ``least``.

    Args:
        name: of the argument.
        value: what was given; NumPy's whole numbers will do, ``True`` will not.
        least: the least that is allowed.

    Raises:
        TypeError: for another kind, naming the argument, the value and what is allowed.
        ValueError: for a smaller number, likewise.
    """
    text = f"{name} must be a whole number of at least {least}, got {value!r}"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(text)
    if value < least:
        raise ValueError(text)
    return int(value)


def function_of(what: str, name: str) -> Callable[..., Any]:
    """The function called ``module:function``; its module is imported now.

    A module is looked for in the current directory last, so that nothing there hides an installed one.

    Args:
        what: the kind of name, for the error message.
        name: ``module:function``.

    Raises:
        ValueError: for another form, a module that cannot be imported, or a name in it that is missing or no function.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"{what} {name!r}: expected the form module:function")
    try:
        module = _imported(module_name)
    except Exception as error:  # a user's module may fail in any way while it is imported
        raise ValueError(
            f"{what} {name!r}: module {module_name!r} cannot be imported ({type(error).__name__}: {error});"
            f" put it into the current directory ({os.getcwd()}), install it, or add its directory to PYTHONPATH"
        ) from error
    if not hasattr(module, attribute):
        public = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        choice(f"function of module {module_name!r}", attribute, public)
    function = getattr(module, attribute)
    if not callable(function):
        raise ValueError(f"{what} {name!r}: {attribute!r} is not callable")
    return function


def _imported(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        if os.getcwd() in sys.path:
            raise
        sys.path.append(os.getcwd())
        return import_module(name)


def lazy(package: str, exports: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose names are imported when they are first used.

    So that reading a table or a configuration does not cost an import of torch.

    Args:
        package: ``__name__`` of the package.
        exports: name -> the package's module that it stands in.
    """

    def getattribute(name: str) -> Any:
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f".{exports[name]}", package), name)

    return getattribute
