"""A file of requests: what is read from it, what is wrong with it, how it is cut."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core import batch_requests
from gpufleet.core.batch_requests import (
    CHAT,
    COMPLETIONS,
    BatchRequest,
    checked_for,
    ids_of,
    parse,
    read_shard,
    shards,
)
from gpufleet.spec.errors import BadInput

MESSAGES = [{"role": "user", "content": "hi"}]


def request(custom_id: Any = "a", **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    body = fields.pop("body", {"messages": MESSAGES})
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body, **fields}


def lines(*values: object) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def told(content: bytes, **more: Any) -> list[tuple[int, str]]:  # noqa: ANN401 - arguments
    parsed = checked_for(parse(content), "extract", 100, **more)
    return [(problem.line, problem.message) for problem in parsed.problems]


def test_a_good_file_is_read_in_order_whatever_ends_its_lines() -> None:
    prompt = request("b", url=COMPLETIONS, body={"prompt": "p", "model": "extract"})
    content = b"\xef\xbb\xbf" + lines(request("a")) + b"\r\n \n" + lines(prompt).rstrip()
    parsed = checked_for(parse(content), "extract", 100)
    parsed.demand_good("file")
    assert ids_of(parsed.requests) == ["a", "b"]
    assert (parsed.endpoint, parsed.models) == ("", {"extract"})
    assert parse(lines(request())).endpoint == CHAT


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"nope", "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b"\xff", "is not UTF-8"),
        (b'{"custom_id": NaN}', "NaN is no number of JSON"),
        (b"[" * 100_000, "is nested too deep"),
        (b'{"n": ' + b"9" * 5000 + b"}", "is not JSON"),
        (json.dumps({"custom_id": "a"}).encode(), "has no `method`"),
        (json.dumps(request(colour=1)).encode(), "unknown field `colour`"),
        (json.dumps(request(7)).encode(), "`custom_id` has to be"),
        (json.dumps(request("")).encode(), "`custom_id` has to be"),
        (json.dumps(request("a\u0000")).encode(), "`custom_id` has to be"),
        (json.dumps(request("\ud800")).encode(), "`custom_id` has to be"),
        (json.dumps(request("x" * 257)).encode(), "`custom_id` has to be"),
        (json.dumps(request(method="GET")).encode(), "`method` has to be POST"),
        (json.dumps(request(url="/v1/embeddings")).encode(), "`url` has to be"),
        (json.dumps(request(url=["a"])).encode(), "`url` has to be"),
        (json.dumps(request(body=[])).encode(), "`body` has to be an object"),
        (json.dumps(request(body={})).encode(), "`body` has no `messages`"),
        (json.dumps(request(body={"messages": ["hi"]})).encode(), "list of objects"),
        (json.dumps(request(body={"messages": [{}]})).encode(), "none of them empty"),
        (json.dumps(request(body={"messages": MESSAGES * 2049})).encode(), "more than 2,048"),
        (json.dumps(request(url=COMPLETIONS)).encode(), "`body` has no `prompt`"),
        (
            json.dumps(request(body={"messages": MESSAGES, "stream": True})).encode(),
            "cannot stream",
        ),
        (json.dumps(request(body={"messages": MESSAGES, "model": 1})).encode(), "`model` has"),
        (
            json.dumps(request(body={"messages": MESSAGES, "max_tokens": True})).encode(),
            "`max_tokens` has to be a whole number above 0",
        ),
    ],
)
def test_each_wrong_line_is_told_with_its_number_beside_good_ones(
    line: bytes, message: str
) -> None:
    content = lines(request("first")) + b"\n" + line + b"\n" + lines(request("last"))
    [(number, found)] = told(content)
    assert number == 3
    assert message in found


def test_what_the_use_case_does_not_allow_is_told_with_its_line() -> None:
    content = lines(
        request("a"),
        request("b", body={"messages": MESSAGES, "model": "other"}),
        request("c", body={"messages": MESSAGES, "max_completion_tokens": 101}),
        request("d", url=COMPLETIONS, body={"prompt": "p"}),
    )
    assert told(content, endpoint=CHAT) == [
        (2, "`model` is `other`, the batch is for `extract`"),
        (3, "asks for 101 tokens, `extract` allows 100"),
        (4, "`url` is /v1/completions, the batch is for /v1/chat/completions"),
    ]


def test_an_id_twice_names_the_first_line() -> None:
    assert told(lines(request("a"), request("b"), request("a"))) == [
        (3, "`custom_id` stands in line 1 already")
    ]


def test_an_error_lists_every_wrong_line_as_file_and_line() -> None:
    with pytest.raises(BadInput) as error:
        parse(lines(*([1] * 25))).demand_good("r.jsonl")
    assert error.value.what.splitlines()[0] == "r.jsonl:1: is not a JSON object"
    assert error.value.what.splitlines()[-1] == "and 5 more"
    with pytest.raises(BadInput, match="holds no request"):
        parse(b"\n\n").demand_good("r.jsonl")


def test_a_file_has_a_limit_of_requests_and_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_requests, "MOST_REQUESTS", 2)
    [problem] = parse(lines(*(request(str(number)) for number in range(9)))).problems
    assert (problem.line, problem.message) == (3, "has more than 2 requests")
    monkeypatch.setattr(batch_requests, "MOST_BYTES", 10)
    [problem] = parse(lines(request())).problems
    assert (problem.line, "larger than" in problem.message) == (0, True)
    monkeypatch.undo()
    monkeypatch.setattr(batch_requests, "MOST_LINE_BYTES", 10)
    [problem] = parse(lines(request())).problems
    assert "longer than" in problem.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@given(st.lists(JSON | st.binary()))
def test_whatever_stands_in_a_file_gives_requests_or_problems_and_never_a_traceback(
    values: list[object],
) -> None:
    content = b"\n".join(
        value if isinstance(value, bytes) else json.dumps(value).encode() for value in values
    )
    parsed = checked_for(parse(content), "extract", 100)
    assert parsed.heads or parsed.problems


PROMPTS = st.lists(st.text(alphabet=st.characters(), max_size=50), min_size=1, max_size=40)


@given(PROMPTS, st.integers(1, 7), st.integers(40, 2000))
def test_shards_hold_every_request_once_in_order_within_their_bounds(
    prompts: list[str], most: int, size: int
) -> None:
    requests = [
        BatchRequest(str(number), COMPLETIONS, {"prompt": prompt, "model": "extract"})
        for number, prompt in enumerate(prompts)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_requests, "SHARD_REQUESTS", most)
        patch.setattr(batch_requests, "SHARD_BYTES", size)
        cut = shards(requests, "llama", 64)
    found = [each for shard in cut for each in read_shard(shard)]
    assert ids_of(found) == ids_of(requests)
    assert [each.body["prompt"] for each in found] == prompts
    assert all(each.body["model"] == "llama" for each in found)
    for shard in cut:
        assert shard.count(b"\n") <= most
        assert len(shard) <= size or shard.count(b"\n") == 1
    assert cut == shards(requests, "llama", 64) or len(cut) > 1


def test_a_request_that_names_no_length_may_answer_as_long_as_the_use_case_allows() -> None:
    given_, bare = (
        BatchRequest("a", CHAT, {"messages": MESSAGES, "max_completion_tokens": 5}),
        BatchRequest("b", CHAT, {"messages": MESSAGES, "max_tokens": None}),
    )
    [first, second] = read_shard(shards([given_, bare], "llama", 64)[0])
    assert "max_tokens" not in first.body
    assert second.body["max_tokens"] == 64


def test_a_file_is_checked_without_keeping_its_requests_in_memory() -> None:
    small: list[object] = [[] for _ in range(100_000)]
    content = lines(*(request(f"r-{number}", body=body(small)) for number in range(8)))
    one = lines(request("r", body=body(small)))
    tracemalloc.start()
    try:
        parse(one)
        _, of_one = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        parsed = checked_for(parse(content), "extract", 100)
        for _ in parsed.requests:
            pass
        _, of_all = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(parsed.heads) == 8
    assert of_all < 3 * of_one


def body(small: list[object]) -> dict[str, Any]:
    return {"messages": MESSAGES, "metadata": small}


def test_a_file_of_nothing_but_faults_is_read_no_further_than_can_be_told() -> None:
    parsed = parse(b"1\n" * 5000)
    assert len(parsed.problems) == 1000
    with pytest.raises(BadInput, match="and at least 980 more"):
        parsed.demand_good("r")
