"""Microsoft Agent Framework with guard_agent."""

from __future__ import annotations

import asyncio
import datetime
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("agent_framework")

from agent_framework import FunctionInvocationContext, FunctionMiddleware, FunctionTool, Message, MiddlewareTermination, RawAgent
from agent_framework import tool as make_tool

from agentguard import Denied, Guard, InvalidInput
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, records
from agentguard_adapters.agent_framework import RunDenied, guard_agent, guard_middleware, guard_tools
from support.agent_framework_scripted import RewritingMiddleware, ScriptedClient, replies, scripted


class TestAgentFramework(AdapterConformance):
    """The framework is asynchronous; "sync" and "stream" are an event loop of their own over sync tools, which it runs in threads."""

    def agent(self, scene: Scene) -> Any:
        behind = [RewritingMiddleware(scene.rewrite)] if scene.rewrite is not None else []
        made = scripted("assistant", *scene.steps, tools=list(scene.tools))
        if scene.guard is not None:
            guard_agent(scene.guard, made, agent=scene.agent, on_deny=scene.on_deny)
        made.middleware = [*(made.middleware or ()), *behind]
        return made

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        return asyncio.run(self.arun(scene, mode))

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        agent = self.agent(scene)
        if mode in ("sync", "async"):
            return replies((await agent.run("go")).messages)
        return replies([update async for update in agent.run("go", stream=True)])

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        bare = make_tool(tool)
        model = bare.input_model
        (made,) = guard_tools(guard, [bare])

        def agent(arguments: dict[str, Any]) -> Any:
            return guard_agent(guard, scripted("lead", [Call("note", arguments)], tools=[tool]))

        def given(arguments: dict[str, Any]) -> Any:
            """The tool object that an agent was given is the one that is guarded."""
            one = make_tool(tool)
            guard_agent(guard, scripted("lead", tools=[one]))
            return asyncio.run(one.invoke(arguments=arguments))

        return {
            "the tool object that was given": given,
            "invoke": lambda arguments: asyncio.run(made.invoke(arguments=arguments)),
            "invoke with a model": lambda arguments: asyncio.run(made.invoke(arguments=model(**arguments))),
            "__call__": lambda arguments: made(**arguments),
            "func": lambda arguments: made.func(**arguments),
            "a guarded tool in an agent of its own": lambda arguments: asyncio.run(
                scripted("lead", [Call("note", arguments)], tools=[made]).run("go")
            ),
            "as a tool": lambda arguments: asyncio.run(agent(arguments).as_tool().invoke(arguments={"task": "go"})),
            "get_final_response": lambda arguments: asyncio.run(_final(agent(arguments))),
            "a chat client": lambda arguments: asyncio.run(
                ScriptedClient([Call("note", arguments)]).get_response(
                    [Message(role="user", contents=["go"])],
                    options={"tools": [make_tool(tool)]},
                    middleware=guard_middleware(guard, "lead"),
                )
            ),
        }


async def _final(agent: Any) -> Any:
    return await agent.run("go", stream=True).get_final_response()


POLICY = """
agentguard: 1
name: agent-framework
agents:
  alice:
    tools:
      pay: {amount: {range: {max: 10}}}
      refund: {amount: {range: {max: 10}}}
      shift: {start: {regex: "2030-.*"}}
      remote: {amount: {range: {max: 10}}}
      more: {}
      bob: {task: {max_length: 20}}
    delegates: {bob: {depth: 1}}
  bob:
    tools: {pay: {amount: {range: {max: 5}}}}
"""


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened:
        yield opened


@pytest.fixture
def paid() -> list[int]:
    return []


@pytest.fixture
def pay(paid: list[int]) -> Any:
    @make_tool
    def pay(amount: int) -> str:
        """Pays."""
        paid.append(amount)
        return f"paid {amount}"

    return pay


