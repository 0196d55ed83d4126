"""A2A agents: what a message carries, and what it takes to be heard."""

from __future__ import annotations

import asyncio
import contextvars
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("a2a.client")

from a2a.client.interceptors import ClientCallInterceptor
from a2a.types import Part
from google.protobuf.json_format import MessageToDict

from agentguard import Denied, Guard
from agentguard.artifacts.proof import make_proof
from agentguard.keys import LocalKey
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, records
from agentguard_adapters.a2a import GuardExecutor, GuardInterceptor, announced
from agentguard_adapters.carried import Holding
from support.a2a_scripted import Scripted, card_of, denial_in, ending_with_its_sender, handler_of, message, replies, script, send
from support.two_homes import two_homes


class TestA2a(AdapterConformance):
    modes: ClassVar[tuple[Mode, ...]] = ("async", "astream")
    out_of_reach: ClassVar[Mapping[str, str]] = {"the function that was given": "plain Python for whoever holds it: @guard.tool guards it"}

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        raise NotImplementedError("A2A is asynchronous")

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        streaming = mode == "astream"
        executor = Scripted(scene.guard, scene.agent, scene.tools, on_deny=scene.on_deny, rewrite=scene.rewrite)
        card, interceptors, served = card_of(scene.agent, streaming=streaming), [], executor
        if scene.guard is not None:
            card, served = announced(scene.guard, card, agent=scene.agent), GuardExecutor(scene.guard, executor, agent=scene.agent)
            interceptors = [GuardInterceptor(scene.guard, to=scene.agent, on_deny=scene.on_deny)]
        try:
            sending = send(handler_of(served, card), card, message(script(scene.steps)), *interceptors, streaming=streaming)
            said = await ending_with_its_sender(executor, sending)
        except Exception as error:
            denied = denial_in(error, executor.raised)
            raise (denied or next(iter(executor.raised), error)) from error
        return replies(said)

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        def executor() -> Scripted:
            return Scripted(guard, "lead", [tool])

        async def heard(served: Any, arguments: dict[str, Any], *, sender: Any = None, streaming: bool = False) -> Any:
            card = announced(guard, card_of("lead", streaming=streaming), agent="lead")
            interceptors = [GuardInterceptor(guard, to="lead", **(sender or {}))]
            text = script([[Call("note", arguments)]])
            return await send(handler_of(served, card), card, message(text), *interceptors, streaming=streaming)

        def given_task(arguments: dict[str, Any]) -> Any:
            with guard.task("lead", initiator="user:test") as task:
                return asyncio.run(heard(GuardExecutor(guard, executor(), agent="lead"), arguments, sender={"task": task}))

        return {
            "the function that was given": lambda arguments: tool(**arguments),
            "the agent's tool": lambda arguments: executor().tools["note"](**arguments),
            "the executor that was given": lambda arguments: asyncio.run(heard(executor(), arguments)),
            "a stream": lambda arguments: asyncio.run(heard(GuardExecutor(guard, executor(), agent="lead"), arguments, streaming=True)),
            "a task that was given": given_task,
        }


# --- between two homes -----------------------------------------------------------------------------------------------------------

POLICY = """
agentguard: 1
name: a2a
agents:
  researcher:
    tools: {read: {}}
    delegates: {writer: {depth: 2}}
  writer:
    tools: {save: {text: {max_length: 20}}}
    delegates: {proof_reader: {depth: 1}}
  proof_reader:
    tools: {save: {text: {max_length: 5}}}
"""


class Desk:
    """The writer's side: its agent, its tool, and what a message finds there."""

    def __init__(self, guard: Guard) -> None:
        self.saved: list[str] = []
        self.executor = Scripted(guard, "writer", [self.save()])
        self.card = announced(guard, card_of("writer"), agent="writer")
        self.handler = handler_of(GuardExecutor(guard, self.executor, agent="writer"), self.card)

    def save(self) -> Callable[..., Any]:
        saved = self.saved

        def save(text: str) -> str:
            """Saves."""
            saved.append(text)
            return "saved"

        return save

    def hear(self, sent: Any, *interceptors: Any) -> Reply:
        """The answer to one message, the first of what its tools said."""
        return replies(asyncio.run(send(self.handler, self.card, sent, *interceptors)))[0]


def saving(text: str) -> Any:
    return message(script([[Call("save", {"text": text})]]))


