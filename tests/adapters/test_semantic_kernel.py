"""Semantic Kernel's ChatCompletionAgent with guard_agent, and kernels with guard_kernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import pytest

pytest.importorskip("semantic_kernel")

from semantic_kernel import Kernel
from semantic_kernel.agents import HandoffOrchestration, OrchestrationHandoffs
from semantic_kernel.agents.runtime import InProcessRuntime
from semantic_kernel.connectors.ai.prompt_execution_settings import PromptExecutionSettings
from semantic_kernel.contents import ChatHistory, FunctionCallContent, FunctionResultContent
from semantic_kernel.exceptions import KernelInvokeException
from semantic_kernel.functions import FunctionResult, KernelArguments, KernelFunctionFromMethod, kernel_function
from semantic_kernel.kernel_pydantic import KernelBaseModel
from semantic_kernel.prompt_template import KernelPromptTemplate, PromptTemplateConfig

from agentguard import Denied, Guard, InvalidInput
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, records
from agentguard_adapters.semantic_kernel import guard_agent, guard_kernel
from support.semantic_kernel_scripted import content, kernel_of, replies, scripted, service


class TestSemanticKernel(AdapterConformance):
    """Semantic Kernel is asynchronous; "sync" and "stream" are an event loop of their own over sync functions."""

    def agent(self, scene: Scene) -> Any:
        made = scripted("assistant", *scene.steps, kernel=kernel_of(scene.tools))
        if scene.guard is not None:
            guard_agent(scene.guard, made, agent=scene.agent, on_deny=scene.on_deny)
        if scene.rewrite is not None:
            rewrite = scene.rewrite

            @made.kernel.filter("function_invocation")
            async def rewriting(context: Any, next: Any) -> None:
                context.arguments.update(rewrite(context.function.name, dict(context.arguments)))
                await next(context)

        return made

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        with ThreadPoolExecutor(1) as pool:  # a sync function runs on the loop's thread, and cannot run another loop there
            return pool.submit(copy_context().run, asyncio.run, self.arun(scene, mode)).result()

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        return replies(await played(self.agent(scene), stream="stream" in mode), scene.steps)

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        def kernel() -> Any:
            return guard_kernel(guard, kernel_of([tool]), agent="lead")

        def invoked(one: Kernel) -> Callable[[dict[str, Any]], Any]:
            return lambda arguments: asyncio.run(one.invoke(plugin_name="desk", function_name="note", **arguments))

        async def called(arguments: dict[str, Any]) -> Any:
            history = ChatHistory()
            await kernel().invoke_function_call(content(Call("note", arguments), 0), history)
            return history

        late = guard_kernel(guard, Kernel(), agent="lead")
        late.add_function("desk", kernel_function(name="note")(tool))
        given = kernel().get_function("desk", "note")
        written = PromptTemplateConfig(template="{{desk.note text=$text times=$times tags=$tags}}", allow_dangerously_set_content=True)
        template = KernelPromptTemplate(prompt_template_config=written, allow_dangerously_set_content=True)
        agent = partial(scripted, "lead", kernel=kernel())
        return {
            "kernel.invoke": invoked(kernel()),
            "kernel.invoke of a function that was added later": invoked(late),
            "kernel.invoke of a clone": invoked(kernel().clone()),
            "kernel.invoke_function_call": lambda arguments: asyncio.run(called(arguments)),
            "function.invoke": lambda arguments: asyncio.run(given.invoke(kernel(), KernelArguments(**arguments))),
            "function.invoke in a bare kernel": lambda arguments: asyncio.run(given.invoke(Kernel(), KernelArguments(**arguments))),
            "function.method": lambda arguments: given.method(**arguments),
            "a template": lambda arguments: asyncio.run(template.render(kernel(), KernelArguments(**arguments))),
            "get_response": lambda arguments: asyncio.run(agent([Call("note", arguments)]).get_response("go")),
        }


async def played(agent: Any, *, stream: bool = False) -> list[Any]:
    """The messages of an agent's run, within ten seconds."""
    said = []

    async def listen(message: Any) -> None:
        said.append(message)

    async with asyncio.timeout(10):
        async for _ in (agent.invoke_stream if stream else agent.invoke)(messages="go", on_intermediate_message=listen):
            pass
    return said


class Start(KernelBaseModel):
    """A parameter of a type of its own."""

    hour: int


