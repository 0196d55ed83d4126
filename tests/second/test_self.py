"""The second evaluator judged by hand-written cases: every stage, every code, and draft vector J.1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from . import keys, mint, universe
from .constraints import Constraint
from .corpus import damage_cases, plan_of
from .evaluator import evaluate
from .outcome import CODES
from .plan import Plan
from .recipe import HARMLESS, ProofRecipe, with_link
from .strategies import build
from .universe import ANYTHING, AUDIENCE, ISSUER, NOW

ROUTE = ("boss", "writer", "reader")
PATH: Constraint = universe.ext("path", root="/srv/tickets")
MAP: dict[str, Constraint] = {"path": PATH, "limit": {**universe.between(1, 50), "optional": True}}
ARGUMENTS = {"path": "/srv/tickets/a.txt", "limit": 5}


def plan(*, hops: int = 3, profile: bool = True, arguments: dict[str, Any] | None = None) -> Plan:
    """A call that is allowed."""
    entries = MAP if profile else {"path": ANYTHING, "limit": MAP["limit"]}
    made = plan_of(ROUTE[:hops], "read_file", arguments or ARGUMENTS, [entries] * hops, profile=profile)
    made.policy["environment"] = {"deployment": {"one_of": ["prod", "staging"]}}
    return made


def verdict(made: Plan) -> tuple[Any, int]:
    found = build(made).evaluate()
    assert found["verdict"] == ("allow" if found["code"] is None else "deny")
    return found["code"], found["stage"]


def link(index: int, **changes: Any) -> Callable[[Plan], None]:
    def change(made: Plan) -> None:
        made.recipe = with_link(made.recipe, index, **changes)

    return change


def put(**changes: Any) -> Callable[[Plan], None]:
    def change(made: Plan) -> None:
        for name, value in changes.items():
            setattr(made, name, value)

    return change


def both(*steps: Callable[[Plan], None]) -> Callable[[Plan], None]:
    def change(made: Plan) -> None:
        for step in steps:
            step(made)

    return change


def entries(index: int, tool: str = "read_file", **changes: Any) -> Callable[[Plan], None]:
    """Change the map of one link; ``None`` takes an entry away, ``star`` stands for ``*``."""

    def change(made: Plan) -> None:
        tools = dict(made.recipe.links[index].tools or {})
        own = {**tools.get(tool, {}), **{("*" if name == "star" else name): value for name, value in changes.items()}}
        tools[tool] = {name: value for name, value in own.items() if value is not None}
        link(index, tools=tools)(made)

    return change


def rule(**rules: Any) -> Callable[[Plan], None]:
    """Change the leaf agent's rules; ``None`` takes one away."""

    def change(made: Plan) -> None:
        own = made.policy["agents"][made.route[-1]]["tools"]["read_file"]
        own.update(rules)
        for name in [name for name, value in own.items() if value is None]:
            del own[name]

    return change


def argue(**arguments: Any) -> Callable[[Plan], None]:
    """Present and bind other arguments, and let the policy have them."""

    def change(made: Plan) -> None:
        made.presented = {**made.presented, **arguments}
        made.bound = dict(made.presented)
        made.policy["agents"][made.route[-1]]["tools"]["read_file"] = dict.fromkeys(made.bound, "any")

    return change


def attribute(**attributes: Any) -> Callable[[Plan], None]:
    return lambda made: made.policy["tools"]["read_file"].update(attributes)


def prove(**changes: Any) -> Callable[[Plan], None]:
    """A proof for the call, with changes to the recipe."""

    def change(made: Plan) -> None:
        made.proof = replace(ProofRecipe(made.route[-1], made.tool, made.presented, NOW, AUDIENCE), **changes)

    return change


def claims(**changes: Any) -> Callable[[Plan], None]:
    return prove(changes=changes)


def unbind(thumbprint: str) -> Callable[[Plan], None]:
    def change(made: Plan) -> None:
        del made.bindings[thumbprint]

    return change


def without_agent(agent: str) -> Callable[[Plan], None]:
    def change(made: Plan) -> None:
        del made.policy["agents"][agent]

    return change


def nothing(made: Plan) -> None:
    """No change at all."""


def delegates(parent: str, edges: dict[str, Any]) -> Callable[[Plan], None]:
    return lambda made: made.policy["agents"][parent].update(delegates=edges)


