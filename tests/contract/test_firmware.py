"""Firmware by Redfish, against sushy-tools' emulator with an update service."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.hosts.bmc import PASSWORD, USER, Controllers

from gpufleet.edges.redfish import Controller
from gpufleet.flows import firmware_line
from gpufleet.flows.firmware import demand, observe, update
from gpufleet.flows.firmware_line import FirmwareOrder, Login
from gpufleet.flows.power_cycle import power_cycle
from gpufleet.spec.errors import BadInput, Failed, PolicyRefused, Retryable
from gpufleet.spec.firmware import UpdateState
from gpufleet.spec.patching import Part

LOGIN = Login(USER, PASSWORD)
HOSTS = [f"gpu-{number:03d}" for number in range(1, 25)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controllers]:
    folder = tmp_path_factory.mktemp("lab") / "bmc"
    with Controllers.started(folder, "127.0.0.1", HOSTS) as made:
        yield made


@pytest.fixture
def host(service: Controllers) -> Iterator[str]:
    """A host that no other test has touched."""
    name = HOSTS.pop(0)
    yield name
    # A controller that did not return would be silent for whoever lists all systems.
    service.renew(name)


def order(service: Controllers, host: str, version: str, part: Part = Part.BMC) -> FirmwareOrder:
    image = service.image(part.value, version)
    return FirmwareOrder(
        service.endpoint,
        host,
        part,
        version,
        image,
        service.authority,
        within_s=60,
        settles_within_s=1,
    )


def test_firmware_is_written_once_and_the_second_run_changes_nothing(
    service: Controllers, host: str
) -> None:
    wanted = order(service, host, "2.00")
    first = update(wanted, LOGIN)
    assert (first.changed, first.activated) == (True, True)
    assert first.before == {f"{host}-bmc": "1.00"}
    assert first.after == {f"{host}-bmc": "2.00"}
    second = update(wanted, LOGIN)
    assert not second.changed
    assert observe(wanted, LOGIN) == {f"{host}-bmc": "2.00"}


def test_gpu_firmware_waits_for_the_hosts_restart(service: Controllers, host: str) -> None:
    done = update(order(service, host, "96.00.9F.00.01", Part.VBIOS), LOGIN)
    assert (done.changed, done.activated) == (True, False)


def test_an_older_firmware_is_refused_and_stays(service: Controllers, host: str) -> None:
    older = order(service, host, "0.90")
    with pytest.raises(PolicyRefused, match="forward only"):
        update(older, LOGIN)
    assert observe(older, LOGIN) == {f"{host}-bmc": "1.00"}
    assert update(replace(older, rehearsed=True), LOGIN).after == {f"{host}-bmc": "0.90"}


@pytest.mark.parametrize(
    ("fault", "why"), [("battery-low", "battery 1"), ("supply-failed", "power supply 2")]
)
def test_no_firmware_is_written_on_failing_power(
    service: Controllers, host: str, fault: str, why: str
) -> None:
    service.fault(host, fault)
    wanted = order(service, host, "2.00")
    with pytest.raises(PolicyRefused, match=why):
        demand(wanted, LOGIN)
    with pytest.raises(PolicyRefused, match=why):
        update(wanted, LOGIN)
    assert observe(wanted, LOGIN) == {f"{host}-bmc": "1.00"}


def test_an_update_that_fails_is_told_with_the_controllers_words(
    service: Controllers, host: str
) -> None:
    service.fault(host, "update-fails")
    with pytest.raises(Failed, match="the component keeps its version"):
        update(order(service, host, "2.00"), LOGIN)


def test_an_update_that_hangs_ends_at_its_limit_and_is_taken_up_again(
    service: Controllers, host: str
) -> None:
    service.fault(host, "update-hangs")
    wanted = order(service, host, "2.00")
    with pytest.raises(Failed, match="did not end within"):
        update(replace(wanted, within_s=1), LOGIN)
    service.mend(host)
    # The controller refuses a second image while it writes the first.
    assert update(wanted, LOGIN).after == {f"{host}-bmc": "2.00"}


def test_a_controller_that_does_not_return_is_told_as_such(service: Controllers, host: str) -> None:
    service.fault(host, "does-not-return")
    with pytest.raises(Retryable, match="does not answer"):
        update(replace(order(service, host, "2.00"), within_s=12), LOGIN)


def test_an_image_that_is_not_the_declared_one_is_never_sent(
    service: Controllers, host: str
) -> None:
    wanted = order(service, host, "2.00")
    wanted.image.write_text("something else", encoding="ascii")
    with pytest.raises(BadInput, match="not the file that its digest tells of"):
        update(wanted, LOGIN)
    Path(f"{wanted.image}.sha256").unlink()
    with pytest.raises(BadInput, match="cannot be read"):
        update(wanted, LOGIN)
    assert observe(wanted, LOGIN) == {f"{host}-bmc": "1.00"}


def test_a_wrong_password_is_one_clear_error_that_does_not_repeat_it(
    service: Controllers, host: str
) -> None:
    secret = "hunter2-of-somebody"
    with pytest.raises(BadInput, match="refuses user or password") as told:
        observe(order(service, host, "2.00"), Login(USER, secret))
    assert secret not in str(told.value)
    assert secret not in repr(Login(USER, secret))


def test_an_update_whose_task_is_forgotten_is_awaited_to_its_end(
    service: Controllers, host: str
) -> None:
    service.fault(host, "forgets")
    done = update(order(service, host, "96.00.9F.00.01", Part.VBIOS), LOGIN)
    assert (done.changed, done.activated) == (True, False)
    # All of it is written: a restart of the host cuts nothing short.
    written = service.folder.parent / host / "var/upper/lib/gpu-stub/next_vbios"
    assert written.read_text(encoding="utf-8").strip() == "96.00.9F.00.01"


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_an_answer_that_says_nothing_of_the_update_does_not_fail_it(
    service: Controllers, host: str, status: int
) -> None:
    service.fault(host, f"answers-{status}")
    assert update(order(service, host, "2.00"), LOGIN).after == {f"{host}-bmc": "2.00"}
    assert not (service.folder / "faults" / f"{host}.answers-{status}").exists()


def test_an_update_that_waits_for_a_reset_is_as_far_as_it_comes(
    service: Controllers, host: str
) -> None:
    service.fault(host, "awaits-reset")
    wanted = order(service, host, "2.00")
    first = update(wanted, LOGIN)
    assert (first.changed, first.activated) == (True, False)
    # A run that was killed finds it staged, and sends nothing a second time.
    assert update(wanted, LOGIN) == first


def test_one_login_serves_a_whole_update(
    service: Controllers, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    class Counted(Controller):
        def __init__(
            self, endpoint: str, user: str, password: str, authority: Path | None = None
        ) -> None:
            opened.append(endpoint)
            super().__init__(endpoint, user, password, authority)

    monkeypatch.setattr(firmware_line, "Controller", Counted)
    update(order(service, host, "96.00.9F.00.01", Part.VBIOS), LOGIN)
    assert len(opened) == 1


def test_a_hosts_power_goes_off_and_on(service: Controllers, host: str) -> None:
    wanted = order(service, host, "2.00")
    assert power_cycle(wanted, LOGIN) == ["GracefulShutdown", "On"]
    with Controller(service.endpoint, USER, PASSWORD, service.authority) as controller:
        assert controller.power(host) == "On"


def test_a_host_of_which_a_power_cycle_is_wanted_need_not_show_the_version_before(
    service: Controllers, host: str
) -> None:
    service.fault(host, "awaits-reset")
    wanted = replace(order(service, host, "2.00"), activation="power-cycle")
    assert not update(wanted, LOGIN).activated


def test_a_certificate_that_nobody_known_signed_is_refused(service: Controllers) -> None:
    with pytest.raises(BadInput, match="not signed by a known authority"):
        Controller(service.endpoint, USER, PASSWORD)


def test_a_task_that_the_controller_has_forgotten_is_gone(service: Controllers, host: str) -> None:
    with Controller(service.endpoint, USER, PASSWORD, service.authority) as controller:
        progress = controller.progress("/redfish/v1/TaskService/Tasks/none")
        assert progress.state is UpdateState.GONE
        assert controller.running_updates(host) == []
        with pytest.raises(BadInput, match="its entries are: gpu-001-bmc"):
            controller.firmware("nothing")
        with pytest.raises(BadInput, match="no system `none`"):
            controller.condition("none")
