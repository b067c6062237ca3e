"""The worker on a cluster: which files it is given, and what is refused."""

import shutil
from pathlib import Path

import pytest

from gpufleet.core.cluster_worker import CONFIG_MAP_BYTES, declared_data, egress_ports, kubeconfig
from gpufleet.core.gateway.routes import routes_of
from gpufleet.edges.declared_files import read_declared, write_declared
from gpufleet.edges.engines import Binaries
from gpufleet.edges.price_file import price_table
from gpufleet.edges.pulumi import PulumiCli
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import BadInput
from gpufleet.spec.governance import FreezeCalendar, SnapshotKeys
from gpufleet.spec.hardware import ObjectStorage

SAMPLE = PROJECT_ROOT / "fleets/sample/production.yaml"


def test_declared_files_that_no_config_map_holds_are_refused_and_the_largest_is_named() -> None:
    files = {"production.yaml": "x", "calendars/company.ics": "y" * CONFIG_MAP_BYTES}
    with pytest.raises(BadInput, match=r"1\.0 MiB together") as refused:
        declared_data(files, "fleets/sample/production.yaml")
    assert refused.value.where == "fleets/sample/production.yaml"
    assert "calendars/company.ics" in refused.value.mend


def test_declared_files_are_the_same_fleet_in_another_folder(tmp_path: Path) -> None:
    fleet = load_fleet(SAMPLE)
    write_declared(read_declared(fleet, SAMPLE), tmp_path / "declared")
    assert load_fleet(tmp_path / "declared" / SAMPLE.name) == fleet
    calendar = "calendars/company.ics"
    sent = (tmp_path / "declared" / calendar).read_bytes()
    assert sent == (SAMPLE.parent / calendar).read_bytes()


def test_a_company_s_own_prices_go_along_as_the_gateway_s_routes_hold_them(tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    shutil.copytree(SAMPLE.parent, folder)
    (folder / "prices.csv").write_text(
        "# priced: 2026-11-01\n# currency: EUR\n"
        "provider,model,size,input_per_1m_tokens,output_per_1m_tokens,context_tokens\n"
        "anthropic,claude-haiku-4-5,medium,7,9,200000\n"
    )
    file = folder / SAMPLE.name
    file.write_text(file.read_text() + "\ncosts: {hosted_prices: prices.csv}\n")
    fleet = load_fleet(file)
    write_declared(read_declared(fleet, file), tmp_path / "declared")
    there = tmp_path / "declared" / SAMPLE.name
    sent = routes_of(load_fleet(there), price_table(load_fleet(there), there))
    assert sent == routes_of(fleet, price_table(fleet, file))
    hosted = sent.use_cases["code-assist"].hosted
    assert hosted
    assert hosted.input_per_million == 7


def test_public_keys_and_certificates_go_along_and_no_secret(tmp_path: Path) -> None:
    fleet = load_fleet(SAMPLE)
    folder = tmp_path / "sample"
    shutil.copytree(SAMPLE.parent, folder)
    public = ["store.pem", "signer.pem", "authority.pem", "chain.pem"]
    for name in [*public, "secret.pem", "secret.key"]:
        (folder / name).write_text(name)
    store = ObjectStorage(
        endpoint="https://s3.example.com", region="fra1", certificate_authority=public[0]
    )
    keys = SnapshotKeys(
        encryption_key="k1",
        encryption_key_file="secret.key",
        signing_key_file="secret.pem",
        public_key=public[1],
        certificate_authority=public[2],
        signing_certificates=public[3],
    )
    site = fleet.sites["fra1"].model_copy(update={"object_store": store})
    sites = {**fleet.sites, "fra1": site}
    fleet = fleet.model_copy(update={"snapshot_keys": keys, "sites": sites})
    sent = read_declared(fleet, folder / SAMPLE.name)
    assert {name for name in sent if name.endswith((".pem", ".key"))} == {*public}


@pytest.mark.parametrize("path", ["../outside.yaml", "/tmp/outside.yaml", "a/../../outside.yaml"])  # noqa: S108 - not written
def test_a_declared_file_is_never_written_outside_of_its_folder(tmp_path: Path, path: str) -> None:
    with pytest.raises(BadInput, match="leads out"):
        write_declared({path: "text"}, tmp_path / "declared")
    assert not (tmp_path / "outside.yaml").exists()


def test_the_worker_reaches_the_ports_of_the_declared_stores() -> None:
    fleet = load_fleet(SAMPLE)
    store = ObjectStorage(endpoint="https://s3.fra1.example.com:9000", region="fra1")
    site = fleet.sites["fra1"].model_copy(update={"object_store": store})
    declared = fleet.model_copy(update={"sites": {**fleet.sites, "fra1": site}})
    assert egress_ports(fleet) == [443, 5432, 6443]
    assert egress_ports(declared) == [443, 5432, 6443, 9000]
    calendar = FreezeCalendar(url="https://calendar.example:8443/c.ics", stale_after_s=3600)
    told = fleet.model_copy(update={"freeze_calendars": {"company": calendar}})
    assert egress_ports(told) == [443, 5432, 6443, 8443]


def test_the_kubeconfig_of_the_pod_names_files_and_holds_no_token() -> None:
    made = kubeconfig("fra1")
    assert made["users"][0]["user"] == {
        "tokenFile": "/var/run/secrets/kubernetes.io/serviceaccount/token"
    }
    assert made["current-context"] == "fra1"


def test_the_passphrase_of_the_states_may_be_given_by_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUFLEET_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
    files = tmp_path / "files"
    (files / "charts").mkdir(parents=True)
    names = ("pulumi-resource-kubernetes", "pulumi-language-python", "pulumi-language-python-exec")
    for name in names:
        (files / name).write_text("")
    binaries = Binaries({name: files / name for name in names}, files)
    (tmp_path / "passphrase").write_text("from a Secret\n")
    kept = {}
    for environment in ("given", "own"):
        state = EnvironmentDir(tmp_path / ".fleet" / environment)
        PulumiCli(Workspace(tmp_path), state, binaries, {}).prepare()
        kept[environment] = state.passphrase_file.read_text()
        monkeypatch.delenv("GPUFLEET_PASSPHRASE_FILE", raising=False)
    assert kept["given"] == "from a Secret"
    assert len(kept["own"]) > 32
