"""Names of a package that are imported from its modules when they are first used.

A package whose ``__init__`` imported all of its modules would import PyTorch and Ray for everyone
who reads one of its configurations, and ``--help`` would take seconds.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package.

    Args:
        package: its ``__name__``.
        modules: by module of the package, the names that the package offers from it. None may be
            the name of a module of the package as well.
    """
    module_of = {name: module for module, names in modules.items() for name in names}

    def getattr_of_package(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
        setattr(importlib.import_module(package), name, value)  # The next access finds it there.
        return value

    return getattr_of_package


class LazyModule:
    """A module that is imported when one of its names is first used.

    Args:
        name: its full name.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        """Return what the module has under a name."""
        return getattr(importlib.import_module(self._name), name)
