"""ghosttrain: rehearse large-scale LLM training runs without a GPU.

The public names are loaded when first used, so that `import ghosttrain` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ghosttrain.core.plan import Plan, plan
    from ghosttrain.core.run import Run, simulate
    from ghosttrain.core.spec import RunSpec
    from ghosttrain.playback import Player

__version__ = "0.1.0"
__all__ = ["Plan", "Player", "Run", "RunSpec", "__version__", "plan", "simulate"]

_HOME = {
    "Plan": "ghosttrain.core.plan",
    "plan": "ghosttrain.core.plan",
    "Run": "ghosttrain.core.run",
    "simulate": "ghosttrain.core.run",
    "RunSpec": "ghosttrain.core.spec",
    "Player": "ghosttrain.playback",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
