"""What the control process knows of replicas when it starts."""

from pathlib import Path

from gpufleet.core.gateway.discovery import Found, Watched, replica_of, told_before
from gpufleet.core.vocabulary import BATCH_NAMESPACE, INTERACTIVE_NAMESPACE
from gpufleet.edges.gateway_files import publish, read_published
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows.gateway_control import Control
from gpufleet.flows.gateway_pods import PodBook
from gpufleet.spec import load_fleet
from gpufleet.spec.gateway import REPLICAS_FILE, Replicas

FILE = PROJECT_ROOT / "fleets/article/production.yaml"
FLEET = load_fleet(FILE)
OLD = Found("answers", "answers-0", "u-0", "10.0.0.7", ready=True)
NEW = Found("answers", "answers-1", "u-1", "fd00::7", ready=True)


def told(*found: Found, site: str = "main", pool: str = "answers") -> Replicas:
    replicas = [replica_of(each, site, Watched(), 0.0) for each in found]
    return Replicas(at=0, pools={pool: replicas})


def test_a_process_that_starts_anew_knows_the_replicas_until_its_cluster_is_listed() -> None:
    book = PodBook(FLEET, told(OLD, NEW))
    assert book.all() == [("main", OLD), ("main", NEW)]
    book.replace("main", BATCH_NAMESPACE, {})
    assert book.all() == [("main", OLD), ("main", NEW)]
    book.replace("main", INTERACTIVE_NAMESPACE, {"u-1": NEW})
    assert book.all() == [("main", NEW)]


def test_what_is_not_declared_any_more_is_forgotten() -> None:
    assert PodBook(FLEET, told(OLD, pool="gone")).all() == []
    assert PodBook(FLEET, told(OLD, site="gone")).all() == []
    assert PodBook(FLEET).all() == []


def test_a_replica_that_was_told_names_its_pod() -> None:
    for found in (OLD, NEW):
        assert told_before(replica_of(found, "main", None, 0.0), "answers") == found


def test_the_first_round_does_not_tell_the_workers_that_nobody_serves(tmp_path: Path) -> None:
    silent = Found("answers", "answers-0", "u-0", "127.77.9.9", ready=True)
    file = tmp_path / REPLICAS_FILE
    publish(file, told(silent).model_dump_json(by_alias=True))
    Control(Workspace(PROJECT_ROOT), FILE, FLEET, tmp_path)._poll_engines()
    now = read_published(file, Replicas)
    assert now is not None
    assert now.at > 0
    assert [each.uid for each in now.pools["answers"]] == ["u-0"]
