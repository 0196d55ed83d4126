"""Vectors about one call under a valid chain: scope, audience, proof (steps 6 and 7), numbers, and malformed requests."""

from __future__ import annotations

import json
from typing import Any

from vectors.forge import (
    ALICE,
    AUDIENCE,
    DEFAULTS,
    HEADER,
    ISSUER,
    MALLORY,
    NOW,
    PROFILE_HEADER,
    PROOF_HEADER,
    READ,
    ROOT_KEY,
    WILDCARD,
    Vectors,
    b64,
    bare,
    child,
    encode,
    identifier,
    proof,
    root,
    sign,
)  # fmt: skip

EVIL = "https://evil.example"


def exact(value: Any) -> dict[str, Any]:
    return {"constraint_type": "exact", "value": value}


def calls() -> Vectors:
    """Steps 6a to 6c."""
    out = Vectors("Calls that the chain admits, and calls that it refuses (steps 6a to 6c).")
    base = root("call")
    leaf = child(base, "empty leaf", authorization_details=[])
    out.add("6a: a leaf without an AAT entry", "8 step 6a", "6a", [base, leaf])
    out.add(
        "6a: a leaf with foreign entries only", "8 step 6a", "6a", [base, child(base, "foreign", authorization_details=[{"type": "x"}])]
    )
    for name, call in (
        ("a tool that is not granted", ("delete_file", {})),
        ("a tool that differs in case", ("Read_file", READ[1])),
        ("a tool with a look-alike letter", ("rеad_file", READ[1])),
        ("a tool with a trailing space", ("read_file ", READ[1])),
        ("a value that is not listed", ("read_file", {"path": "/etc/shadow"})),
        ("a required argument absent", ("read_file", {})),
        ("an argument too many", ("read_file", {**READ[1], "mode": "w"})),
        ("an argument called star", ("read_file", {**READ[1], "*": 1})),
        ("an optional argument out of range", ("search", {"query": "x", "limit": 101})),
        ("true for a number", ("search", {"query": "x", "limit": True})),
        ("a number in a string", ("search", {"query": "x", "limit": "5"})),
        ("null for an optional argument", ("search", {"query": "x", "limit": None})),
    ):
        out.add(f"6b: {name}", "8 step 6b", "6b", [base], call=call)
    out.add("6b: an optional argument present", "3.3", None, [base], call=("search", {"query": "x", "limit": 100}))
    out.add("6b: an optional argument absent", "3.3", None, [base], call=("search", {"query": {"deep": [1, 2.5, None]}}))
    opened = root("open", tools={"run": {"safe": exact(True), "*": WILDCARD}, "any": {}})
    out.add("6b: star admits an unnamed argument", "3.3", None, [opened], call=("run", {"safe": True, "more": [1]}))
    out.add("6b: star admits an argument called star", "3.3", None, [opened], call=("run", {"safe": True, "*": 1}))
    out.add("6b: star does not lift a named constraint", "3.3", "6b", [opened], call=("run", {"safe": False, "more": 1}))
    out.add("6b: an empty map admits anything", "3.3", None, [opened], call=("any", {"x": {"y": "z"}}))
    out.add("6b: one is not true", "3.4", "6b", [opened], call=("run", {"safe": 1}))
    _audiences(out)
    _values(out)
    return out


def _audiences(out: Vectors) -> None:
    for name, step, aud in (
        ("names this enforcement point", None, AUDIENCE),
        ("names this enforcement point among others", None, [EVIL, AUDIENCE]),
        ("names another", "6c", EVIL),
        ("has a trailing slash", "6c", AUDIENCE + "/"),
        ("is a prefix of this one's name", "6c", AUDIENCE[:-1]),
        ("is empty", "6c", []),
        ("is an empty string", "6c", ""),
        ("is null", "6c", None),
        ("is a number", "6c", 5),
        ("holds a number beside the right name", "6c", [AUDIENCE, 5]),
        ("is an object", "6c", {"uri": AUDIENCE}),
    ):
        out.add(f"6c: aud {name}", "8 step 6c", step, [root(f"aud {name}", aud=aud)])
    base = root("aud")
    named = root("named", aud=AUDIENCE)
    out.add("6c: an audience is required and absent", "9.5", "6c", [base], policy={"audience": AUDIENCE, "require_chain_aud": True})
    out.add(
        "6c: an audience is required and the root has it",
        "9.5",
        None,
        [named, child(named, "x")],
        policy={"audience": AUDIENCE, "require_chain_aud": True},
    )
    out.add("6c: an enforcement point with two names", "3.2", None, [named], policy={"audience": [EVIL, AUDIENCE]})
    out.add("6c: an enforcement point without a name", "3.2", "6c", [named], policy={})


