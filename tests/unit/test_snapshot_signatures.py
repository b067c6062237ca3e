"""Signatures of snapshots: whose count, of what, and that other tools read them."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from gpufleet.core.snapshots.manifest import encode
from gpufleet.core.snapshots.signatures import (
    Forged,
    Signer,
    Trust,
    certificates_of,
    check,
    public_key_of,
    sign,
    signer_of,
)
from gpufleet.spec.errors import BadInput
from gpufleet.spec.snapshots import ChunkRef, FileEntry, LinkEntry, Manifest

CREATED = datetime(2026, 11, 26, 10, 15, tzinfo=UTC)


def entry(path: str, digit: str) -> FileEntry:
    return FileEntry(path, 0o644, 5, digit * 64, (ChunkRef(digit * 64, 5),), sha256=digit * 64)


MANIFEST = Manifest(
    created=CREATED,
    revision="chat-v7",
    tool="gpufleet 0.1.0",
    files=(entry("a-b", "1"), entry("a/b", "2"), entry("c", "3")),
    links=(LinkEntry("a/up", "../c"),),
)
STORED = encode(MANIFEST)
CURVES = [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()]


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def checked(bundle: bytes, trust: Trust, manifest: Manifest = MANIFEST) -> None:
    check(bundle, manifest, encode(manifest), trust, snapshot="it")


def certified(*, may_sign: bool = True, authority: bool = True) -> tuple[Signer, x509.Certificate]:
    """A signer with a certificate, one between, and the root above it."""
    root_key, between_key, own_key = (ec.generate_private_key(CURVES[0]) for _ in range(3))

    def made(
        name: str,
        own: ec.EllipticCurvePrivateKey,
        issuer: str,
        by: ec.EllipticCurvePrivateKey,
        *,
        ca: bool,
    ) -> x509.Certificate:
        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        usage = dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
                "crl_sign",
            ),
            False,
        )
        return (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(issuer))
            .public_key(own.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(CREATED)
            .not_valid_after(CREATED + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=may_sign and not ca, key_cert_sign=ca, **usage),
                critical=True,
            )
            .sign(by, hashes.SHA256())
        )

    root = made("root", root_key, "root", root_key, ca=True)
    between = made("between", between_key, "root", root_key, ca=authority)
    leaf = made("signer", own_key, "between", between_key, ca=False)
    return Signer(own_key, (leaf, between)), root


@pytest.mark.parametrize("curve", CURVES)
def test_a_signature_of_a_trusted_key_counts_and_no_other_key_does(curve: ec.EllipticCurve) -> None:
    key, other = (ec.generate_private_key(curve) for _ in range(2))
    bundle = sign(MANIFEST, STORED, signer_of(pem(key), where="k"))
    checked(bundle, Trust(key.public_key()))
    with pytest.raises(Forged, match="another key"):
        checked(bundle, Trust(other.public_key()))
    _, root = certified()
    with pytest.raises(Forged, match="no trusted signature"):
        checked(bundle, Trust(roots=(root,)))


def test_a_signature_of_a_certificate_counts_where_its_authority_is_trusted() -> None:
    signer, root = certified()
    bundle = sign(MANIFEST, STORED, signer)
    checked(bundle, Trust(roots=(root,)))
    for trust in (Trust(), Trust(signer.key.public_key()), Trust(roots=(certified()[1],))):
        with pytest.raises(Forged, match="no trusted signature"):
            checked(bundle, trust)
    for wrong in ({"may_sign": False}, {"authority": False}):
        bad, above = certified(**wrong)
        with pytest.raises(Forged, match="no trusted signature"):
            checked(sign(MANIFEST, STORED, bad), Trust(roots=(above,)))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: replace(m, revision="chat-v8"),
        lambda m: replace(m, files=m.files[:2], links=()),
        lambda m: replace(m, files=(m.files[0]._replace(mode=0o755), *m.files[1:])),
        # Its SHA-256 stays as it was signed, its bytes would be others.
        lambda m: replace(
            m, files=(m.files[0]._replace(chunks=(ChunkRef("9" * 64, 5),)), *m.files[1:])
        ),
        lambda m: replace(m, links=(LinkEntry("a/up", "../a-b"),)),
    ],
)
def test_a_signature_of_another_manifest_does_not_count(
    change: Callable[[Manifest], Manifest],
) -> None:
    key = ec.generate_private_key(CURVES[0])
    bundle = sign(MANIFEST, STORED, Signer(key))
    with pytest.raises(Forged, match="of another manifest"):
        checked(bundle, Trust(key.public_key()), change(MANIFEST))


def _payload(bundle: dict[str, Any]) -> None:
    envelope = bundle["dsseEnvelope"]
    said = json.loads(base64.b64decode(envelope["payload"]))
    said["subject"][0]["name"] = "other"
    envelope["payload"] = base64.b64encode(json.dumps(said).encode()).decode()


@pytest.mark.parametrize(
    "harm",
    [
        _payload,
        lambda b: b["dsseEnvelope"].update(payloadType="text/plain"),
        lambda b: b["dsseEnvelope"].update(signatures=[]),
        lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="AAAA"),
        lambda b: b["dsseEnvelope"].update(payload="?"),
        lambda b: b.pop("dsseEnvelope"),
        lambda b: b.update(verificationMaterial=[]),
        lambda b: b.update(verificationMaterial={"x509CertificateChain": {"certificates": []}}),
    ],
)
def test_a_changed_signature_is_one_clear_error(harm: Callable[[dict[str, Any]], object]) -> None:
    key = ec.generate_private_key(CURVES[0])
    bundle = json.loads(sign(MANIFEST, STORED, Signer(key)))
    harm(bundle)
    trust = Trust(key.public_key(), (certified()[1],))
    with pytest.raises(Forged, match="its signature is"):
        checked(json.dumps(bundle).encode(), trust)
    for wrong in (b"", b"[]", b"null", b"\xff"):
        with pytest.raises(Forged, match="its signature is"):
            checked(wrong, trust)


def test_the_statement_names_files_and_what_links_lead_to_in_the_order_of_their_parts() -> None:
    bundle = json.loads(sign(MANIFEST, STORED, Signer(ec.generate_private_key(CURVES[0]))))
    said = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    assert [(each["name"], each["digest"][0]) for each in said["predicate"]["resources"]] == [
        ("a/b", "2"),
        ("a/up", "3"),
        ("a-b", "1"),
        ("c", "3"),
    ]


def test_what_is_no_key_is_one_clear_error() -> None:
    key = ec.generate_private_key(CURVES[0])
    odd = ed25519.Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    raw = odd.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for wrong in (b"", b"no key", secret, raw, pem(ec.generate_private_key(ec.SECP256K1()))):
        with pytest.raises(BadInput, match="elliptic curve key"):
            signer_of(wrong, where="k")
    public = odd.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for wrong in (b"", public):
        with pytest.raises(BadInput, match="public part"):
            public_key_of(wrong, where="k")
    with pytest.raises(BadInput, match="no certificate"):
        certificates_of(b"none", where="k")
    signer, _ = certified()
    chain = b"".join(each.public_bytes(Encoding.PEM) for each in signer.chain)
    assert signer_of(pem(signer.key), chain, where="k").chain == signer.chain
    with pytest.raises(BadInput, match="of another key"):
        signer_of(pem(key), chain, where="k")
