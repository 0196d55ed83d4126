"""Whatever an authority signs, reading it gives a bundle or InvalidInput, and never anything else."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentguard.artifacts.revocation_list import LIST_TYPE, RevocationList, read_list, sign_list
from agentguard.bundle import BUNDLE_TYPE, Bundle, read_bundle
from agentguard.errors import InvalidInput
from agentguard.home import Trust
from agentguard.keys import LocalKey
from agentguard.policy.imports import File, read_files
from agentguard.tools.lock import Lock
from support.bundles import bundle, claims_of, forged

KEY = LocalKey.from_seed(bytes(32))
TRUST = Trust.of((), {}, None, (("support", KEY.public),))
LIST = sign_list(KEY, number=1, issued=1, expires=2, revoked=[{"kind": "agent", "value": "a"}])
KEYS = {"anchors": [{"iss": KEY.public.uri, "jwk": KEY.public.jwk()}], "agents": {"a": LocalKey.from_seed(b"1" * 32).public.jwk()}}
LOCK = Lock.of({})
WHOLE = bundle(KEY, keys=KEYS, revocations=[LIST], accepts=["sha256:" + "0" * 64], lock=LOCK)

scalars = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=6
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    for key, inner in value.items() if type(value) is dict else enumerate(value) if type(value) is list else ():
        found += paths(inner, (*path, key))
    return found


def replaced(value: Any, path: tuple[Any, ...], to: Any) -> Any:
    copy = dict(value) if type(value) is dict else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], to) if len(path) > 1 else to
    return copy


CLAIMS = claims_of(WHOLE)
LISTED = claims_of(LIST.encode())


@given(path=st.sampled_from(paths(CLAIMS)), to=values)
def test_a_bundle_with_any_part_replaced(path: tuple[Any, ...], to: Any) -> None:
    try:
        data = forged(KEY, WHOLE, BUNDLE_TYPE, **replaced(CLAIMS, path, to))
    except InvalidInput:
        return  # no JSON that anybody signs
    with suppress(InvalidInput):
        assert type(read_bundle(data, TRUST)) is Bundle


@given(path=st.sampled_from(paths(LISTED)), to=values)
def test_a_list_with_any_part_replaced(path: tuple[Any, ...], to: Any) -> None:
    try:
        token = forged(KEY, LIST.encode(), LIST_TYPE, **replaced(LISTED, path, to)).decode().strip()
    except InvalidInput:
        return
    with suppress(InvalidInput):
        assert type(read_list(token, {KEY.public.thumbprint(): (KEY.public, True)})) is RevocationList


names = st.text(max_size=6) | st.sampled_from(["a.yaml", "b.yaml", "s/c.yaml", "../a.yaml", "/a", "a/../b.yaml", "./a.yaml"])
texts = st.builds(
    lambda imports, rest: f"agentguard: 1\nname: x\nimport: {imports!r}\n{rest}\n",
    st.lists(names, max_size=3),
    st.sampled_from(["", "agents: {}", "agents: {a: {}}", "forbid: [{tool: x}]", "tools: []", "other: 1", "- x"]),
)


@given(files=st.lists(st.tuples(names, texts), max_size=4))
def test_any_files_merge_or_are_refused(files: list[tuple[str, str]]) -> None:
    with suppress(InvalidInput):
        found = read_files([File(*file) for file in files], "b@1/")
        assert {file.name for file in found.files} == {name for name, _ in files}
