"""Vectors about chains: steps 1 to 5 of the draft."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

from vectors.forge import (
    ALICE,
    AUDIENCE,
    BOB,
    CAROL,
    HEADER,
    ISSUER,
    MALLORY,
    NOW,
    PROFILE_HEADER,
    PROOF_HEADER,
    READ,
    ROOT_KEY,
    TOOLS,
    WILDCARD,
    Jws,
    Key,
    Vectors,
    b64,
    bare,
    child,
    encode,
    entry,
    identifier,
    proof,
    root,
    sign,
)  # fmt: skip

PRIME = 2**255 - 19


def valid() -> Vectors:
    """Chains that look odd and are not."""
    out = Vectors("Valid chains and proofs (AAT -02): every step passes, however odd it looks.")
    base = root("valid")
    first = child(base, "valid")
    second = child(first, "valid", del_max_depth=2)
    out.add("a root alone", "3.1", None, [base])
    out.add("a chain of two", "3.1", None, [base, first])
    out.add("a chain of three whose leaf is terminal", "4.3", None, [base, first, second])
    out.add("a prefix of a valid chain, presented by its own last holder", "8", None, [base, first], call=("search", {"query": "x"}))
    out.add("a child that narrows nothing", "6.2", None, [base, child(base, "same", exp=base.claims["exp"], iat=base.claims["iat"])])
    deep = [root("eight", del_max_depth=8)]
    for level in range(8):
        deep.append(child(deep[-1], str(level), iat=NOW - 300 + level, exp=NOW + 3300 - level))
    out.add("a chain of nine, at the depth that everybody must support", "4.3", None, deep)
    out.add("a handoff to the same holder key", "6.2", None, [base, child(base, "self", holder=ALICE)])
    for name, header in (
        ("a header key is ignored", {**HEADER, "jwk": MALLORY.jwk}),
        ("a header key URL is ignored", {**HEADER, "jku": "https://evil.example/keys", "x5u": "https://evil.example/x5", "x5c": ["AA=="]}),
        ("a key id is ignored", {**HEADER, "kid": "mallory"}),
        ("an unknown header parameter without crit is ignored", {**HEADER, "urn:example:x": {"y": 1}}),
        ("the profile's parameter without crit is an unknown parameter", {**HEADER, "agentguard": 1}),
    ):
        out.add(name, "3.5", None, [root(name, header=header)])
    out.add("a header with white space", "3.5", None, [root("spaces", header=b' {"typ" : "aat+jwt",\n "alg":"Ed25519"} ')])
    loose = encode(base.claims).replace(b'":', b'" : ')
    out.add("a payload that is not canonical JSON", "3.5", None, [Jws(sign(loose, ROOT_KEY, HEADER, ALICE).text, base.claims, ALICE)])
    out.add(
        "unknown claims are ignored", "3.2", None, [root("claims", sub="x", act={"sub": 1}, n=None, big=123456789012345678901234567890)]
    )
    out.add("an agentguard claim in a plain chain is an unknown claim", "3.2", None, [root("claim", agentguard={"agent": 7})])
    details = [{"type": "other", "tools": 5}, *entry(TOOLS), {"type": "payment_initiation"}]
    out.add("foreign authorization_details are ignored", "3.3", None, [root("foreign", authorization_details=details)])
    out.add("iat at the edge of the skew", "4.4", None, [root("skew", iat=NOW + 30)])
    out.add("exp one second ahead", "4.4", None, [root("last second", exp=NOW + 1)])
    out.add("a lifetime of exactly 90 days", "4.4", None, [root("long", exp=NOW - 300 + 90 * 86400)])
    out.add("a tool that grants nothing else", "3.3", None, [root("no other", tools={"read_file": TOOLS["read_file"], "noop": {}})])
    anchors = [{"iss": "https://other.example", "jwk": MALLORY.jwk}, {"iss": ISSUER, "jwk": ROOT_KEY.jwk}]
    out.add("the second of two anchors", "2", None, [base], trust_anchors=anchors)
    shared = [{"iss": "https://other.example", "jwk": ROOT_KEY.jwk}, {"iss": ISSUER, "jwk": ROOT_KEY.jwk}]
    out.add("one key anchored for two issuers", "8 step 3k", None, [base], trust_anchors=shared)
    rotated = [{"iss": ISSUER, "jwk": MALLORY.jwk}, {"iss": ISSUER, "jwk": ROOT_KEY.jwk}]
    out.add("one issuer with two keys, the second signed", "9.3", None, [base], trust_anchors=rotated)
    foreign = [{"iss": ISSUER, "jwk": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}}, {"iss": ISSUER, "jwk": ROOT_KEY.jwk}]
    out.add("an anchor of another algorithm is passed over", "9.12", None, [base], trust_anchors=foreign)
    out.add("a Unicode tool name, compared as it is", "3.3.1", None, [root("unicode", tools={"löschen": {}})], call=("löschen", {}))
    out.add(
        "an alg member in cnf.jwk is ignored", "RFC 7517", None, [root("jwk members", cnf={"jwk": {**ALICE.jwk, "kid": "1", "use": "sig"}})]
    )
    return out


def invalid() -> Vectors:
    """Everything that steps 1 to 5 refuse."""
    out = Vectors("Chains that steps 1 to 5 of the draft refuse.")
    _envelope(out)
    _roots(out)
    _keys(out)
    _pairs(out)
    _splices(out)
    return out


def _envelope(out: Vectors) -> None:
    base = root("envelope")
    head, body, mark = bare(base)
    pop = proof(base, *READ)
    out.add("no chain", "8 step 1", "1", [], pop=None)
    out.add("a token over the limit", "8 step 2a", "2a", [base], limits={"max_token_size": 400})
    out.add("a chain over the limit", "8 step 2b", "2b", [base, child(base, "size")], limits={"max_chain_size": 1000})
    out.add("a token of two segments", "8 step 2c", "2c", [f"{head}.{body}"], pop=pop)
    out.add("a token of four segments", "8 step 2c", "2c", [f"{base.text}.AA"], pop=pop)
    out.add("a token of five segments, as JWE has", "8 step 2c", "2c", [f"{base.text}.AA.AA"], pop=pop)
    out.add("an empty token", "8 step 2c", "2c", [""], pop=pop)
    out.add("a JSON serialization instead of the compact one", "3.5", "2c", [f'{{"payload":"{body}","signature":"{mark}"}}'], pop=pop)
    out.add("a padded payload", "RFC 7515 2", "2c", [f"{head}.{body}{'=' * (-len(body) % 4) or '===='}.{mark}"], pop=pop)
    out.add("white space in the payload", "RFC 7515 2", "2c", [f"{head}.{body[:8]} {body[8:]}.{mark}"], pop=pop)
    out.add("standard base64 in the payload", "RFC 7515 2", "2c", [f"{head}.{b64(b'{}')[:-1]}+.{mark}"], pop=pop)
    out.add("a non-ASCII token", "RFC 7515 2", "2c", [f"{head}.{body}ſ.{mark}"], pop=pop)
    for name, payload in (
        ("a payload that is not JSON", b"not json"),
        ("a payload that is an array", b'["jti"]'),
        ("a payload that is not UTF-8", b'{"jti":"\xff"}'),
        ("a payload without jti", b'{"iss":"https://issuer.example"}'),
        ("a payload whose jti is a number", b'{"jti":5}'),
        ("a payload whose jti is null", b'{"jti":null}'),
        ("a payload that only nests a jti", b'{"x":{"jti":"a"}}'),
        ("a payload nested beyond any parser", b'{"jti":"a","x":' + b"[" * 3000 + b"]" * 3000 + b"}"),
    ):
        out.add(name, "8 step 2c", "2c", [sign(payload, ROOT_KEY, HEADER, ALICE)], pop=pop)
    twin = child(base, "twin", jti=base.claims["jti"])
    out.add("the root's jti used again", "8 step 2c", "2c", [base, twin])
    out.add("the same token twice", "8 step 2c", "2c", [base, base])


def _roots(out: Vectors) -> None:
    for name, header in (
        ("alg none", {"alg": "none", "typ": "aat+jwt"}),
        ("alg EdDSA, the old name", {"alg": "EdDSA", "typ": "aat+jwt"}),
        ("alg HS256, keyed with the public key", {"alg": "HS256", "typ": "aat+jwt"}),
        ("alg ES256", {"alg": "ES256", "typ": "aat+jwt"}),
        ("alg in lower case", {"alg": "ed25519", "typ": "aat+jwt"}),
        ("alg missing", {"typ": "aat+jwt"}),
        ("alg an array", {"alg": ["Ed25519"], "typ": "aat+jwt"}),
        ("typ missing", {"alg": "Ed25519"}),
        ("typ of a proof", PROOF_HEADER),
        ("typ JWT", {"alg": "Ed25519", "typ": "JWT"}),
        ("typ in capitals", {"alg": "Ed25519", "typ": "AAT+JWT"}),
        ("typ with the application prefix", {"alg": "Ed25519", "typ": "application/aat+jwt"}),
        ("crit lists an unknown parameter", {**HEADER, "crit": ["urn:example:x"], "urn:example:x": True}),
        ("crit lists b64", {**HEADER, "crit": ["b64"], "b64": True}),
        ("crit is empty", {**HEADER, "crit": []}),
        ("crit is null", {**HEADER, "crit": None}),
        ("crit is the profile's, which a plain verifier does not understand", PROFILE_HEADER),
        ("the header twice names alg", b'{"alg":"none","alg":"Ed25519","typ":"aat+jwt"}'),
        ("the header is an array", b'["Ed25519"]'),
        ("the header is not JSON", b"Ed25519"),
    ):
        out.add(f"root: {name}", "8 step 3a", "3a", [root(name, header=header)])
    base = root("base")
    head, body, mark = bare(base)
    pop = proof(base, *READ)
    out.add("root: unsigned, alg none, empty signature", "9.12", "3a", [f"{b64(encode({'alg': 'none'}))}.{body}."], pop=pop)
    out.add("root: a padded header", "RFC 7515 2", "3a", [f"{head}{'=' * (-len(head) % 4) or '===='}.{body}.{mark}"], pop=pop)
    flipped = ("A" if mark[0] != "A" else "B") + mark[1:]
    loose = mark[:-1] + chr(ord(mark[-1]) + 1)
    out.add("root: one bit of the signature flipped", "8 step 3b", "3b", [f"{head}.{body}.{flipped}"], pop=pop)
    out.add("root: loose trailing bits in the signature", "RFC 4648 3.5", "3b", [f"{head}.{body}.{loose}"], pop=pop)
    out.add("root: an empty signature under alg Ed25519", "8 step 3b", "3b", [f"{head}.{body}."], pop=pop)
    out.add("root: a signature of 63 bytes", "RFC 8032", "3b", [f"{head}.{body}.{mark[:-2]}"], pop=pop)
    out.add("root: signed by nobody known", "8 step 3b", "3b", [root("mallory", key=MALLORY)])
    out.add("root: signed by the key in its own header", "3.5", "3b", [root("own key", key=MALLORY, header={**HEADER, "jwk": MALLORY.jwk})])
    out.add("root: no anchors at all", "8 step 3b", "3b", [base], trust_anchors=[])
    tampered = {**base.claims, "del_max_depth": 16}
    out.add("root: claims changed after signing", "8 step 3b", "3b", [f"{head}.{b64(encode(tampered))}.{mark}"], pop=pop)
    twice = encode(base.claims)[:-1] + b',"exp":9999999999}'
    out.add("root: a claim stands twice", "8 step 3b", "3b", [Jws(sign(twice, ROOT_KEY, HEADER, ALICE).text, base.claims, ALICE)])
    nested = encode(base.claims).replace(b'"search":{', b'"read_file":{},"search":{')
    out.add("root: a tool stands twice", "3.3.1", "3b", [Jws(sign(nested, ROOT_KEY, HEADER, ALICE).text, base.claims, ALICE)])
    _root_claims(out)


def _root_claims(out: Vectors) -> None:
    def raw(name: str, old: bytes, new: bytes, step: str) -> None:
        claims = root(name).claims
        out.add(
            f"root: {name}",
            f"8 step {step}",
            step,
            [Jws(sign(encode(claims).replace(old, new), ROOT_KEY, HEADER, ALICE).text, claims, ALICE)],
        )

    raw("exp with a fraction", b'"exp":1800003300', b'"exp":1800003300.0', "3b")
    raw("exp with an exponent", b'"exp":1800003300', b'"exp":18000033e2', "3b")
    raw("del_depth written 0.0", b'"del_depth":0', b'"del_depth":0.0', "3c")
    raw("del_max_depth written 3e0", b'"del_max_depth":3', b'"del_max_depth":3e0', "3i")
    for name, step, changes, drop in (
        ("no iat", "3b", {}, ["iat"]),
        ("no exp", "3b", {}, ["exp"]),
        ("exp a string", "3b", {"exp": str(NOW + 60)}, []),
        ("iat true", "3b", {"iat": True}, []),
        ("iat negative", "3b", {"iat": -1}, []),
        ("exp null", "3b", {"exp": None}, []),
        ("del_depth 1", "3c", {"del_depth": 1}, []),
        ("del_depth false", "3c", {"del_depth": False}, []),
        ("no del_depth", "3c", {}, ["del_depth"]),
        ("a par_hash", "3d", {"par_hash": "A" * 43}, []),
        ("a par_hash of null", "3d", {"par_hash": None}, []),
        ("expired", "3e", {"exp": NOW - 1}, []),
        ("exp is now", "3e", {"exp": NOW}, []),
        ("iat beyond the skew", "3f", {"iat": NOW + 31}, []),
        ("exp before iat", "3g", {"iat": NOW + 20, "exp": NOW + 10}, []),
        ("exp equal to iat", "3g", {"iat": NOW + 20, "exp": NOW + 20}, []),
        ("a lifetime one second over 90 days", "3h", {"exp": NOW - 300 + 90 * 86400 + 1}, []),
        ("no del_max_depth", "3i", {}, ["del_max_depth"]),
        ("del_max_depth negative", "3i", {"del_max_depth": -1}, []),
        ("del_max_depth above the verifier's", "3i", {"del_max_depth": 17}, []),
        ("del_max_depth true", "3i", {"del_max_depth": True}, []),
        ("an empty jti", "3j", {"jti": ""}, []),
        ("no iss", "3k", {}, ["iss"]),
        ("iss a number", "3k", {"iss": 7}, []),
        ("iss of another issuer than the key's", "3k", {"iss": "https://other.example"}, []),
        ("iss with a trailing slash", "3k", {"iss": ISSUER + "/"}, []),
        ("iss in capitals", "3k", {"iss": "HTTPS://issuer.example"}, []),
        ("no cnf", "3l", {}, ["cnf"]),
        ("cnf a string", "3l", {"cnf": "jwk"}, []),
        ("cnf without jwk", "3l", {"cnf": {"kid": "1"}}, []),
        ("no authorization_details", "3m", {}, ["authorization_details"]),
        ("authorization_details an object", "3m", {"authorization_details": entry(TOOLS)[0]}, []),
        ("authorization_details empty", "3m", {"authorization_details": []}, []),
        ("only foreign authorization_details", "3m", {"authorization_details": [{"type": "other"}]}, []),
        ("two AAT entries", "3m", {"authorization_details": entry(TOOLS) * 2}, []),
        ("an AAT entry without tools", "3m", {"authorization_details": [{"type": "attenuating_agent_token"}]}, []),
        ("tools an array", "3m", {"authorization_details": entry(["read_file"])}, []),
        ("a tool whose map is an array", "3m", {"authorization_details": entry({"read_file": ["path"]})}, []),
        ("a tool whose map is null", "3m", {"authorization_details": entry({"read_file": None})}, []),
    ):  # fmt: skip
        out.add(f"root: {name}", f"8 step {step}", step, [root(name, drop=drop, **changes)])
    plain = [{"iss": "issuer", "jwk": ROOT_KEY.jwk}]
    out.add("root: iss is no URI, though the anchor agrees", "8 step 3k", "3k", [root("no uri", iss="issuer")], trust_anchors=plain)


def _keys(out: Vectors) -> None:
    for name, jwk in (
        ("holds the private d", {**ALICE.jwk, "d": b64(ALICE.seed)}),
        ("holds an RSA p", {**ALICE.jwk, "p": "AA"}),
        ("is symmetric", {"kty": "oct", "k": "AAAA"}),
        ("is an EC key", {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        ("is X25519", {**ALICE.jwk, "crv": "X25519"}),
        ("has no x", {"kty": "OKP", "crv": "Ed25519"}),
        ("has a padded x", {**ALICE.jwk, "x": ALICE.jwk["x"] + "="}),
        ("has an x of 31 bytes", {**ALICE.jwk, "x": b64(ALICE.raw[:31])}),
        ("has an x with loose trailing bits", {**ALICE.jwk, "x": ALICE.jwk["x"][:-1] + chr(ord(ALICE.jwk["x"][-1]) + 1)}),
        ("is null", None),
    ):
        out.add(f"root: cnf.jwk {name}", "8 step 3l", "3l", [root(name, cnf={"jwk": jwk})])
    for name, raw in unsound_points():
        out.add(f"root: cnf.jwk is {name}", "3l, PITFALLS", "3l", [root(name, cnf={"jwk": {**ALICE.jwk, "x": b64(raw)}})])


def unsound_points() -> list[tuple[str, bytes]]:
    """Every encoding of a point of small order, and values of y that are not reduced."""
    eighth = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
    points = []
    for name, y in (
        ("the identity", 1), ("the point of order 2", PRIME - 1), ("a point of order 4", 0), ("a point of order 8", eighth),
        ("another point of order 8", PRIME - eighth), ("y = p, which is 0", PRIME), ("y = p + 1, which is 1", PRIME + 1),
        ("y = p + 3, not reduced", PRIME + 3), ("y = 2^255 - 1, not reduced", 2**255 - 1),
    ):  # fmt: skip
        for sign_bit in (0, 1):
            points.append((f"{name}{' with the sign bit' if sign_bit else ''}", (y | sign_bit << 255).to_bytes(32, "little")))
    return points


def _pairs(out: Vectors) -> None:
    base = root("pair")

    def case(name: str, step: str, parent: Jws = base, **changes: Any) -> None:
        out.add(f"child: {name}", f"8 step {step}", step, [parent, child(parent, name, **changes)])

    case("alg none", "4a", header={"alg": "none", "typ": "aat+jwt"})
    case("typ of a proof", "4a", header=PROOF_HEADER)
    case("crit not understood", "4a", header={**HEADER, "crit": ["exp"], "exp": 1})
    case("the profile's header under a plain root", "4a", header=PROFILE_HEADER)
    case("signed by somebody else", "4b", key=MALLORY)
    case("signed by the issuer instead of the holder", "4b", key=ROOT_KEY)
    case("signed by the new holder itself", "4b", key=BOB)
    case("an empty jti", "4b1", jti="")
    case("no cnf", "4b2", drop=["cnf"])
    case("cnf.jwk with the private d", "4b2", cnf={"jwk": {**BOB.jwk, "d": b64(BOB.seed)}})
    case("cnf.jwk is the identity point", "4b2", cnf={"jwk": {**BOB.jwk, "x": b64((1).to_bytes(32, "little"))}})
    case("no authorization_details", "4b3", drop=["authorization_details"])
    case("authorization_details an object", "4b3", authorization_details={})
    case("no del_depth", "4b4", drop=["del_depth"])
    case("del_depth true", "4b4", del_depth=True)
    case("del_max_depth a string", "4b4", del_max_depth="3")
    case("del_max_depth negative", "4b4", del_max_depth=-1)
    case("no iss", "4b5", drop=["iss"])
    case("no par_hash", "4b5", drop=["par_hash"])
    case("par_hash null", "4b5", par_hash=None)
    case("no iat", "4b5", drop=["iat"])
    case("exp a fraction", "4b5", exp=NOW + 60.5)
    case("iss of somebody else", "4c", iss=MALLORY.uri)
    case("iss of the issuer", "4c", iss=ISSUER)
    case("iss without the URI prefix", "4c", iss=ALICE.uri.rpartition(":")[2])
    case("del_depth skips a level", "4d", del_depth=2)
    case("del_depth stays", "4d", del_depth=0)
    case("the parent is terminal", "4e", parent=root("terminal", del_max_depth=0), del_max_depth=1)
    case("del_max_depth raised", "4g", del_max_depth=4)
    case("exp after the parent's", "4h", exp=base.claims["exp"] + 1)
    case("expired under a parent that is not", "4i", exp=NOW - 1)
    case("iat before the parent's", "4j", iat=base.claims["iat"] - 1)
    case("iat beyond the skew", "4k", iat=NOW + 31)
    case("exp before iat", "4l", iat=NOW + 20, exp=NOW + 10)
    case("its own del_max_depth below its depth", "4m", del_max_depth=0)
    case("two AAT entries", "4n", authorization_details=entry(TOOLS) * 2)
    case("an AAT entry without tools", "4n", authorization_details=[{"type": "attenuating_agent_token"}])
    case("a tool whose map is a string", "4n", authorization_details=entry({"read_file": "path"}))
    case("an unknown constraint type", "4o", tools={"read_file": {"path": {"constraint_type": "regex", "pattern": ".*"}}})
    case(
        "an extension type in a plain chain",
        "4o",
        tools={"read_file": {"path": {"constraint_type": "urn:agentguard:constraint:path", "root": "/"}}},
    )
    case("a malformed constraint on a tool that is not called", "4o", tools={**TOOLS, "search": {"query": {"constraint_type": "exact"}}})
    case("a new tool", "4p1", tools={**TOOLS, "delete_file": {}})
    case("a tool that differs in case", "4p1", tools={"Read_file": TOOLS["read_file"]})
    case("a new argument", "4p2", tools={"read_file": {**TOOLS["read_file"], "mode": WILDCARD}})
    case("a required argument left out", "4p2", tools={"search": {"limit": TOOLS["search"]["limit"]}})
    case("an empty map under a closed one", "4p2", tools={"read_file": {}})
    case("a star under a closed map", "4p2", tools={"read_file": {**TOOLS["read_file"], "*": WILDCARD}})
    optional = {"path": {**TOOLS["read_file"]["path"], "optional": True}}
    case("a required argument made optional", "4p3", tools={"read_file": optional})
    case("a value added", "4p4", tools={"read_file": {"path": {"constraint_type": "one_of", "values": ["/data/q3.pdf", "/etc/shadow"]}}})
    case("a constraint relaxed to wildcard", "4p4", tools={"read_file": {"path": WILDCARD}})
    case("par_hash of nothing", "4q", par_hash="")
    case("par_hash over the payload only", "4q", par_hash=b64(hashlib.sha256(bare(base)[1].encode()).digest()))
    case("par_hash in hexadecimal", "4q", par_hash=base.hash.encode().hex())
    case("par_hash padded", "4q", par_hash=base.hash + "=")


def _splices(out: Vectors) -> None:
    base, other = root("splice"), root("splice other", tools={**TOOLS, "delete_file": {}})
    stolen = child(base, "stolen")
    out.add("splice: a child under another root of the same holder", "4.6, J.12", "4q", [other, stolen])
    longer = root("splice", exp=base.claims["exp"] + 600, jti=identifier("another"))
    out.add("splice: a child under a longer-lived twin of its root", "4.6", "4q", [longer, stolen])
    first, second = child(base, "one"), child(stolen, "two")
    out.add("splice: a grandchild under its uncle", "4.6", "4q", [base, first, second])
    out.add("splice: the middle of a chain left out", "4.3", "4b", [base, second])
    out.add("splice: the chain upside down", "8", "3b", [second, stolen, base])
    out.add("splice: a chain without its root", "8", "3b", [stolen, second])
    terminal = child(base, "terminal", del_max_depth=1)
    out.add("a terminal token extended", "4.3", "4e", [base, terminal, child(terminal, "beyond")])
    out.add(
        "a leaf extended by somebody who does not hold it", "4.2", "4b", [base, stolen, child(stolen, "thief", key=MALLORY, holder=MALLORY)]
    )
    wide = child(stolen, "regained", tools={**copy.deepcopy(TOOLS), "delete_file": {}})
    out.add("a grandchild that regains what no ancestor had", "4.5", "4p1", [base, stolen, wide])
    narrow = child(base, "narrow", tools={"search": TOOLS["search"]})
    out.add("a grandchild that regains what the root had", "4.5", "4p1", [base, narrow, child(narrow, "regained", tools=TOOLS)])
    empty = child(base, "empty", authorization_details=[])
    nothing = child(empty, "still empty", tools={})
    out.add("an empty set passes on nothing", "3.3", "4p1", [base, empty, child(empty, "regained", tools=TOOLS)])
    out.add("the leaf under an empty set grants nothing", "3.3", "6b", [base, empty, nothing])
    self_signed = Key("self")
    forged = root("forged", key=self_signed, holder=MALLORY, iss=self_signed.uri)
    out.add("a root that names its own key as issuer", "9.3", "3b", [forged])
    out.add("a child's holder presents the parent alone", "9.1.1", "7b", [base], pop=proof(base, *READ, key=BOB))
    out.add("the root's holder presents the child", "9.1.1", "7b", [base, stolen], pop=proof(stolen, *READ, key=ALICE))
    out.add(
        "the audience is lost in no descendant",
        "3.2",
        "6c",
        [root("aud", aud="https://other.example"), child(root("aud", aud="https://other.example"), "free")],
    )
    out.add(
        "a child for a second audience",
        "3.2",
        "6c",
        [root("aud2", aud=AUDIENCE), child(root("aud2", aud=AUDIENCE), "x", aud=["https://other.example"])],
    )
    out.add("a third holder's proof for a chain of two", "9.1.1", "7b", [base, stolen], pop=proof(stolen, *READ, key=CAROL))
