"""What agentguard gives to the tests of others: the plugin's fixtures, and the conformance suite itself."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agentguard import Code, Denied, Guard, ToolCall
from agentguard.testing import AdapterConformance, Call, Reply, assert_denied, checked, denied_in, records

pytest_plugins = ["pytester"]
#: Where agentguard is not installed but only on the path, pytest does not find the plugin by itself.
LOAD = [] if any(entry.name == "agentguard" for entry in entry_points(group="pytest11")) else ["-p", "agentguard.testing.plugin"]

POLICY = """
agentguard: 1
name: fixtures
agents: {reader: {tools: {read: {path: {path: /srv}}}}}
"""


@pytest.fixture
def pytester(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\naddopts = ['--strict-markers', '-p', 'no:cacheprovider']")
    (pytester.path / "policy.yaml").write_text(POLICY)
    return pytester


def test_the_fixtures(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.guard_policy("policy.yaml", environment={"deployment": "test"})
        def test_marked(guard, assert_denied):
            assert guard.environment["deployment"] == "test"

            @guard.tool
            def read(path: str) -> str:
                return path

            with guard.task("reader", initiator="user:test"):
                assert read(path="/srv/a") == "/srv/a"
                with assert_denied("argument_not_allowed") as caught:
                    read(path="/etc/passwd")
                assert caught.value.decision.agent == "reader"
                with assert_denied():
                    read(path="/etc/passwd")

        class TestOverridden:
            @pytest.fixture
            def guard_policy(self):
                return "agentguard: 1\\nname: other\\nagents: {}\\n"

            def test_overridden(self, guard):
                assert guard.policy.name == "other"

        @pytest.mark.guard_policy("policy.yaml")
        def test_wrong_code(guard, assert_denied):
            read = guard.tool(name="read")(lambda path: path)
            with guard.task("reader", initiator="user:test"), assert_denied("artifact_missing"):
                read(path="/etc/passwd")

        @pytest.mark.guard_policy("policy.yaml")
        def test_not_denied(guard, assert_denied):
            with assert_denied():
                pass

        def test_no_policy(guard):
            pass
        """
    )
    result = pytester.runpytest_subprocess(*LOAD)
    result.assert_outcomes(passed=2, failed=2, errors=1)
    result.stdout.fnmatch_lines_random(
        [
            "*denied with argument_not_allowed instead of artifact_missing: reader may not call read: *",
            "*DID NOT RAISE*",
            "*the `guard` fixture needs a policy: mark the test with guard_policy*",
        ]
    )
    assert not list(pytester.path.glob("**/.agentguard"))


def test_helpers(tmp_path: Path) -> None:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as guard:

        @guard.tool
        def read(path: str) -> str:
            return path

        with guard.task("reader", initiator="user:test"):
            read(path="/srv/a")
            with assert_denied(Code.ARGUMENT_NOT_ALLOWED):
                read(path="/etc/passwd")
        allowed, denied = records(guard, "decision")
        assert (allowed["verdict"], denied["code"]) == ("allow", "argument_not_allowed")
        assert records(guard, verdict="deny") == [denied]
        assert checked(guard, allowed["id"]) == {"path": "/srv/a"}


def test_a_reply_knows_a_denial() -> None:
    assert Reply("Denied (replay_detected). This very call was made before.").code == "replay_detected"
    assert Reply("paid").code is None
    assert Call("a", {}).id != Call("a", {}).id


