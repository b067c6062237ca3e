"""Weights of pods: what pins them, where they come from, and what their pods are given."""

import hashlib
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pulumi
import pytest
from blake3 import blake3
from tests.drill_stages import placed_once
from tests.recorded import Recorder, declare

from gpufleet.components.pod_template import pod_spec
from gpufleet.components.serving_pool import PoolContext, ServingPool
from gpufleet.core import admission
from gpufleet.core import vocabulary as names
from gpufleet.core.drills.stage import stage_fleet
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.core.snapshots.revision import revision_digest
from gpufleet.core.weights import Source, source_of
from gpufleet.edges.key_files import read_secret
from gpufleet.edges.object_client import Place
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.flows.drills.objects import contents
from gpufleet.flows.snapshots.restore import readable
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import BadInput
from gpufleet.spec.governance import SnapshotKeys
from gpufleet.spec.hardware import AddressingStyle, ObjectStorage
from gpufleet.spec.snapshots import ChunkRef, FileEntry, FolderEntry, LinkEntry, Manifest

SAMPLE = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
CHUNKS = tuple(ChunkRef(blake3(text).hexdigest(), 7) for text in (b"one", b"two", b"three"))
WHOLE = blake3(b"".join(bytes.fromhex(chunk.id) for chunk in CHUNKS[:2])).hexdigest()
SMALL = FileEntry("config.json", 0o600, 7, CHUNKS[2].id, CHUNKS[2:])
LARGE = FileEntry("model.safetensors", 0o644, 14, WHOLE, CHUNKS[:2])
TREE = Manifest(
    created=datetime(2026, 11, 26, tzinfo=UTC),
    revision="chat-v7",
    tool="gpufleet 0.1.0",
    files=(SMALL, LARGE),
    folders=(FolderEntry("adapters", 0o700),),
    links=(LinkEntry("latest.json", "config.json"),),
)
STORE = ObjectStorage(
    endpoint="https://s3.example.com:9000",
    region="fra1",
    style=AddressingStyle.VIRTUAL,
    certificate_authority="ca.pem",
)


def test_the_digest_is_the_one_that_the_page_describes() -> None:
    text = (
        f'{{"files":[["config.json",384,7,"{CHUNKS[2].id}"],'
        f'["model.safetensors",420,14,"{WHOLE}"]],'
        '"folders":[["adapters",448]],"links":[["latest.json","config.json"]]}'
    )
    assert revision_digest(TREE) == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


@pytest.mark.parametrize(
    "other",
    [
        replace(TREE, created=datetime(2027, 1, 1, tzinfo=UTC)),
        replace(TREE, revision="chat-v8", tool="gpufleet 9", parent="20261126T101500Z-3fa9c1d2"),
        replace(TREE, files=(LARGE, SMALL._replace(sha256="ab" * 32))),
    ],
)
def test_when_and_by_what_it_was_taken_is_not_in_the_digest(other: Manifest) -> None:
    assert revision_digest(other) == revision_digest(TREE)


@pytest.mark.parametrize(
    "other",
    [
        replace(TREE, files=(SMALL, LARGE._replace(path="other.safetensors"))),
        replace(TREE, files=(SMALL, LARGE._replace(mode=0o755))),
        replace(TREE, files=(SMALL,)),
        replace(TREE, folders=()),
        replace(TREE, links=(LinkEntry("latest.json", "model.safetensors"),)),
        # What a forger would write: the digest of a file that its chunks are not.
        replace(TREE, files=(SMALL, LARGE._replace(chunks=(CHUNKS[1], CHUNKS[0])))),
        replace(TREE, files=(SMALL._replace(chunks=CHUNKS[:1]), LARGE)),
    ],
)
def test_whatever_of_the_tree_is_another_has_another_digest(other: Manifest) -> None:
    assert revision_digest(other) != revision_digest(TREE)


