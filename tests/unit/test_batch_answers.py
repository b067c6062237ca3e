"""A batch's end: every request once, its answer or why there is none."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.batch_answers import EXPIRED, UNANSWERED, Line, answer, merged, read, written


def line(custom_id: str, status: int = 200) -> Line:
    return answer(f"line-{custom_id}", custom_id, status, f"request-{custom_id}", {"text": "hi"})


def loaded(content: bytes) -> list[Any]:
    return [json.loads(each) for each in content.splitlines()]


def test_answers_and_errors_have_openais_form() -> None:
    found = merged("batch-1", ["a", "b", "c"], [line("c", 400), line("a")], EXPIRED)
    assert loaded(found.output) == [
        {
            "id": "line-a",
            "custom_id": "a",
            "response": {
                "status_code": 200,
                "request_id": "request-a",
                "body": {"text": "hi"},
            },
            "error": None,
        }
    ]
    expired, wrong = loaded(found.errors)
    assert expired["custom_id"] == "b"
    assert expired["response"] is None
    assert expired["error"]["code"] == "batch_expired"
    assert (wrong["custom_id"], wrong["response"]["status_code"]) == ("c", 400)
    assert (found.completed, found.failed) == (1, 2)


IDS = st.lists(st.text(max_size=5), unique=True, max_size=20)


@given(IDS, st.data())
def test_every_request_is_in_one_of_the_files_once_and_in_order(
    ids: list[str], data: st.DataObject
) -> None:
    kinds = st.sampled_from([*ids, "stranger"]) if ids else st.just("stranger")
    given_ = data.draw(st.lists(st.tuples(kinds, st.sampled_from([200, 400, 500]))))
    answers = [line(custom_id, status) for custom_id, status in given_]
    found = merged("b", ids, answers, UNANSWERED)
    good = [each["custom_id"] for each in loaded(found.output)]
    bad = [each["custom_id"] for each in loaded(found.errors)]
    assert sorted(good + bad) == sorted(ids)
    assert good == [id_ for id_ in ids if id_ in good]
    assert bad == [id_ for id_ in ids if id_ in bad]
    assert (found.completed, found.failed) == (len(good), len(bad))
    first: dict[str, int] = {}
    for custom_id, status in given_:
        first.setdefault(custom_id, status)
    assert set(good) == {id_ for id_ in ids if first.get(id_) == 200}


def test_what_was_written_is_read_again_and_what_was_cut_is_left_out() -> None:
    content = written([line("a"), line("b")])
    assert read(content) == [line("a"), line("b")]
    assert read(content[:-5]) == [line("a")]
    broken = [{"custom_id": "a"}, {"custom_id": 1, "response": {"status_code": 200}}, 7, None]
    assert read(b"\n".join(json.dumps(each).encode() for each in broken)) == []
    assert read(b'{"custom_id": "a", "response": {"status_code": true}}') == []
