"""The show: log lines and GPU grids that scroll, above pinned bars.

The work per frame stays about the same at any speed: samples are thinned so that a frame has a
few detailed lines, and it draws one grid at most, the newest.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from ghosttrain.core.events import FleetSampled, FleetSamples, RunStarted, StepsCompleted
from ghosttrain.views.dashboard import Dashboard
from ghosttrain.views.renderables.glyphs import ASCII, UNICODE
from ghosttrain.views.renderables.gpu_grid import gpu_grid

if TYPE_CHECKING:
    from ghosttrain.core.events import Event
    from ghosttrain.core.spec import RunSpec
    from ghosttrain.playback import Player
    from ghosttrain.views.renderables.glyphs import Glyphs
    from ghosttrain.views.renderables.line import Line
    from ghosttrain.views.show.screen import Entry, Screen

MOST_DETAILS_PER_FRAME = 2
# The grid takes this share of the lines above the bars, so that the log is seen around it.
GRID_SHARE = 0.6
