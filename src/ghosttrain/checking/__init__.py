"""Does an output of ours keep what ghosttrain promises? Readers, invariants, reports."""

from ghosttrain.checking.check import FileReport, UnknownFormatError, check_lines
from ghosttrain.checking.findings import Violation

__all__ = ["FileReport", "UnknownFormatError", "Violation", "check_lines"]