LOOP = '''
import asyncio
from agentguard import Denied
from agentguard.testing import AdapterConformance, Reply


class TestLoop(AdapterConformance):
    """An adapter for no framework at all: guarded functions, and a loop that calls them."""

    modes = ("sync", "async")

    def guarded(self, scene):
        return {fn.__name__: scene.guard.tool(fn) if scene.guard else fn for fn in scene.tools}

    def changed(self, scene, call):
        arguments = dict(call.arguments)
        return arguments if scene.rewrite is None else scene.rewrite(call.tool, arguments)

    def answered(self, scene, denied):
        if scene.on_deny == "raise":
            raise denied
        return Reply(denied.for_model, True)

    def run(self, scene, mode):
        tools, said = self.guarded(scene), []
        for call in (call for step in scene.steps for call in step):
            try:
                said.append(Reply(tools[call.tool](**self.changed(scene, call))) if call.tool in tools else Reply("unknown", True))
            except Denied as denied:
                said.append(self.answered(scene, denied))
        return said

    async def arun(self, scene, mode):
        tools, said = self.guarded(scene), []
        for call in (call for step in scene.steps for call in step):
            try:
                got = tools[call.tool](**self.changed(scene, call)) if call.tool in tools else "unknown"
                said.append(Reply(await got if asyncio.iscoroutine(got) else got))
            except Denied as denied:
                said.append(self.answered(scene, denied))
        return said

    def twins(self, guard, tool):
        guarded = guard.tool(tool)
        return {"the function": lambda arguments: guarded(**arguments)}
'''


def test_the_suite_is_usable_by_others_and_finds_what_is_missing(pytester: pytest.Pytester) -> None:
    """A hand-made adapter that knows neither call ids nor agents fails in just these cases; one that guards nothing in most."""
    pytester.makepyfile(test_loop=LOOP)
    assert failures(pytester) == {
        "test_a_replayed_call_id_is_refused",
        "test_a_sub_agent_without_a_grant_is_denied",
        "test_a_hand_off_narrows",
    }
    pytester.makepyfile(test_loop=LOOP.replace("scene.guard.tool(fn)", "fn"))
    assert failures(pytester) >= {
        "test_deny_prevents_execution",
        "test_a_denial_may_be_raised",
        "test_without_a_task_nothing_runs",
        "test_a_crash_of_the_guard_prevents_execution",
        "test_a_failing_log_prevents_execution",
        "test_evidence_precedes_execution",
        "test_the_tool_gets_the_checked_arguments",
        "test_rewriting_by_another_hook_is_caught",
        "test_defaults_are_checked",
        "test_nested_arguments_are_checked",
        "test_coerced_arguments_are_checked_as_the_tool_gets_them",
        "test_an_exception_of_the_tool_is_recorded_and_passed_on",
        "test_a_cancelled_call_is_recorded",
        "test_parallel_calls_are_judged_one_by_one",
        "test_agents_in_threads_do_not_mix_authority",
        "test_agents_in_one_event_loop_do_not_mix_authority",
        "test_overhead_is_measured",
    }


def failures(pytester: pytest.Pytester) -> set[str]:
    """The cases of the suite that fail, in whatever mode."""
    result = pytester.runpytest_inprocess("-q", "-rf", "--tb=no", "test_loop.py")
    lines = [line.split("::")[-1] for line in result.outlines if line.startswith("FAILED")]
    return {line.split("[")[0].split(" ")[0] for line in lines}


def test_exceptions_from_the_suite_are_counted() -> None:
    class Lax(AdapterConformance):
        out_of_reach: ClassVar[Mapping[str, str]] = {"one": "", "two": "", "three": ""}
        run: Any = None
        arun: Any = None
        twins: Any = None

    with pytest.raises(AssertionError):
        Lax().test_exceptions_from_the_rule_are_few()


def test_a_case_cannot_be_replaced() -> None:
    class Mild(AdapterConformance):
        run: Any = None
        arun: Any = None
        twins: Any = None

    Mild().test_exceptions_from_the_rule_are_few()
    Mild.test_deny_prevents_execution = lambda self, conforming, mode: None  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="the same for every adapter"):
        Mild().test_exceptions_from_the_rule_are_few()


def test_a_denial_is_found_where_a_framework_put_it(tmp_path: Path) -> None:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as guard, pytest.raises(Denied) as caught:
        guard.check(ToolCall("reader", "read", {"path": "/srv/a"}))
    denied = caught.value
    cause, context, looped = RuntimeError("cause"), RuntimeError("context"), RuntimeError("loop")
    cause.__cause__, context.__context__, looped.__context__ = denied, denied, RuntimeError("other")
    looped.__context__.__context__ = looped
    inside = ExceptionGroup("several", [ValueError("one"), ExceptionGroup("inner", [cause])])
    assert all(denied_in(error) is denied for error in (denied, cause, context, inside))
    assert denied_in(looped) is None
