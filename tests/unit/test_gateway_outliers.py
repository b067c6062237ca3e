"""Replicas that are taken out because of how they answer, and tried again."""

from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.gateway.outliers import (
    BASE_EJECTION_S,
    CONSECUTIVE_FAILURES,
    LONGEST_EJECTION_S,
    MOST_EJECTED,
    STREAM_WAITED_FOR_S,
    Outliers,
)

POOL = ["a", "b", "c", "d"]


def _fail(outliers: Outliers, uid: str, now_s: float, times: int = CONSECUTIVE_FAILURES) -> bool:
    out = False
    for _ in range(times):
        out = outliers.failed(outliers.started(uid, now_s, 3), now_s, POOL)
    return out


def test_consecutive_failures_eject_and_an_answer_in_between_forgives_them() -> None:
    outliers = Outliers()
    assert not _fail(outliers, "a", 0, CONSECUTIVE_FAILURES - 1)
    outliers.succeeded(outliers.started("a", 0, 3), 0)
    assert not _fail(outliers, "a", 1, CONSECUTIVE_FAILURES - 1)
    assert not outliers.ejected(POOL, 1)
    assert _fail(outliers, "a", 1, 1)
    assert outliers.ejected(POOL, 1) == {"a"}


def test_one_request_tries_an_ejected_replica_and_a_failure_doubles_its_time() -> None:
    outliers = Outliers()
    _fail(outliers, "a", 0)
    assert outliers.ejected(POOL, BASE_EJECTION_S - 0.1) == {"a"}
    assert not outliers.ejected(POOL, BASE_EJECTION_S)
    probe = outliers.started("a", BASE_EJECTION_S, 3)
    assert outliers.ejected(POOL, BASE_EJECTION_S) == {"a"}
    assert outliers.failed(probe, BASE_EJECTION_S, POOL)
    assert outliers.ejected(POOL, BASE_EJECTION_S * 3 - 0.1) == {"a"}
    again = outliers.started("a", BASE_EJECTION_S * 3, 3)
    outliers.succeeded(again, BASE_EJECTION_S * 3)
    assert not outliers.ejected(POOL, BASE_EJECTION_S * 3)


def test_a_stream_is_waited_for_to_be_the_probe_but_not_for_ever() -> None:
    outliers = Outliers()
    for at_s in (0, 0, 0):
        outliers.failed(outliers.started("a", at_s, 3), at_s, POOL)
    over_s = BASE_EJECTION_S
    assert not outliers.ejected(POOL, over_s)
    assert outliers.ejected(POOL, over_s, stream=False) == {"a"}
    assert not outliers.ejected(POOL, over_s + STREAM_WAITED_FOR_S, stream=False)


def test_a_probe_is_missed_sooner_than_another_request() -> None:
    outliers = Outliers()
    first = outliers.started("a", 0, 3, probe_limit_s=0.5)
    assert not outliers.hung(1)
    outliers.failed(first, 1, POOL)
    for _ in range(2):
        outliers.failed(outliers.started("a", 1, 3), 1, POOL)
    probe = outliers.started("a", 1 + BASE_EJECTION_S, 3, probe_limit_s=0.5)
    assert not outliers.hung(1 + BASE_EJECTION_S + 0.4)
    assert outliers.hung(1 + BASE_EJECTION_S + 0.6) == {"a": [probe]}


def test_a_probe_whose_client_goes_away_leaves_room_for_the_next_one() -> None:
    outliers = Outliers()
    _fail(outliers, "a", 0)
    outliers.abandoned(outliers.started("a", BASE_EJECTION_S, 3))
    assert not outliers.ejected(POOL, BASE_EJECTION_S)
    assert outliers.started("a", BASE_EJECTION_S, 3).probe


def test_requests_that_were_under_way_when_it_was_ejected_double_nothing() -> None:
    outliers = Outliers()
    under_way = [outliers.started("a", 0, 3) for _ in range(20)]
    for attempt in under_way:
        outliers.failed(attempt, 1, POOL)
    assert not outliers.ejected(POOL, 1 + BASE_EJECTION_S)


def test_a_replica_hangs_when_nothing_comes_for_longer_than_its_requests_find_normal() -> None:
    outliers = Outliers()
    long_answer = outliers.started("a", 0, 30)
    assert not outliers.hung(10)
    stream = outliers.started("a", 10, 3)
    assert not outliers.hung(12.9)
    assert outliers.hung(13.1) == {"a": [stream]}
    outliers.progressed(long_answer, 13.1)
    assert not outliers.hung(16)
    assert outliers.hung(43.2) == {"a": [stream, long_answer]} or outliers.hung(43.2) == {
        "a": [long_answer, stream]
    }
    assert outliers.eject_hung("a", 43.2, POOL)
    assert outliers.ejected(POOL, 43.2) == {"a"}


