"""What every adapter must do, whatever its framework: a test class to inherit.

    class TestMine(AdapterConformance):
        def run(self, scene, mode): ...          # "sync" and "stream"
        async def arun(self, scene, mode): ...   # "async" and "astream"
        def twins(self, guard, tool): ...        # every other way to reach the tool

The suite runs the real framework with a scripted model; nothing is mocked. Each case is one promise, and its name says which.
"""

from __future__ import annotations

import abc
import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest

from agentguard import Denied, Guard
from agentguard.testing.evidence import checked, records
from agentguard.testing.notes import BrokenToolError, Notes, bodied, named, note
from agentguard.testing.scene import ASYNC, MODES, Call, Mode, Reply, Scene

POLICY: Final = """
agentguard: 1
name: conformance
agents:
  lead:
    tools:
      note: {text: {max_length: 40}, times: {range: {min: 1, max: 3}}, tags: {subset: [a, b, c]}}
      ask_helper: {}
      ask_stranger: {}
    delegates: {helper: {depth: 1}}
  helper:
    tools:
      note: {text: {max_length: 40}, times: {range: {min: 1, max: 2}}, tags: {subset: [a]}}
  stranger:
    tools:
      note: {text: any, times: any, tags: any}
"""
SECRET: Final = "s" * 41  # too long for `text`, and not to be told to the model
TOO_OFTEN: Final = {"text": "hello", "times": 4, "tags": ["a"]}