def go(guard: Guard, agent: Any, name: str = "alice", **options: Any) -> Any:
    async def within_time() -> Any:
        return await asyncio.wait_for(agent.run("go", **options), 10)

    with guard.task(name, initiator="user:test"):
        return asyncio.run(within_time())


def codes(guard: Guard, agent: Any, name: str = "alice", **options: Any) -> list[str | None]:
    return [reply.code for reply in replies(go(guard, agent, name, **options).messages)]


def pays(*amounts: Any) -> list[Call]:
    return [Call("pay", {"amount": amount}) for amount in amounts]


# --- agents ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_as_a_tool(guard: Guard, paid: list[int], pay: Any, stream: bool) -> None:
    """It is judged by its own arguments, and what it does by a narrower task of its own."""
    seen: list[Any] = []
    bob = guard_agent(guard, scripted("bob", pays(5, 6), tools=[pay]))
    calls = [Call("bob", {"task": "pay the rent"}), Call("bob", {"task": "x" * 21})]
    tool = bob.as_tool(stream_callback=seen.append if stream else None)
    assert codes(guard, guard_agent(guard, scripted("alice", calls, tools=[tool]))) == [None, "argument_not_allowed"]
    assert paid == [5]
    assert bool(seen) is stream
    (outer,) = records(guard, "decision", tool="bob", verdict="allow")
    (link,) = records(guard, "delegation", agent="bob")
    inner = records(guard, "decision", agent="bob")
    assert {(record["caused_by"], record["artifact"]) for record in inner} == {(outer["id"], link["artifact"])}


def test_an_agent_as_a_tool_must_be_guarded_itself(guard: Guard, paid: list[int], pay: Any) -> None:
    """Where it turns up late, its call is denied."""
    tool = scripted("bob", pays(1), tools=[pay]).as_tool()
    with pytest.raises(InvalidInput, match="the agent 'bob' inside the tool 'bob' is not guarded"):
        guard_agent(guard, scripted("alice", tools=[tool]))
    with pytest.raises(InvalidInput, match="is not guarded"):
        go(guard, guard_agent(guard, scripted("alice", [Call("bob", {"task": "go"})])), tools=[tool])
    assert paid == []


def test_agents_that_share_a_tool_act_each_for_itself(guard: Guard, paid: list[int], pay: Any) -> None:
    alice, bob = (guard_agent(guard, scripted(name, pays(4, 8), tools=[pay])) for name in ("alice", "bob"))
    assert codes(guard, alice) == [None, None]
    assert codes(guard, bob, "bob") == [None, "argument_not_allowed"]
    assert sorted(paid) == [4, 4, 8]


def test_an_agent_without_a_guard_has_no_more_authority_than_the_one_that_runs_it(guard: Guard, paid: list[int], pay: Any) -> None:
    """Their tool objects are the same, and guarded: what a bare agent does with them is done by the agent of the current task."""
    guard_agent(guard, scripted("alice", tools=[pay]))
    assert [reply.text[:5] for reply in replies(go(guard, scripted("bare", pays(10, 11), tools=[pay])).messages)] == ["paid ", "Error"]
    assert replies(asyncio.run(scripted("bare", pays(1), tools=[pay]).run("go")).messages)[0].error
    assert paid == [10]
    assert [record["agent"] for record in records(guard, "decision")] == ["alice", "alice", "nobody"]


def test_a_hook_that_names_another_tool_lends_no_authority(guard: Guard, paid: list[int], pay: Any) -> None:
    """The call is not announced then; it acts for this agent all the same, and not for the one that runs it."""

    @make_tool
    def other() -> str:
        """Something else."""
        return "other"

    class Confusing(FunctionMiddleware):
        async def process(self, context: Any, call_next: Any) -> None:
            context.function = other
            await call_next()

    bob = guard_agent(guard, scripted("bob", pays(7), tools=[pay], middleware=[Confusing()]))
    go(guard, guard_agent(guard, scripted("alice", [Call("bob", {"task": "go"})], tools=[bob.as_tool()])))
    assert paid == []
    assert [record["agent"] for record in records(guard, "decision", tool="pay")] == ["bob"]


