"""A certificate authority for each embedded site, and the certificates that it signs."""

import datetime
import ipaddress
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gpufleet.local.files import write_private

VALID: Final = datetime.timedelta(days=730)
RENEW_BEFORE: Final = datetime.timedelta(days=60)
_CLOCK_SKEW: Final = datetime.timedelta(hours=1)


class Authority:
    """The authority of one site; its files are `ca.crt` and `ca.key` in `folder`.

    Keys and certificates are made once; a certificate is made again when it nears its end or is
    wanted for other names.
    """

    def __init__(self, folder: Path, name: str, now: datetime.datetime) -> None:
        self.folder = folder
        self._now = now
        self._key = _load_or_make_key(folder / "ca.key")
        self.certificate = folder / "ca.crt"
        made = _load(self.certificate)
        if made is None or made.not_valid_after_utc < now + RENEW_BEFORE:
            made = self._sign_itself(name)
            write_private(self.certificate, made.public_bytes(serialization.Encoding.PEM))
        self._made = made

    def issue(
        self, name: str, *, common_name: str, organization: str = "", hosts: tuple[str, ...] = ()
    ) -> tuple[Path, Path]:
        """A certificate and its key, for a client and (with `hosts`) for a server.

        Args:
            name: of the files.
            common_name: the user, for Kubernetes.
            organization: the group, for Kubernetes.
            hosts: DNS names and addresses that a server answers to.
        """
        key_file, file = self.folder / f"{name}.key", self.folder / f"{name}.crt"
        key = _load_or_make_key(key_file)
        subject = _name(common_name, organization)
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        made = _load(file)
        if made is None or not self._still_good(made, subject, names, key):
            usage = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
            builder = self._builder(subject, key.public_key()).add_extension(
                x509.ExtendedKeyUsage(usage), critical=False
            )
            if hosts:
                builder = builder.add_extension(names, critical=False)
            signed = builder.sign(self._key, hashes.SHA256())
            write_private(file, signed.public_bytes(serialization.Encoding.PEM))
        return file, key_file

    def _still_good(
        self,
        made: x509.Certificate,
        subject: x509.Name,
        names: x509.SubjectAlternativeName,
        key: ec.EllipticCurvePrivateKey,
    ) -> bool:
        try:
            made.verify_directly_issued_by(self._made)
        except Exception:  # noqa: BLE001 - any failure means: not ours, make it anew
            return False
        found = [
            extension.value
            for extension in made.extensions
            if isinstance(extension.value, x509.SubjectAlternativeName)
        ]
        return (
            made.not_valid_after_utc > self._now + RENEW_BEFORE
            and made.subject == subject
            and found == ([names] if list(names) else [])
            and made.public_key() == key.public_key()
        )

    def _sign_itself(self, name: str) -> x509.Certificate:
        subject = _name(f"gpufleet {name}", "")
        return (
            self._builder(subject, self._key.public_key(), issuer=subject)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def _builder(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        issuer: x509.Name | None = None,
    ) -> x509.CertificateBuilder:
        authority = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or self._made.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - _CLOCK_SKEW)
            .not_valid_after(self._now + VALID)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority),
                critical=False,
            )
        )


def _key_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str, organization: str) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(parts)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _load(file: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _load_or_make_key(file: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    except (FileNotFoundError, ValueError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        key = ec.generate_private_key(ec.SECP256R1())
        write_private(
            file,
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )
    return key
