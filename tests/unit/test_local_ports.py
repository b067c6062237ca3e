"""Ports of a site: chosen once, kept, and given up to whoever took them."""

import socket
from pathlib import Path

import pytest

from gpufleet.edges.workspace import EnvironmentDir
from gpufleet.local import ports
from gpufleet.spec.errors import Failed


def test_ports_are_chosen_once_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    chosen = ports.choose(file, set())
    assert chosen.keys() == set(ports.NAMES)
    assert len(set(chosen.values())) == len(chosen)
    assert ports.choose(file, set()) == chosen


def test_only_the_port_that_somebody_took_is_chosen_again(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    before = ports.choose(file, set())
    with socket.create_server(("127.0.0.1", before["etcd"])):
        after = ports.choose(file, set())
    assert {name for name in before if before[name] != after[name]} == {"etcd"}


def test_sites_of_one_environment_share_no_port(tmp_path: Path) -> None:
    taken: set[int] = set()
    first = ports.choose(tmp_path / "east.json", taken)
    second = ports.choose(tmp_path / "west.json", taken)
    assert not set(first.values()) & set(second.values())
    assert taken == {*first.values(), *second.values()}


def test_a_cut_file_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    file.write_text('{"etcd": ')
    assert ports.choose(file, set()).keys() == set(ports.NAMES)


def test_a_file_of_an_earlier_version_is_not_complete_and_keeps_what_it_has(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    assert not ports.is_complete(file)
    before = ports.choose(file, set(), ("etcd", "apiserver"))
    assert ports.is_complete(file, ("etcd",))
    assert not ports.is_complete(file)
    assert ports.choose(file, set()).items() >= before.items()
    assert ports.is_complete(file)


def test_stacks_find_the_kept_port_of_a_process_by_its_name(tmp_path: Path) -> None:
    state = EnvironmentDir(tmp_path)
    with pytest.raises(Failed, match="prometheus has no port yet"):
        state.port("east", "prometheus")
    chosen = ports.choose(state.ports("east"), set())
    assert state.port("east", "prometheus") == chosen["prometheus"]
