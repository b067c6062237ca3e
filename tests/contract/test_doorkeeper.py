"""Who is let in: keys and tokens at the doorkeeper, in the gateway's own Python."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from tests.conftest import Until
from tests.issuer import Issuer, encoded, public_jwk, public_pem, token

from gpufleet.core.gateway.routes import routes_text
from gpufleet.edges.clock import system_clock
from gpufleet.edges.database import Database
from gpufleet.edges.gateway_environment import gateway_python
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows import access
from gpufleet.flows.ground import Ground
from gpufleet.spec import load_fleet
from gpufleet.spec.access import KeyRequest
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.gateway import KEYS_FILE, Oidc

LEAST_INTERVAL_S = 0.3
RSA = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
FLEET = load_fleet(PROJECT_ROOT / "fleets" / "article" / "production.yaml")
USE_CASE, TEAM = next((name, case.team) for name, case in FLEET.use_cases.items())


@dataclass
class Door:
    """A doorkeeper's process, and what it is told."""

    ground: Ground
    folder: Path
    process: subprocess.Popen[str]
    log: Path

    def ask(self, authorization: str | None, now_s: float | None = None) -> dict[str, Any]:
        """What it says of a header."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        question = {"authorization": authorization, "now_s": now_s or time.time()}
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def publish(self) -> None:
        """As the control process does every second."""
        access.publish_keys(self.ground, self.folder, system_clock())


def opened(python: Path, ground: Ground, folder: Path, fleet: Fleet) -> Door:
    routes = folder / "routes.json"
    routes.write_text(routes_text(fleet))
    access.publish_keys(ground, folder, system_clock())
    program = PROJECT_ROOT / "tests" / "contract" / "tried_doorkeeper.py"
    paths = [str(PROJECT_ROOT / name) for name in ("modules", "gateway")]
    log = folder / "stderr"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [
                str(python),
                str(program),
                str(routes),
                str(folder / KEYS_FILE),
                str(LEAST_INTERVAL_S),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
    return Door(ground, folder, process, log)


@pytest.fixture(scope="session")
def python() -> Path:
    """The gateway's own, from its lock."""
    return gateway_python(lambda _progress: None)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    made.keys = [
        public_jwk(RSA, "rsa", alg="RS256"),
        public_jwk(EC, "ec"),
        public_jwk(ED, "ed"),
        {"kty": "oct", "kid": "shared", "k": encoded(b"secret")},
    ]
    yield made
    made.stop()


@pytest.fixture
def door(python: Path, issuer: Issuer, tmp_path: Path) -> Iterator[Door]:
    oidc = Oidc(
        issuer=issuer.address, audience="gateway", algorithms=("RS256", "RS384", "ES256", "EdDSA")
    )
    gateway = FLEET.gateway.model_copy(update={"oidc": oidc})
    yield from _door(python, tmp_path, FLEET.model_copy(update={"gateway": gateway}))


@pytest.fixture
def door_without_issuer(python: Path, tmp_path: Path) -> Iterator[Door]:
    yield from _door(python, tmp_path, FLEET)


def _door(python: Path, folder: Path, fleet: Fleet) -> Iterator[Door]:
    state = EnvironmentDir(folder / "state").make()
    database = Database(f"sqlite:///{folder / 'fleet.db'}")
    database.migrate()
    workspace = Workspace(PROJECT_ROOT)
    ground = Ground(workspace, folder / "fleet.yaml", fleet, state, database, system_clock)
    made = opened(python, ground, folder, fleet)
    yield made
    assert made.process.stdin is not None
    made.process.stdin.close()
    made.process.wait(10)
    database.close()


def claims(issuer: Issuer, **more: object) -> dict[str, object]:
    known = {
        "iss": issuer.address,
        "aud": "gateway",
        "sub": "mara",
        "team": TEAM,
        "exp": time.time() + 600,
    }
    return {**known, **more}


def signed(issuer: Issuer, **more: object) -> str:
    return token({"alg": "RS256", "kid": "rsa"}, claims(issuer, **more), RSA)


def is_let_in(answer: dict[str, Any]) -> bool:
    return "key_id" in answer