def _values(out: Vectors) -> None:
    """Numbers as written, and strings as they are: requests as text, because their very digits matter."""
    tools = {"set": {"n": WILDCARD}, "one": {"n": exact(1)}, "max": {"n": {"constraint_type": "range", "max": 9007199254740992}},
             "list": {"n": {"constraint_type": "one_of", "values": [0, "é", {"b": 1, "a": [1]}]}}}  # fmt: skip
    base = root("numbers", tools=tools)

    def case(name: str, step: str | None, tool: str, text: str, hta: str | None = None) -> None:
        claims = {"jti": identifier(name), "iat": NOW, "aat_id": base.claims["jti"], "aat_hash": base.hash, "aat_tool": tool, "hta": "@"}
        pop = sign(encode(claims).replace(b'"@"', f'{{"n":{hta or text}}}'.encode()), ALICE, PROOF_HEADER, ALICE)
        request = {**DEFAULTS, "chain": [base.text], "tool": tool, "args": "@", "pop": pop.text}
        out.line(f"value: {name}", "3.4", step, json.dumps(request).replace('"args": "@"', f'"args": {{"n": {text}}}'))

    case("2^53 is admissible", None, "set", "9007199254740992")
    case("2^53 + 1 is not", "6b", "set", "9007199254740993")
    case("2^53 + 2 is", None, "set", "9007199254740994")
    case("2^53 + 1 under a bound of 2^53", "6b", "max", "9007199254740993", "9007199254740992")
    case("0.1", None, "set", "0.1")
    case("1.10", None, "set", "1.10", "1.1")
    case("1e20", None, "set", "1e20", "100000000000000000000")
    case("5e-324", None, "set", "5e-324")
    case("1.00000000000000001", "6b", "set", "1.00000000000000001", "1")
    case("1e400", "6b", "set", "1e400", "1")
    case("1e-400", "6b", "set", "1e-400", "0")
    case("an absurd exponent", "6b", "set", "1e99999999999999999999", "1")
    case("a number of five thousand digits", "6b", "set", "1" * 5000, "1")
    case("an inadmissible number deep inside", "6b", "set", '{"a":[{"b":9007199254740993}]}', "1")
    case("1.0 is 1", None, "one", "1.0")
    case("1e0 is 1, and the proof says 1", None, "one", "1e0", "1")
    case("minus zero is zero", None, "list", "-0", "0")
    case("a composed letter", None, "list", '"\\u00e9"', '"é"')
    case("the same letter decomposed", "6b", "list", '"e\\u0301"')
    case("an object with its members in another order", None, "list", '{"a": [1.0], "b": 1}', '{"a":[1],"b":1}')
    case("a lone surrogate", "6b", "set", '"\\ud800"')
    case("astral and private-use member names", None, "set", '{"\\ue000": 1, "\\ud83d\\ude00": 2}', '{"😀":2,"\ue000":1}')
    bad = root("literal", tools={"read_file": {"path": WILDCARD}, "set": {"n": {"constraint_type": "range", "max": 9007199254740993}}})
    out.add("value: an inadmissible number in a constraint", "3.4", "3n", [bad])


