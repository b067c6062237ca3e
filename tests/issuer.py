"""A small OpenID Connect issuer on a loopback port, and tokens as it, or a forger, signs them.

The tokens are put together by hand (RFC 7515), so that what checks them has nothing in common with
what makes them.
"""

import base64
import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

_HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "256": hashes.SHA256,
    "384": hashes.SHA384,
    "512": hashes.SHA512,
}
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def encoded(content: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def number(value: int, length: int | None = None) -> str:
    """A number as a JWK has it."""
    size = length or (value.bit_length() + 7) // 8
    return encoded(value.to_bytes(size, "big"))


def public_jwk(key: Key, kid: str, **more: str) -> dict[str, Any]:
    """The public half of a key (RFC 7518 section 6, RFC 8037)."""
    told: dict[str, Any] = {"kid": kid, "use": "sig", **more}
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        return {**told, "kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
    if isinstance(key, ec.EllipticCurvePrivateKey):
        point = key.public_key().public_numbers()
        size = (key.curve.key_size + 7) // 8
        place = {"x": number(point.x, size), "y": number(point.y, size)}
        return {**told, "kty": "EC", "crv": f"P-{key.curve.key_size}", **place}
    raw = key.public_key().public_bytes_raw()
    return {**told, "kty": "OKP", "crv": "Ed25519", "x": encoded(raw)}


def public_pem(key: Key) -> bytes:
    """The public half as text."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def token(header: Mapping[str, Any], claims: Mapping[str, Any], key: Key | bytes | None) -> str:
    """A token with this header, signed as its `alg` says; bytes are a shared secret."""
    signed = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
    return f"{signed}.{encoded(_signature(str(header.get('alg')), signed.encode(), key))}"


def _signature(algorithm: str, content: bytes, key: Key | bytes | None) -> bytes:
    if isinstance(key, bytes):
        mac = hmac.HMAC(key, hashes.SHA256())
        mac.update(content)
        return mac.finalize()
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(content, padding.PKCS1v15(), _HASHES[algorithm[2:]]())
    if isinstance(key, ec.EllipticCurvePrivateKey):
        size = (key.curve.key_size + 7) // 8
        pair = decode_dss_signature(key.sign(content, ec.ECDSA(_HASHES[algorithm[2:]]())))
        return b"".join(part.to_bytes(size, "big") for part in pair)
    return key.sign(content) if key else b""


class Issuer:
    """Serves its discovery document and its keys; a test changes what it says."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.discovery: dict[str, Any] = {}
        self.padding = 0
        self.asked: list[str] = []
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                if self.path.endswith("/.well-known/openid-configuration"):
                    document = issuer.document
                else:
                    document = {"keys": issuer.keys, "padding": "x" * issuer.padding}
                content = json.dumps(document).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                try:
                    self.wfile.write(content)
                except OSError:
                    # Whoever asked has had enough.
                    return

            def log_message(self, *_: object) -> None:
                pass

        self._handler = Handler
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._serve()

    @property
    def address(self) -> str:
        """As tokens' `iss` says it."""
        return f"http://127.0.0.1:{self.port}/realms/acme"

    @property
    def document(self) -> dict[str, Any]:
        """Its discovery document."""
        told = {"issuer": self.address, "jwks_uri": f"{self.address}/keys"}
        return {**told, **self.discovery}

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()

    def start_again(self) -> None:
        """Answer again at the same address."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler)
        self._serve()

    def _serve(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
