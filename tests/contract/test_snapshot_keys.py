"""Snapshots that are encrypted and signed with the keys that a fleet file names."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tests.conftest import small_fleet
from tests.object_stores import StoreServer
from tests.snapshot_bench import MIB, picture, quiet

from gpufleet.core.snapshots.layout import MANIFEST, SIGNATURE, SUMMARY, snapshot_key
from gpufleet.core.snapshots.manifest import decode, encode, encode_summary, summarize
from gpufleet.core.snapshots.signatures import Forged
from gpufleet.core.vocabulary import SIGNING_KEY_VARIABLE, SNAPSHOT_KEY_VARIABLE
from gpufleet.edges.clock import system_clock
from gpufleet.edges.database import Database
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows.ground import Ground
from gpufleet.flows.snapshots import requests
from gpufleet.flows.snapshots.keys import trust_of
from gpufleet.flows.snapshots.requests import TakeWish
from gpufleet.flows.snapshots.restore import RestoreOrder
from gpufleet.flows.snapshots.signed import Unsigned
from gpufleet.flows.snapshots.verify import VerifyOrder, verify
from gpufleet.spec.errors import BadInput, FleetError
from gpufleet.spec.governance import SnapshotKeys
from gpufleet.tasks import snapshot_view


@pytest.fixture
def ground(
    snapshot_server: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ground]:
    """An environment whose first site has a store, and a source beside its fleet file."""
    for variable in (SNAPSHOT_KEY_VARIABLE, SIGNING_KEY_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    state = EnvironmentDir(tmp_path / "state").make()
    snapshot_server.declare(state, "east")
    name = "".join(each for each in tmp_path.name if each.isalnum())[-20:]
    fleet = small_fleet("east", "west").model_copy(update={"fleet": f"{name}{os.getpid()}"})
    database = Database(f"sqlite:///{tmp_path / 'fleet.db'}")
    database.migrate()
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "model.bin").write_bytes(os.urandom(2 * MIB))
    (tmp_path / "source" / "config.json").write_text("{}")
    file = tmp_path / "fleet.yaml"
    yield Ground(Workspace(PROJECT_ROOT), file, fleet, state, database, system_clock)
    database.close()


def keyed(ground: Ground, **keys: object) -> Ground:
    fleet = ground.fleet.model_copy(update={"snapshot_keys": SnapshotKeys.model_validate(keys)})
    return replace(ground, fleet=fleet)


def secret(folder: Path, name: str, content: bytes) -> Path:
    file = folder / name
    file.write_bytes(content)
    file.chmod(0o600)
    return file


def taken(ground: Ground, sign_key: Path | None = None) -> str:
    source = ground.fleet_file.parent / "source"
    return requests.taken(ground, TakeWish(source, "r1", sign_key=sign_key), "", quiet).snapshot


def order_of(ground: Ground, snapshot: str, *, unsigned: bool = False) -> RestoreOrder:
    return RestoreOrder(snapshot, ground.fleet_file.parent / "out", unsigned=unsigned)


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)
    return secret(folder, f"{name}.pem", private), folder / f"{name}.pub"


def test_chunks_are_encrypted_with_the_key_that_the_fleet_file_names_and_no_other_opens_them(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret(tmp_path, "store.key", os.urandom(32).hex().encode() + b"\n")
    with_key = keyed(ground, encryption_key="k1", encryption_key_file="store.key")
    snapshot = taken(with_key)
    requests.restored(with_key, order_of(ground, snapshot), "", quiet)
    assert picture(tmp_path / "out") == picture(tmp_path / "source")
    other = secret(tmp_path, "other.key", os.urandom(32).hex().encode())
    monkeypatch.setenv(SNAPSHOT_KEY_VARIABLE, str(other))
    for wrong in (ground, with_key, keyed(ground, encryption_key="k2")):
        with pytest.raises(BadInput, match=r"the store has the key `k1\.[0-9a-f]{8}`"):
            requests.restored(wrong, order_of(ground, snapshot), "", quiet)
    monkeypatch.setenv(SNAPSHOT_KEY_VARIABLE, str(tmp_path / "store.key"))
    requests.restored(keyed(ground, encryption_key="k1"), order_of(ground, snapshot), "", quiet)


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        (b"short", 0o600, "holds no key of 64"),
        (b"0" * 65, 0o600, "holds no key of 64"),
        (b"0" * 64, 0o644, "others can read"),
        (None, 0o600, "cannot be read"),
    ],
)
def test_a_file_that_holds_no_key_is_one_clear_error(
    ground: Ground, tmp_path: Path, content: bytes | None, mode: int, told: str
) -> None:
    if content is not None:
        secret(tmp_path, "store.key", content).chmod(mode)
    wrong = keyed(ground, encryption_key="k1", encryption_key_file="store.key")
    with pytest.raises(BadInput, match=told):
        requests.store_of(wrong)
    with pytest.raises(BadInput, match="nothing names its file"):
        requests.store_of(keyed(ground, encryption_key="k1"))


def test_where_signatures_are_demanded_only_a_signed_snapshot_is_restored_unless_told(
    ground: Ground, tmp_path: Path
) -> None:
    key_pair(tmp_path, "ours")
    theirs, _ = key_pair(tmp_path, "theirs")
    demanding = keyed(
        ground, signing_key_file="ours.pem", public_key="ours.pub", signatures_required=True
    )
    signed = taken(demanding)
    requests.restored(demanding, order_of(ground, signed), "", quiet)
    assert picture(tmp_path / "out") == picture(tmp_path / "source")
    assert requests.store_of(ground).objects.find(snapshot_key(signed, SIGNATURE))
    cases: list[tuple[Path | None, type[FleetError]]] = [(None, Unsigned), (theirs, Forged)]
    for number, (sign_key, refused) in enumerate(cases):
        (tmp_path / "source" / "config.json").write_text("{}" * (number + 2))
        snapshot = taken(ground, sign_key)
        with pytest.raises(refused):
            requests.planned_restore(demanding, order_of(ground, snapshot), "")
        with pytest.raises(refused):
            requests.restored(demanding, order_of(ground, snapshot), "", quiet)
        assert picture(tmp_path / "out") != picture(tmp_path / "source")
        requests.restored(demanding, order_of(ground, snapshot, unsigned=True), "", quiet)
        assert picture(tmp_path / "out") == picture(tmp_path / "source")
    with pytest.raises(BadInput, match="nothing says whose count"):
        requests.restored(
            keyed(ground, signatures_required=True), order_of(ground, signed), "", quiet
        )


def test_a_forged_manifest_with_the_signature_of_another_is_refused(
    ground: Ground, tmp_path: Path
) -> None:
    key_pair(tmp_path, "ours")
    demanding = keyed(
        ground, signing_key_file="ours.pem", public_key="ours.pub", signatures_required=True
    )
    real = taken(demanding)
    store = requests.store_of(demanding)
    manifest = decode(store.objects.get(snapshot_key(real, MANIFEST)), snapshot=real)
    first, second = manifest.files
    # Each file keeps the SHA-256 that was signed, and gets the other one's chunks.
    forged = replace(
        manifest,
        files=(
            first._replace(
                blake3=second.blake3, chunks=second.chunks, plain_bytes=second.plain_bytes
            ),
            second,
        ),
    )
    body = encode(forged)
    summary = summarize(forged, body, stored_bytes=0, signed=True)
    for part, content in (
        (SUMMARY, encode_summary(summary)),
        (SIGNATURE, store.objects.get(snapshot_key(real, SIGNATURE))),
        (MANIFEST, body),
    ):
        store.objects.put(snapshot_key(summary.id, part), content)
    with pytest.raises(Forged, match="of another manifest"):
        requests.restored(demanding, order_of(ground, summary.id), "", quiet)
    report = verify(store, VerifyOrder(summary.id, trust=trust_of(demanding)), quiet)
    assert [each.key for each in report.damaged] == [snapshot_key(summary.id, SIGNATURE)]


def test_a_deep_verification_checks_the_signature_by_the_keys_that_are_given(
    ground: Ground, tmp_path: Path
) -> None:
    ours, public = key_pair(tmp_path, "ours")
    _, stranger = key_pair(tmp_path, "theirs")
    snapshot = taken(ground, ours)
    wish = snapshot_view.verify_wish(snapshot, "100%", "")
    store = requests.store_of(ground)
    assert not verify(store, wish, quiet).signature_checked
    deep = snapshot_view.deep_wish(ground, wish, str(public), "")
    report = verify(store, deep, quiet)
    assert report.good
    assert report.signature_checked
    wrong = snapshot_view.deep_wish(ground, wish, str(stranger), "")
    assert not verify(store, wrong, quiet).good
    with pytest.raises(BadInput, match="nothing says whose signatures count"):
        snapshot_view.deep_wish(ground, wish, "", "")