def test_an_engine_that_stands_still_hangs_before_its_requests_are_late() -> None:
    outliers = Outliers()
    early = outliers.started("a", 0, 30, 3)
    late = outliers.started("a", 8, 30, 3)
    assert not outliers.hung(9, {"a": 2.9})
    assert outliers.hung(9, {"a": 5}) == {"a": [early]}
    assert not outliers.hung(9, {"b": 5})
    found = outliers.hung(12, {"a": 8})
    assert set(map(id, found["a"])) == {id(early), id(late)}


def test_a_hung_probe_doubles_the_time_once() -> None:
    outliers = Outliers()
    _fail(outliers, "a", 0)
    probe = outliers.started("a", 5, 3)
    assert outliers.hung(9) == {"a": [probe]}
    assert outliers.eject_hung("a", 9, POOL)
    outliers.failed(probe, 9, POOL)
    assert outliers.ejected(POOL, 9 + 2 * BASE_EJECTION_S - 0.1) == {"a"}
    assert not outliers.ejected(POOL, 9 + 2 * BASE_EJECTION_S)


events = st.lists(
    st.tuples(
        st.sampled_from(POOL),
        st.sampled_from(["fails", "answers", "hangs", "leaves"]),
        st.floats(0, 20),
    ),
    max_size=80,
)


@given(events=events)
def test_never_more_than_the_share_is_out_and_never_for_longer_than_the_longest_time(
    events: list[tuple[str, str, float]],
) -> None:
    outliers, now_s = Outliers(), 0.0
    for uid, what, step_s in events:
        now_s += step_s
        if uid in outliers.ejected(POOL, now_s):
            continue
        attempt = outliers.started(uid, now_s, 3)
        if what == "answers":
            outliers.succeeded(attempt, now_s)
        elif what == "leaves":
            outliers.abandoned(attempt)
        elif what == "fails":
            outliers.failed(attempt, now_s, POOL)
        else:
            now_s += 3.1
            outliers.eject_hung(uid, now_s, POOL)
            outliers.failed(attempt, now_s, POOL)
        assert len(outliers.ejected(POOL, now_s)) <= MOST_EJECTED * len(POOL)
        assert not outliers.ejected(POOL, now_s + LONGEST_EJECTION_S)


def test_probes_that_all_fail_do_not_take_the_whole_pool_out() -> None:
    outliers = Outliers()
    _fail(outliers, "a", 0)
    _fail(outliers, "d", 0)
    later_s = BASE_EJECTION_S + 0.1
    # Both may be tried again, and neither has shown that it is back.
    _fail(outliers, "b", later_s)
    _fail(outliers, "c", later_s)
    for uid in ("a", "d"):
        assert outliers.failed(outliers.started(uid, later_s, 3), later_s, POOL)
    assert outliers.ejected(POOL, later_s) == {"a", "d"}


def test_the_only_replica_of_a_pool_may_be_out() -> None:
    outliers = Outliers()
    outliers.started("a", 0, 3)
    assert outliers.eject_hung("a", 4, ["a"])


def test_replicas_that_are_gone_are_forgotten_once_nothing_is_under_way() -> None:
    outliers = Outliers()
    attempt = outliers.started("a", 0, 3)
    outliers.keep([])
    outliers.failed(attempt, 1, POOL)
    outliers.keep([])
    assert not outliers.hung(1000)


def test_a_replica_that_is_dead_for_weeks_is_tried_again_every_five_minutes() -> None:
    outliers = Outliers()
    _fail(outliers, "a", 0)
    now_s = 0.0
    for _ in range(2000):
        now_s += LONGEST_EJECTION_S
        assert not outliers.ejected(POOL, now_s)
        assert outliers.failed(outliers.started("a", now_s, 3), now_s, POOL)
    assert outliers.ejected(POOL, now_s + LONGEST_EJECTION_S - 1) == {"a"}


def test_a_hosted_api_hangs_by_its_own_first_byte_whatever_others_get() -> None:
    outliers = Outliers()
    silent = outliers.started("hosted", 0, 3, alone=True)
    streaming = outliers.started("hosted", 0, 3, alone=True)
    outliers.progressed(streaming, 2)
    assert outliers.hung(2.9) == {}
    assert outliers.hung(3.1) == {"hosted": [silent]}
    assert outliers.hung(30) == {"hosted": [silent]}
    # One of them is no reason to leave it out; as many as for a replica are.
    assert not outliers.eject_hung("hosted", 3.1, ())
    outliers.failed(silent, 3.1, ())
    assert not outliers.ejected(["hosted"], 3.1)
    _fail(outliers, "hosted", 3.2, CONSECUTIVE_FAILURES - 1)
    assert outliers.ejected(["hosted"], 3.2) == {"hosted"}
