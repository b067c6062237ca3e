"""The embedded gateway's processes and what is put into its folder."""

import json
import stat
from pathlib import Path

import pytest
from cryptography import x509

from gpufleet.edges.gateway_files import publish, read_published
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.local.gateway_layout import GatewayFiles, gateway, gateway_control
from gpufleet.local.platform import ends_again_and_again, restarts_of_gateway
from gpufleet.local.process import Process
from gpufleet.local.supervisor import ProcessState, Supervisor
from gpufleet.spec import load_fleet
from gpufleet.spec.gateway import Routes

ARTICLE = PROJECT_ROOT / "fleets/article/production.yaml"
KEY = "GPUFLEET_HOSTED_KEY_ANSWERS"


@pytest.fixture
def files(tmp_path: Path) -> GatewayFiles:
    ports = {"gateway": 20_001, "gateway-control": 20_002}
    return GatewayFiles(tmp_path / "gateway", ports, Path("/venv/bin/python"))


def declared(files: GatewayFiles) -> tuple[Process, Process]:
    files.prepare(load_fleet(ARTICLE), ARTICLE)
    database = files.folder / "database.url"
    return gateway(files, ["east.bootstrap"]), gateway_control(
        files, ARTICLE, database, ["east.bootstrap"]
    )


def test_a_gateway_without_a_cluster_begins_with_the_declared_routes(files: GatewayFiles) -> None:
    declared(files)
    routes = read_published(files.folder / "routes.json", Routes)
    assert routes
    assert list(routes.use_cases) == ["answers"]
    assert stat.S_IMODE(files.folder.stat().st_mode) == 0o700


def test_routes_that_a_cluster_was_told_are_not_taken_back(files: GatewayFiles) -> None:
    declared(files)
    file = files.folder / "routes.json"
    deployed = json.loads(file.read_text())
    deployed["use_cases"]["answers"]["concurrency_limit"] = 7
    publish(file, json.dumps(deployed))
    declared(files)
    kept = read_published(file, Routes)
    assert kept
    assert kept.use_cases["answers"].concurrency_limit == 7


@pytest.mark.parametrize("torn", ["", "{", '{"fleet": "x"}', "\udcff"])
def test_routes_that_are_torn_or_of_another_version_are_made_anew(
    files: GatewayFiles, torn: str
) -> None:
    files.folder.mkdir()
    (files.folder / "routes.json").write_bytes(torn.encode("utf-8", "surrogateescape"))
    declared(files)
    assert read_published(files.folder / "routes.json", Routes)


def test_both_processes_listen_on_loopback_and_are_asked_whether_they_serve(
    files: GatewayFiles,
) -> None:
    public, control = declared(files)
    assert public.ready == "https://127.0.0.1:20001/health/readiness"
    assert control.ready == "http://127.0.0.1:20002/readyz"
    assert "--host=127.0.0.1" in public.command
    assert "0.0.0.0" not in " ".join((*public.command, *control.command))  # noqa: S104 - not there


def test_the_gateway_starts_anew_for_its_code_and_never_for_the_fleet_file(
    files: GatewayFiles,
) -> None:
    for process in declared(files):
        assert ARTICLE not in process.reads
        assert PROJECT_ROOT / "modules/gpufleet/core/gateway/routes.py" in process.reads


def test_clients_trust_one_authority_that_signed_for_loopback(files: GatewayFiles) -> None:
    certificate, key = files.certificate()
    made = x509.load_pem_x509_certificate(certificate.read_bytes())
    made.verify_directly_issued_by(x509.load_pem_x509_certificate(files.authority.read_bytes()))
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"127.0.0.1", "localhost"} == {str(name.value) for name in names}
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_keys_of_hosted_apis_are_on_no_command_line_and_outlive_the_terminal(
    files: GatewayFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "sk-it's-secret")
    first, _ = declared(files)
    assert "secret" not in " ".join((*first.command, *first.environment))
    kept = files.folder / "hosted.env"
    assert kept in first.reads
    assert kept.read_text() == f"{KEY}='sk-it'\"'\"'s-secret'\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    monkeypatch.delenv(KEY)
    declared(files)
    assert "secret" in kept.read_text()


def test_declaring_again_changes_nothing(files: GatewayFiles) -> None:
    before = declared(files)
    content = {file: file.read_bytes() for file in files.folder.rglob("*") if file.is_file()}
    assert declared(files) == before
    assert {file: file.read_bytes() for file in content} == content


def test_whoever_declares_it_declares_the_same(
    files: GatewayFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = declared(files)
    # As the worker has it from the supervisor.
    monkeypatch.setenv("SSL_CERT_FILE", str(files.authority))
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")
    assert declared(files) == before


def test_a_shared_process_may_wait_for_one_of_a_site(files: GatewayFiles, tmp_path: Path) -> None:
    public, _ = declared(files)
    Supervisor(tmp_path).declare({"_": [public]})
    text = (tmp_path / "processes.yaml").read_text()
    assert "east.bootstrap:\n        condition: process_completed_successfully" in text


def test_a_gateway_that_ends_again_and_again_will_not_come_up() -> None:
    other = ProcessState("fra1", "etcd", "running", 1, 9, ready=False)

    def gateway(restarts: int, *, ready: bool = False) -> list[ProcessState]:
        return [other, ProcessState("_", "gateway", "restarting", 0, restarts, ready=ready)]

    before = restarts_of_gateway(gateway(7))
    assert (restarts_of_gateway([other]), before) == (0, 7)
    assert [each.process for each in ends_again_and_again(gateway(12), before)] == ["gateway"]
    for states in (gateway(7), gateway(11), gateway(12, ready=True), [other]):
        assert ends_again_and_again(states, before) == []