def test_what_takes_no_middleware_is_refused(guard: Guard) -> None:
    bare = RawAgent(ScriptedClient(), name="alice")
    nameless = scripted("", tools=[])
    for agent in (bare, nameless):
        with pytest.raises(InvalidInput, match="cannot be guarded"):
            guard_agent(guard, agent)
    with pytest.raises(InvalidInput, match="guarded already"):
        guard_agent(guard, guard_agent(guard, scripted("alice")))


def test_a_raised_denial_ends_the_run_from_within(guard: Guard, paid: list[int], pay: Any) -> None:
    """A sub-agent's run ends; the agent above is told, and goes on, unless it raises too."""
    for on_deny, raises in (("message", False), ("raise", True)):
        bob = guard_agent(guard, scripted("bob", pays(6), tools=[pay]), on_deny="raise")
        alice = guard_agent(guard, scripted("alice", [Call("bob", {"task": "go"})], tools=[bob.as_tool()]), on_deny=on_deny)  # type: ignore[arg-type]
        if raises:
            with pytest.raises(RunDenied, match="argument_not_allowed") as caught:
                go(guard, alice)
            assert isinstance(caught.value.__cause__, Denied)
            assert pickle.loads(pickle.dumps(caught.value)).code == "argument_not_allowed"
        else:
            assert codes(guard, alice) == ["argument_not_allowed"]
    assert paid == []


# --- tools ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*PROGRESSIVE_TOOLS")
def test_tools_that_come_late(guard: Guard, paid: list[int], pay: Any) -> None:
    """Given to the run, or added by a tool while it goes on."""
    assert codes(guard, guard_agent(guard, scripted("alice", pays(1, 11))), tools=[pay]) == [None, "argument_not_allowed"]

    @make_tool
    def refund(amount: int) -> str:
        """Refunds."""
        paid.append(-amount)
        return "refunded"

    @make_tool
    def more(ctx: FunctionInvocationContext) -> str:
        """Brings another tool."""
        ctx.add_tools(refund)
        return "there it is"

    steps = [Call("more", {})], [Call("refund", {"amount": 2}), Call("refund", {"amount": 12})]
    assert codes(guard, guard_agent(guard, scripted("alice", *steps, tools=[more]))) == [None, None, "argument_not_allowed"]
    assert paid == [1, -2]


def test_a_tool_whose_function_was_replaced_does_not_run(guard: Guard, paid: list[int], pay: Any) -> None:
    alice = guard_agent(guard, scripted("alice", pays(1), tools=[pay]))
    pay.func = lambda amount: paid.append(amount * 1000)
    with pytest.raises(InvalidInput, match="another tool is registered as 'pay'"):
        go(guard, alice)

    class Replacing(FunctionMiddleware):
        async def process(self, context: Any, call_next: Any) -> None:
            context.function.func = lambda amount: paid.append(amount * 1000)
            await call_next()

    @make_tool
    def refund(amount: int) -> str:
        """Refunds."""
        return "refunded"

    alice = scripted("alice", [Call("refund", {"amount": 1})], tools=[refund], middleware=[Replacing()])
    with pytest.raises(InvalidInput, match="another tool is registered as 'refund'"):  # when the model is to hear of it next
        go(guard, guard_agent(guard, alice))
    assert [record["verdict"] for record in records(guard, "decision", tool="refund")] == ["deny"]
    assert paid == []