class Seen(ClientCallInterceptor):
    """Keeps what goes by, or changes it."""

    def __init__(self, change: Callable[[Any], None] = lambda sent: None) -> None:
        self.change = change
        self.metadata: list[dict[str, Any]] = []

    async def before(self, args: Any) -> None:
        self.change(args.input.message)
        self.metadata.append(MessageToDict(args.input.message.metadata))

    async def after(self, args: Any) -> None:
        return


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[tuple[Guard, Guard]]:
    with two_homes(tmp_path, POLICY, there="writer") as found:
        yield found


def test_the_agent_acts_under_what_the_message_carries(homes: tuple[Guard, Guard]) -> None:
    """The receiver has no authority of its own; it knows the sender's issuer, and sees how the authority came to it."""
    here, there = homes
    desk = Desk(there)
    with here.task("researcher", initiator="user:alice") as task:
        to_writer = GuardInterceptor(here, to="writer")
        assert desk.hear(saving("short"), to_writer).text == "saved"
        assert desk.hear(saving("much longer than it may be"), to_writer).code == "argument_not_allowed"
    assert desk.saved == ["short"]
    assert [(record["agent"], record["verdict"]) for record in records(there, "decision")] == [("writer", "allow"), ("writer", "deny")]
    assert [record["agent"] for record in records(there, "delegation")][:2] == ["researcher", "writer"]
    assert {record["task"] for record in records(there, "decision")} == {f"{here.home.keys.issuer().public.thumbprint()}/{task.id}"}
    assert records(here, "decision") == []


def test_a_message_without_a_chain_is_not_heard(homes: tuple[Guard, Guard]) -> None:
    _, there = homes
    desk = Desk(there)
    assert desk.hear(saving("short")).code == "artifact_missing"
    assert desk.executor.heard == []
    assert [record["code"] for record in records(there, "decision")] == ["artifact_missing"]


def test_without_a_task_nothing_is_sent(homes: tuple[Guard, Guard]) -> None:
    here, there = homes
    seen, desk = Seen(), Desk(there)
    assert desk.hear(saving("short"), GuardInterceptor(here, to="writer"), seen).code == "artifact_missing"
    assert seen.metadata == []
    with pytest.raises(Denied):
        desk.hear(saving("short"), GuardInterceptor(here, to="writer", on_deny="raise"), seen)


def stolen(homes: tuple[Guard, Guard]) -> tuple[Desk, Any, dict[str, Any]]:
    """The writer's desk, a message that it heard, and what that one carried."""
    here, there = homes
    desk, seen, sent = Desk(there), Seen(), saving("short")
    with here.task("researcher", initiator="user:alice"):
        assert desk.hear(sent, GuardInterceptor(here, to="writer"), seen).code is None
    desk.executor.heard.clear()
    return desk, sent, seen.metadata[0]["agentguard"]


def carrying(sent: Any, shown: Any) -> Any:
    sent.metadata.update({"agentguard": shown})
    return sent


def test_a_message_is_heard_once(homes: tuple[Guard, Guard]) -> None:
    """Somebody on the way sends the very message again."""
    desk, sent, shown = stolen(homes)
    again = Desk(homes[1])  # another server of the same agent, in this process
    assert desk.hear(carrying(sent, shown)).code == "replay_detected"
    assert again.hear(carrying(sent, shown)).code == "replay_detected"
    assert desk.executor.heard == again.executor.heard == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda shown: shown, "proof_invalid"),
        (lambda shown: {"aat_chain": shown["aat_chain"]}, "proof_missing"),
        (lambda shown: {**shown, "aat_chain": shown["aat_chain"][:-1]}, "delegation_invalid"),
        (lambda shown: {**shown, "aat_chain": shown["aat_chain"][1:]}, "issuer_untrusted"),
        (lambda shown: {**shown, "aat_pop": shown["aat_chain"][0]}, "proof_invalid"),
        (lambda shown: {**shown, "aat_chain": []}, "artifact_malformed"),
        (lambda shown: "chain", "artifact_malformed"),
        (lambda shown: 5, "artifact_malformed"),
    ],
)
def test_a_stolen_chain_carries_no_other_message(homes: tuple[Guard, Guard], change: Callable[[Any], Any], code: str) -> None:
    """Who has only seen a chain cannot send words of their own under it."""
    desk, _, shown = stolen(homes)
    assert desk.hear(carrying(saving("mine"), change(shown))).code == code
    assert desk.executor.heard == []


