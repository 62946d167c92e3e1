"""The first frame: both bars at their start, on the screen before NumPy is loaded.

Imports nothing heavy. The rows are those the bars have at 0 %, but for the number of epochs,
which is not known yet.
"""

from __future__ import annotations

from ghosttrain.views.show.terminal import NARROWEST_WITH_BARS, Terminal

EPOCH_CELLS, STEP_CELLS = 25, 35  # between the brackets, as in the bars themselves
_AROUND = len("Epoch: [") + len("]   0%")


def opening_rows(terminal: Terminal) -> list[str]:
    """Both bars as they stand on a terminal at the start; none where it cannot pin them."""
    columns, lines = terminal.size()
    if not terminal.moves or columns < NARROWEST_WITH_BARS or lines < 4:
        return []
    rows = []
    for label, cells in (("Epoch:", EPOCH_CELLS), ("Step:", STEP_CELLS)):
        blank = " " * min(cells, columns - _AROUND)
        if terminal.color:
            rows.append(f"\x1b[1m{label:<7}\x1b[0m\x1b[32m[{blank}]\x1b[0m   0%")
        else:
            rows.append(f"{label:<7}[{blank}]   0%")
    return rows