POLICY = """
agentguard: 1
name: semantic-kernel
agents:
  alice:
    tools:
      pay: {amount: {range: {max: 10}}}
      refund: {amount: {range: {max: 10}}}
      count: {upto: {range: {max: 3}}}
      shift: {start: any, kind: {one_of: [early, late]}}
      slogan: {topic: {max_length: 10}}
      bob: {messages: {max_length: 20}, instructions_override: {exact: null}}
      transfer_to_bob: {}
      complete_task: {task_summary: any}
    delegates: {bob: {depth: 1}}
  bob:
    tools: {pay: {amount: {range: {max: 5}}}, complete_task: {task_summary: any}}
  carol:
    tools: {transfer_to_bob: {}}
  qualified:
    tools: {desk-pay: {amount: {range: {max: 10}}}}
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
    def pay(amount: int) -> str:
        """Pays."""
        paid.append(amount)
        return f"paid {amount}"

    return pay


def pays(*amounts: Any) -> list[Call]:
    return [Call("pay", {"amount": amount}) for amount in amounts]


def go(guard: Guard, agent: Any, calls: Sequence[Call | FunctionCallContent], name: str = "alice") -> list[Reply]:
    with guard.task(name, initiator="user:test"):
        return replies(asyncio.run(played(agent)), [calls])


def invoke(guard: Guard, kernel: Any, function: str, name: str = "alice", **arguments: Any) -> Any:
    with guard.task(name, initiator="user:test"):
        return asyncio.run(kernel.invoke(plugin_name="desk", function_name=function, **arguments))


# --- agents ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Semantic Kernel's look at an agent
def test_an_agent_as_a_plugin(guard: Guard, paid: list[int], pay: Any) -> None:
    """It is judged by its own arguments, and what it does by a narrower task of its own."""
    bob = guard_agent(guard, scripted("bob", pays(5, 6), kernel=kernel_of([pay]), description="Pays."))
    calls = [Call("bob", {"messages": "pay the rent"}), Call("bob", {"messages": "x" * 21})]
    alice = guard_agent(guard, scripted("alice", calls, plugins=[bob]))
    assert [reply.code for reply in go(guard, alice, calls)] == [None, "argument_not_allowed"]
    assert paid == [5]
    (outer,) = records(guard, "decision", tool="bob", verdict="allow")
    (link,) = records(guard, "delegation", agent="bob")
    inner = records(guard, "decision", agent="bob")
    assert {(record["caused_by"], record["artifact"]) for record in inner} == {(outer["id"], link["artifact"])}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Semantic Kernel's look at an agent
def test_an_agent_as_a_plugin_must_be_guarded_itself(guard: Guard, paid: list[int], pay: Any) -> None:
    """Where it turns up late, its call is denied."""
    bob = scripted("bob", pays(1), kernel=kernel_of([pay]))
    calls = [Call("bob", {"messages": "go"})]
    alice = scripted("alice", calls, plugins=[bob])
    with pytest.raises(InvalidInput, match="the agent 'bob' inside the function 'bob' is not guarded"):
        guard_agent(guard, alice)
    late = guard_agent(guard, scripted("alice", calls))
    late.kernel.add_plugin(bob)
    assert [reply.code for reply in go(guard, late, calls)] == ["malformed_call"]
    assert paid == []


def orchestrated(guard: Guard, alice: Any, bob: Any, name: str = "alice", *, outside: bool = False) -> Any:
    """A hand-off orchestration of the two: what came of it. Its runtime starts within the task, or outside."""

    async def run() -> Any:
        handoffs = OrchestrationHandoffs().add("alice", "bob", "for payments")
        orchestration = HandoffOrchestration(members=[alice, bob], handoffs=handoffs)
        runtime = InProcessRuntime()
        if outside:
            runtime.start()
        async with guard.task(name, initiator="user:test"):
            if not outside:
                runtime.start()
            try:
                return await (await orchestration.invoke(task="go", runtime=runtime)).get(10)
            finally:
                await runtime.stop_when_idle()

    return asyncio.run(run())


def test_a_hand_off_runs_under_a_narrower_task(guard: Guard, paid: list[int], pay: Any) -> None:
    alice = guard_agent(guard, scripted("alice", [Call("Handoff-transfer_to_bob", {})]))
    bob = guard_agent(
        guard, scripted("bob", pays(5, 6), [Call("Handoff-complete_task", {"task_summary": "paid"})], kernel=kernel_of([pay]))
    )
    assert "paid" in str(orchestrated(guard, alice, bob))
    assert paid == [5]
    (link,) = records(guard, "delegation", agent="bob")
    assert {record["artifact"] for record in records(guard, "decision", agent="bob")} == {link["artifact"]}


def test_a_runtime_that_was_started_outside_knows_no_task(guard: Guard, paid: list[int], pay: Any) -> None:
    alice = guard_agent(guard, scripted("alice", pays(1), kernel=kernel_of([pay])))
    orchestrated(guard, alice, guard_agent(guard, scripted("bob")), outside=True)
    assert paid == []
    assert [record["code"] for record in records(guard, "decision")] == ["artifact_missing"]


def test_a_denied_hand_off_does_not_happen(guard: Guard, paid: list[int], pay: Any) -> None:
    """The agent is told, and goes on; the orchestration would have ended its turn."""
    carol = guard_agent(guard, scripted("alice", [Call("Handoff-transfer_to_bob", {})]), agent="qualified")
    bob = guard_agent(guard, scripted("bob", pays(5), kernel=kernel_of([pay])))
    assert "No handoff agent name provided" in str(orchestrated(guard, carol, bob, "qualified"))
    (heard,) = [item for message in carol.service.told for item in message.items if isinstance(item, FunctionResultContent)]
    assert Reply(str(heard.result)).code == "tool_not_in_scope"
    assert paid == []


def test_a_hand_off_to_an_agent_that_may_not_be_delegated_to_leaves_it_without_authority(guard: Guard, paid: list[int], pay: Any) -> None:
    carol = guard_agent(guard, scripted("alice", [Call("Handoff-transfer_to_bob", {})]), agent="carol")
    bob = guard_agent(guard, scripted("bob", pays(5), kernel=kernel_of([pay])))
    orchestrated(guard, carol, bob, "carol")
    assert paid == []
    (heard,) = [item for message in bob.service.told for item in message.items if isinstance(item, FunctionResultContent)]
    assert Reply(str(heard.result)).code == "delegation_not_allowed"


# --- kernels and functions ------------------------------------------------------------------------------------------------------------


def test_a_kernel_belongs_to_one_agent(guard: Guard, pay: Any, tmp_path: Path) -> None:
    kernel = guard_kernel(guard, kernel_of([pay]), agent="alice")
    guard_kernel(guard, kernel, agent="alice")
    for one in (kernel, kernel.clone()):
        with pytest.raises(InvalidInput, match="the kernel is guarded for 'alice' already"):
            guard_kernel(guard, one, agent="bob")
    with Guard.open(POLICY, home=tmp_path / "other", durability="process") as other:
        with pytest.raises(InvalidInput, match="already"):
            guard_kernel(other, kernel, agent="alice")
        bare = Kernel(plugins=kernel.plugins)
        with pytest.raises(InvalidInput, match="another guard"):
            guard_kernel(other, bare, agent="alice")


def test_a_kernel_of_a_class_of_its_own(guard: Guard, paid: list[int], pay: Any) -> None:
    class Own(Kernel):
        def extra(self) -> str:
            return "own"

    kernel = guard_kernel(guard, Own(plugins=kernel_of([pay]).plugins), agent="alice")
    assert (isinstance(kernel, Own), kernel.extra()) == (True, "own")
    assert "argument_not_allowed" in str(invoke(guard, kernel, "pay", amount=11))
    assert paid == []


def test_names_of_functions(guard: Guard, paid: list[int], pay: Any) -> None:
    """By default without the plugin's name; then two functions of one name cannot be told apart, and are refused."""

    def twice(amount: int) -> str:
        """Pays twice."""
        return "paid twice"

    kernel = kernel_of([pay])
    kernel.add_function("till", kernel_function(name="pay")(twice))
    with pytest.raises(InvalidInput, match="another tool is registered as 'pay'"):
        guard_kernel(guard, kernel, agent="alice")
    kernel = guard_kernel(guard, kernel_of([pay]), agent="qualified", name=attrgetter("fully_qualified_name"))
    invoke(guard, kernel, "pay", "qualified", amount=1)
    assert paid == [1]
    assert records(guard, "decision", tool="desk-pay", verdict="allow")


