"""The real gateway while the machine's clock jumps."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from tests.gateway_under_test import UnderTest, gateway_under_test
from tests.jumping_clock import JumpingClock, jumping_clock

pytestmark = pytest.mark.timeout(300)
HOUR_S = 3600.0
Jump = Callable[[float], None]


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> JumpingClock:
    """The gateway's clock."""
    return jumping_clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, clock: JumpingClock) -> Iterator[UnderTest]:
    with gateway_under_test(tmp_path_factory.mktemp("gateway"), clock.variables) as made:
        yield made


@pytest.fixture
def jump(clock: JumpingClock) -> Iterator[Jump]:
    """Moves the clock; it is right again at the end."""
    yield clock.jump
    clock.jump(0.0)


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