def test_every_user_can_read_a_readable_tree_and_run_what_somebody_can() -> None:
    tool = SMALL._replace(path="run.sh", mode=0o700)
    made = readable(replace(TREE, files=(SMALL, LARGE, tool)))
    assert [each.mode for each in made.files] == [0o644, 0o644, 0o755]
    assert [each.mode for each in made.folders] == [0o755]


def test_a_model_s_snapshots_are_those_of_its_name_or_of_its_source() -> None:
    name, model = next(iter(SAMPLE.models.items()))
    assert str(source_of(SAMPLE, name)) == f"s3://sample-production-snapshots/{name}"
    declared = model.model_copy(update={"source": "s3://models/chat-v7"})
    fleet = SAMPLE.model_copy(update={"models": {name: declared}})
    assert source_of(fleet, name) == Source("models", "chat-v7")


@pytest.mark.parametrize(
    "text", ["", "models/a", "s3://models", "s3://models/", "s3://models/a/b", "s3://models/.."]
)
def test_what_names_no_snapshots_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="names no snapshots"):
        Source.of(text)


def with_store(fleet: Fleet, **more: object) -> Fleet:
    sites = {
        name: site.model_copy(update={"object_store": STORE}) for name, site in fleet.sites.items()
    }
    return fleet.model_copy(update={"sites": sites, **more})


def pools(fleet: Fleet) -> list[PoolAtSite]:
    return [pool for site in fleet.sites for pool in pools_at(fleet, site)]


def restore_of(spec: dict[str, Any]) -> dict[str, Any]:
    (container,) = spec["initContainers"]
    return dict(container)


@pytest.mark.parametrize("fleet", [SAMPLE, with_store(SAMPLE)], ids=["default", "declared"])
def test_admission_lets_in_what_the_pods_of_pools_are_told(fleet: Fleet) -> None:
    told = admission.parameters(fleet)["data"]
    for pool in pools(fleet):
        arguments = restore_of(pod_spec(pool, fleet.images.gpufleet))["args"]
        (source,) = [each for each in arguments if each.startswith("--source=")]
        assert source.removeprefix("--source=") in told["artifacts"].split("\n")
        assert f"--digest={pool.model.digest}" in arguments
        assert pool.model.digest in told["digests"].split("\n")


def test_pods_are_told_a_declared_store_and_else_leave_it_to_their_variables() -> None:
    told = {"--endpoint=https://s3.example.com:9000", "--region=fra1", "--style=virtual"}
    for fleet, expected in ((SAMPLE, set[str]()), (with_store(SAMPLE), told)):
        arguments = set(restore_of(pod_spec(pools(fleet)[0], "image"))["args"])
        assert arguments & told == expected
        assert expected or not any(each.startswith("--endpoint") for each in arguments)


def test_keys_and_authorities_are_files_of_a_secret_where_the_fleet_declares_them() -> None:
    keys = SnapshotKeys(encryption_key="k1")
    bare = pod_spec(pools(SAMPLE)[0], "image")
    full = pod_spec(pools(with_store(SAMPLE, snapshot_keys=keys))[0], "image")
    assert not [each for each in bare["volumes"] if "secret" in each]
    (secret,) = [each["secret"] for each in full["volumes"] if "secret" in each]
    assert (secret["secretName"], secret["optional"]) == (names.ARTIFACT_FILES, True)
    assert {each["key"] for each in secret["items"]} == {"snapshot-key", "ca.crt"}
    restore = restore_of(full)
    (mount,) = [each for each in restore["volumeMounts"] if each["name"] == "artifact-files"]
    variables = {each["name"]: each["value"] for each in restore["env"]}
    assert variables["GPUFLEET_SNAPSHOT_KEY_FILE"] == f"{mount['mountPath']}/snapshot-key"
    assert variables["AWS_CA_BUNDLE"] == f"{mount['mountPath']}/ca.crt"
    # The engine is another's image: it needs no key.
    (engine,) = full["containers"]
    assert "artifact-files" not in {each["name"] for each in engine["volumeMounts"]}