def test_a_raised_denial(guard: Guard, paid: list[int], pay: Any) -> None:
    kernel = guard_kernel(guard, kernel_of([pay]), agent="alice", on_deny="raise")
    with pytest.raises(KernelInvokeException) as caught:
        invoke(guard, kernel, "pay", amount=11)
    assert isinstance(caught.value.__cause__, Denied)
    with pytest.raises(Denied):
        go(guard, guard_agent(guard, scripted("alice", pays("much"), kernel=kernel_of([pay])), on_deny="raise"), [])
    assert paid == []


def test_functions_that_stream(guard: Guard) -> None:
    """Each item belongs to the execution; a denial is the only one."""
    counted: list[int] = []

    async def count(upto: int) -> AsyncIterator[int]:
        """Counts."""
        for number in range(upto):
            counted.append(number)
            yield number

    kernel = guard_kernel(guard, kernel_of([count]), agent="alice")

    async def streamed(upto: int) -> list[str]:
        return [str(part) async for part in kernel.invoke_stream(plugin_name="desk", function_name="count", upto=upto)]

    with guard.task("alice", initiator="user:test"):
        assert asyncio.run(streamed(2)) == ["0", "1"]
        (told,) = asyncio.run(streamed(4))
    assert Reply(told).code == "argument_not_allowed"
    assert counted == [0, 1]
    assert [record["status"] for record in records(guard, "outcome")] == ["ok"]


