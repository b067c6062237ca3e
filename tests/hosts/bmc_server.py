"""sushy-tools' Redfish emulator for the lab's hosts, with `bmc_pages` over it."""

import json
import socket
import ssl
import sys
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import flask
from sushy_tools.emulator import main as emulator_main
from sushy_tools.emulator.main import app
from sushy_tools.emulator.resources.systems.fakedriver import FakeDriver
from tests.hosts.bmc_pages import PUSH, Firmware, collection, inventory, link, power, updates
from werkzeug.serving import make_server


class _Hosts(FakeDriver):  # type: ignore[misc]  # sushy-tools ships no types
    """Systems whose power is that of the lab's hosts; of none, where nobody answers for it."""

    power_url = ""

    def get_power_state(self, identity: str) -> str:
        """Whether the host is on."""
        if not self.power_url:
            return str(super().get_power_state(identity))
        return self._ask(identity)

    def set_power_state(self, identity: str, state: str) -> None:
        """Press the host's button."""
        if self.power_url:
            self._ask(identity, state.encode())
        else:
            super().set_power_state(identity, state)

    def _ask(self, identity: str, order: bytes | None = None) -> str:
        address = f"{self.power_url}power/{self.name(identity)}"
        method = "GET" if order is None else "PUT"
        asked = urllib.request.Request(address, order, method=method)  # noqa: S310 - the lab's own
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
            return str(answer.read().decode())


def _extend(firmware: Firmware) -> None:
    """Put what the emulator has not over what it has."""
    for pages in (inventory(firmware), updates(firmware), power(firmware)):
        app.register_blueprint(pages)

    def also(view: str, add: Callable[[dict[str, Any]], None]) -> None:
        known = app.view_functions[view]

        def extended(**arguments: str) -> flask.Response:
            answer: flask.Response = flask.make_response(known(**arguments))
            if answer.status_code != 200 or not answer.is_json:
                return answer
            body = answer.get_json()
            add(body)
            answer.set_data(json.dumps(body))
            return answer

        app.view_functions[view] = extended

    def own_version(body: dict[str, Any]) -> None:
        body["FirmwareVersion"] = firmware.version(body["Id"], "bmc")

    def own_chassis(body: dict[str, Any]) -> None:
        body["Links"]["Chassis"] = [link(f"Chassis/{body['Id']}")]

    def chassis(identity: str) -> dict[str, Any]:
        if identity not in firmware.hosts:
            flask.abort(404)
        links = {
            "ComputerSystems": [link(f"Systems/{identity}")],
            "ManagedBy": [link(f"Managers/{identity}")],
        }
        return {
            **link(f"Chassis/{identity}"),
            "@odata.type": "#Chassis.v1_23_0.Chassis",
            "Id": identity,
            "Name": f"Chassis of {identity}",
            "ChassisType": "RackMount",
            "PowerSubsystem": link(f"Chassis/{identity}/PowerSubsystem"),
            "Links": links,
        }

    def push_uri(body: dict[str, Any]) -> None:
        body["MultipartHttpPushUri"] = PUSH

    also("manager_resource", own_version)
    also("UpdateService.update_service_resource", push_uri)
    also("root_resource", lambda body: body.update(Tasks=link("TaskService")))
    also("system_resource", own_chassis)
    # The emulator's own are all of the first chassis, and called by a UUID.
    app.view_functions["chassis_resource"] = chassis
    app.view_functions["chassis_collection_resource"] = lambda: collection(
        "Chassis", "Chassis", firmware.hosts
    )


def main() -> None:
    """Serve until killed."""
    folder = Path(sys.argv[1])
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    hosts: list[str] = settings["hosts"]
    firmware = Firmware(folder, hosts)
    _Hosts.power_url = settings["power_url"]
    emulator_main.fakedriver.FakeDriver = _Hosts
    system = {"power_state": "On", "external_notifier": False, "nics": []}
    app.configure(
        extra_config={
            "SUSHY_EMULATOR_FAKE_DRIVER": True,
            "SUSHY_EMULATOR_STATE_DIR": str(folder),
            "SUSHY_EMULATOR_AUTH_FILE": settings["htpasswd"],
            # Its id is its name: a system that has another one is only reached by redirects.
            "SUSHY_EMULATOR_FAKE_SYSTEMS": [
                {**system, "uuid": host, "name": host} for host in hosts
            ],
        }
    )
    _extend(firmware)
    below: WSGIApplication = app.wsgi_app

    def lossy(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not firmware.answers(environ.get("PATH_INFO", "")):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError
        return below(environ, start_response)

    app.wsgi_app = lossy
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings["certificate"], settings["key"])
    make_server(
        settings["address"], settings["port"], app, threaded=True, ssl_context=context
    ).serve_forever()


if __name__ == "__main__":
    main()
