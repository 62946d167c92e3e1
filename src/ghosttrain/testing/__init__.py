"""A running `/metrics` at a known moment of a known fault, for tests of what watches training.

`serving()` is a context manager; with pytest the fixture `ghosttrain_server` is there by itself.
What is public is loaded when first used: a test suite that has the plugin and does not use it
pays nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ghosttrain.testing.alerts import Alert
    from ghosttrain.testing.page import Page
    from ghosttrain.testing.server import RunServer, serving

__all__ = ["Alert", "Page", "RunServer", "serving"]

_HOME = {
    "Alert": "ghosttrain.testing.alerts",
    "Page": "ghosttrain.testing.page",
    "RunServer": "ghosttrain.testing.server",
    "serving": "ghosttrain.testing.server",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