def test_a_second_way_to_run_is_refused(guard: Guard) -> None:
    @kernel_function(name="pay")
    def pay(amount: int) -> str:
        return "paid"

    async def streams(amount: int) -> AsyncIterator[str]:
        yield "paid past the guard"

    kernel = Kernel()
    kernel.add_function("desk", KernelFunctionFromMethod(pay, plugin_name="desk", stream_method=streams))
    with pytest.raises(InvalidInput, match="a way to run that the guard would go past"):
        guard_kernel(guard, kernel, agent="alice")


def test_arguments_that_the_kernel_fills_in(guard: Guard) -> None:
    """A model may not present one; what the kernel makes of the others is judged."""
    got: list[Any] = []

    def shift(
        start: Start, kind: str = "early", kernel: Annotated[Kernel | None, "", {"include_in_function_choices": False}] = None
    ) -> str:
        """Takes a shift."""
        got.append((start, type(kernel)))
        return "yours"

    calls = [
        Call("shift", {"start": {"hour": 8}}),
        Call("shift", {"start": {"hour": 8}, "kind": "never"}),
        Call("shift", {"start": {"hour": 8}, "kernel": {}}),
        Call("shift", {"start": {"hour": "noon"}}),
    ]
    agent = guard_agent(guard, scripted("alice", calls, kernel=kernel_of([shift])))
    assert [reply.code for reply in go(guard, agent, calls)] == [None, "argument_not_allowed", "malformed_call", "malformed_call"]
    assert [(start, issubclass(kind, Kernel)) for start, kind in got] == [(Start(hour=8), True)]


def test_calls_that_the_kernel_turns_down_are_recorded_and_told(guard: Guard, paid: list[int], pay: Any) -> None:
    """Before any filter hears of them; and those over which it stumbles."""
    calls = [
        FunctionCallContent(id="1", index=0, name="desk-pay", arguments="{"),
        FunctionCallContent(id="2", index=1, name="desk-pay", arguments="{}"),
        FunctionCallContent(id="3", index=2, name="desk-pay", arguments='{"amount": 1, "to": "eve"}'),
        FunctionCallContent(id="4", index=3, name="desk-delete_all", arguments="{}"),
        FunctionCallContent(id="5", index=4, name="desk-pay", arguments='{"amount": 1, "settings": "x"}'),
        FunctionCallContent(id="6", index=5, name="desk-pay", arguments="[1]"),
    ]
    agent = guard_agent(guard, scripted("alice", calls, kernel=kernel_of([pay])))
    told = go(guard, agent, calls)
    assert [reply.code for reply in told] == ["malformed_call"] * 6
    assert "Missing required argument" in told[1].text
    assert "not part of the provided tools" in told[3].text
    assert [str(item.result) for message in agent.service.told for item in message.items if hasattr(item, "result")] == [
        reply.text for reply in told
    ]
    assert [record["verdict"] for record in records(guard, "decision")] == ["deny"] * 6
    assert paid == []


def test_a_prompt_that_the_model_calls_is_judged(guard: Guard, paid: list[int], pay: Any) -> None:
    """And one that the application invokes is its own; but functions that a template calls are judged either way."""
    kernel = kernel_of([pay])
    prompt = "A slogan for {{$topic}}. {{desk.pay amount='11'}}"
    kernel.add_function("desk", function_name="slogan", prompt=prompt)
    kernel.add_service(service())
    guard_kernel(guard, kernel, agent="alice")
    calls = [Call("slogan", {"topic": "bread"}), Call("slogan", {"topic": "x" * 11})]
    agent = scripted("alice", calls, kernel=kernel)
    allowed, denied = go(guard, agent, calls)
    assert (allowed.code, denied.code) == (None, "argument_not_allowed")
    assert "done" in allowed.text
    assert "done" in str(invoke(guard, kernel, "slogan", topic="x" * 11))
    assert [record["tool"] for record in records(guard, "decision")].count("slogan") == 2
    assert {record["verdict"] for record in records(guard, "decision", tool="pay")} == {"deny"}
    assert paid == []


