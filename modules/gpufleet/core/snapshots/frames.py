"""A frame: a header of 16 bytes, then a chunk's bytes as they are stored.

The header is `GFC1`, the codec (one byte), the cipher (one byte), two bytes of zero, and the
length of the plain bytes (eight bytes, little-endian). An encrypted body begins with its nonce;
the chunk's ID and the header are authenticated with it, so that no frame stands for another.
"""

import struct
from typing import Final, NamedTuple

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gpufleet.spec.errors import BadInput, Failed
from gpufleet.spec.snapshots import PIECE_BYTES, Cipher, Codec

HEADER_BYTES: Final = 16
NONCE_BYTES: Final = 12
LEVEL: Final = 1
"""Of zstd: the next ones gain little on weights and cost more than sending does."""
PAYS: Final = 0.05
"""Share that compression has to save."""
_MAGIC: Final = b"GFC1"
_FORM: Final = struct.Struct("<4sBB2xQ")
_CODECS: Final = {0: Codec.PLAIN, 1: Codec.ZSTD}
_CIPHERS: Final = {0: Cipher.NONE, 1: Cipher.AES_256_GCM}
_CODEC_BYTES: Final = {codec: byte for byte, codec in _CODECS.items()}
_CIPHER_BYTES: Final = {cipher: byte for byte, cipher in _CIPHERS.items()}
_SAMPLE_BYTES: Final = 16 * 2**10

Bytes = bytes | bytearray | memoryview


class DamagedChunk(Failed):
    """What the store gave is not what was stored; another copy may be right."""


class UnknownFrame(DamagedChunk, BadInput):
    """A frame that a newer version wrote, or one whose header was bent."""


class Header(NamedTuple):
    """What a frame says of its body."""

    codec: Codec
    cipher: Cipher
    plain_bytes: int


class Frame(NamedTuple):
    """What is stored of a chunk; the two parts are sent one after the other, without a copy."""

    header: bytes
    body: Bytes

    @property
    def stored_bytes(self) -> int:
        """Length of both."""
        return len(self.header) + len(self.body)


def hasher(key: bytes | None = None) -> blake3:
    """BLAKE3, keyed where the store has a key (32 bytes)."""
    return blake3() if key is None else blake3(key=key)


def chunk_id(plain: Bytes, key: bytes | None = None) -> str:
    """BLAKE3 of a chunk, keyed where the store has a key (32 bytes)."""
    return hasher(key).update(plain).hexdigest()


def compression_pays(plain: Bytes) -> bool:
    """Whether zstd saves 5 % of a sample: the begin, the middle and the end."""
    view = memoryview(plain)
    if len(view) > 3 * _SAMPLE_BYTES:
        middle = (len(view) - _SAMPLE_BYTES) // 2
        sample = b"".join(
            (view[:_SAMPLE_BYTES], view[middle : middle + _SAMPLE_BYTES], view[-_SAMPLE_BYTES:])
        )
    else:
        sample = bytes(view)
    compressed = zstandard.ZstdCompressor(level=LEVEL).compress(sample)
    return len(compressed) <= len(sample) * (1 - PAYS)


def encode(
    plain: Bytes, chunk: str, *, key: bytes | None = None, nonce: bytes = b"", compress: bool = True
) -> Frame:
    """The frame of a chunk.

    Args:
        plain: at most 16 MiB.
        chunk: its ID.
        key: 32 bytes to encrypt with; None where the client does not.
        nonce: 12 random bytes that no other frame has; needed with a key.
        compress: whether zstd is tried.
    """
    codec, body = Codec.PLAIN, plain
    if compress and compression_pays(plain):
        squeezed = zstandard.ZstdCompressor(level=LEVEL).compress(plain)
        if len(squeezed) <= len(plain) * (1 - PAYS):
            codec, body = Codec.ZSTD, squeezed
    cipher = Cipher.NONE if key is None else Cipher.AES_256_GCM
    header = _FORM.pack(_MAGIC, _CODEC_BYTES[codec], _CIPHER_BYTES[cipher], len(plain))
    if key is not None:
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
        body = nonce + AESGCM(key).encrypt(nonce, body, header + bytes.fromhex(chunk))
    return Frame(header, body)


def read_header(data: Bytes, *, where: str = "") -> Header:
    """What the first 16 bytes of a frame say.

    Raises:
        DamagedChunk: this is no frame, or one of more than 16 MiB.
        UnknownFrame: it is written in a way that this version does not know.
    """
    if len(data) < HEADER_BYTES:
        raise DamagedChunk(f"it has {len(data)} bytes, which is no frame", where=where)
    magic, codec, cipher, plain_bytes = _FORM.unpack_from(data)
    if magic != _MAGIC or plain_bytes > PIECE_BYTES:
        raise DamagedChunk("it is no frame", where=where)
    if codec not in _CODECS or cipher not in _CIPHERS:
        raise UnknownFrame(
            f"it is stored with codec {codec} and cipher {cipher}, which are not known here",
            where=where,
            mend="A newer version of gpufleet wrote it: read it with that one.",
        )
    return Header(_CODECS[codec], _CIPHERS[cipher], plain_bytes)


def decode(data: Bytes, chunk: str, *, key: bytes | None = None) -> bytes | memoryview:
    """The plain bytes of a frame, verified: they have the chunk's ID.

    Raises:
        DamagedChunk: they do not, or there is no way to read them.
        UnknownFrame: a newer version wrote it.
        BadInput: it is encrypted and no key is given.
    """
    header = read_header(data, where=chunk)
    body: Bytes = memoryview(data)[HEADER_BYTES:]
    if header.cipher is Cipher.AES_256_GCM:
        body = _decrypted(data, chunk, key)
    plain = _expanded(body, header, chunk)
    if len(plain) != header.plain_bytes or chunk_id(plain, key) != chunk:
        raise DamagedChunk("its bytes are not those that were stored", where=chunk)
    return plain


def _decrypted(data: Bytes, chunk: str, key: bytes | None) -> bytes:
    if key is None:
        raise BadInput(
            "it is encrypted, and there is no key",
            where=chunk,
            mend="Set the key that `format.json` of the store names.",
        )
    view = memoryview(data)
    nonce = bytes(view[HEADER_BYTES : HEADER_BYTES + NONCE_BYTES])
    authenticated = bytes(view[:HEADER_BYTES]) + bytes.fromhex(chunk)
    try:
        return AESGCM(key).decrypt(nonce, view[HEADER_BYTES + NONCE_BYTES :], authenticated)
    except (InvalidTag, ValueError):
        raise DamagedChunk(
            "it does not decrypt: its bytes or the key are wrong", where=chunk
        ) from None


def _expanded(body: Bytes, header: Header, chunk: str) -> bytes | memoryview:
    if header.codec is Codec.PLAIN:
        return memoryview(body)
    try:
        if zstandard.frame_content_size(body) != header.plain_bytes:
            raise DamagedChunk("its lengths do not agree", where=chunk)
        return zstandard.ZstdDecompressor().decompress(body, allow_extra_data=False)
    except zstandard.ZstdError:
        raise DamagedChunk("it does not decompress", where=chunk) from None