def proofs() -> Vectors:
    """Steps 7a to 7i."""
    out = Vectors("Proofs of possession, good and bad (steps 7a to 7i).")
    base = root("proof")
    leaf = child(base, "proof")
    chain = [base, leaf]

    def case(name: str, step: str | None, policy: dict[str, Any] | None = None, **changes: Any) -> None:
        members: dict[str, Any] = {} if policy is None else {"policy": {"audience": AUDIENCE, **policy}}
        out.add(f"proof: {name}", f"8 step {step or '8'}", step, chain, pop=proof(leaf, *READ, **changes), **members)

    good = proof(leaf, *READ)
    head, body, mark = bare(good)
    out.add("proof: none", "7.1", "7a", chain, pop=None)
    out.add("proof: an empty string", "8 step 7a", "7a", chain, pop="")
    out.add("proof: the leaf itself", "3.5", "7a", chain, pop=leaf)
    long = proof(leaf, *READ, nonce="n" * 2000)
    out.add("proof: over the token size limit", "8 step 2a", "7a", chain, pop=long, limits={"max_token_size": 1500})
    out.add("proof: two segments", "8 step 7a", "7a", chain, pop=f"{head}.{body}")
    for name, header in (
        ("alg none", {**PROOF_HEADER, "alg": "none"}),
        ("alg EdDSA", {**PROOF_HEADER, "alg": "EdDSA"}),
        ("alg HS256", {**PROOF_HEADER, "alg": "HS256"}),
        ("typ missing", {"alg": "Ed25519"}),
        ("typ of a token", HEADER),
        ("typ of DPoP", {**PROOF_HEADER, "typ": "dpop+jwt"}),
        ("crit not understood", {**PROOF_HEADER, "crit": ["x"], "x": 1}),
        ("crit of the profile", {**PROFILE_HEADER, "typ": "aat-pop+jwt"}),
    ):
        case(name, "7a", header=header)
    case("signed by somebody else", "7b", key=MALLORY)
    case("signed by the parent's holder", "7b", key=ALICE)
    case("signed by the key in its header", "7b", key=MALLORY, header={**PROOF_HEADER, "jwk": MALLORY.jwk})
    out.add("proof: one bit flipped", "8 step 7b", "7b", chain, pop=f"{head}.{body}.{'A' if mark[0] != 'A' else 'B'}{mark[1:]}")
    twice = encode(good.claims)[:-1] + b',"aat_tool":"delete_file"}'
    out.add("proof: a claim stands twice", "8 step 7b", "7b", chain, pop=sign(twice, leaf.holder, PROOF_HEADER, leaf.holder))
    inner = encode(good.claims).replace(b'"hta":{', b'"hta":{"path":"/etc/shadow",')
    out.add("proof: an argument stands twice", "8 step 7b", "7b", chain, pop=sign(inner, leaf.holder, PROOF_HEADER, leaf.holder))
    out.add("proof: claims that are an array", "8 step 7b", "7b", chain, pop=sign(b"[]", leaf.holder, PROOF_HEADER, leaf.holder))
    for name in ("jti", "iat", "aat_id", "aat_hash", "aat_tool", "hta"):
        case(f"no {name}", "7c", drop=[name])
        case(f"{name} null", "7c", **{name: None})
    case("jti empty", "7c", jti="")
    case("iat true", "7c", iat=True)
    case("iat a fraction", "7c", iat=NOW + 0.5)
    case("hta an array", "7c", hta=[READ[1]])
    case("aat_id of the parent", "7c", aat_id=base.claims["jti"])
    case("aat_hash of the parent", "7c", aat_hash=base.hash)
    case("aat_hash padded", "7c", aat_hash=leaf.hash + "=")
    sibling = child(base, "sibling", jti=leaf.claims["jti"], exp=leaf.claims["exp"] - 1)
    out.add("proof: for a sibling leaf with the same jti", "7.2", "7c", [base, sibling], pop=good)
    case("aat_aud of this enforcement point", None, aat_aud=AUDIENCE)
    case("aat_aud of another", "7d", aat_aud=EVIL)
    case("aat_aud null", "7d", aat_aud=None)
    case("aat_aud an array with this one", "7d", aat_aud=[AUDIENCE])
    case("aat_aud required and absent", "7d", {"require_pop_aud": True})
    case("aat_aud required and right", None, {"require_pop_aud": True}, aat_aud=AUDIENCE)
    case("aat_aud present where this enforcement point has no name", "7d", {"audience": None}, aat_aud=AUDIENCE)
    case("aat_tool of another tool of the leaf", "7e", aat_tool="search")
    case("aat_tool in another case", "7e", aat_tool="READ_FILE")
    case("hta of another call", "7f", hta={"path": "/data/q4.pdf"})
    case("hta empty", "7f", hta={})
    case("hta with an argument more", "7f", hta={**READ[1], "mode": "r"})
    raw = encode(good.claims).replace(b'"hta":{', b'"hta" : { "x":1e400,')
    out.add("proof: hta with an inadmissible number", "8 step 7f", "7f", chain, pop=sign(raw, leaf.holder, PROOF_HEADER, leaf.holder))
    spaced = encode(good.claims).replace(b'":', b'" : ')
    out.add("proof: a payload that is not canonical JSON", "8 notes", None, chain, pop=sign(spaced, leaf.holder, PROOF_HEADER, leaf.holder))
    for name, step, offset in (("30 s old", None, -30), ("31 s old", "7g", -31), ("30 s ahead", None, 30), ("31 s ahead", "7g", 31)):
        case(name, step, iat=NOW + offset)
    case("nonce required and absent", "7h", {"nonce": "n-1"})
    case("nonce required and right", None, {"nonce": "n-1"}, nonce="n-1")
    case("nonce required and stale", "7h", {"nonce": "n-1"}, nonce="n-0")
    case("nonce null", "7h", {"nonce": "n-1"}, nonce=None)
    case("nonce not required but there", None, nonce="n-9")
    case("one of two accepted nonces", None, {"nonce": ["n-1", "n-2"]}, nonce="n-2")
    case("jti seen before", "7i", {"track_jti": ["p-1", "p-2"]}, jti="p-2")
    case("jti not seen before", None, {"track_jti": ["p-1"]}, jti="p-2")
    case("jti tracked, nothing seen yet", None, {"track_jti": True}, jti="p-2")
    out.add(
        "order: the proof's signature is judged before arguments",
        "8 notes",
        "7b",
        [base],
        call=("read_file", {}),
        pop=proof(base, "read_file", {}, key=MALLORY),
    )
    return out