def test_tools_of_the_provider_are_refused(guard: Guard) -> None:
    search = {"type": "web_search", "name": "web"}
    with pytest.raises(InvalidInput, match="the tool web runs at the model's provider"):
        guard_agent(guard, scripted("alice", tools=[search]))
    with pytest.raises(InvalidInput, match="runs at the model's provider"):
        go(guard, guard_agent(guard, scripted("alice")), tools=[search])
    assert go(guard, guard_agent(guard, scripted("alice", tools=[search]), unsafe_provider_tools=True)).text == "done"
    with pytest.raises(InvalidInput, match="is no FunctionTool"):
        guard_tools(guard, [search])


def test_arguments_that_the_framework_fills_in(guard: Guard) -> None:
    """A model may not present one; what its type makes of the others is judged."""
    got: list[Any] = []

    @make_tool
    def shift(start: datetime.date, ctx: FunctionInvocationContext) -> str:
        """Takes a shift."""
        got.append((start, type(ctx)))
        return "yours"

    calls = [
        Call("shift", {"start": "2030-02-01"}),
        Call("shift", {"start": "2029-02-01"}),
        Call("shift", {"start": "2030-02-01", "ctx": {}}),
    ]
    agent = guard_agent(guard, scripted("alice", calls, tools=[shift]))
    assert codes(guard, agent) == [None, "argument_not_allowed", "malformed_call"]
    assert got == [(datetime.date(2030, 2, 1), FunctionInvocationContext)]


def test_mistakes_are_told_so_that_the_model_can_mend_them(guard: Guard, pay: Any) -> None:
    schema = pay.parameters()
    agent = guard_agent(guard, scripted("alice", [*pays("much"), Call("pay", {"amount": 1, "as_admin": True})], tools=[pay]))
    wrong, surplus = replies(go(guard, agent).messages)
    assert (wrong.code, surplus.code) == ("malformed_call", "malformed_call")
    assert "valid integer" in wrong.text
    assert "as_admin" in surplus.text
    assert pay.parameters() == schema  # what models are told of the tool stays
    assert [record["verdict"] for record in records(guard, "decision")] == ["deny", "deny"]


def test_a_tool_with_a_schema_of_its_own(guard: Guard, paid: list[int]) -> None:
    """As the framework makes them for MCP: the function takes whatever comes, and the policy says what may."""

    async def call(ctx: FunctionInvocationContext, **arguments: Any) -> str:
        paid.append(arguments["amount"])
        return "paid elsewhere"

    remote = FunctionTool(name="remote", func=call, input_model={"type": "object", "properties": {"amount": {"type": "integer"}}})
    calls = [Call("remote", arguments) for arguments in ({"amount": 1}, {"amount": 11}, {"amount": 1, "to": "eve"}, {"amount": "x"})]
    assert codes(guard, guard_agent(guard, scripted("alice", calls, tools=[remote]))) == [
        None,
        "argument_not_allowed",
        "argument_not_in_scope",
        "malformed_call",
    ]
    assert paid == [1]


def test_methods_and_tools_in_tools(guard: Guard, paid: list[int]) -> None:
    class Till:
        @make_tool
        def pay(self, amount: int) -> str:
            """Pays."""
            paid.append(amount)
            return "paid"

    till = Till()
    assert codes(guard, guard_agent(guard, scripted("alice", pays(1, 11), tools=[till.pay]))) == [None, "argument_not_allowed"]
    asyncio.run(till.pay.invoke(arguments={"amount": 100}))  # out of reach: another tool object, which no guard knows

    @make_tool
    def inner(amount: int) -> str:
        """Refunds."""
        paid.append(-amount)
        return "refunded"

    nested = FunctionTool(name="refund", func=inner)
    calls = [Call("refund", {"amount": amount}) for amount in (2, 12)]
    assert codes(guard, guard_agent(guard, scripted("alice", calls, tools=[nested]))) == [None, "argument_not_allowed"]
    assert paid == [1, 100, -2]


def test_a_tool_that_the_guard_would_go_past_is_refused(guard: Guard, pay: Any) -> None:
    class Own(FunctionTool):
        async def invoke(self, **options: Any) -> Any:
            return "ran"

    with pytest.raises(InvalidInput, match="overrides invoke"):
        guard_tools(guard, [Own(name="own", func=lambda: "ran")])


