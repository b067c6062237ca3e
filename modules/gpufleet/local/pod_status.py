"""The status of a pool's pod, as its node would report it."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from gpufleet.edges.kube import Object
from gpufleet.local.engine.replica import Death, View

_STARTED: Final = ("PodReadyToStartContainers", "Initialized")
_SERVES: Final = ("ContainersReady", "Ready")
ENDED: Final = ("Succeeded", "Failed")
"""Phases after which nothing happens to a pod."""


def running_status(pod: Object, address: str, now: datetime) -> Object:
    """The status of a pod whose init containers ended well and whose containers serve."""
    return begun_status(pod, address, now) | {
        "conditions": _conditions((*_STARTED, *_SERVES), "True", now)
    }


def begun_status(pod: Object, address: str, now: datetime, *, is_ready: bool = True) -> Object:
    """The status of a pod whose init containers ended well and whose containers run."""
    at = written(now)
    spec = pod["spec"]
    ended = _ended(at, at)
    return {
        "phase": "Running",
        "hostIP": "127.0.0.1",
        "hostIPs": [{"ip": "127.0.0.1"}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": at,
        "conditions": _conditions(_STARTED, "True", now) + readiness(is_ready=is_ready, now=now),
        "initContainerStatuses": [
            _container(
                container,
                {"ready": is_ready, "started": is_ready, "state": {"running": {"startedAt": at}}}
                if is_sidecar(container)
                else {"ready": True, "started": False, "state": ended},
            )
            for container in spec.get("initContainers", [])
        ],
        "containerStatuses": [
            _container(
                container,
                {"ready": is_ready, "started": is_ready, "state": {"running": {"startedAt": at}}},
            )
            for container in spec["containers"]
        ],
    }


def serving_status(pod: Object, view: View, now: datetime) -> Object:
    """The status of a running pod whose engine is as the view says."""
    last = {"lastState": {"terminated": _death(view.last_death)}} if view.last_death else {}
    engine = {
        "ready": view.is_ready,
        "started": view.has_started,
        "restartCount": view.restarts,
        "state": {"running": {"startedAt": written(view.started)}},
        **last,
    }
    return {
        "conditions": readiness(is_ready=view.is_ready, now=now),
        "containerStatuses": [_container(each, engine) for each in pod["spec"]["containers"]],
    }


def same_life(pod: Object, *, is_ready: bool, now: datetime) -> Object:
    """The status of a running pod that has no engine of its own: only its readiness may change."""
    containers = pod["status"].get("containerStatuses") or []
    return {
        "conditions": readiness(is_ready=is_ready, now=now),
        "containerStatuses": [{**each, "ready": is_ready} for each in containers],
    }


def ended_status(pod: Object, now: datetime) -> Object:
    """The status of a pod whose containers were told to end, and did."""
    ended = _ended(pod["status"].get("startTime") or written(now), written(now))
    return {
        "phase": "Succeeded",
        "conditions": readiness(is_ready=False, now=now),
        "containerStatuses": [
            _container(
                container,
                {
                    "ready": False,
                    "started": False,
                    "restartCount": restarts_of(pod),
                    "state": ended,
                },
            )
            for container in pod["spec"]["containers"]
        ],
    }


def is_sidecar(container: Object) -> bool:
    """Whether an init container runs beside the others instead of before them."""
    return bool(container.get("restartPolicy") == "Always")


def readiness(*, is_ready: bool, now: datetime) -> list[Object]:
    """The conditions that say whether a pod serves."""
    return _conditions(_SERVES, "True" if is_ready else "False", now)


def says_the_same(status: Object, wanted: Object) -> bool:
    """Whether a pod's status says already what is wanted, but for the times of its conditions."""
    for key, value in wanted.items():
        if key == "conditions":
            known = {each["type"]: each["status"] for each in status.get(key) or []}
            if any(known.get(each["type"]) != each["status"] for each in value):
                return False
        elif key == "containerStatuses":
            if [_short(each) for each in status.get(key) or []] != [_short(each) for each in value]:
                return False
        elif status.get(key) != value:
            return False
    return True


def is_ready(status: Object) -> bool:
    """Whether a node's or a pod's status says that it is ready."""
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in status.get("conditions") or []
    )


def restarts_of(pod: Object) -> int:
    """Most restarts of any of its containers."""
    found = pod["status"].get("containerStatuses") or []
    return max((int(each.get("restartCount", 0)) for each in found), default=0)


def lost_life(pod: Object, now: datetime) -> Death:
    """How the life of an engine ended whose node agent ended with it, as after a reboot."""
    running = [
        each["state"]["running"]["startedAt"]
        for each in pod["status"].get("containerStatuses") or []
        if each.get("state", {}).get("running", {}).get("startedAt")
    ]
    started = datetime.fromisoformat(running[0]).astimezone(UTC) if running else now
    return Death("Unknown", 255, started, now)


def written(moment: datetime) -> str:
    """As Kubernetes writes a time."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _short(status: Object) -> tuple[object, ...]:
    ended = status.get("lastState", {}).get("terminated", {})
    return (
        status["name"],
        status.get("ready"),
        status.get("started"),
        status.get("restartCount"),
        ended.get("reason"),
        ended.get("finishedAt"),
        "terminated" in status.get("state", {}),
    )


def _death(death: Death) -> Object:
    return {
        "exitCode": death.exit_code,
        "reason": death.reason,
        "startedAt": written(death.started),
        "finishedAt": written(death.ended),
    }


def _ended(since: str, at: str) -> Object:
    return {
        "terminated": {"exitCode": 0, "reason": "Completed", "startedAt": since, "finishedAt": at}
    }


def _container(container: Object, state: Object) -> Object:
    image = container["image"]
    return {
        "name": container["name"],
        "image": image,
        "imageID": image,
        "containerID": f"simulated://{container['name']}",
        "restartCount": 0,
        **state,
    }


def _conditions(kinds: Iterable[str], status: str, now: datetime) -> list[Object]:
    return [{"type": kind, "status": status, "lastTransitionTime": written(now)} for kind in kinds]
