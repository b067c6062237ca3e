"""Loopback addresses: one for each pod, the same after a restart, shared with nobody."""

import ipaddress
from pathlib import Path

import pytest

from gpufleet.local.addresses import AddressBook, choose_block
from gpufleet.spec.errors import Failed

TINY = "127.20.0.0/30"


def test_a_site_keeps_its_block_and_leaves_the_usual_addresses_free() -> None:
    for number in range(200):
        block = choose_block(Path(f"/clone/{number}/sites/east"), set())
        assert block == choose_block(Path(f"/clone/{number}/sites/east"), set())
        network = ipaddress.ip_network(block)
        assert network.is_loopback
        assert network.num_addresses == 4096
        assert not network.overlaps(ipaddress.ip_network("127.0.0.0/16"))


def test_sites_of_one_environment_never_share_a_block() -> None:
    taken: set[str] = set()
    blocks = [choose_block(Path("/same"), taken) for _ in range(3)]
    assert len(set(blocks)) == 3
    assert taken == set(blocks)


def test_a_pod_has_the_same_address_after_a_restart_of_the_agent(tmp_path: Path) -> None:
    file = tmp_path / "addresses.json"
    first = AddressBook(file, TINY)
    addresses = {uid: first.address_of(uid) for uid in ("a", "b")}
    again = AddressBook(file, TINY)
    assert {uid: again.address_of(uid) for uid in ("b", "a")} == addresses
    assert len(set(addresses.values())) == 2


def test_a_used_up_block_is_an_error_until_a_pod_goes(tmp_path: Path) -> None:
    book = AddressBook(tmp_path / "addresses.json", TINY)
    gone = book.address_of("a")
    book.address_of("b")
    with pytest.raises(Failed, match="all 2 loopback addresses"):
        book.address_of("c")
    book.release("a")
    assert book.address_of("c") == gone


def test_pods_that_went_while_the_agent_was_away_are_forgotten(tmp_path: Path) -> None:
    book = AddressBook(tmp_path / "addresses.json", TINY)
    kept = book.address_of("a")
    book.address_of("b")
    book.keep_only({"a"})
    assert book.address_of("a") == kept
    assert book.address_of("c") != kept


def test_a_lost_file_gives_no_address_twice(tmp_path: Path) -> None:
    file = tmp_path / "addresses.json"
    serving = AddressBook(file, TINY).address_of("old")
    file.write_text("{cut short")
    book = AddressBook(file, TINY)
    book.adopt("old", serving)
    assert book.address_of("new") != serving
    assert book.address_of("old") == serving


def test_an_address_of_another_block_is_not_adopted(tmp_path: Path) -> None:
    book = AddressBook(tmp_path / "addresses.json", TINY)
    book.adopt("moved", "127.99.0.1")
    assert book.address_of("moved") in {"127.20.0.1", "127.20.0.2"}