class AdapterConformance(abc.ABC):
    """Inherit this, and define `run`, `arun` and `twins`.

    modes           the modes that the framework has
    out_of_reach    names of twins that pass no guard, and why; the suite shows that they do run the tool. At most two, and only private
                    or directly callable ones
    not_applicable  cases that cannot hold in this framework, by the name of the test without `test_`, and why; at most two
    """

    modes: ClassVar[tuple[Mode, ...]] = MODES
    out_of_reach: ClassVar[Mapping[str, str]] = {}
    not_applicable: ClassVar[Mapping[str, str]] = {}

    # --- what an adapter's tests define -------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        """Play a scene in "sync" or "stream" mode: one reply for each call, in order. What the framework raises goes through."""

    @abc.abstractmethod
    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        """The same in "async" or "astream" mode."""

    @abc.abstractmethod
    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        """Every way to reach a tool function other than through the agent, once it is guarded: its name, and how to go it with arguments
        given by name. `run`, `batch`, `func`, attributes that hold the original, and so on. An async way runs its own event loop.
        """

    # --- the frame ----------------------------------------------------------------------------------------------------------------

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        cls: type[AdapterConformance] = metafunc.cls or type(self)
        if "mode" in metafunc.fixturenames:
            metafunc.parametrize("mode", cls.modes)
        if "async_mode" in metafunc.fixturenames:
            metafunc.parametrize("async_mode", [mode for mode in cls.modes if mode in ASYNC])

    @pytest.fixture(autouse=True)
    def _applies(self, request: pytest.FixtureRequest) -> None:
        reason = self.not_applicable.get(request.function.__name__.removeprefix("test_"))
        if reason is not None:
            pytest.skip(reason)

    @pytest.fixture
    def conforming(self, tmp_path: Path) -> Iterator[Guard]:
        """A guard over the suite's own policy."""
        with Guard.open(POLICY, home=tmp_path / "agentguard", durability="process") as guard:
            yield guard

    def play(self, scene: Scene, mode: Mode) -> list[Reply]:
        """A scene in any mode."""
        return asyncio.run(self.arun(scene, mode)) if mode in ASYNC else self.run(scene, mode)

    def one(self, guard: Guard, notes: Notes, mode: Mode, *calls: Call, agent: str = "lead", **options: Any) -> list[Reply]:
        """Play calls of `note`, one a step."""
        return self.play(Scene(guard, agent, [notes.tool(mode)], [[call] for call in calls], **options), mode)

    # --- denials ------------------------------------------------------------------------------------------------------------------

    def test_an_allowed_call_runs(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            replies = self.one(conforming, notes, mode, note(times=3))
        assert [reply.code for reply in replies] == [None]
        assert "noted hello" in replies[0].text
        assert notes.taken == [{"text": "hello", "times": 3, "tags": ["a"]}]

    def test_deny_prevents_execution(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            replies = self.one(conforming, notes, mode, note(times=4))
        assert notes.taken == []
        assert [reply.code for reply in replies] == ["argument_not_allowed"]

    def test_a_denial_lets_the_model_go_on(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            replies = self.one(conforming, notes, mode, note(text=SECRET), note())
        assert [reply.code for reply in replies] == ["argument_not_allowed", None]
        assert len(notes.taken) == 1

    def test_a_denial_says_nothing_that_was_found(self, conforming: Guard, mode: Mode) -> None:
        with conforming.task("lead", initiator="user:test"):
            (reply,) = self.one(conforming, Notes(), mode, note(text=SECRET))
        assert reply.code is not None
        assert SECRET not in reply.text

    def test_a_denial_may_be_raised(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"), pytest.raises(Denied) as caught:
            self.one(conforming, notes, mode, note(times=4), on_deny="raise")
        assert caught.value.code == "argument_not_allowed"
        assert notes.taken == []

    def test_without_a_task_nothing_runs(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        replies = self.one(conforming, notes, mode, note())
        assert [reply.code for reply in replies] == ["artifact_missing"]
        assert notes.taken == []

    def test_a_tool_that_nobody_knows_does_not_run(self, conforming: Guard, mode: Mode) -> None:
        with conforming.task("lead", initiator="user:test"):
            self.one(conforming, Notes(), mode, Call("delete_all", {}), note())
        assert not records(conforming, "decision", tool="delete_all", verdict="allow")

    # --- faults -------------------------------------------------------------------------------------------------------------------

    def test_a_crash_of_the_guard_prevents_execution(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            self.one(conforming, Notes(), mode, note())
            conforming.home.state.close()
            replies = self.one(conforming, notes, mode, note())
        assert notes.taken == []
        assert replies[0].code in ("state_unavailable", "guard_error")

    def test_a_failing_log_prevents_execution(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            self.one(conforming, Notes(), mode, note())
            conforming.poison("the disk is full")
            replies = self.one(conforming, notes, mode, note())
        assert notes.taken == []
        assert [reply.code for reply in replies] == ["evidence_unavailable"]

    def test_evidence_precedes_execution(self, conforming: Guard, mode: Mode) -> None:
        seen: list[tuple[int, int]] = []

        def look() -> None:
            allowed = records(conforming, "decision", tool="note", verdict="allow")
            seen.append((len(allowed), len(records(conforming, "outcome"))))

        with conforming.task("lead", initiator="user:test"):
            self.one(conforming, Notes(look), mode, note())
        assert seen == [(1, 0)]
        (outcome,) = records(conforming, "outcome")
        assert outcome["status"] == "ok"

    # --- arguments ----------------------------------------------------------------------------------------------------------------

    def test_the_tool_gets_the_checked_arguments(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            self.one(conforming, notes, mode, note(times=2, tags=["a", "b"]))
        (decision,) = records(conforming, "decision", verdict="allow")
        assert notes.taken == [checked(conforming, decision["id"])]

    def test_rewriting_by_another_hook_is_caught(self, conforming: Guard, mode: Mode) -> None:
        """What was checked runs, or nothing does."""
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            self.one(conforming, notes, mode, note(), rewrite=lambda tool, arguments: {**arguments, "times": 4})
        assert notes.taken in ([], [note().arguments])

    def test_rewriting_in_place_is_caught(self, conforming: Guard, mode: Mode) -> None:
        """A hook that keeps the arguments it saw and changes a nested one later changes nothing that runs."""
        notes = Notes()

        def tamper(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
            notes.before = lambda: arguments["tags"].append("c")
            return arguments

        with conforming.task("lead", initiator="user:test"):
            self.one(conforming, notes, mode, note(tags=["a"]), rewrite=tamper)
        for taken, decision in zip(notes.taken, records(conforming, "decision", verdict="allow"), strict=True):
            assert taken == checked(conforming, decision["id"])

    def test_defaults_are_checked(self, conforming: Guard, mode: Mode) -> None:
        taken: list[int] = []
        tool = bodied(mode, "note", lambda text, times, tags: taken.append(times), times=9)
        with conforming.task("lead", initiator="user:test"):
            replies = self.play(Scene(conforming, "lead", [tool], [[Call("note", {"text": "hello", "tags": ["a"]})]]), mode)
        assert taken == []
        assert [reply.code for reply in replies] == ["argument_not_allowed"]

    def test_nested_arguments_are_checked(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            replies = self.one(conforming, notes, mode, note(tags=["a", "z"]), note(tags=[["a"]]))
        assert notes.taken == []
        assert all(reply.code for reply in replies)

    def test_coerced_arguments_are_checked_as_the_tool_gets_them(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            self.one(conforming, notes, mode, note(times="2"), note(times="4"), note(times=4.0), note(times=True))
        for taken, decision in zip(notes.taken, records(conforming, "decision", verdict="allow"), strict=True):
            assert 1 <= taken["times"] <= 3
            assert taken == checked(conforming, decision["id"])

    def test_surplus_arguments_are_refused(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            replies = self.one(conforming, notes, mode, note(as_admin=True))
        assert notes.taken == []
        assert replies[0].code is not None

    # --- outcomes -----------------------------------------------------------------------------------------------------------------

    def test_an_exception_of_the_tool_is_recorded_and_passed_on(self, conforming: Guard, mode: Mode) -> None:
        def breaks() -> None:
            raise BrokenToolError("the tool broke")

        try:
            with conforming.task("lead", initiator="user:test"):
                said = self.one(conforming, Notes(breaks), mode, note())[0].text
        except Exception as error:  # noqa: BLE001  # frameworks wrap it in exceptions of their own
            said = f"{error!r} {error.__cause__!r}"
        assert "the tool broke" in said
        (outcome,) = records(conforming, "outcome")
        assert (outcome["status"], outcome["error"].rpartition(".")[2]) == ("error", "BrokenToolError")

    def test_a_cancelled_call_is_recorded(self, conforming: Guard, async_mode: Mode) -> None:
        async def cancelled() -> None:
            started = asyncio.Event()

            async def endless(text: str, times: int, tags: list[str]) -> str:
                """Takes a note."""
                started.set()
                await asyncio.sleep(60)
                return "never"

            scene = Scene(conforming, "lead", [named("note", endless)], [[note()]])
            run = asyncio.create_task(self.arun(scene, async_mode))
            await asyncio.wait_for(started.wait(), 30)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run

        with conforming.task("lead", initiator="user:test"):
            asyncio.run(cancelled())
        (outcome,) = records(conforming, "outcome")
        assert outcome["status"] == "cancelled"

    def test_a_replayed_call_id_is_refused(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            replies = self.one(conforming, notes, mode, note(id="same"), note(id="same"))
        assert [reply.code for reply in replies] == [None, "replay_detected"]
        assert len(notes.taken) == 1

    def test_parallel_calls_are_judged_one_by_one(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            scene = Scene(conforming, "lead", [notes.tool(mode)], [[note(times=1), note(times=4), note(times=2)]])
            replies = self.play(scene, mode)
        assert [reply.code for reply in replies] == [None, "argument_not_allowed", None]
        assert sorted(taken["times"] for taken in notes.taken) == [1, 2]

    # --- several agents -----------------------------------------------------------------------------------------------------------

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

    # --- twins, and modes ---------------------------------------------------------------------------------------------------------

    def test_no_twin_goes_past_the_guard(self, conforming: Guard) -> None:
        notes = Notes()
        names = set()
        with conforming.task("lead", initiator="user:test"):
            for name, way in self.twins(conforming, notes.tool("sync")).items():
                names.add(name)
                notes.taken.clear()
                try:
                    way(dict(TOO_OFTEN))
                except Denied:
                    assert name not in self.out_of_reach
                assert bool(notes.taken) == (name in self.out_of_reach), f"{name}: unexpected, the tool ran with {notes.taken}"
        assert names >= self.out_of_reach.keys()

    def test_a_twin_that_is_allowed_runs_once(self, conforming: Guard) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            for name, way in self.twins(conforming, notes.tool("sync")).items():
                notes.taken.clear()
                way({**TOO_OFTEN, "times": 3})
                assert len(notes.taken) == 1, f"{name} ran the tool {len(notes.taken)} times"

    def test_exceptions_from_the_rule_are_few(self) -> None:
        assert len(self.not_applicable) <= 2
        assert len(self.out_of_reach) <= 2

    def test_all_modes_agree(self, conforming: Guard) -> None:
        outcomes = []
        for mode in self.modes:
            notes = Notes()
            steps = [[call] for call in (note(times=2), note(times=4), note(tags=["z"]), note(times="3"))]
            with conforming.task("lead", initiator="user:test"):
                replies = self.play(Scene(conforming, "lead", [notes.tool("sync")], steps), mode)
            outcomes.append(([reply.code for reply in replies], notes.taken))
        assert all(outcome == outcomes[0] for outcome in outcomes)