def test_a_node_s_cache_is_only_read_at_one_place_of_both_containers() -> None:
    spec = pod_spec(pools(SAMPLE)[0], "image")
    restore, (engine,) = restore_of(spec), spec["containers"]
    assert "--cache=/node-cache" in restore["args"]
    for container in (restore, engine):
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == names.NODE_CACHE]
        assert (mount["mountPath"], mount["readOnly"]) == ("/node-cache", True)
    (volume,) = [each for each in spec["volumes"] if each["name"] == names.NODE_CACHE]
    claim = {"claimName": names.NODE_CACHE, "readOnly": True}
    assert volume["persistentVolumeClaim"] == claim


def test_pods_of_pools_and_of_drills_reach_the_declared_store(recorder: Recorder) -> None:
    fleet = with_store(SAMPLE)
    context = PoolContext(fleet, pulumi.Output.from_input("http://prometheus"))
    declare(lambda: [ServingPool(pool, context) for pool in pools_at(fleet, "fra1")])
    policies = [each.inputs["spec"] for each in recorder.of("NetworkPolicy")]
    assert len(policies) == len(pools_at(fleet, "fra1"))
    placed = placed_once(pools_at(fleet, "fra1"))
    drill = list(contents(stage_fleet(fleet, placed), "fra1", "drill-1", started=True))
    policies += [each["spec"] for each in drill if each["kind"] == "NetworkPolicy"]
    for policy in policies:
        ports = [port["port"] for rule in policy["egress"] for port in rule.get("ports", [])]
        assert set(ports) == {443, 9000}


def test_a_drill_needs_no_claim() -> None:
    placed = placed_once(pools_at(SAMPLE, "fra1"))
    made = str(list(contents(stage_fleet(SAMPLE, placed), "fra1", "drill-1", started=True)))
    assert "snapshot.weights" in made
    assert "persistentVolumeClaim" not in made
    assert "node-cache" not in made


@pytest.mark.parametrize(
    ("mode", "others", "is_good"),
    [
        (0o400, False, True),
        (0o600, False, True),
        (0o440, False, False),
        (0o404, False, False),
        # As Kubernetes gives a Secret to a pod of another user.
        (0o440, True, True),
        (0o444, True, False),
        (0o460, True, False),
    ],
)
def test_a_key_is_read_where_nobody_else_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, *, others: bool, is_good: bool
) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"k")
    file.chmod(mode)
    if others:
        monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    if is_good:
        assert read_secret(file) == b"k"
    else:
        with pytest.raises(BadInput, match="others can read"):
            read_secret(file)


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that says nothing of AWS."""
    for name in [each for each in os.environ if each.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


@pytest.mark.usefixtures("no_aws")
def test_the_store_is_as_given_else_as_aws_s_variables_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = Place.of_chain()
    assert (place.endpoint, place.region) == ("https://s3.amazonaws.com", "us-east-1")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert Place.of_chain().endpoint == "https://s3.eu-central-1.amazonaws.com"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example.com")
    place = Place.of_chain()
    assert (place.endpoint, place.region) == ("https://s3.example.com", "eu-central-1")
    place = Place.of_chain("https://other.example.com", "fra1", "virtual")
    assert (place.endpoint, place.region) == ("https://other.example.com", "fra1")
    assert place.style == "virtual"
    authority = tmp_path / "ca.pem"
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    with pytest.raises(BadInput, match="a file that is not there"):
        Place.of_chain()
    authority.touch()
    assert Place.of_chain().ca == str(authority)


@pytest.mark.usefixtures("no_aws")
@pytest.mark.parametrize("given", [("nowhere", "", "path"), ("", "", "round")])
def test_what_names_no_store_is_refused(given: tuple[str, str, str]) -> None:
    with pytest.raises(BadInput):
        Place.of_chain(*given)
