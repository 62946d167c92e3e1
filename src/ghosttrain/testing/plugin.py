"""The pytest plugin: the fixture `ghosttrain_server`.

pytest imports this in every project that has ghosttrain installed: it must cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from ghosttrain.testing.server import RunServer


@pytest.fixture
def ghosttrain_server() -> Iterator[Callable[..., RunServer]]:
    """Starts servers of runs, as `ghosttrain.testing.serving` does; they end with the test."""
    with ExitStack() as servers:

        def start(spec: Any = None, **how: Any) -> RunServer:
            from ghosttrain.testing.server import serving

            return servers.enter_context(serving(spec, **how))

        yield start
