"""A site's own authority: made once, renewed in time, trusted for its own site only."""

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from gpufleet.local.pki import RENEW_BEFORE, VALID, Authority

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def load(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def test_certificates_are_made_once_and_their_keys_are_private(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "east", NOW)
    certificate, key = authority.issue("etcd", common_name="etcd", hosts=("127.0.0.1",))
    before = certificate.read_bytes(), key.read_bytes(), authority.certificate.read_bytes()
    again = Authority(tmp_path, "east", NOW + RENEW_BEFORE)
    again.issue("etcd", common_name="etcd", hosts=("127.0.0.1",))
    assert (certificate.read_bytes(), key.read_bytes(), again.certificate.read_bytes()) == before
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_certificate_near_its_end_is_made_anew(tmp_path: Path) -> None:
    file, _ = Authority(tmp_path, "east", NOW).issue("kwok", common_name="gpufleet:kwok")
    before = load(file)
    later = NOW + VALID - RENEW_BEFORE
    authority = Authority(tmp_path, "east", later)
    authority.issue("kwok", common_name="gpufleet:kwok")
    assert load(file).not_valid_after_utc > before.not_valid_after_utc
    load(file).verify_directly_issued_by(load(authority.certificate))


def test_a_server_certificate_names_its_hosts_and_follows_them(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "east", NOW)
    for hosts in (("127.0.0.1",), ("127.0.0.1", "webhook.lws-system.svc")):
        file, _ = authority.issue("lws", common_name="lws", hosts=hosts)
        names = load(file).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert {str(name.value) for name in names} == set(hosts)


def test_users_and_groups_stand_where_kubernetes_reads_them(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "east", NOW)
    file, _ = authority.issue("admin", common_name="someone", organization="system:masters")
    assert load(file).subject.rfc4514_string() == "O=system:masters,CN=someone"


def test_two_authorities_do_not_vouch_for_each_other(tmp_path: Path) -> None:
    east, west = (Authority(tmp_path / site, "same", NOW) for site in ("east", "west"))
    file, _ = east.issue("admin", common_name="admin")
    with pytest.raises(InvalidSignature):
        load(file).verify_directly_issued_by(load(west.certificate))


def test_a_damaged_key_or_certificate_is_replaced(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "east", NOW)
    file, key = authority.issue("etcd", common_name="etcd")
    file.write_text("cut")
    key.write_text("cut")
    authority.issue("etcd", common_name="etcd")
    load(file).verify_directly_issued_by(load(authority.certificate))