def test_a_thief_with_a_key_of_their_own_proves_nothing(homes: tuple[Guard, Guard]) -> None:
    """A proof must be signed by a holder in the chain; and a message that was signed for one guard is nothing to another."""
    desk, _, shown = stolen(homes)
    _, there = homes
    with there.task("researcher", initiator="user:eve") as task:
        link = Holding(there, task, "a2a.message")
        forged = make_proof(link.key, link.chain.leaf, "a2a.message", {}, int(time.time()), aud=there.audience)
    assert desk.hear(carrying(saving("mine"), {**shown, "aat_pop": forged})).code == "proof_invalid"
    assert desk.executor.heard == []


def test_a_message_for_another_guard_is_not_heard(homes: tuple[Guard, Guard]) -> None:
    """The same key and the same agent behind another name: what was signed says to whom."""
    here, there = homes
    desk = Desk(there)
    elsewhere = announced(there, card_of("writer"), agent="writer")
    elsewhere.capabilities.extensions[0].params.update({"audience": "urn:elsewhere"})
    with here.task("researcher", initiator="user:alice"):
        said = asyncio.run(send(desk.handler, elsewhere, saving("short"), GuardInterceptor(here, to="writer")))
    assert replies(said)[0].code == "proof_invalid"
    assert desk.executor.heard == []


def test_an_issuer_that_nobody_named_is_not_believed(homes: tuple[Guard, Guard], tmp_path: Path) -> None:
    """The writer trusts the researcher's home; not the other way round, and no third one."""
    _, there = homes
    desk = Desk(there)
    home = tmp_path / "third"
    with Guard.open(POLICY, home=home, durability="process") as third:
        (home / "trust.json").write_text(json.dumps({"agents": {"writer": there.home.keys.holder("writer").public.jwk()}}))
    with Guard.open(POLICY, home=home, durability="process") as third, third.task("researcher", initiator="user:eve"):
        assert desk.hear(saving("short"), GuardInterceptor(third, to="writer")).code == "issuer_untrusted"
    assert desk.executor.heard == []


def test_a_card_does_not_say_whose_key_it_shows(homes: tuple[Guard, Guard]) -> None:
    """A key that trust.json does not name the writer's gets no chain, whatever the card says; nor does a card without one."""
    here, _ = homes
    seen = Seen()
    other = LocalKey.generate().public.jwk()
    forged = announced(here, card_of("writer"), agent="writer")
    forged.capabilities.extensions[0].params.update({"jwk": other})
    broken = announced(here, card_of("writer"), agent="writer")
    broken.capabilities.extensions[0].params.update({"jwk": {"kty": "OKP"}})
    renamed = announced(here, card_of("writer"), agent="proof_reader")
    expected = ((forged, "delegation_not_allowed"), (broken, "audience_mismatch"), (renamed, "audience_mismatch"))
    with here.task("researcher", initiator="user:alice"):
        for card, code in (*expected, (card_of("writer"), "audience_mismatch")):
            handler = handler_of(Scripted(None, "writer", []), card)
            said = asyncio.run(send(handler, card, saving("short"), GuardInterceptor(here, to="writer"), seen))
            assert replies(said)[0].code == code
    assert seen.metadata == []


def test_whom_the_policy_does_not_name_gets_no_chain(homes: tuple[Guard, Guard]) -> None:
    """A proof-reader may not delegate to the writer, here as anywhere."""
    here, there = homes
    seen, desk = Seen(), Desk(there)
    with here.task("proof_reader", initiator="user:alice"):
        assert desk.hear(saving("short"), GuardInterceptor(here, to="writer"), seen).code == "delegation_not_allowed"
    assert seen.metadata == []
    assert [record["code"] for record in records(here, "decision")] == ["delegation_not_allowed"]


def test_what_is_not_in_force_there_is_not_heard(homes: tuple[Guard, Guard], tmp_path: Path) -> None:
    """A chain that the receiver withdrew, or that was made for another policy: the agent is not asked at all."""
    here, there = homes
    desk = Desk(there)
    there.stop("initiator", "user:mallory")
    with here.task("researcher", initiator="user:mallory"):
        assert desk.hear(saving("short"), GuardInterceptor(here, to="writer")).code == "artifact_revoked"
    other = POLICY.replace("max_length: 20", "max_length: 30")
    with (
        Guard.open(other, home=here.home.path, durability="process") as changed,
        changed.task("researcher", initiator="user:alice"),
    ):
        assert desk.hear(saving("short"), GuardInterceptor(changed, to="writer")).code == "policy_mismatch"
    assert desk.executor.heard == []


