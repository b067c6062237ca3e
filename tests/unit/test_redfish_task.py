"""What a controller says of a task is not taken for more than it says."""

from typing import Any

import pytest

from gpufleet.edges.redfish_task import passes, progress_of
from gpufleet.spec.firmware import UpdateState


def task(state: str, message: str = "", status: str = "OK") -> dict[str, Any]:
    said = [{"MessageId": message, "Message": message}] if message else []
    return {"TaskState": state, "TaskStatus": status, "Messages": said}


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (404, {}, UpdateState.GONE),
        (410, {}, UpdateState.GONE),
        (403, {}, UpdateState.FAILED),
        (200, task("Running"), UpdateState.RUNNING),
        (200, task("Running", "Update.1.0.AwaitToActivate"), UpdateState.RUNNING),
        (200, task("Pending"), UpdateState.WAITING),
        (200, task("Suspended"), UpdateState.WAITING),
        (200, task("Pending", "Update.1.0.AwaitToActivate"), UpdateState.STAGED),
        (200, task("Suspended", "Base.1.15.ResetRequired"), UpdateState.STAGED),
        (200, task("Completed"), UpdateState.COMPLETED),
        (200, task("Completed", status="Critical"), UpdateState.FAILED),
        (200, task("Exception"), UpdateState.FAILED),
        (204, {}, UpdateState.COMPLETED),
        (202, {}, UpdateState.RUNNING),
    ],
)
def test_a_task_is_as_far_as_it_says(status: int, body: dict[str, Any], state: UpdateState) -> None:
    assert progress_of(status, body).state is state


@pytest.mark.parametrize("status", [401, 408, 429, 500, 502, 503, 504])
def test_an_answer_of_a_busy_controller_says_nothing_of_the_update(status: int) -> None:
    assert passes(status)


@pytest.mark.parametrize("status", [200, 202, 400, 403, 404, 410])
def test_every_other_answer_does(status: int) -> None:
    assert not passes(status)
