"""What a kept state of a stack says, and what an update by it would make again."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.drills.stack_state import emptied, made_again, updated_at
from gpufleet.spec.errors import Failed
from gpufleet.spec.reports import ResourceChange

MANIFEST = {"time": "2026-03-01T10:15:00.123456789Z", "version": "v3"}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def state(resources: object, **more: object) -> bytes:
    latest = {"manifest": MANIFEST, "secrets_providers": {"salt": "v1"}, "resources": resources}
    return json.dumps(
        {"version": 3, "checkpoint": {"stack": "s", "latest": latest | more}}
    ).encode()


@given(st.lists(json_values, max_size=3))
def test_a_lost_state_is_one_without_resources_and_with_its_salt(resources: list[object]) -> None:
    assert emptied(state(resources, pending_operations=[1])) == emptied(state([]))
    found = json.loads(emptied(state(resources)))
    assert found["checkpoint"]["latest"]["secrets_providers"] == {"salt": "v1"}
    assert found["checkpoint"]["latest"]["resources"] == []


def test_a_state_says_when_it_was_written() -> None:
    written = updated_at(state([]))
    assert written is not None
    assert written.isoformat(timespec="seconds") == "2026-03-01T10:15:00+00:00"
    assert updated_at(b'{"checkpoint": {"latest": null}}') is None
    assert updated_at(b'{"checkpoint": {"latest": {"manifest": {}}}}') is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"checkpoint": null}', b"\xff", b"3"])
def test_what_is_no_state_is_one_clear_error(content: bytes) -> None:
    for ask in (emptied, updated_at):
        with pytest.raises(Failed, match="the kept state is not whole"):
            ask(content)


def test_what_is_only_changed_is_not_made_again() -> None:
    changes = [
        ResourceChange(action=action, kind="Deployment", name=action, fields=[])
        for action in ("update", "create", "same", "delete", "create-replacement", "read")
    ]
    again = [each.name for each in made_again(changes)]
    assert again == ["create", "delete", "create-replacement"]
