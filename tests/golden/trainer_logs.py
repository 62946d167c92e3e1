"""Golden logs: what training programs would have printed of runs that a person has read.

Numbers are shown in few digits by these formats, so that another build of NumPy, whose last bits
may differ, tells the same; formats that show all of them are not here.
"""

from __future__ import annotations

from pathlib import Path

from tests.exporters.dialects.cases import calm, faulty, lines_of

FOLDER = Path(__file__).with_name("dialects")
EVERY = 50  # steps between lines


def golden_texts() -> dict[str, str]:
    """Every golden log by the name of its file."""
    crash = faulty("gpu-fault")
    texts = {f"{name}-gpu-fault": lines_of(crash, name, EVERY) for name in NAMES}
    texts["torchtitan-experts"] = lines_of(calm("latent"), "torchtitan", EVERY)
    texts["torchtitan-pipeline"] = lines_of(calm("pipeline"), "torchtitan", EVERY)
    texts["torchtitan-nan"] = lines_of(faulty("loss-nan"), "torchtitan", EVERY)
    texts["hf-nan"] = lines_of(faulty("loss-nan"), "hf", EVERY)
    return {name: "".join(f"{line}\n" for line in lines) for name, lines in texts.items()}


NAMES = ("torchtitan", "hf", "nanogpt")


def golden_file(name: str) -> Path:
    """Where a golden log is kept."""
    return FOLDER / f"{name}.txt"


def write_all() -> None:
    """Write every file, and take away those that are gone."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.txt"):
        if path.stem.partition("-")[0] in NAMES:
            path.unlink()
    for name, text in golden_texts().items():
        golden_file(name).write_text(text, encoding="utf-8", newline="\n")