DENY_ALL = {"constraint_type": "range", "min": 0, "max": 0, "min_inclusive": False, "optional": True}
DROP: Any = None
THUMB = mint.thumbprint
DEEP: list[Any] = []
for _ in range(40):
    DEEP = [DEEP]
PROVEN = both(put(proof_required=True), prove())

CASES: list[tuple[str, Callable[[Plan], None], Any, int]] = [
    ("allowed", nothing, None, 10),
    # 0
    ("empty tool", put(tool=""), "malformed_call", 0),
    ("tool not ASCII", put(tool="read_fil\u0435"), "malformed_call", 0),
    ("presented not bound", put(bound={"path": "/srv/tickets/a.txt"}), "malformed_call", 0),
    ("argument too deep", argue(path=DEEP), "malformed_call", 0),
    ("NaN", argue(limit=float("nan")), "malformed_call", 0),
    ("lone surrogate", argue(path="/srv/tickets/\ud800"), "malformed_call", 0),
    # 1
    ("no chain", put(no_chain=True), "artifact_missing", 1),
    ("empty chain", put(cut=3), "artifact_missing", 1),
    # 2
    ("no anchor", put(anchors=[]), "issuer_untrusted", 2),
    ("anchor of another issuer", put(anchors=[("https://x.example", mint.public_key("issuer"))]), "issuer_untrusted", 2),
    ("anchor with another key", put(anchors=[(ISSUER, mint.public_key("stranger"))]), "signature_invalid", 2),
    ("one of two anchors", put(anchors=[("https://x.example", mint.public_key("issuer")), (ISSUER, mint.public_key("issuer"))]), None, 10),
    ("without its root", put(first=1), "issuer_untrusted", 2),
    ("parent's token by the child", put(cut=1), "delegation_invalid", 2),
    ("key of another agent", put(caller="writer"), "delegation_invalid", 2),
    ("unbound leaf", unbind(THUMB("reader")), "delegation_invalid", 2),
    ("root holder named by the issuer", unbind(THUMB("boss")), None, 10),
    ("claim against binding", link(2, agent="writer"), "delegation_invalid", 2),
    ("splice", lambda made: setattr(made, "recipe", replace(made.recipe, swapped=1)), "delegation_invalid", 2),
    ("plain child of a profile parent", link(2, profile=False), "delegation_invalid", 2),
    ("tool added", entries(2, tool="send_email", to=ANYTHING), "delegation_invalid", 2),
    ("path widened", entries(2, path=universe.ext("path", root="/srv")), "delegation_invalid", 2),
    ("path narrowed", entries(2, path=universe.ext("path", root="/srv/tickets/")), None, 10),
    ("exact under path", entries(2, path=universe.exact("/srv/tickets/a.txt")), None, 10),
    ("wildcard under path", entries(2, path=ANYTHING), "delegation_invalid", 2),
    ("star added", entries(2, star=ANYTHING), "delegation_invalid", 2),
    ("required becomes optional", entries(2, path={**PATH, "optional": True}), "delegation_invalid", 2),
    ("optional becomes required", entries(2, limit=universe.between(1, 50)), None, 10),
    ("required omitted", entries(2, path=None), "delegation_invalid", 2),
    ("optional omitted, then used", entries(2, limit=None), "argument_not_in_scope", 8),
    ("name added", entries(2, extra={**ANYTHING, "optional": True}), "delegation_invalid", 2),
    ("name added that accepts nothing", entries(2, extra=DENY_ALL), None, 10),
    ("another policy below", both(link(1, policy="this"), link(2, policy="other")), "delegation_invalid", 2),
    ("exp beyond the parent's", link(2, exp=NOW + 601), "delegation_invalid", 2),
    ("terminal token extended", both(link(1, max_depth=1), link(2, max_depth=1)), "delegation_invalid", 2),
    # 3
    ("iat at the edge of the skew", link(2, iat=NOW + 30), None, 10),
    ("iat beyond it", link(2, iat=NOW + 31), "artifact_not_yet_valid", 3),
    ("nbf at the edge", link(0, nbf=NOW + 30), None, 10),
    ("nbf of an ancestor", link(0, nbf=NOW + 31), "artifact_not_yet_valid", 3),
    ("exp is now", link(2, exp=NOW), "artifact_expired", 3),
    ("exp in a second", link(2, exp=NOW + 1), None, 10),
    # 4
    ("ancestor revoked", put(revoked_link=0), "artifact_revoked", 4),
    ("leaf revoked", put(revoked_link=2), "artifact_revoked", 4),
    ("task revoked", put(revoked={"task": "task-1"}), "artifact_revoked", 4),
    ("agent revoked", put(revoked={"agent": "writer"}), "artifact_revoked", 4),
    ("initiator revoked", put(revoked={"initiator": "user:alice"}), "artifact_revoked", 4),
    ("key revoked", put(revoked={"key": THUMB("boss")}), "artifact_revoked", 4),
    ("all revoked", put(revoked={"all": "all"}), "artifact_revoked", 4),
    ("others revoked", put(revoked={"task": "task-2", "agent": "helper"}), None, 10),
    # 5
    ("policy's environment", put(facts={"deployment": "dev"}), "environment_mismatch", 5),
    ("fact unknown", put(facts={}), "environment_mismatch", 5),
    ("ancestor's environment", link(0, env={"deployment": universe.exact("prod")}), "environment_mismatch", 5),
    ("all environments hold", both(link(0, env={"region": ANYTHING}), link(2, env={"cores": universe.between(4)})), None, 10),
    # 6
    ("this policy", link(1, policy="this"), None, 10),
    ("another policy", link(0, policy="other"), "policy_mismatch", 6),
    # 7
    ("tool changed", put(integrity_ok=False), "integrity_failure", 7),
    # 8
    ("tool not granted", put(tool="search"), "tool_not_in_scope", 8),
    ("argument outside", argue(path="/srv/ticketsx"), "argument_not_in_scope", 8),
    ("argument unnamed", argue(mode="x"), "argument_not_in_scope", 8),
    ("argument missing", put(presented={"limit": 5}), "argument_not_in_scope", 8),
    ("optional missing", put(presented={"path": "/srv/tickets/a.txt"}), None, 10),
    ("default refused", put(presented={"path": "/srv/tickets/a.txt"}, bound={**ARGUMENTS, "limit": 51}), "argument_not_in_scope", 8),
    ("number inadmissible", argue(limit=2**53 + 1), "argument_not_in_scope", 8),
    ("open map", both(*(entries(i, star=ANYTHING) for i in range(3))), "argument_not_in_scope", 8),
    ("open map accepted", both(*(entries(i, star=ANYTHING) for i in range(3)), attribute(unsafe_any_arguments=True)), None, 10),
    ("empty map is open", both(*(link(i, tools={"read_file": {}}) for i in range(3))), "argument_not_in_scope", 8),
    ("empty map accepted", both(*(link(i, tools={"read_file": {}}) for i in range(3)), attribute(unsafe_any_arguments=True)), None, 10),
    ("audience of an ancestor", link(0, aud="https://other.example"), "audience_mismatch", 8),
    ("audience among others", link(0, aud=["https://other.example", AUDIENCE]), None, 10),
    ("audience, and no identity here", both(link(0, aud=AUDIENCE), put(audience=None)), "audience_mismatch", 8),
    # 9
    ("proof by policy, missing", attribute(proof="required"), "proof_missing", 9),
    ("proof by policy", both(attribute(proof="required"), prove(audience=None)), None, 10),
    ("proof across a boundary", PROVEN, None, 10),
    ("proof without audience", both(PROVEN, prove(audience=None)), "proof_invalid", 9),
    ("proof by the parent's holder", both(PROVEN, prove(signer="writer")), "proof_invalid", 9),
    ("proof at the edge", both(PROVEN, prove(iat=NOW - 30)), None, 10),
    ("proof too old", both(PROVEN, prove(iat=NOW - 31)), "proof_invalid", 9),
    ("proof for another tool", both(PROVEN, claims(aat_tool="search")), "proof_invalid", 9),
    ("proof for other arguments", both(PROVEN, claims(hta={**ARGUMENTS, "limit": 6})), "proof_invalid", 9),
    ("proof with 5.0 for 5", both(PROVEN, claims(hta={**ARGUMENTS, "limit": 5.0})), None, 10),
    ("proof of another leaf", both(PROVEN, claims(aat_hash="A" * 43)), "proof_invalid", 9),
    ("proof without hta", both(PROVEN, claims(hta=DROP)), "proof_invalid", 9),
    ("proof is a token", both(PROVEN, prove(header=mint.HEADER)), "proof_invalid", 9),
    ("proof with crit", both(PROVEN, prove(header={**mint.PROFILE_HEADER, "typ": "aat-pop+jwt"})), "proof_invalid", 9),
    # 10
    ("agent unknown", without_agent("reader"), "agent_unknown", 10),
    ("ancestor unknown", without_agent("boss"), "delegation_not_allowed", 10),
    ("no edge", delegates("writer", {}), "delegation_not_allowed", 10),
    ("edge one hop deep", delegates("boss", {"writer": {"depth": 1}}), "delegation_not_allowed", 10),
    ("edge to somebody else", delegates("writer", {"helper": {"depth": 5}}), "delegation_not_allowed", 10),
    ("intermediate unbound", unbind(THUMB("writer")), "delegation_not_allowed", 10),
    ("forbidden", lambda made: made.policy.update(forbid=[{"tool": "read_*"}]), "tool_not_allowed", 10),
    ("others forbidden", lambda made: made.policy.update(forbid=[{"tool": "delete_*"}]), None, 10),
    ("agent has no such tool", lambda made: made.policy["agents"]["reader"].update(tools={}), "tool_not_allowed", 10),
    ("rule refuses", rule(path={"path": "/srv/tickets/sub"}), "argument_not_allowed", 10),
    ("rules are and-ed", rule(path={"path": "/srv", "max_length": 5}), "argument_not_allowed", 10),
    ("no rule for an argument", rule(limit=None), "argument_not_allowed", 10),
    ("rule for an absent argument", rule(extra="any"), "argument_not_allowed", 10),
    ("optional rule for an absent argument", rule(extra={"max_length": 3, "optional": True}), None, 10),
    # the policy itself
    ("policy with an unknown key", lambda made: made.policy.update(agent={}), "guard_error", -1),
    ("policy of another version", lambda made: made.policy.update(agentguard=True), "guard_error", -1),
    ("policy with an unknown constraint", rule(path={"prefix": "/"}), "guard_error", -1),
]


