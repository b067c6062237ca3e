"""The files that the gateway's workers follow, in a process with the gateway's own path."""

import os
import subprocess
import sys
from pathlib import Path

from gpufleet.edges.workspace import PROJECT_ROOT

PROGRAM = """
import os, sys, time
from pathlib import Path
from gpufleet.spec.gateway import Keys
from gpufleet_gateway.folder import Followed

file = Path(sys.argv[1])
empty = Keys(at=0, keys=[])
followed = Followed(file, Keys, empty)

def now():
    followed._looked_at_s = float("-inf")
    return followed.get()

assert now() is empty
file.write_text(Keys(at=1, keys=[]).model_dump_json())
first = now()
assert first.at == 1
os.utime(file, (5, 5))
assert now() is first
assert followed.age_s() > 1000
file.write_text(Keys(at=2, keys=[]).model_dump_json())
assert now().at == 2
file.write_text("{")
assert now().at == 2
os.utime(file, (5, 5))
assert now().at == 2
print("good")
"""


def test_content_that_only_grew_older_stays_the_same_object(tmp_path: Path) -> None:
    path = os.pathsep.join(str(PROJECT_ROOT / name) for name in ("modules", "gateway"))
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, str(tmp_path / "keys.json")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "good\n", done.stderr