def test_a_tool_belongs_to_one_guard(guard: Guard, pay: Any, tmp_path: Path) -> None:
    guard_tools(guard, [pay])
    guard_tools(guard, [pay])
    with Guard.open(POLICY, home=tmp_path / "other", durability="process") as other, pytest.raises(InvalidInput, match="another guard"):
        guard_agent(other, scripted("alice", tools=[pay]))


def test_a_decorated_function_is_decided_once(guard: Guard, paid: list[int]) -> None:
    @guard.tool
    def pay(amount: int) -> str:
        """Pays."""
        paid.append(amount)
        return "paid"

    assert codes(guard, guard_agent(guard, scripted("alice", pays(1, 11), tools=[pay]))) == [None, "argument_not_allowed"]
    assert sorted(record["verdict"] for record in records(guard, "decision")) == ["allow", "deny"]


def test_a_denial_that_a_tool_meets_tells_the_model_nothing_that_was_found(guard: Guard, pay: Any) -> None:
    inner = guard.tool(pay.func)

    def refund(amount: int) -> str:
        """Refunds."""
        return str(inner(amount=amount * 1000))

    (reply,) = replies(go(guard, guard_agent(guard, scripted("alice", [Call("refund", {"amount": 7})], tools=[refund]))).messages)
    assert reply.code == "argument_not_allowed"
    assert "7000" not in reply.text


# --- other hooks ----------------------------------------------------------------------------------------------------------------------


def test_another_hook_that_fails_runs_nothing(guard: Guard, paid: list[int], pay: Any) -> None:
    class Failing(FunctionMiddleware):
        async def process(self, context: Any, call_next: Any) -> None:
            raise PermissionError("not today")

    for middleware in ([Failing()], []):
        agent = guard_agent(guard, scripted("alice", pays(1), tools=[pay], middleware=middleware))
        agent.middleware = [*agent.middleware, Failing()]
        (reply,) = replies(go(guard, agent).messages)
        assert "not today" in reply.text
    assert paid == []


def test_what_another_hook_answers_stays(guard: Guard, paid: list[int], pay: Any) -> None:
    class Closed(FunctionMiddleware):
        async def process(self, context: Any, call_next: Any) -> None:
            raise MiddlewareTermination("closed", result="closed on Sundays")

    agent = guard_agent(guard, scripted("alice", pays(1), tools=[pay]))
    agent.middleware = [*agent.middleware, Closed()]
    assert [reply.text for reply in replies(go(guard, agent).messages)] == ["closed on Sundays"]
    assert paid == []
    assert records(guard, "decision") == []


@pytest.mark.parametrize("approved", [True, False])
@pytest.mark.parametrize("amount", [1, 11])
def test_with_the_frameworks_approvals(guard: Guard, paid: list[int], approved: bool, amount: int) -> None:
    """A human's yes comes first, and the guard's decision after it; neither stands for the other."""

    @make_tool(approval_mode="always_require")
    def pay(amount: int) -> str:
        """Pays."""
        paid.append(amount)
        return "paid"

    agent = guard_agent(guard, scripted("alice", pays(amount), tools=[pay]))
    session = agent.create_session()
    (request,) = go(guard, agent, session=session).user_input_requests
    assert records(guard, "decision") == []
    answer = Message(role="user", contents=[request.to_function_approval_response(approved)])

    async def resumed() -> Any:
        return await agent.run(answer, session=session)

    with guard.task("alice", initiator="user:test"):
        (reply,) = replies(asyncio.run(resumed()).messages)
    assert paid == ([1] if approved and amount == 1 else [])
    assert reply.code == ("argument_not_allowed" if approved and amount == 11 else None)
    assert len(records(guard, "decision")) == approved
