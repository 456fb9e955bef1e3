"""Registry of Python network factories by name. A model file names its factory; nothing is imported by that name."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import nn

from uda.errors import ConfigError, ModelError, nearest

Factory = Callable[[], nn.Module]

_FACTORIES: dict[str, Factory] = {}


def register_network(name: str, factory: Factory) -> None:
    """Register the factory of a user's network under a name, for the lifetime of the process.

    A model file of such a network holds the name and the weights; a process registers the factory before it opens
    the file. Registering a name again replaces its factory.

    Args:
        name: letters, digits, ``_``, ``.`` and ``-``.
        factory: returns a fresh network, which maps images ``[b, c, *s]`` to logits ``[b, k, *s]``.

    Raises:
        ConfigError: a name with other characters, or a factory that cannot be called.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ConfigError(
            f"a network cannot be called {name!r}",
            expected="letters, digits, '_', '.' and '-'",
            fix="give another name: name=…",
        )
    if not callable(factory) or isinstance(factory, nn.Module):
        raise ConfigError(
            f"the factory of {name!r} is a {type(factory).__name__}",
            expected="a function without arguments that returns a network",
            fix=f"register_network({name!r}, lambda: MyNetwork(...))",
        )
    _FACTORIES[name] = factory


def registered(name: str) -> nn.Module:
    """A fresh network of a registered factory.

    Raises:
        ModelError: the name is not registered in this process, or the factory returns no ``nn.Module``.
    """
    if name not in _FACTORIES:
        known = nearest(name, _FACTORIES) if _FACTORIES else "nothing is registered yet"
        raise ModelError(
            f"this model is the network {name!r} of a Python program, which is not registered here",
            expected=f"a registered name; {known}",
            fix=f"call uda.register_network({name!r}, factory) first; or export the network with "
            "torch.export and import that program, which needs no Python code",
        )
    network = _FACTORIES[name]()
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"the factory of {name!r} returned a {type(network).__name__}",
            expected="a torch.nn.Module",
            fix="return the network itself",
        )
    return network
