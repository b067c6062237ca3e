"""Signatures of snapshots, in the form that OpenSSF model-signing writes and verifies.

A Sigstore bundle (v0.3) holds a DSSE envelope over an in-toto statement, whose predicate names each
file with its SHA-256; what is signed here names the manifest's BLAKE3 beside that, which says all
of a snapshot: files, modes, links, chunks. Other verifiers pass over that field.

https://github.com/sigstore/model-transparency, https://github.com/secure-systems-lab/dsse
"""

import base64
import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from posixpath import dirname, join, normpath
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from gpufleet.core.snapshots.manifest import digest_of
from gpufleet.spec.errors import BadInput
from gpufleet.spec.snapshots import Manifest

_MEDIA: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD: Final = "application/vnd.in-toto+json"
_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "https://model_signing/signature/v1.0"
_OURS: Final = "gpufleet"
_HASHES: Final[dict[str, type[hashes.HashAlgorithm]]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}
"""For the keys of each curve that model-signing knows."""
_CURVES: Final = "an elliptic curve key (P-256, P-384 or P-521) in PEM"


class Forged(BadInput):
    """A signature that is not one of this snapshot by a trusted key."""


@dataclass(frozen=True)
class Signer:
    """Who signs."""

    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...] = ()
    """The key's certificate, then those above it; empty where the key alone is known."""


@dataclass(frozen=True)
class Trust:
    """Whose signatures count."""

    key: ec.EllipticCurvePublicKey | None = None
    roots: tuple[x509.Certificate, ...] = ()
    """A certificate that one of these vouches for counts, if it may sign."""


def signer_of(key: bytes, chain: bytes = b"", *, where: str) -> Signer:
    """A signer from PEM.

    Raises:
        BadInput: this is none, or the certificate is of another key.
    """
    private: object = None
    with suppress(TypeError, ValueError):
        private = load_pem_private_key(key, password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name not in _HASHES:
        raise BadInput(f"is not {_CURVES} without a password", where=where)
    certificates = certificates_of(chain, where=where) if chain else ()
    if certificates and certificates[0].public_key() != private.public_key():
        raise BadInput("the first certificate is of another key", where=where)
    return Signer(private, certificates)


def public_key_of(key: bytes, *, where: str) -> ec.EllipticCurvePublicKey:
    """A public key from PEM.

    Raises:
        BadInput: this is none.
    """
    public: object = None
    with suppress(ValueError):
        public = load_pem_public_key(key)
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name not in _HASHES:
        raise BadInput(f"is not the public part of {_CURVES}", where=where)
    return public


def certificates_of(pem: bytes, *, where: str) -> tuple[x509.Certificate, ...]:
    """Certificates from PEM, in their order.

    Raises:
        BadInput: there are none.
    """
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError:
        raise BadInput("holds no certificate in PEM", where=where) from None


def sign(manifest: Manifest, stored: bytes, signer: Signer) -> bytes:
    """The signature of a snapshot, as it is stored.

    Args:
        manifest: each of its files has its SHA-256.
        stored: the manifest's bytes in the store.
        signer: who signs.
    """
    payload = json.dumps(_statement(manifest, stored), ensure_ascii=False).encode()
    algorithm = ec.ECDSA(_HASHES[signer.key.curve.name]())
    signature = signer.key.sign(_authenticated(payload), algorithm)
    return json.dumps(
        {
            "mediaType": _MEDIA,
            "verificationMaterial": {**_material(signer), "tlogEntries": []},
            "dsseEnvelope": {
                "payload": _text(payload),
                "payloadType": _PAYLOAD,
                "signatures": [{"sig": _text(signature), "keyid": ""}],
            },
        }
    ).encode()


def check(bundle: bytes, manifest: Manifest, stored: bytes, trust: Trust, *, snapshot: str) -> None:
    """See that a signature is one of this snapshot, by somebody who is trusted.

    Args:
        bundle: the signature as it is stored.
        manifest: of the snapshot.
        stored: the manifest's bytes in the store.
        trust: whose signatures count.
        snapshot: its ID, for messages.

    Raises:
        Forged: it is not.
    """
    try:
        value = json.loads(bundle)
        envelope = value["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        [signature] = [base64.b64decode(each["sig"]) for each in envelope["signatures"]]
        kind, material = envelope["payloadType"], value["verificationMaterial"]
        key = _trusted(material, trust)
    except (KeyError, TypeError, ValueError, VerificationError) as error:
        raise _forged(f"no trusted signature: {str(error)[:120]}", snapshot) from None
    try:
        key.verify(signature, _authenticated(payload), ec.ECDSA(_HASHES[key.curve.name]()))
    except InvalidSignature:
        raise _forged("by another key, or of something else", snapshot) from None
    try:
        said = json.loads(payload)
        same = kind == _PAYLOAD and _core(said) == _core(_statement(manifest, stored))
    except (KeyError, TypeError, ValueError):
        same = False
    if not same:
        raise _forged("of another manifest", snapshot)


def _core(statement: dict[str, Any]) -> tuple[object, ...]:
    """What a verifier compares: not the serialization, which says how to read a folder."""
    predicate = statement["predicate"]
    return (
        statement["_type"],
        statement["predicateType"],
        statement["subject"],
        predicate["resources"],
        predicate[_OURS],
    )


def _statement(manifest: Manifest, stored: bytes) -> dict[str, Any]:
    resources = [
        {"name": path, "algorithm": "sha256", "digest": digest}
        for path, digest in sorted(_digests(manifest).items(), key=lambda one: _place(one[0]))
    ]
    root = hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in resources))
    return {
        "_type": _STATEMENT,
        "subject": [{"name": manifest.revision, "digest": {"sha256": root.hexdigest()}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": bool(manifest.links),
            },
            "resources": resources,
            _OURS: {"manifest_blake3": digest_of(stored)},
        },
    }