def test_a_decorated_function_is_decided_once(guard: Guard, paid: list[int], pay: Any) -> None:
    kernel = guard_kernel(guard, kernel_of([guard.tool(pay)]), agent="alice")
    invoke(guard, kernel, "pay", amount=1)
    assert "argument_not_allowed" in str(invoke(guard, kernel, "pay", amount=11))
    assert [record["verdict"] for record in records(guard, "decision")] == ["allow", "deny"]


def test_a_denial_that_a_function_meets_tells_the_model_nothing_that_was_found(guard: Guard, pay: Any) -> None:
    inner = guard.tool(pay)

    def refund(amount: int) -> str:
        """Refunds."""
        return str(inner(amount=amount * 1000))

    calls = [Call("refund", {"amount": 7})]
    (reply,) = go(guard, guard_agent(guard, scripted("alice", calls, kernel=kernel_of([refund]))), calls)
    assert reply.code == "argument_not_allowed"
    assert "7000" not in reply.text


def test_tools_of_the_provider_are_refused(guard: Guard) -> None:
    for extension in ({"tools": [{"type": "web_search"}]}, {"web_search_options": {}}):
        arguments = KernelArguments(settings=PromptExecutionSettings(extension_data=extension))
        with pytest.raises(InvalidInput, match="the tool web_search runs at the model's provider"):
            guard_agent(guard, scripted("alice", arguments=arguments))
        guard_agent(guard, scripted("alice", arguments=arguments), unsafe_provider_tools=True)
    with pytest.raises(InvalidInput, match="may have tools that run at its provider"):
        guard_agent(guard, object())


# --- filters --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["auto_function_invocation", "function_invocation"])
def test_a_filter_that_fails_runs_nothing(guard: Guard, paid: list[int], pay: Any, kind: Any) -> None:
    calls = pays(1)
    agent = guard_agent(guard, scripted("alice", calls, kernel=kernel_of([pay])))

    @agent.kernel.filter(kind)
    async def failing(context: Any, next: Any) -> None:
        raise PermissionError("not today")

    if kind == "function_invocation":
        assert "not today" in go(guard, agent, calls)[0].text
    else:
        with pytest.raises(PermissionError):
            go(guard, agent, calls)
    assert paid == []


@pytest.mark.parametrize("kind", ["auto_function_invocation", "function_invocation"])
def test_what_a_filter_answers_stays(guard: Guard, paid: list[int], pay: Any, kind: Any) -> None:
    calls = pays(1)
    agent = guard_agent(guard, scripted("alice", calls, kernel=kernel_of([pay])))

    @agent.kernel.filter(kind)
    async def closed(context: Any, next: Any) -> None:
        result = FunctionResult(function=context.function.metadata, value="closed on Sundays")
        setattr(context, "function_result" if kind.startswith("auto") else "result", result)

    assert [reply.text for reply in go(guard, agent, calls)] == ["closed on Sundays"]
    assert paid == []
    assert records(guard, "decision") == []


def test_a_filter_that_puts_another_function_in_the_place_is_judged_by_that_one(guard: Guard, paid: list[int], pay: Any) -> None:
    def refund(amount: int) -> str:
        """Refunds."""
        paid.append(-amount)
        return "refunded"

    calls = pays(1)
    agent = guard_agent(guard, scripted("alice", calls, kernel=kernel_of([pay, refund])))

    @agent.kernel.filter("auto_function_invocation")
    async def swapping(context: Any, next: Any) -> None:
        context.function = agent.kernel.get_function("desk", "refund")
        context.arguments["amount"] = 12
        await next(context)

    assert [reply.code for reply in go(guard, agent, calls)] == ["argument_not_allowed"]
    assert [record["tool"] for record in records(guard, "decision")] == ["refund"]
    assert paid == []


def test_another_kernel_given_to_a_run_is_out_of_reach(guard: Guard, paid: list[int], pay: Any) -> None:
    """The application's own choice. Its functions are guarded only if they are a guarded kernel's."""
    agent = guard_agent(guard, scripted("alice", pays(100), kernel=kernel_of([pay])))

    other = kernel_of([pay])
    other.add_service(service(pays(100)))

    async def run() -> None:
        async for _ in agent.invoke(messages="go", kernel=other):
            pass

    with guard.task("alice", initiator="user:test"):
        asyncio.run(run())
    assert paid == [100]
