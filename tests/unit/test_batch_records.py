"""Each request of a batch leaves one audit record, in a chain that shows what is done to it."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.batch_answers import CANCELLED, UNANSWERED, answer
from gpufleet.core.batch_records import Served, records
from gpufleet.core.batch_requests import BatchRequest
from gpufleet.core.gateway.audit import Piece, read, segment_of, verify
from gpufleet.spec.batches import BatchOrder
from gpufleet.spec.gateway import AuditRecord
from gpufleet.spec.serving import DataClass

BEGUN = datetime(2026, 6, 10, 8, tzinfo=UTC)
ORDER = BatchOrder(
    id="batch-20260610-080000-abcdef",
    use_case="documents",
    team="archive",
    owner="0123456789ab",
    pool="nightly",
    endpoint="/v1/chat/completions",
    input_file="file-1",
    input_site="fra1",
    input_key="files/file-1",
    requests=3,
    created_at=BEGUN,
    expires_at=BEGUN + timedelta(days=1),
)
SERVED = Served(DataClass.INTERNAL, "large-1", f"sha256:{'a' * 64}", Decimal(2), b"salt")


def request(name: str) -> BatchRequest:
    body = {"messages": [{"role": "user", "content": f"say {name}"}]}
    return BatchRequest(custom_id=name, url="/v1/chat/completions", body=body)


def whole(created: object = int(BEGUN.timestamp()) + 60, **more: object) -> dict[str, Any]:
    return {
        "created": created,
        "choices": [{"message": {"role": "assistant", "content": "yes"}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        **more,
    }


def parsed(lines: list[bytes]) -> list[AuditRecord]:
    found = [read(line) for line in lines]
    assert all(found)
    return [record for record in found if record is not None]


def test_each_request_has_a_record_with_what_answered_it_and_what_it_cost() -> None:
    requests = [request("a"), request("b"), request("c")]
    error = {"error": {"type": "BadRequestError", "message": "too long"}}
    answers = [
        answer("1", "b", 400, "r1", error),
        answer("2", "a", 200, "r2", whole()),
        answer("3", "a", 200, "r3", whole(usage=None)),
    ]
    good, bad, none = parsed(list(records(ORDER, SERVED, requests, answers, UNANSWERED)))
    assert (good.request_id, good.status, good.error) == (f"{ORDER.id}-0", 200, "")
    assert (good.prompt_tokens, good.output_tokens, good.cost) == (7, 3, "0.00002")
    assert (good.key_id, good.team, good.use_case) == ("0123456789ab", "archive", "documents")
    assert (good.model, good.digest) == (SERVED.model, SERVED.digest)
    assert good.at == "2026-06-10T08:01:00.000+00:00"
    assert (bad.status, bad.error) == (400, "BadRequestError")
    assert (none.status, none.error, none.model) == (0, "engine_failed", "")
    assert good.prompt_hash != bad.prompt_hash
    assert good.answer_hash
    assert not none.answer_hash


def test_no_text_of_a_prompt_or_an_answer_is_in_a_record() -> None:
    lines = records(ORDER, SERVED, [request("a")], [answer("1", "a", 200, "r", whole())], CANCELLED)
    (line,) = lines
    assert b"say a" not in line
    assert b"yes" not in line


def test_without_the_salt_there_are_no_hashes() -> None:
    unsalted = Served(SERVED.data_class, SERVED.model, SERVED.digest, Decimal(0), None)
    answers = [answer("1", "a", 200, "r", whole())]
    (record,) = parsed(list(records(ORDER, unsalted, [request("a")], answers, CANCELLED)))
    assert record.prompt_hash == record.answer_hash == ""


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "usage", "created", "error", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(ANYTHING, max_size=6))
def test_whatever_an_engine_says_the_chain_is_whole_and_the_same_again(bodies: list[Any]) -> None:
    requests = [request(str(number)) for number in range(len(bodies) + 1)]
    answers = [answer(str(n), str(n), 200, "r", body) for n, body in enumerate(bodies)]
    lines = list(records(ORDER, SERVED, requests, answers, UNANSWERED))
    assert lines == list(records(ORDER, SERVED, requests, answers, UNANSWERED))
    assert len(lines) == len(requests)
    segment = segment_of(lines)
    assert segment is not None
    chain = f"{ORDER.id}.internal"
    assert (segment.chain, segment.data_class) == (chain, "internal")
    assert verify(chain, [Piece(1, lines, expected=segment)], {len(lines): segment.head}) == []
    if len(lines) > 1:
        changed = json.loads(lines[0]) | {"team": "other"}
        assert verify(chain, [Piece(1, [json.dumps(changed).encode(), *lines[1:]])])
