"""Reads snapshots from `docs/snapshot-format.md` alone: nothing of gpufleet is imported."""

import json
import unicodedata
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MIB = 1024 * 1024


class Unreadable(Exception):
    """What the document says a reader refuses, or an object that is missing or wrong."""


def need(truth: object, what: str) -> None:
    if not truth:
        raise Unreadable(what)


class Reader:
    """A store as a mapping of keys (below its prefix) to bytes."""

    def __init__(self, objects: Mapping[str, bytes], key: bytes | None = None) -> None:
        self.objects, self.key = objects, key
        store = json.loads(objects["format.json"])
        need(store["format"] == 1 and store["hash"] == "blake3", "unknown format")
        need((store["key"] is None) == (key is None), "a key too many or too few")
        self.packed: dict[str, list[tuple[str, int, int, int]]] = {}
        for name, content in objects.items():
            if name.startswith("indexes/"):
                need(blake3(content).hexdigest() == name.removeprefix("indexes/"), "wrong index")
                self._index(json.loads(zstandard.decompress(content)))

    def _index(self, index: dict[str, Any]) -> None:
        need(index["format"] == 1, "newer index")
        for pack in index["packs"]:
            where = f"packs/{pack['id'][:2]}/{pack['id']}"
            begins = accumulate(pack["stored_bytes"], initial=0)
            rows = zip(
                pack["chunks"], begins, pack["stored_bytes"], pack["plain_bytes"], strict=False
            )
            for chunk, begin, stored, plain in rows:
                self.packed.setdefault(chunk, []).append((where, begin, stored, plain))

    def listed(self) -> list[str]:
        parts = [name.split("/") for name in self.objects if name.startswith("snapshots/")]
        there = {part[1] for part in parts if part[2] == "manifest"}
        return sorted(there - {part[1] for part in parts if part[2] == "removed"})

    def digest(self, plain: bytes) -> str:
        return (blake3(plain, key=self.key) if self.key else blake3(plain)).hexdigest()

    def frame(self, data: bytes, name: str) -> bytes:
        need(data[:4] == b"GFC1" and data[6:8] == b"\0\0", "no frame")
        codec, cipher, length = data[4], data[5], int.from_bytes(data[8:16], "little")
        body = data[16:]
        if cipher == 1:
            need(self.key, "no key")
            body = AESGCM(self.key or b"").decrypt(
                body[:12], body[12:], data[:16] + bytes.fromhex(name)
            )
        else:
            need(cipher == 0, "unknown cipher")
        need(codec in {0, 1}, "unknown codec")
        plain = zstandard.decompress(body) if codec else body
        need(len(plain) == length and self.digest(plain) == name, "wrong chunk")
        return plain

    def chunk(self, name: str, length: int) -> bytes:
        need(0 < length <= 16 * MIB, "wrong length of a chunk")
        if length >= MIB:
            where = f"chunks/{name[:2]}/{name}"
            need(where in self.objects, f"no {where}")
            plain = self.frame(self.objects[where], name)
        else:
            copies = [one for one in self.packed.get(name, []) if one[0] in self.objects]
            need(copies, f"no pack has {name}")
            where, begin, stored, _ = copies[0]
            plain = self.frame(self.objects[where][begin : begin + stored], name)
        need(len(plain) == length, "wrong length of a chunk")
        return plain

    def manifest(self, snapshot: str) -> dict[str, Any]:
        stored = self.objects[f"snapshots/{snapshot}/manifest"]
        need(blake3(stored).hexdigest()[:8] == snapshot[-8:], "forged manifest")
        value: dict[str, Any] = json.loads(zstandard.decompress(stored))
        need(value["format"] == 1, "newer manifest")
        self._names(value)
        return value

    @staticmethod
    def _names(value: dict[str, Any]) -> None:
        leaves = [*value["files"]["path"], *(path for path, _ in value["links"])]
        every = leaves + [path for path, _ in value["folders"]]
        above = set()
        for path in every:
            parts = path.split("/")
            need(not {"", ".", ".."} & set(parts), f"{path!r}")
            need(not {unicodedata.category(sign) for sign in path} & {"Cc", "Cs"}, f"{path!r}")
            need(len(path.encode()) <= 4096, "long")
            need(max(len(part.encode()) for part in parts) <= 255, "long")
            above |= {"/".join(parts[:count]) for count in range(1, len(parts))}
        need(len(set(every)) == len(every) and not above & set(leaves), "twice, or below a file")
        names = above | set(every)
        plain = {
            unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
            for name in names
        }
        need(len(plain) == len(names), "case")
        for path, target in value["links"]:
            parts = target.split("/")
            up = next((place for place, part in enumerate(parts) if part != ".."), len(parts))
            need(target and not target.startswith("/"), "link")
            need(".." not in parts[up:] and up <= path.count("/"), "link")

    def files(self, snapshot: str) -> dict[str, tuple[int, bytes]]:
        """Path: mode and content."""
        files = self.manifest(snapshot)["files"]
        found = {}
        for place, path in enumerate(files["path"]):
            digest, length = files["blake3"][place], files["bytes"][place]
            chunks = files["chunks"].get(str(place), [[digest, length]])
            need(sum(count for _, count in chunks) == length, "lengths do not add up")
            content = b"".join(self.chunk(name, count) for name, count in chunks)
            names = b"".join(bytes.fromhex(name) for name, _ in chunks)
            made = chunks[0][0] if len(chunks) == 1 else blake3(names).hexdigest()
            need(made == digest, f"wrong digest of {path}")
            found[path] = (files["mode"][place], content)
        return found
