"""Where authority comes from: issuing, deriving and verifying artifacts for the guard (DESIGN §4)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from agentguard.artifacts import making as artifact
from agentguard.artifacts.chain import ChainError, Limits, PrefixCache, VerifiedChain, verify_structure
from agentguard.artifacts.making import Initiator, Profile, Uses
from agentguard.canonical import Frozen
from agentguard.constraints.rules import parse_rule
from agentguard.constraints.tokens import ToolMap
from agentguard.home import Home, Trust
from agentguard.keys import Signer
from agentguard.policy.model import Policy
from agentguard.premises import NO_GRANT, Grant

if TYPE_CHECKING:
    from agentguard.task import Memo, Task

_MEMO: Final = 4096


class Authority:
    """Mints root artifacts, derives delegations, and turns a task's tokens into a `Grant`."""

    def __init__(
        self, home: Home, trust: Trust, policy: Policy, environment: Mapping[str, Frozen], given: tuple[str, ...], limits: Limits
    ) -> None:
        self._made = (home, trust, policy, environment, given, limits)
        self._home, self._trust, self._policy, self._limits = home, trust, policy, limits
        self._issuer: Signer = home.keys.issuer()
        self._own = self._issuer.public.thumbprint()
        self._prefixes = PrefixCache()
        self._names: dict[str, tuple[str | None, ...]] = {}
        self._lock = threading.Lock()
        # A root artifact is bound to the facts that the operator gave (deployment and the like): it is worth nothing elsewhere.
        self._env = {
            name: parse_rule({"exact": environment[name]}, where=f"environment.{name}") for name in given if _scalar(environment[name])
        }

    def renewed(self) -> Authority:
        """The same with nothing remembered."""
        return Authority(*self._made)

    def grant(self, task: Task | None, memo: Memo | None = None) -> Grant:
        """What a task's tokens grant, as far as they verify. A task's tokens never change, so the answer is remembered with it."""
        if task is None or task.closed or task.tokens is None:
            return NO_GRANT
        if memo is None:
            memo = task.recall(self)
        grant = memo.grant
        if grant is None:
            grant = memo.grant = self._verify(task.tokens, task.possessed)
        return grant

    def _verify(self, tokens: tuple[str, ...], possessed: bool) -> Grant:
        try:
            chain = verify_structure(tokens, self._trust.anchors, self._limits, cache=self._prefixes)
        except ChainError as error:
            return Grant(present=True, error=error)
        names = self._names.get(chain.digest)
        if names is None:
            names = self._name(chain)
        if chain.keys[0] != self._own:
            # Issuers choose their task ids: what is counted under one issuer's task must not be what another one names so.
            chain = replace(chain, task_id=f"{chain.keys[0]}/{chain.task_id}")
        return Grant(True, chain, None, names, possessed)

    def _name(self, chain: VerifiedChain) -> tuple[str | None, ...]:
        """Which agent holds the key of each link, by what this guard trusts: the issuer's word for the root, bindings for the rest."""
        trust, keys = self._trust, self._home.keys
        names: list[str | None] = []
        for index, link in enumerate(chain.links):
            thumbprint = link.holder.thumbprint()
            bound = trust.agents.get(thumbprint) or keys.agent_of(thumbprint)
            if index == 0 and bound is None and link.profile is not None:
                bound = link.profile.agent
            names.append(bound)
        found = tuple(names)
        if None not in found:
            with self._lock:
                if len(self._names) >= _MEMO:
                    self._names.clear()
                self._names[chain.digest] = found
        return found

    def mint(
        self,
        agent: str,
        *,
        task: str,
        initiator: Initiator,
        scope: Mapping[str, Any] | None,
        ttl: int,
        uses: int | None,
        now: int,
        tools: Mapping[str, ToolMap] | None = None,
    ) -> VerifiedChain:
        """A root artifact for `agent`; `tools` in the place of a scope that has to be read. Raises InvalidInput for a scope that cannot be
        written."""
        profile = Profile(
            agent=agent, initiator=initiator, task=task, policy=self._policy.digest, env=self._env, nbf=now, uses=self._uses(uses)
        )
        token = artifact.issue(
            signer=self._issuer,
            iss=self._home.issuer.iss,
            holder=self._home.keys.holder(agent).public,
            tools=self._scope(agent, scope) if tools is None else tools,
            now=now,
            ttl=ttl,
            max_depth=self._limits.max_delegation_depth,
            profile=profile,
        )
        return verify_structure((token,), self._trust.anchors, self._limits, cache=self._prefixes)

    def derive(
        self,
        parent: VerifiedChain,
        signer: Signer,
        agent: str,
        *,
        scope: Mapping[str, Any] | None,
        ttl: int | None,
        uses: int | None,
        now: int,
    ) -> VerifiedChain:
        """A narrower artifact, signed by the parent's holder, `signer`. Raises ChainError where it would not narrow."""
        profile = Profile(agent=agent, initiator=None, task=None, policy=None, env={}, nbf=now, uses=self._uses(uses))
        token = artifact.derive(
            parent.leaf,
            signer=signer,
            holder=self._home.keys.holder(agent).public,
            tools=self._kept(parent.leaf.tools, agent) if scope is None else self._policy.parse_scope(scope),
            now=now,
            exp=min(parent.leaf.exp, now + ttl) if ttl is not None else parent.leaf.exp,
            profile=profile,
        )
        tokens = (*(link.token for link in parent.links), token)
        return verify_structure(tokens, self._trust.anchors, self._limits, cache=self._prefixes)

    def _scope(self, agent: str, scope: Mapping[str, Any] | None) -> Mapping[str, ToolMap]:
        return self._policy.default_scope(agent) if scope is None else self._policy.parse_scope(scope)

    def _kept(self, tools: Mapping[str, ToolMap], agent: str) -> dict[str, ToolMap]:
        wanted = self._policy.default_scope(agent)
        return {name: entry for name, entry in tools.items() if name in wanted}

    def _uses(self, limit: int | None) -> Uses | None:
        return None if limit is None else Uses(limit, self._home.state.domain)


def _scalar(value: Frozen) -> bool:
    return value is None or type(value) in (str, int, float, bool)
