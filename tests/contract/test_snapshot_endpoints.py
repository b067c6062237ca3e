"""A snapshot store at another endpoint: the bucket in the path or the host, TLS, a key service."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tests.conftest import small_fleet
from tests.fault_proxy import ALWAYS, Fault, FaultProxy
from tests.object_stores import StoreServer
from tests.snapshot_bench import MIB, Bench, picture

from gpufleet.edges.clock import system_clock
from gpufleet.edges.database import Database
from gpufleet.edges.engines import resolve
from gpufleet.edges.object_client import Place
from gpufleet.edges.object_store import ObjectStore
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows.ground import Ground
from gpufleet.flows.snapshots.requests import store_of
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.flows.stores import places_of
from gpufleet.spec.errors import BadInput, Retryable
from gpufleet.spec.hardware import AddressingStyle, ObjectStorage

DOMAIN = "s3.test"


def certified(folder: Path) -> tuple[Path, Path, Path]:
    """Files of an authority's certificate, and of a certificate by it and its key."""
    now = datetime.now(UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]

    def made(name: str, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.Certificate:
        names = [
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, "ca")
        ]
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[0])
            .issuer_name(names[1])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            address = x509.IPAddress(ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder.sign(keys[0], hashes.SHA256())

    files = [folder / name for name in ("ca.pem", "server.pem", "server-key.pem")]
    files[0].write_bytes(made("ca", keys[0], ca=True).public_bytes(Encoding.PEM))
    files[1].write_bytes(made("server", keys[1], ca=False).public_bytes(Encoding.PEM))
    files[2].write_bytes(keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files[0], files[1], files[2]


def goes_there_and_back(server: StoreServer, place: Place, folder: Path) -> None:
    """A take and a restore, in a bucket with Object Lock."""
    ObjectStore(place).make_locked_bucket("models")
    objects = SnapshotObjects(SnapshotPlace(place, "models", "below/here"))
    bench = Bench(server, SnapshotStore(objects), folder)
    bench.source.mkdir()
    (bench.source / "model.bin").write_bytes(b"1" * (3 * MIB))
    (bench.source / "small").write_bytes(b"2")
    bench.restore(bench.take().snapshot)
    assert picture(bench.out) == picture(bench.source)
    assert objects.can_lock()
    assert objects.keeps_versions()


def test_a_store_that_has_its_buckets_in_its_hosts_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()
    address = socket.getaddrinfo

    def resolved(host: Any, *rest: Any, **more: Any) -> Any:  # noqa: ANN401 - as the library has it
        if isinstance(host, str) and host.endswith(DOMAIN):
            asked.add(host)
            host = "127.0.0.1"
        return address(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    binary = resolve(lambda _: None, ["versitygw"]).path("versitygw")
    server = StoreServer(binary, tmp_path / "s3", f"--virtual-domain={DOMAIN}")
    server.start()
    try:
        at = f"http://{DOMAIN}:{server.port}"
        place = Place(at, "here", "test", "test-secret", style="virtual")
        goes_there_and_back(server, place, tmp_path)
    finally:
        server.stop()
    assert asked == {f"models.{DOMAIN}"}


def test_a_store_whose_certificate_an_authority_of_our_own_signed(tmp_path: Path) -> None:
    ca, certificate, key = certified(tmp_path)
    binary = resolve(lambda _: None, ["versitygw"]).path("versitygw")
    server = StoreServer(binary, tmp_path / "s3", f"--cert={certificate}", f"--key={key}")
    server.start()
    try:
        at = f"https://127.0.0.1:{server.port}"
        goes_there_and_back(server, Place(at, "here", "test", "test-secret", ca=str(ca)), tmp_path)
        stranger = Place(at, "here", "test", "test-secret")
        with pytest.raises(Retryable, match="SSL validation failed"):
            SnapshotObjects(SnapshotPlace(stranger, "models")).find("format.json")
    finally:
        server.stop()


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    """An environment whose site declares its store."""
    declared = ObjectStorage(
        endpoint="https://s3.example.com",
        region="eu-central-1",
        style=AddressingStyle.VIRTUAL,
        certificate_authority="ca.pem",
        kms_key="alias/snapshots",
    )
    fleet = small_fleet("east", "west")
    site = fleet.sites["east"].model_copy(update={"object_store": declared})
    fleet = fleet.model_copy(update={"sites": {**fleet.sites, "east": site}})
    state = EnvironmentDir(tmp_path / "state").make()
    database = Database(f"sqlite:///{tmp_path / 'fleet.db'}")
    yield Ground(
        Workspace(PROJECT_ROOT), tmp_path / "fleet.yaml", fleet, state, database, system_clock
    )
    database.close()


def test_what_the_fleet_file_says_of_a_store_is_how_it_is_reached(
    ground: Ground, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="certificate authority is not there"):
        places_of(ground)
    certified(tmp_path)
    place = places_of(ground)["east"]
    assert (place.endpoint, place.style) == ("https://s3.example.com", "virtual")
    assert place.ca == str(tmp_path / "ca.pem")
    assert store_of(ground, "east").shown.startswith("https://s3.example.com/")


def test_a_store_with_a_key_service_is_asked_to_encrypt_every_object(
    snapshot_server: StoreServer, tmp_path: Path
) -> None:
    # versitygw has no key service: the proxy answers for it.
    with FaultProxy(snapshot_server.port) as proxy:
        proxy.faults = [Fault("status", "PUT", "", ALWAYS, (200, ""))]
        place = Place(f"http://127.0.0.1:{proxy.port}", "here", "test", "test-secret")
        objects = SnapshotObjects(
            SnapshotPlace(place, "plain", tmp_path.name, kms_key="alias/snapshots")
        )
        objects.put("one", b"1")
        assert objects.put_new("two", b"2")
    puts = [headers for method, _, headers in proxy.seen if method == "PUT"]
    assert len(puts) == 2
    for headers in puts:
        assert headers["x-amz-server-side-encryption"] == "aws:kms"
        assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/snapshots"