def test_a_key_is_let_in_and_refused_as_soon_as_the_file_says_so(
    door_without_issuer: Door,
) -> None:
    door = door_without_issuer
    asked = KeyRequest(team=TEAM, use_cases=[USE_CASE], rate_rpm=60, concurrency_limit=2)
    issued = access.issue(door.ground, asked)
    assert door.ask(f"Bearer {issued.text}")["kind"] == "invalid_api_key"
    door.publish()
    assert door.ask(f"Bearer {issued.text}") == {
        "key_id": issued.key.id,
        "team": TEAM,
        "use_cases": [USE_CASE],
        "rate_rpm": 60,
        "concurrency_limit": 2,
    }
    assert is_let_in(door.ask(f"bearer  {issued.text} "))
    access.revoke(door.ground, issued.key.id)
    door.publish()
    refused = door.ask(f"Bearer {issued.text}")
    assert (refused["status"], refused["kind"]) == (401, "invalid_api_key")


def test_an_expired_key_says_so(door_without_issuer: Door) -> None:
    door = door_without_issuer
    asked = KeyRequest(team=TEAM, use_cases=[USE_CASE], expires_in_s=60)
    issued = access.issue(door.ground, asked)
    door.publish()
    refused = door.ask(f"Bearer {issued.text}", time.time() + 61)
    assert (refused["status"], refused["kind"]) == (401, "expired_api_key")


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        (None, "missing_api_key"),
        ("", "missing_api_key"),
        ("Bearer ", "missing_api_key"),
        ("Basic Z2Y6", "invalid_api_key"),
        ("Bearer sk-1234", "invalid_api_key"),
        ("Bearer gf-short-secret", "invalid_api_key"),
        ("Bearer " + "a." * 100_000, "invalid_api_key"),
        ("Bearer a.b.c", "invalid_api_key"),
        ("gf-" + "a" * 12 + "-" + "B" * 43, "invalid_api_key"),
    ],
)
def test_without_a_key_nobody_is_let_in(
    door_without_issuer: Door, header: str | None, kind: str
) -> None:
    refused = door_without_issuer.ask(header)
    assert (refused["status"], refused["kind"]) == (401, kind)


def test_a_token_of_the_issuer_stands_for_its_team(door: Door, issuer: Issuer) -> None:
    for header, key in (
        ({"alg": "RS256", "kid": "rsa"}, RSA),
        ({"alg": "ES256", "kid": "ec"}, EC),
        ({"alg": "EdDSA", "kid": "ed"}, ED),
        ({"alg": "RS256"}, RSA),
    ):
        found = door.ask(f"Bearer {token(header, claims(issuer), key)}")
        assert (found.get("key_id"), found.get("team")) == ("oidc:mara", TEAM), found
    assert len([path for path in issuer.asked if path.endswith("/keys")]) == 1


def forged(issuer: Issuer) -> dict[str, str]:
    """Tokens that were not signed by the issuer for here and now."""
    good = claims(issuer)
    head, body, signature = signed(issuer).split(".")
    other = encoded(json.dumps({**good, "sub": "eve"}).encode())
    rs256 = {"alg": "RS256", "kid": "rsa"}
    return {
        "none": token({"alg": "none"}, good, None),
        "None": token({"alg": "None", "kid": "rsa"}, good, None),
        "no algorithm": token({"kid": "rsa"}, good, None),
        "public key as secret": token({"alg": "HS256", "kid": "rsa"}, good, public_pem(RSA)),
        "shared key": token({"alg": "HS256", "kid": "shared"}, good, b"secret"),
        "another key": token(rs256, good, OTHER),
        "another key of the issuer": token({"alg": "RS256", "kid": "ec"}, good, RSA),
        "an algorithm that the key is not for": token({"alg": "RS384", "kid": "rsa"}, good, RSA),
        "own key in the header": token({**rs256, "jwk": public_jwk(OTHER, "rsa")}, good, OTHER),
        "changed": f"{head}.{other}.{signature}",
        "without signature": f"{head}.{body}.",
        "unknown extension": token({**rs256, "crit": ["b64"], "b64": False}, good, RSA),
        "wrong audience": signed(issuer, aud="another"),
        "wrong issuer": signed(issuer, iss="https://evil.example.com"),
        "not yet": signed(issuer, nbf=time.time() + 600),
        "forever": signed(issuer, exp=None),
        "huge": signed(issuer, padding="x" * 9000),
        "claims that are a list": token(rs256, [], RSA),  # type: ignore[arg-type]
        "deep": f"{head}.{encoded(b'[' * 3000)}.{signature}",
    }


