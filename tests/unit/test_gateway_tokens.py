import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.gateway.routes import routes_of
from gpufleet.core.gateway.tokens import LEEWAY_S, Bearer, TokenFault, TokenRefused, bearer_of
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet
from gpufleet.spec.gateway import Oidc

NOW = 1_800_000_000.0
OIDC = Oidc(issuer="https://login.example.com/realms/acme", audience="gateway")
ROUTES = routes_of(load_fleet(PROJECT_ROOT / "fleets" / "sample" / "production.yaml"))
GOOD: dict[str, object] = {
    "iss": OIDC.issuer,
    "aud": "gateway",
    "sub": "mara",
    "exp": NOW + 60,
    "team": "support",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def bearer(**claims: object) -> Bearer:
    given_ = {name: value for name, value in {**GOOD, **claims}.items() if value is not ...}
    return bearer_of(given_, OIDC, ROUTES, NOW)


def refusal(**claims: object) -> TokenFault:
    with pytest.raises(TokenRefused) as refused:
        bearer(**claims)
    return refused.value.kind


def test_a_token_stands_for_its_teams_use_cases_and_no_others() -> None:
    found = bearer()
    assert (found.subject, found.team) == ("mara", "support")
    assert found.use_cases
    assert {ROUTES.use_cases[name].team for name in found.use_cases} == {"support"}


@pytest.mark.parametrize("audience", [["gateway"], ["other", "gateway"]])
def test_the_gateway_may_be_one_of_several_audiences(audience: list[str]) -> None:
    assert bearer(aud=audience).team == "support"


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://login.example.com/realms/other"},
        {"iss": ...},
        {"iss": OIDC.issuer + "/"},
        {"aud": "gateway2"},
        {"aud": []},
        {"aud": ...},
        {"aud": ["gateway2", None]},
        {"aud": {"gateway": True}},
        {"exp": ...},
        {"exp": "never"},
        {"exp": True},
        {"exp": math.inf},
        {"exp": math.nan},
        {"exp": 10**400},
        {"nbf": NOW + LEEWAY_S + 1},
        {"nbf": "soon"},
        {"sub": ...},
        {"sub": ""},
        {"sub": 7},
        {"sub": "m" * 256},
    ],
)
def test_a_token_that_is_not_for_here_and_now_is_invalid(claims: dict[str, object]) -> None:
    assert refusal(**claims) is TokenFault.INVALID


def test_clocks_may_be_a_little_apart() -> None:
    assert bearer(exp=NOW - LEEWAY_S + 1).team == "support"
    assert refusal(exp=NOW - LEEWAY_S) is TokenFault.EXPIRED
    assert bearer(nbf=NOW + LEEWAY_S).team == "support"


@pytest.mark.parametrize("team", [..., None, "", "nobody", 7, ["support"], {"support": 1}])
def test_a_token_without_a_team_of_this_environment_may_use_nothing(team: object) -> None:
    assert refusal(team=team) is TokenFault.TEAMLESS


@given(st.dictionaries(st.sampled_from([*GOOD, "nbf", "team"]), JSON))
def test_whatever_a_token_claims_is_a_bearer_or_a_refusal(claims: dict[str, object]) -> None:
    try:
        found = bearer(**claims)
    except TokenRefused:
        return
    assert found.use_cases
