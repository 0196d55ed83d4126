"""A2A 1.3: authority travels with each message from agent to agent, between processes and organisations.

    client = ClientFactory(config).create(card, interceptors=[..., GuardInterceptor(guard, to="writer")])
    executor, card = GuardExecutor(guard, executor, agent="writer"), announced(guard, card, agent="writer")   # what the server is given

The sender's guard derives a narrower chain for the agent at the other end, and signs the message. The receiver's guard opens the task under
that chain, and the agent there acts under it: its tools must be guarded, as in any process. A message without a chain, with a chain for
another agent, or sent by somebody who does not hold it, is denied before the agent sees it. The receiver trusts the sender's issuer, and
the sender knows the receiver's key, by the `trust.json` of their homes. Requests other than messages carry no authority.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from uuid import uuid4

from agentguard import Code, Denied, Guard, InvalidInput
from agentguard.context import current_task
from agentguard.decision import Stage
from agentguard.keys import PublicKey
from agentguard.task import Task
from agentguard_adapters.a2a_message import Peer, Receiver, presentation, refusal
from agentguard_adapters.carried import KEY
from agentguard_adapters.stand_in import OnDeny, told
from agentguard_adapters.versions import needs

with needs("a2a-sdk", "1.3", extra="a2a"):
    from a2a.client.interceptors import AfterArgs, BeforeArgs, ClientCallInterceptor
    from a2a.server.agent_execution import AgentExecutor, RequestContext
    from a2a.types import AgentCard, AgentExtension, Message, Part, Role, SendMessageResponse, StreamResponse
    from a2a.utils.errors import InternalError
    from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]

__all__ = ["EXTENSION", "GuardExecutor", "GuardInterceptor", "announced"]

#: Under this URI an agent's card says whose guard stands before it.
EXTENSION: Final = "urn:agentguard:a2a:1"
_MESSAGES: Final = {"send_message": SendMessageResponse, "send_message_streaming": StreamResponse}


class GuardInterceptor(ClientCallInterceptor):
    """Lets each message carry the authority of the task that sends it. Put it last: what others change after it is not what was signed.

    to        the agent at the other end, by its name in the policy
    task      the sender's authority; by default the current task
    on_deny   "message": the denial is the other agent's answer; "raise": Denied is raised. In both cases nothing is sent
    """

    def __init__(self, guard: Guard, to: str, *, task: Task | None = None, on_deny: OnDeny = "message") -> None:
        self._guard, self._to, self._task, self._on_deny = guard, to, task, on_deny

    async def before(self, args: BeforeArgs) -> None:
        answer = _MESSAGES.get(args.method)
        if answer is None:
            return
        task = self._task if self._task is not None else current_task.get()
        try:
            message = args.input.message
            shown = presentation(self._guard, self._peer(args.agent_card, task), task, _said(message))
            message.metadata.update({KEY: shown})
        except Denied as denied:
            if self._on_deny == "raise":
                raise
            args.early_return = answer(message=_message(told(denied)))

    async def after(self, args: AfterArgs) -> None:
        return

    def _peer(self, card: AgentCard, task: Task | None) -> Peer:
        for extension in card.capabilities.extensions:
            if extension.uri == EXTENSION:
                found = MessageToDict(extension.params)
                try:
                    if found.get("agent") == self._to:
                        return Peer(self._to, PublicKey.from_jwk(found.get("jwk")), str(found.get("audience")))
                except InvalidInput:
                    break
        required = f"a card that says where {self._to} is"
        raise refusal(self._guard, self._to, Stage.PROOF, Code.AUDIENCE_MISMATCH, required, "none, or one for another agent", task)


class GuardExecutor(AgentExecutor):
    """Stands before an executor: what it does runs under the task that the message carries.

    agent   its name in the policy
    """

    def __init__(self, guard: Guard, executor: AgentExecutor, agent: str) -> None:
        self._executor, self._receiver = executor, Receiver(guard, agent)

    async def execute(self, context: RequestContext, event_queue: Any) -> None:
        """Run the executor, or answer with the denial. A denial that the executor lets out leaves as an error that says no more."""
        try:
            task = self._opened(context.message)
        except Denied as denied:
            await event_queue.enqueue_event(_message(told(denied), context))
            return
        try:
            with _current(task):
                await self._executor.execute(context, event_queue)
        except Denied as denied:
            raise InternalError(told(denied)) from denied
        finally:
            task.close()

    async def cancel(self, context: RequestContext, event_queue: Any) -> None:
        """Cancel, under no authority: the request carries none."""
        with _current(None):
            await self._executor.cancel(context, event_queue)

    def _opened(self, message: Message | None) -> Task:
        metadata = MessageToDict(message.metadata) if message is not None else {}
        return self._receiver.open(metadata.get(KEY), _said(message) if message is not None else {})


def announced(guard: Guard, card: AgentCard, *, agent: str) -> AgentCard:
    """The card, with what a sender's guard must know: the agent's name, its public key, and the name of its guard."""
    peer = Receiver(guard, agent).peer
    params = {"agent": peer.agent, "audience": peer.audience, "jwk": peer.key.jwk()}
    made = AgentCard()
    made.CopyFrom(card)
    made.capabilities.extensions.append(AgentExtension(uri=EXTENSION, required=True, params=params))
    return made


def _said(message: Message) -> dict[str, Any]:
    """What the sender says: the message without what a server may add, and without what we do."""
    found: Mapping[str, Any] = MessageToDict(message)
    said = {name: value for name, value in found.items() if name not in ("taskId", "contextId")}
    metadata = {name: value for name, value in said.pop("metadata", {}).items() if name != KEY}
    return {**said, "metadata": metadata}


def _message(text: str, context: RequestContext | None = None) -> Message:
    ids = {"context_id": context.context_id, "task_id": context.task_id} if context is not None else {}
    return Message(message_id=uuid4().hex, role=Role.ROLE_AGENT, parts=[Part(text=text)], **ids)


@contextmanager
def _current(task: Task | None) -> Iterator[None]:
    token = current_task.set(task)
    try:
        yield
    finally:
        current_task.reset(token)