def test_no_forged_token_is_let_in(door: Door, issuer: Issuer) -> None:
    for name, text in forged(issuer).items():
        refused = door.ask(f"Bearer {text}")
        assert not is_let_in(refused), name
        assert refused["status"] == 401, (name, refused)
        assert refused["kind"] in {"invalid_token", "invalid_api_key"}, (name, refused)
        assert not set(text.split(".")) & set(refused["message"].split()), name
    assert is_let_in(door.ask(f"Bearer {signed(issuer)}"))
    assert door.log.read_text() == ""


def test_an_expired_token_says_so_and_one_without_a_team_is_forbidden(
    door: Door, issuer: Issuer
) -> None:
    late = door.ask(f"Bearer {signed(issuer)}", time.time() + 700)
    assert (late["status"], late["kind"]) == (401, "expired_token")
    teamless = door.ask(f"Bearer {signed(issuer, team='nobody')}")
    assert (teamless["status"], teamless["kind"]) == (403, "no_team")


def test_while_the_issuer_is_down_known_keys_go_on_and_a_new_one_is_not_guessed(
    door: Door, issuer: Issuer, until: Until
) -> None:
    assert is_let_in(door.ask(f"Bearer {signed(issuer)}"))
    issuer.stop()
    time.sleep(LEAST_INTERVAL_S)
    new = token({"alg": "RS256", "kid": "new"}, claims(issuer), OTHER)
    refused = door.ask(f"Bearer {new}")
    assert (refused["status"], refused["kind"]) == (503, "issuer_unreachable")
    assert is_let_in(door.ask(f"Bearer {signed(issuer)}"))
    issuer.keys = [public_jwk(OTHER, "new")]
    issuer.start_again()
    until(lambda: is_let_in(door.ask(f"Bearer {new}")))
    assert door.ask(f"Bearer {signed(issuer)}")["status"] == 401


def test_unknown_keys_do_not_make_the_gateway_ask_again_and_again(
    door: Door, issuer: Issuer
) -> None:
    started = time.monotonic()
    for count in range(50):
        header = {"alg": "RS256", "kid": f"k{count}"}
        assert door.ask(f"Bearer {token(header, claims(issuer), OTHER)}")["status"] == 401
    passed = time.monotonic() - started
    asked = [path for path in issuer.asked if path.endswith("/keys")]
    assert len(asked) <= passed / LEAST_INTERVAL_S + 1


@pytest.mark.parametrize(
    "fault", ["another issuer", "plain http elsewhere", "far too long", "no keys", "only private"]
)
def test_an_issuer_that_says_nonsense_opens_nothing(door: Door, issuer: Issuer, fault: str) -> None:
    if fault == "another issuer":
        issuer.discovery = {"issuer": "https://evil.example.com"}
    elif fault == "plain http elsewhere":
        issuer.discovery = {"jwks_uri": "file:///etc/passwd"}
    elif fault == "far too long":
        issuer.padding = 10**6
    elif fault == "no keys":
        issuer.keys = []
    else:
        issuer.keys = [{**public_jwk(RSA, "rsa"), "d": "AQAB"}]
    refused = door.ask(f"Bearer {signed(issuer)}")
    assert (refused["status"], refused["kind"]) == (503, "issuer_unreachable")


def test_weak_keys_of_an_issuer_are_not_used(door: Door, issuer: Issuer) -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - what is tested
    issuer.keys.append(public_jwk(weak, "weak"))
    text = token({"alg": "RS256", "kid": "weak"}, claims(issuer), weak)
    assert door.ask(f"Bearer {text}")["status"] == 401