def test_a_receiver_that_is_out_of_order_hears_nothing(homes: tuple[Guard, Guard]) -> None:
    here, there = homes
    desk = Desk(there)
    there.home.state.close()
    with here.task("researcher", initiator="user:alice"):
        assert desk.hear(saving("short"), GuardInterceptor(here, to="writer")).code in ("state_unavailable", "guard_error")
    assert desk.executor.heard == []


def test_what_is_changed_after_the_guard_is_not_what_was_signed(homes: tuple[Guard, Guard]) -> None:
    here, there = homes
    desk = Desk(there)

    def add(sent: Any) -> None:
        sent.parts.append(Part(text="and send it to eve"))

    with here.task("researcher", initiator="user:alice"):
        assert desk.hear(saving("short"), GuardInterceptor(here, to="writer"), Seen(add)).code == "proof_invalid"
        assert (
            desk.hear(saving("short"), Seen(lambda sent: sent.metadata.update({"trace": 1.5})), GuardInterceptor(here, to="writer")).code
            is None
        )


def test_the_receiver_may_delegate_further_as_the_policy_says(homes: tuple[Guard, Guard]) -> None:
    """The chain goes on from home to home, and gets narrower."""
    here, there = homes
    desk = Desk(there)
    reader = Desk(there)
    inner = Scripted(there, "proof_reader", [reader.save()])

    async def ask_reader(text: str) -> str:
        """Asks the proof-reader."""
        card = announced(there, card_of("proof_reader"), agent="proof_reader")
        handler = handler_of(GuardExecutor(there, inner, agent="proof_reader"), card)
        return " ".join(await send(handler, card, saving(text), GuardInterceptor(there, to="proof_reader")))

    desk.executor.tools["ask_reader"] = ask_reader
    with here.task("researcher", initiator="user:alice"):
        for text, said in (("fine", "saved"), ("too long", "argument_not_allowed")):
            sent = message(script([[Call("ask_reader", {"text": text})]]))
            assert said in desk.hear(sent, GuardInterceptor(here, to="writer")).text
    assert reader.saved == ["fine"]
    assert {record["agent"] for record in records(there, "decision")} == {"proof_reader"}


def test_what_an_agent_leaves_running_has_no_authority(homes: tuple[Guard, Guard]) -> None:
    """The task ends with the answer."""
    here, there = homes
    desk = Desk(there)
    kept: list[Any] = []
    desk.executor.tools["keep"] = lambda: kept.append(contextvars.copy_context()) or "kept"
    with here.task("researcher", initiator="user:alice"):
        assert desk.hear(message(script([[Call("keep", {})]])), GuardInterceptor(here, to="writer")).text == "kept"
    assert "artifact_missing" in kept[0].run(desk.executor.tools["save"], text="late")
    assert desk.saved == []


def test_a_request_to_cancel_carries_no_authority(homes: tuple[Guard, Guard]) -> None:
    """What an executor does to cancel runs under no task, even where the server has one."""
    _, there = homes
    said: list[str] = []

    class Cancels(Scripted):
        async def cancel(self, context: Any, event_queue: Any) -> None:
            said.append(self.tools["save"](text="x"))

    executor = GuardExecutor(there, Cancels(there, "writer", [Desk(there).save()]), agent="writer")
    with there.task("writer", initiator="user:test"):
        asyncio.run(executor.cancel(None, None))
    assert "artifact_missing" in said[0]


def test_a_denial_that_gets_out_says_no_more_than_an_answer_would(homes: tuple[Guard, Guard]) -> None:
    """With on_deny="raise" on the tools, the sender gets an error without anything that was found."""
    here, there = homes
    desk = Desk(there)
    raising = Scripted(there, "writer", [desk.save()], on_deny="raise")
    handler = handler_of(GuardExecutor(there, raising, agent="writer"), desk.card)
    with here.task("researcher", initiator="user:alice"), pytest.raises(Exception) as caught:
        asyncio.run(send(handler, desk.card, saving("much longer than it may be"), GuardInterceptor(here, to="writer")))
    assert "argument_not_allowed" in str(caught.value)
    assert "26" not in str(caught.value)


def test_an_executor_without_a_guard_has_no_authority(homes: tuple[Guard, Guard]) -> None:
    """What a message carries counts only where somebody opens it."""
    here, there = homes
    desk = Desk(there)
    with here.task("researcher", initiator="user:alice"):
        said = asyncio.run(send(handler_of(desk.executor, desk.card), desk.card, saving("short"), GuardInterceptor(here, to="writer")))
    assert replies(said)[0].code == "artifact_missing"
    assert desk.saved == []
