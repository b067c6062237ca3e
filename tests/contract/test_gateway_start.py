"""A gateway that cannot start says why, in one line; one that stops says so to who waits."""

import json
import os
import resource
import subprocess
from pathlib import Path

import pytest
from tests import gateway_situations as declared
from tests.gateway_under_test import UnderTest
from tests.stand_in_engine import StandIn

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


def test_a_request_that_a_stop_interrupts_is_told_so_and_recorded(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    engine = StandIn()
    told = UnderTest(tmp_path, 0, [engine], engine, engine)
    told.use_cases = {"assist": declared.route()}
    told.tell_routes()
    told.tell_replicas()
    key = told.new_key("support")
    paths = f"{PROJECT_ROOT / 'modules'}:{PROJECT_ROOT / 'gateway'}"
    program = PROJECT_ROOT / "tests/contract/tried_interruption.py"
    done = subprocess.run(
        [str(gateway_python(lambda _: None)), "-P", str(program), str(tmp_path), key],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )
    engine.stop()
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["status"] == 503
    assert json.loads(answer["content"])["error"]["code"] == "interrupted"
    (record,) = told.records()
    assert (record["status"], record["error"]) == (503, "interrupted")
