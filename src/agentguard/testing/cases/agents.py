"""Cases: each agent has its own authority, and a sub-agent has less."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

from agentguard import Guard
from agentguard.testing.cases.frame import Frame
from agentguard.testing.evidence import records
from agentguard.testing.notes import Notes, named, note
from agentguard.testing.scene import ASYNC, Call, Mode, Reply, Scene


class Agents(Frame):
    """Each agent has its own authority, and a sub-agent has less."""

    def test_agents_in_threads_do_not_mix_authority(self, conforming: Guard, mode: Mode) -> None:
        replies: dict[str, list[Reply]] = {}
        both = threading.Barrier(2, timeout=30)

        def work(agent: str) -> None:
            with conforming.task(agent, initiator="user:test"):
                both.wait()
                replies[agent] = self.one(conforming, Notes(), mode, *[note(times=times) for times in (2, 3, 4)], agent=agent)

        threads = [threading.Thread(target=work, args=(agent,)) for agent in ("lead", "helper")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        self._judged_apart(replies)

    def test_agents_in_one_event_loop_do_not_mix_authority(self, conforming: Guard, async_mode: Mode) -> None:
        async def work(agent: str) -> list[Reply]:
            async with conforming.task(agent, initiator="user:test"):
                steps = [[note(times=times)] for times in (2, 3, 4)]
                return await self.arun(Scene(conforming, agent, [Notes().tool(async_mode)], steps), async_mode)

        async def both() -> tuple[list[Reply], list[Reply]]:
            return await asyncio.gather(work("lead"), work("helper"))

        self._judged_apart(dict(zip(("lead", "helper"), asyncio.run(both()), strict=True)))

    def _judged_apart(self, replies: Mapping[str, list[Reply]]) -> None:
        assert [reply.code for reply in replies["lead"]] == [None, None, "argument_not_allowed"]
        assert [reply.code for reply in replies["helper"]] == [None, "argument_not_allowed", "argument_not_allowed"]

    def _inner(self, guard: Guard, name: str, agent: str, notes: Notes, mode: Mode, *calls: Call) -> Callable[..., Any]:
        """A tool that runs another agent inside."""
        scene = Scene(guard, agent, [notes.tool(mode)], [[call] for call in calls])

        def tool() -> str:
            """Asks another agent."""
            return " | ".join([reply.text for reply in self.run(scene, mode)])

        async def async_tool() -> str:
            """Asks another agent."""
            return " | ".join([reply.text for reply in await self.arun(scene, mode)])

        return named(name, async_tool if mode in ASYNC else tool)

    def test_a_sub_agent_without_a_grant_is_denied(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        tool = self._inner(conforming, "ask_stranger", "stranger", notes, mode, note())
        with conforming.task("lead", initiator="user:test"):
            replies = self.play(Scene(conforming, "lead", [tool], [[Call("ask_stranger", {})]]), mode)
        assert notes.taken == []
        assert replies[0].code == "delegation_not_allowed"

    def test_a_hand_off_narrows(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        tool = self._inner(conforming, "ask_helper", "helper", notes, mode, note(times=2), note(times=3))
        with conforming.task("lead", initiator="user:test"):
            self.play(Scene(conforming, "lead", [tool], [[Call("ask_helper", {})]]), mode)
        assert [taken["times"] for taken in notes.taken] == [2]
        (outer,) = records(conforming, "decision", agent="lead", tool="ask_helper")
        inner = records(conforming, "decision", agent="helper", tool="note")
        assert [(decision["verdict"], decision["caused_by"]) for decision in inner] == [("allow", outer["id"]), ("deny", outer["id"])]
        (link,) = records(conforming, "delegation", agent="helper")
        assert (link["from_agent"] if "from_agent" in link else link["from"]) == "lead"
        assert {decision["artifact"] for decision in inner} == {link["artifact"]}