def requests() -> Vectors:
    """Requests that are not of the form: step 0."""
    out = Vectors("Requests that are malformed themselves: DENY at step 0, whatever they hold.")
    base = root("request")
    good = {**DEFAULTS, "chain": [base.text], "tool": READ[0], "args": READ[1], "pop": proof(base, *READ).text}
    text = json.dumps(good)
    out.line("request: nothing", "DESIGN 12", "0", "")
    out.line("request: not JSON", "DESIGN 12", "0", "{")
    out.line("request: an array", "DESIGN 12", "0", f"[{text}]")
    out.line("request: two documents", "DESIGN 12", "0", text + text)
    out.line("request: a member stands twice", "DESIGN 12", "0", text[:-1] + f', "now": {NOW}}}')
    out.line("request: an argument stands twice", "DESIGN 12", "0", text.replace('"args": {', '"args": {"path": "/etc/shadow", '))
    out.line("request: NaN", "DESIGN 12", "0", text.replace(f'"now": {NOW}', '"now": NaN'))
    out.line(
        "request: arguments nested without end",
        "DESIGN 12",
        "0",
        text.replace('"args": {', '"args": {"x": ' + "[" * 5000 + "]" * 5000 + ", "),
    )
    for name, changes in (
        ("no chain", {"chain": None}),
        ("chain a string", {"chain": base.text}),
        ("chain with a number", {"chain": [5]}),
        ("no tool", {"tool": None}),
        ("args null", {"args": None}),
        ("args an array", {"args": []}),
        ("now a string", {"now": str(NOW)}),
        ("now missing", {"now": None}),
        ("now true", {"now": True}),
        ("pop an array", {"pop": []}),
        ("no trust anchors", {"trust_anchors": None}),
        ("a trust anchor without iss", {"trust_anchors": [{"jwk": ROOT_KEY.jwk}]}),
        ("a trust anchor without jwk", {"trust_anchors": [{"iss": ISSUER}]}),
        ("an unknown requirement", {"policy": {"require_everything": True}}),
        ("a requirement that is no boolean", {"policy": {"require_pop_aud": "yes"}}),
        ("an unknown limit", {"limits": {"max_tools": 5}}),
        ("a negative limit", {"limits": {"max_token_size": -1}}),
        ("a limit that is true", {"limits": {"max_token_size": True}}),
        ("a limit with a fraction", {"limits": {"pop_window": 30.5}}),
    ):
        out.line(f"request: {name}", "DESIGN 12", "0", json.dumps({**good, **changes}))
    out.line("request: unknown members are ignored", "DESIGN 12", None, json.dumps({**good, "id": "x", "comment": None}))
    out.line("request: null limits and policy are the defaults", "DESIGN 12", None, json.dumps({**good, "limits": None, "policy": None}))
    for name, jwk in (
        ("small order", {**ROOT_KEY.jwk, "x": b64((1).to_bytes(32, "little"))}),
        ("private", {**ROOT_KEY.jwk, "d": b64(ROOT_KEY.seed)}),
    ):
        out.line(
            f"request: the only anchor is {name}", "DESIGN 12", "3b", json.dumps({**good, "trust_anchors": [{"iss": ISSUER, "jwk": jwk}]})
        )
    for limit, value, step in (
        ("max_delegation_depth", 2, "3i"),
        ("max_iat_skew", 0, None),
        ("max_token_lifetime", 3599, "3h"),
        ("pop_window", 0, None),
    ):
        out.line(f"request: {limit} {value}", "DESIGN 12", step, json.dumps({**good, "limits": {limit: value}}))
    return out
