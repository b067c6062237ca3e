"""What the tests of firmware rely on: each promise of the hosts' management controllers."""

import json
from pathlib import Path
from typing import Any

import pytest
from redfish.rest.v1 import AuthMethod, HttpClient, InvalidCredentialsError, RetriesExhaustedError
from tests.conftest import Until
from tests.hosts import bmc
from tests.hosts.lab import Lab

ONE = "gpu-001"
INVENTORY = "/redfish/v1/UpdateService/FirmwareInventory"


def connect(lab: Lab, password: str = bmc.PASSWORD) -> HttpClient:
    """The product's own library, with the service's certificate checked."""
    client = HttpClient(
        base_url=lab.controllers.endpoint,
        username=bmc.USER,
        password=password,
        cafile=str(lab.controllers.authority),
        max_retry=0,
    )
    client.login(auth=AuthMethod.BASIC)
    return client


@pytest.fixture
def client(one: Lab) -> HttpClient:
    return connect(one)


def push(client: HttpClient, target: str, image: Path) -> Any:  # noqa: ANN401 - the library's
    parameters = json.dumps({"Targets": [f"{INVENTORY}/{target}"]})
    form = {
        "UpdateParameters": (None, parameters, "application/json"),
        "UpdateFile": (image.name, image.read_bytes(), "application/octet-stream"),
    }
    uri = client.get("/redfish/v1/UpdateService").dict["MultipartHttpPushUri"]
    return client.post(uri, body=form, headers={"Content-Type": "multipart/form-data"})


def version(client: HttpClient, target: str) -> str:
    return str(client.get(f"{INVENTORY}/{target}").dict["Version"])


def test_each_host_has_its_own_system_manager_chassis_and_firmware(client: HttpClient) -> None:
    members = client.get(INVENTORY).dict["Members"]
    assert len(members) == 16
    for entry in members:
        found = client.get(entry["@odata.id"]).dict
        host = found["Id"].rpartition("-")[0]
        related = client.get(found["RelatedItem"][0]["@odata.id"])
        assert related.dict["Id"] == host
    system = client.get(f"/redfish/v1/Systems/{ONE}").dict
    assert system["PowerState"] == "On"
    (chassis,) = system["Links"]["Chassis"]
    power = client.get(chassis["@odata.id"]).dict["PowerSubsystem"]
    assert client.get(power["@odata.id"]).status == 200


def test_a_wrong_password_is_refused(lab: Lab) -> None:
    with pytest.raises(InvalidCredentialsError):
        connect(lab, "another")


def test_an_update_goes_on_from_question_to_question_and_its_controller_restarts(
    one: Lab, client: HttpClient, until: Until
) -> None:
    taken = push(client, f"{ONE}-bmc", one.controllers.image("bmc", "1.02"))
    assert taken.status == 202
    percents = [client.get(taken.task_location).dict["PercentComplete"] for _ in range(3)]
    assert percents == [25, 50, 75]
    assert client.get(taken.task_location).dict["TaskState"] == "Completed"
    with pytest.raises(RetriesExhaustedError):
        client.get(taken.task_location)
    assert client.get("/redfish/v1/Managers/gpu-002").status == 200

    def answers() -> bool:
        try:
            return version(client, f"{ONE}-bmc") == "1.02"
        except RetriesExhaustedError:
            return False

    until(answers)
    assert client.get(f"/redfish/v1/Managers/{ONE}").dict["FirmwareVersion"] == "1.02"
    assert version(client, "gpu-002-bmc") == "1.00"


def test_an_update_that_fails_leaves_the_version(one: Lab, client: HttpClient) -> None:
    one.controllers.fault(ONE, "update-fails")
    taken = push(client, f"{ONE}-bmc", one.controllers.image("bmc", "1.03"))
    states = [client.get(taken.task_location).dict["TaskState"] for _ in range(3)]
    assert states == ["Running", "Exception", "Exception"]
    assert version(client, f"{ONE}-bmc") == "1.00"


def test_a_controller_that_never_returns_is_as_new_when_renewed(
    one: Lab, client: HttpClient
) -> None:
    one.controllers.fault(ONE, "does-not-return")
    taken = push(client, f"{ONE}-bmc", one.controllers.image("bmc", "1.02"))
    while client.get(taken.task_location).dict["TaskState"] == "Running":
        pass
    for _ in range(5):
        with pytest.raises(RetriesExhaustedError):
            version(client, f"{ONE}-bmc")
    one.renew(ONE)
    assert version(client, f"{ONE}-bmc") == "1.00"
    assert client.get(taken.task_location).status == 404


def test_an_image_for_something_else_is_refused(one: Lab, client: HttpClient) -> None:
    assert push(client, f"{ONE}-bmc", one.controllers.image("vbios", "97.00")).status == 400
    broken = one.controllers.folder / "broken"
    broken.write_bytes(b"\0\1\2")
    assert push(client, f"{ONE}-bmc", broken).status == 400


def test_a_new_vbios_is_there_after_the_next_boot(
    one: Lab, client: HttpClient, until: Until
) -> None:
    taken = push(client, f"{ONE}-vbios", one.controllers.image("vbios", "96.00.9F.00.02"))
    while client.get(taken.task_location).dict["TaskState"] == "Running":
        pass
    asked = ("nvidia-smi", "-i", "0", "--query-gpu=vbios_version", "--format=csv,noheader")
    assert one.ssh(ONE, *asked).stdout == "96.00.89.00.01\n"
    boots = one[ONE].boots
    reset = f"/redfish/v1/Systems/{ONE}/Actions/ComputerSystem.Reset"
    assert client.post(reset, body={"ResetType": "ForceRestart"}).status == 204
    one[ONE].wait(after=boots)
    assert one.ssh(ONE, *asked).stdout == "96.00.9F.00.02\n"
    until(lambda: version(client, f"{ONE}-vbios") == "96.00.9F.00.02")


def test_power_is_that_of_the_host(one: Lab, client: HttpClient) -> None:
    reset = f"/redfish/v1/Systems/{ONE}/Actions/ComputerSystem.Reset"
    client.post(reset, body={"ResetType": "GracefulShutdown"})
    one[ONE].wait_until_off()
    assert client.get(f"/redfish/v1/Systems/{ONE}").dict["PowerState"] == "Off"
    client.post(reset, body={"ResetType": "On"})
    one[ONE].wait(after=one[ONE].boots - 1)
    assert client.get(f"/redfish/v1/Systems/{ONE}").dict["PowerState"] == "On"


def test_an_unreachable_controller_is_one_of_many(one: Lab, client: HttpClient) -> None:
    one.controllers.fault(ONE, "unreachable")
    with pytest.raises(RetriesExhaustedError):
        version(client, f"{ONE}-bmc")
    assert version(client, "gpu-002-bmc") == "1.00"
    one.controllers.mend(ONE)
    assert version(client, f"{ONE}-bmc") == "1.00"


def test_power_that_is_not_healthy_is_told(one: Lab, client: HttpClient) -> None:
    base = f"/redfish/v1/Chassis/{ONE}/PowerSubsystem"
    assert client.get(f"{base}/Batteries/1").dict["Status"]["Health"] == "OK"
    for fault in ("battery-low", "supply-failed"):
        one.controllers.fault(ONE, fault)
    assert client.get(f"{base}/Batteries/1").dict["Status"]["Health"] == "Warning"
    assert client.get(f"{base}/PowerSupplies/2").dict["Status"]["Health"] == "Critical"
    assert client.get(f"{base}/PowerSupplies/1").dict["Status"]["Health"] == "OK"
