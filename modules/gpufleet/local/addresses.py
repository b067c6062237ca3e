"""Loopback addresses for simulated pods: one each, the same after a restart.

Every embedded site gets its own 127.x.y.0/20 (4,094 addresses), so that the replicas of two sites,
or of two clones on one machine, never share one.
"""

import hashlib
import ipaddress
import threading
from pathlib import Path
from typing import Final

from gpufleet.local.files import read_json, write_json
from gpufleet.spec.errors import Failed

_FIRST_BLOCK: Final = int(ipaddress.IPv4Address("127.16.0.0"))
_BLOCKS: Final = 239 * 16
_BLOCK_SIZE: Final = 4096


def choose_block(site_folder: Path, taken: set[str]) -> str:
    """The /20 of a site, by its folder: stable, and spread so that clones rarely meet.

    127.16.0.0 to 127.254.240.0; the usual 127.0.0.0/16 stays free.

    Args:
        site_folder: where the site's state is.
        taken: blocks of other sites; the chosen one is added.
    """
    digest = hashlib.sha256(str(site_folder).encode()).digest()
    index = int.from_bytes(digest[:8], "big") % _BLOCKS
    while (block := _block(index)) in taken:
        index = (index + 1) % _BLOCKS
    taken.add(block)
    return block


def _block(index: int) -> str:
    return f"{ipaddress.IPv4Address(_FIRST_BLOCK + index * _BLOCK_SIZE)}/20"


class AddressBook:
    """Which pod (by UID) has which address of the block, kept in a file.

    Usable from several threads.
    """

    def __init__(self, file: Path, block: str) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._hosts = [str(host) for host in ipaddress.IPv4Network(block).hosts()]
        self._valid = frozenset(self._hosts)
        kept: dict[str, str] = read_json(file) or {}
        self._addresses = {uid: host for uid, host in kept.items() if host in self._valid}

    @property
    def in_use(self) -> int:
        """How many pods have an address."""
        return len(self._addresses)

    def address_of(self, uid: str) -> str:
        """The pod's address; a new one the first time.

        Raises:
            Failed: the block is used up.
        """
        with self._lock:
            if uid not in self._addresses:
                used = set(self._addresses.values())
                free = next((host for host in self._hosts if host not in used), None)
                if free is None:
                    raise Failed(f"all {len(self._hosts)} loopback addresses of the site are used")
                self._addresses[uid] = free
                write_json(self._file, self._addresses)
            return self._addresses[uid]

    def adopt(self, uid: str, address: str) -> None:
        """The pod has this address already; so no other pod gets it, even if the file was lost."""
        with self._lock:
            if address in self._valid and self._addresses.get(uid) != address:
                self._addresses[uid] = address
                write_json(self._file, self._addresses)

    def release(self, uid: str) -> None:
        """The pod is gone."""
        with self._lock:
            if self._addresses.pop(uid, None):
                write_json(self._file, self._addresses)

    def keep_only(self, uids: set[str]) -> None:
        """Forget every pod that is not among these."""
        with self._lock:
            gone = self._addresses.keys() - uids
            for uid in gone:
                del self._addresses[uid]
            if gone:
                write_json(self._file, self._addresses)