@pytest.mark.parametrize(("change", "code", "stage"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_profile_chain(change: Callable[[Plan], None], code: Any, stage: int) -> None:
    made = plan()
    change(made)
    assert verdict(made) == (code, stage)


PLAIN_CASES: list[tuple[str, Callable[[Plan], None], Any, int]] = [
    ("allowed", nothing, None, 10),
    ("not accepted by policy", attribute(plain_chains="refused"), "tool_not_in_scope", 8),
    ("proof is always needed", put(proof=None, proof_required=False), "proof_missing", 9),
    ("an extension type", both(*(entries(i, path=PATH) for i in range(3))), "artifact_malformed", 2),
    ("narrower, but not in the table",
        both(*(entries(i, path=universe.none_of("/etc")) for i in range(2)), entries(2, path=universe.exact("/srv"))),
        "delegation_invalid", 2),
    ("in the table", entries(2, path=universe.one_of("/srv/tickets/a.txt")), None, 10),
    ("empty map is open", both(*(link(i, tools={"read_file": {}}) for i in range(3))), None, 10),
    ("root holder needs a binding", unbind(THUMB("boss")), "delegation_not_allowed", 10),
]  # fmt: skip


@pytest.mark.parametrize(("change", "code", "stage"), [case[1:] for case in PLAIN_CASES], ids=[case[0] for case in PLAIN_CASES])
def test_plain_chain(change: Callable[[Plan], None], code: Any, stage: int) -> None:
    made = plan(profile=False)
    change(made)
    assert verdict(made) == (code, stage)


def test_every_code_is_reached() -> None:
    reached = {code for _, _, code, _ in (*CASES, *PLAIN_CASES)}
    assert reached >= {code for codes in CODES.values() for code in codes}


def test_every_damage_is_noticed() -> None:
    """Apart from the harmless, and from changes that a root may make as it likes."""
    roots_own = {"max_depth_0", "max_depth_more", "exp_later", "iat_earlier", "jti_same", "profile_initiator", "profile_task"}
    allowed = set()
    for name, index, case in damage_cases():
        if case.evaluate()["verdict"] == "allow" and not (index == 0 and name in roots_own):
            allowed.add(name)
    assert allowed == HARMLESS | {"crit_dropped"}  # a plain token has none to drop


def test_duplicate_keys_in_a_policy() -> None:
    case = build(plan())
    found = evaluate(**{**case.inputs(), "policy_text": case.policy_text + "\nname: again\n"})
    assert found["code"] == "guard_error"


J1 = (
    "eyJhbGciOiJFZDI1NTE5IiwidHlwIjoiYWF0K2p3dCJ9.eyJhdXRob3JpemF0aW9uX2RldGFpbHMiOlt7InRvb2xzIjp7InJlYWRfZmlsZSI6eyJwYXRoIjp7ImNvbnN0cmFpbnRfd"
    "HlwZSI6IndpbGRjYXJkIn19fSwidHlwZSI6ImF0dGVudWF0aW5nX2FnZW50X3Rva2VuIn1dLCJjbmYiOnsiandrIjp7ImNydiI6IkVkMjU1MTkiLCJrdHkiOiJPS1AiLCJ4IjoiZ1R"
    "sM0RxaDlGMTlXbzFSbXcweC16TXVOaXBHMDdqZWlYZllQVzRfSnM1USJ9fSwiZGVsX2RlcHRoIjowLCJkZWxfbWF4X2RlcHRoIjozLCJleHAiOjE3MDQwNzA4MDAsImlhdCI6MTcwN"
    "DA2NzIwMCwiaXNzIjoiaHR0cHM6Ly9hdXRoLmV4YW1wbGUuY29tIiwianRpIjoiMDE5NDcxZjgtMDAwMC03MDAwLTgwMDAtMDAwMDAwMDAwMDAxIn0.G2ZIeMAY5H1nbG0j2f6R9hW"
    "8WsP98CC8ZA9-dLpNATy-i7DMR6iAHzgSrAhpdTVt1Y5urMK9iE0ZXMcLHzrHBg"
)
J1_PROOF = (
    "eyJhbGciOiJFZDI1NTE5IiwidHlwIjoiYWF0LXBvcCtqd3QifQ.eyJhYXRfYXVkIjoiaHR0cHM6Ly90b29scy5leGFtcGxlLmNvbSIsImFhdF9oYXNoIjoicXowNUNqTzFTLWlUazk"
    "zQ0dLbWlCOHk3YlJVZFVBZTY3a1h6VXd5TXpVVSIsImFhdF9pZCI6IjAxOTQ3MWY4LTAwMDAtNzAwMC04MDAwLTAwMDAwMDAwMDAwMSIsImFhdF90b29sIjoicmVhZF9maWxlIiwia"
    "HRhIjp7InBhdGgiOiIvZGF0YS9xMy1yZXBvcnQucGRmIn0sImlhdCI6MTcwNDA2NzUwMCwianRpIjoiMDE5NDcxZjgtMDAwMC03MDAwLTgwMDAtMDAwMDAwMDAwYTAxIn0.Dod0rnn"
    "_6OlvM2upQlbY0trWOJPM80GEuZn6gUJr0vOmWrjdWEg_voQT-f-iKsgqGJ1KRdQqisbNgaNJ5OBOAQ"
)
J1_POLICY = "{agentguard: 1, name: j, agents: {o: {tools: {read_file: {path: any}}}}, tools: {read_file: {plain_chains: accepted}}}"


@pytest.mark.parametrize(("path", "code"), [("/data/q3-report.pdf", None), ("/data/q4-report.pdf", "proof_invalid")])
def test_vector_j1(path: str, code: Any) -> None:
    """Draft appendix E: the bytes of J.1, and the thumbprint printed beside it."""
    holder = keys.unb64("gTl3Dqh9F19Wo1Rmw0x-zMuNipG07jeiXfYPW4_Js5Q")
    assert keys.thumbprint(holder) == "aVBtapLd11SUVKIMGJfPzOEDuN0sXcmzJQNVT-_sKEU"
    found = evaluate(
        J1_POLICY, [J1], {"agent": "o", "tool": "read_file", "presented": {"path": path}, "bound": {"path": path}, "call_id": None},
        anchors=[("https://auth.example.com", keys.unb64("iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w"))],
        bindings={keys.thumbprint(holder): "o"}, now=1704067500, revoked={}, facts={}, integrity_ok=True,
        proof=J1_PROOF, audience="https://tools.example.com", proof_required=True, policy_digest="sha256:" + "0" * 64,
    )  # fmt: skip
    assert found["code"] == code
