"""One file for each group of tasks: they parse, call a flow, and print.

Imports of anything heavy stand inside the tasks: `./fleet --list` has to answer at once.
"""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
"""The clone that this code is in."""
