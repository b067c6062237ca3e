"""A gateway that cannot start says why, in one line."""

import os
import resource
import subprocess
from pathlib import Path

import pytest
from tests import gateway_situations as declared

from gpufleet.edges.gateway_environment import gateway_python
from gpufleet.edges.workspace import PROJECT_ROOT

pytestmark = pytest.mark.slow


def test_on_a_disk_without_room_the_gateway_says_so_and_ends(tmp_path: Path) -> None:
    routes = declared.routes({"assist": declared.route()}, {"chat": declared.pool_route()})
    (tmp_path / "routes.json").write_text(routes.model_dump_json(by_alias=True))

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    paths = f"{PROJECT_ROOT / 'modules'}:{PROJECT_ROOT / 'gateway'}"
    done = subprocess.run(
        [
            *(str(gateway_python(lambda _: None)), "-P", "-m", "gpufleet_gateway"),
            *("--folder", str(tmp_path), "--port", "0"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=no_room,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert str(tmp_path) in done.stderr