def _digests(manifest: Manifest) -> dict[str, str]:
    """SHA-256 of each file, and of each file that a link leads to, as others read a folder."""
    found = {each.path: each.sha256 for each in manifest.files}
    links = {each.path: normpath(join(dirname(each.path), each.target)) for each in manifest.links}
    for path, target in links.items():
        for _ in links:
            target = links.get(target, target)  # noqa: PLW2901 - it is followed
        if target in found and path not in found:
            found[path] = found[target]
    return found


def _place(path: str) -> tuple[str, ...]:
    return PurePosixPath(path).parts


def _authenticated(payload: bytes) -> bytes:
    """What DSSE signs ("PAE"): the payload with its type, each with its length."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def _material(signer: Signer) -> dict[str, Any]:
    if not signer.chain:
        return {"publicKey": {"hint": _hint(signer.key.public_key())}}
    chain = [{"rawBytes": _text(each.public_bytes(Encoding.DER))} for each in signer.chain]
    return {"x509CertificateChain": {"certificates": chain}}


def _hint(key: ec.EllipticCurvePublicKey) -> str:
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _trusted(material: dict[str, Any], trust: Trust) -> ec.EllipticCurvePublicKey:
    """The key that a signature has to be by."""
    if "publicKey" in material:
        if trust.key is None:
            raise ValueError("a key signed it, and none is trusted")
        return trust.key
    if not trust.roots:
        raise ValueError("a certificate signed it, and no authority is trusted")
    leaf, *above = (
        x509.load_der_x509_certificate(base64.b64decode(each["rawBytes"]))
        for each in material["x509CertificateChain"]["certificates"]
    )
    # When it was signed nobody knows; no earlier than that.
    policy = PolicyBuilder().store(Store(list(trust.roots))).time(leaf.not_valid_before_utc)
    authority = ExtensionPolicy.permit_all().require_present(
        x509.BasicConstraints, Criticality.AGNOSTIC, _is_authority
    )
    policy = policy.extension_policies(ca_policy=authority, ee_policy=ExtensionPolicy.permit_all())
    policy.build_client_verifier().verify(leaf, above)
    key = leaf.public_key()
    if not _may_sign(leaf) or not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("its certificate is not one for signing")
    if key.curve.name not in _HASHES:
        raise ValueError("its certificate's key is of an unknown curve")
    return key


def _is_authority(_: object, __: object, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError("a certificate above it is no authority's")


def _may_sign(leaf: x509.Certificate) -> bool:
    try:
        return leaf.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound:
        return False


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _forged(what: str, snapshot: str) -> Forged:
    return Forged(
        f"its signature is {what}",
        where=snapshot,
        mend="restore another snapshot; --unsigned restores it nevertheless",
    )
