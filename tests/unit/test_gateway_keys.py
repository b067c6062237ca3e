import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.gateway.keys import KeyFault, KeyRefused, Keyring, split_key, written
from gpufleet.spec.gateway import Key, Keys

URL_SAFE = string.ascii_letters + string.digits + "-_"
IDS = st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=12, max_size=12)
SECRETS = st.text(URL_SAFE, min_size=43, max_size=43)
NOW = 1_800_000_000.0


def key_of(text: str, expires_at: float | None = None) -> Key:
    parts = split_key(text)
    assert parts is not None
    return Key(
        id=parts[0],
        hash=parts[1],
        team="search",
        use_cases=["answers"],
        rate_rpm=None,
        concurrency_limit=None,
        expires_at=expires_at,
    )


def ring(*keys: Key) -> Keyring:
    return Keyring(Keys(at=NOW, keys=list(keys)))


def refusal(keyring: Keyring, text: str, now_s: float = NOW) -> KeyFault:
    with pytest.raises(KeyRefused) as refused:
        keyring.find(text, now_s)
    return refused.value.kind


@given(IDS, SECRETS)
def test_a_key_is_found_by_its_text_and_only_its_hash_is_known(id_: str, secret: str) -> None:
    text = written(id_, secret)
    assert split_key(text) == (id_, hashlib.sha256(text.encode()).hexdigest())
    key = key_of(text)
    assert ring(key).find(text, NOW) == key
    assert secret not in key.model_dump_json()


@given(st.text(max_size=80))
def test_what_is_no_key_is_malformed_and_never_an_error_of_ours(text: str) -> None:
    kind = refusal(ring(), text)
    assert kind is (KeyFault.MALFORMED if text else KeyFault.MISSING)


@given(IDS, SECRETS, st.integers(0, 58), st.characters(codec="utf-8"))
def test_a_key_with_another_character_opens_nothing(
    id_: str, secret: str, at: int, other: str
) -> None:
    text = written(id_, secret)
    changed = text[:at] + other + text[at + 1 :]
    if changed != text:
        assert refusal(ring(key_of(text)), changed) in {KeyFault.MALFORMED, KeyFault.UNKNOWN}


@pytest.mark.parametrize("around", [" {}", "{} ", "{}\n", "Bearer {}", "{}{}"])
def test_a_key_has_nothing_around_it(around: str) -> None:
    text = written("a" * 12, "B" * 43)
    assert refusal(ring(key_of(text)), around.format(text, text)) is KeyFault.MALFORMED


def test_a_wrong_secret_is_refused_as_an_id_that_was_never_issued() -> None:
    text = written("a" * 12, "B" * 43)
    assert refusal(ring(key_of(text)), written("a" * 12, "C" * 43)) is KeyFault.UNKNOWN
    assert refusal(ring(), text) is KeyFault.UNKNOWN


def test_a_key_expires_at_its_moment_and_only_its_owner_is_told() -> None:
    text = written("a" * 12, "B" * 43)
    keyring = ring(key_of(text, expires_at=NOW))
    assert keyring.find(text, NOW - 0.001).team == "search"
    assert refusal(keyring, text, NOW) is KeyFault.EXPIRED
    assert refusal(keyring, written("a" * 12, "C" * 43), NOW) is KeyFault.UNKNOWN
