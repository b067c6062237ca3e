"""The real gateway while the machine's clock jumps."""

import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.gateway_under_test import UnderTest, gateway_under_test

pytestmark = pytest.mark.timeout(300)
HOUR_S = 3600.0
Jump = Callable[[float], None]


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the seconds that the gateway's clock is off."""
    file = tmp_path_factory.mktemp("clock") / "offset"
    file.write_bytes(struct.pack("d", 0.0))
    return file


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, clock: Path) -> Iterator[UnderTest]:
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("a C compiler makes the clock that jumps, and there is none on PATH")
    library = clock.with_name("jumping_clock.so")
    source = Path(__file__).with_name("jumping_clock.c")
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl", "-lm"]
    subprocess.run(command, check=True, timeout=60)
    more = {"LD_PRELOAD": str(library), "JUMPING_CLOCK": str(clock)}
    with gateway_under_test(tmp_path_factory.mktemp("gateway"), more) as made:
        yield made


@pytest.fixture
def jump(clock: Path) -> Iterator[Jump]:
    """Moves the clock; it is right again at the end."""

    def to(seconds: float) -> None:
        with clock.open("r+b") as file:
            file.write(struct.pack("d", seconds))

    yield to
    to(0.0)


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
def test_requests_go_on_with_their_records_whatever_the_clock_does(
    gateway: UnderTest, jump: Jump, by_s: float
) -> None:
    key = gateway.new_key("support")
    gateway.wait(lambda: gateway.ask(key).is_success)
    before = gateway.record_of(gateway.ask(key))
    jump(by_s)
    answers = [gateway.ask(key) for _ in range(6)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-gpufleet-route"] for answer in answers} == {"primary"}
    records = [gateway.record_of(answer) for answer in answers]
    told = datetime.fromisoformat(records[0]["at"])
    # It is the jumped clock that the gateway sees.
    assert abs((told - datetime.now(UTC)).total_seconds() - by_s) < 60
    assert all(0 <= record["latency_s"] < 60 for record in records)
    assert before["latency_s"] >= 0


def test_an_overload_is_still_seen_after_a_jump(gateway: UnderTest, jump: Jump) -> None:
    key = gateway.new_key("support")
    gateway.wait(lambda: gateway.ask(key).is_success)
    jump(HOUR_S)
    # The control process has the same clock.
    with gateway.overload(offset_s=HOUR_S, chat=50):
        gateway.wait(lambda: gateway.ask(key).headers["x-gpufleet-route"] == "fallback")


def test_a_clock_that_jumps_back_gives_no_cap_a_second_time(gateway: UnderTest, jump: Jump) -> None:
    key = gateway.new_key("support")
    gateway.wait(lambda: gateway.ask(key).is_success)

    def hosted() -> int:
        """Answers of the hosted API until its cap has no room."""
        with gateway.overload(chat=50):
            routes = [gateway.ask(key, "capped").headers["x-gpufleet-route"] for _ in range(12)]
        return routes.count("hosted")

    assert hosted() < 12
    jump(-32 * 24 * HOUR_S)
    assert hosted() == 0
