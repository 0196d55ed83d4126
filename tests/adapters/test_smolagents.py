"""smolagents with guard_agent and guard_tools: tool-calling agents and code agents."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("smolagents")

from smolagents import Tool
from smolagents import tool as make_tool
from smolagents.memory import ActionStep

from agentguard import Denied, Guard, InvalidInput
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, records
from agentguard_adapters.smolagents import guard_agent, guard_tools
from support.smolagents_scripted import caller, code_of, coder, marked

GIVEN = "the tool object that was given"


def tool_of(fn: Callable[..., Any]) -> Tool:
    """A tool over a function of the suite: smolagents wants each argument described."""
    arguments = [name for name in fn.__annotations__ if name != "return"]
    fn.__doc__ = "\n".join([f"{fn.__doc__}", "", "    Args:", *[f"        {name}: it" for name in arguments]])
    return _Function(fn)


class _Function(Tool):
    """`@tool` reads a function's source, which those of the suite do not have at hand: the same by a class."""

    name = "function"
    description = "d"
    inputs: ClassVar[dict[str, Any]] = {}
    output_type = "string"
    skip_forward_signature_validation = True

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.name, self.forward = fn.__name__, fn
        self.inputs = {name: {"type": "any", "description": "it", "nullable": True} for name in fn.__annotations__ if name != "return"}


def observed(agent: Any) -> str:
    """Everything that the model was told in steps."""
    steps = [step for step in agent.memory.steps if isinstance(step, ActionStep)]
    return "\n".join(f"{step.observations or ''}\n{step.error.message if step.error else ''}" for step in steps)


class TestToolCallingAgent(AdapterConformance):
    modes: ClassVar[tuple[Mode, ...]] = ("sync", "stream")
    out_of_reach: ClassVar[Mapping[str, str]] = {GIVEN: "whoever holds it can call it: the agent has another one in its place"}

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        tools = [tool_of(tool) for tool in scene.tools]
        agent = caller(*scene.steps, tools=tools, name=scene.agent, rewrite=scene.rewrite, stream_outputs=mode == "stream")
        if scene.guard is not None:
            guard_agent(scene.guard, agent, on_deny=scene.on_deny)
        if mode == "stream":
            list(agent.run("go", stream=True))
        else:
            agent.run("go")
        return self.replies(agent, scene)

    def replies(self, agent: Any, scene: Scene) -> list[Reply]:
        """Calls of one step are told in the order of their ids."""
        steps = [step for step in agent.memory.steps if isinstance(step, ActionStep)]
        found = []
        for step, calls in zip(steps, scene.steps, strict=False):
            text = str(step.error.message) if step.error else str(step.observations)
            said = [text] if len(calls) == 1 else text.split("\n")
            by_id = dict(zip(sorted(call.id for call in calls), said, strict=True))
            found += [Reply(by_id[call.id], step.error is not None) for call in calls]
        return found

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        raise NotImplementedError("smolagents has no async agents")

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        made = tool_of(tool)
        (guarded,) = guard_tools(guard, [made], agent="lead", on_deny="raise")

        def agent(arguments: dict[str, Any], **options: Any) -> Any:
            return guard_agent(guard, caller([Call("note", arguments)], tools=[made], name="lead", **options))

        def added_later(arguments: dict[str, Any]) -> Any:
            late = guard_agent(guard, caller([Call("note", arguments)], name="lead"))
            late.tools["note"] = made
            return late.run("go")

        return {
            GIVEN: lambda arguments: made(**arguments),
            "call": lambda arguments: guarded(**arguments),
            "call by position": lambda arguments: guarded(*arguments.values()),
            "call with a dictionary": lambda arguments: guarded(arguments),
            "forward": lambda arguments: guarded.forward(**arguments),
            "its class": lambda arguments: type(guarded).forward(guarded, **arguments),
            "execute_tool_call": lambda arguments: agent({}).execute_tool_call("note", arguments),
            "a tool added later": added_later,
            "no id": lambda arguments: agent({}).execute_tool_call("note", dict(arguments)),
        }


class TestCodeAgent(TestToolCallingAgent):
    names_calls = False  # calls in code have no ids

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        tools = [tool_of(tool) for tool in scene.tools]
        pieces = [code_of(calls) for calls in scene.steps]
        agent = coder(*pieces, tools=tools, name=scene.agent, rewrite=scene.rewrite, stream_outputs=mode == "stream")
        if scene.guard is not None:
            guard_agent(scene.guard, agent, on_deny=scene.on_deny)
        if mode == "stream":
            list(agent.run("go", stream=True))
        else:
            agent.run("go")
        said = observed(agent)
        found = [re.search(rf"{re.escape(marked(call))} (.*)", said) for step in scene.steps for call in step]
        return [Reply(match[1]) if match else Reply(said, True) for match in found]

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        made = tool_of(tool)

        def code(text: str, **options: Any) -> Callable[[dict[str, Any]], Any]:
            def way(arguments: dict[str, Any]) -> Any:
                piece = text.replace("ARGS", ", ".join(f"{name}={value!r}" for name, value in arguments.items()))
                return guard_agent(guard, coder(piece, tools=[made], name="lead", **options)).run("go")

            return way

        def function(arguments: dict[str, Any]) -> Any:
            options = {"executor_kwargs": {"additional_functions": {"note": tool}}}
            return guard_agent(guard, coder(code_of([Call("note", arguments)]), name="lead", **options)).run("go")

        return {
            GIVEN: lambda arguments: made(**arguments),
            "by name": code("note(ARGS)"),
            "through another name": code("other = note\nother(ARGS)"),
            "in a function": code("def f():\n    return note(ARGS)\nf()"),
            "map": code("list(map(lambda one: note(ARGS), [1]))"),
            "without a timeout": code("note(ARGS)", executor_kwargs={"timeout_seconds": None}),
            "a function of the executor": function,
        }


POLICY = """
agentguard: 1
name: smolagents
agents:
  boss:
    tools: {pay: {amount: {range: {max: 10}}}, clerk: {task: {max_length: 20}}, picture: {}}
    delegates: {clerk: {depth: 1}}
  clerk:
    tools: {pay: {amount: {range: {max: 5}}}}
"""


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened:
        yield opened


taken: list[int] = []


@pytest.fixture(autouse=True)
def _nothing_taken() -> None:
    taken.clear()


@make_tool
def pay(amount: int) -> str:
    """Pays.

    Args:
        amount: How much.
    """
    taken.append(amount)
    return f"paid {amount}"


class Pay(Tool):
    """A tool as a class, which has to be set up first."""

    name = "pay"
    description = "Pays."
    inputs: ClassVar[dict[str, Any]] = {"amount": {"type": "integer", "description": "How much."}}
    output_type = "string"

    def setup(self) -> None:
        self.ready = True
        self.is_initialized = True

    def forward(self, amount: int) -> str:
        assert self.ready
        taken.append(amount)
        return f"paid {amount}"


class PayAnything(Pay):
    """A tool like those that smolagents makes of other frameworks'."""

    skip_forward_signature_validation = True

    def forward(self, *args: Any, **kwargs: Any) -> str:
        return super().forward(**kwargs)


def paying(*amounts: Any) -> list[list[Call]]:
    return [[Call("pay", {"amount": amount})] for amount in amounts]


def codes(guard: Guard, agent: str | None = None) -> list[str]:
    found = records(guard, "decision") if agent is None else records(guard, "decision", agent=agent)
    return [one["code"] if one["verdict"] != "allow" else "allow" for one in found]


@pytest.mark.parametrize("tool", [pay, Pay(), PayAnything()], ids=["function", "class", "anything"])
def test_kinds_of_tools(guard: Guard, tool: Tool) -> None:
    with guard.task("boss", initiator="user:test"):
        guard_agent(guard, caller(*paying(7, 70), tools=[tool], name="boss")).run("go")
        guard_agent(guard, coder("pay(amount=8)", "pay(9)", "pay(90)", tools=[tool], name="boss")).run("go")
    assert taken == [7, 8, 9]
    assert codes(guard) == ["allow", "argument_not_allowed", "allow", "allow", "argument_not_allowed"]


def test_a_decorated_function_is_decided_once(guard: Guard) -> None:
    """`@guard.tool` below smolagents' own decorator."""
    decorated = guard.tool(pay.forward.__wrapped__)
    with guard.task("boss", initiator="user:test"):
        guard_agent(guard, caller(*paying(7), tools=[make_tool(decorated)], name="boss")).run("go")
    assert taken == [7]
    assert codes(guard) == ["allow"]


def test_mistakes_are_recorded_and_told(guard: Guard) -> None:
    steps = [*paying("much"), [Call("pay", {"amount": 1, "as_admin": True})], [Call("delete_all", {})], [Call("pay", {})]]
    agent = guard_agent(guard, caller(*steps, tools=[pay], name="boss"))
    with guard.task("boss", initiator="user:test"):
        agent.run("go")
    assert taken == []
    assert codes(guard) == ["malformed_call"] * 4
    assert "amount has type 'string' but should be 'integer'" in observed(agent)
    assert observed(agent).count("Denied (malformed_call)") == 4


CLIMB = """
def climb():
    frame = FRAME
    for _ in range(90):
        frame = frame.f_back if BACK == 1 else getattr(frame, 'f_' + 'back')
        found = frame.f_locals if BACK == 1 else getattr(frame, 'f_' + 'locals')
        if 'self' in found and hasattr(found['self'], 'agentguard_binding'):
            found['self'].agentguard_binding.guard.tools['pay'].target(amount=70)
    return 1

steps = (climb() for _ in [1])
next(steps)
"""
LIE = """
class Lie(str):
    def startswith(self, other):
        return False

def dig(function, depth):
    for cell in getattr(function, Lie('__closure__')) or []:
        if hasattr(cell.cell_contents, 'guard'):
            cell.cell_contents.guard.tools['pay'].target(amount=70)
        if depth < 6 and callable(cell.cell_contents):
            dig(cell.cell_contents, depth + 1)

dig(pay, 0)
"""
ATTACKS = {
    "a name that lies": LIE,
    "frames": CLIMB.replace("FRAME", "steps.gi_frame").replace("BACK", "1"),
    "frames by getattr": CLIMB.replace("FRAME", "getattr(steps, 'gi_' + 'frame')").replace("BACK", "2"),
    "frames by another getattr": CLIMB.replace("FRAME", "list(map(getattr, [steps], ['gi_frame']))[0]").replace("BACK", "2"),
    "getattr taken over": "getattr = 1\n" + CLIMB.replace("FRAME", "steps.gi_frame").replace("BACK", "1"),
    "the class": "type(pay).forward(pay, amount=70)",
    "the method": "pay.forward(amount=70)",
    "dunder": "pay.__wrapped__(amount=70)",
    "dunder of the method": "pay.forward.__wrapped__(amount=70)",
    "getattr": "getattr(pay, '__' + 'wrapped' + '__')(amount=70)",
    "closure": "pay.__closure__[0].cell_contents(amount=70)",
    "setattr": "setattr(pay, 'forward', print)\npay(amount=70)",
    "setattr of a dunder": "setattr(pay, '__defaults__', (70,))\npay(amount=70)",
    "the managed agent's tools": "clerk.tools['pay'](amount=70)",
    "the managed agent's run": "clerk.run('a task that is much too long for it')",
    "the managed agent's executor": "clerk.python_executor('pay(70)')",
    "a name taken over": "def pay(amount):\n    return 1\nfinal_answer",
    "an import": "import os\nos.getcwd()",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_code_that_looks_for_a_way_around(guard: Guard, attack: str) -> None:
    """Code is written by the model: what it can name, it can take apart."""
    clerk = caller(*paying(70), tools=[pay], name="clerk", description="pays")
    boss = guard_agent(guard, coder(ATTACKS[attack], tools=[pay], managed_agents=[clerk], name="boss"))
    with guard.task("boss", initiator="user:test"):
        boss.run("go")
    assert taken == []
    assert len(clerk.model.steps) == 1


def test_code_learns_nothing_from_a_denial(guard: Guard) -> None:
    """The exception that code may catch holds the sentence alone."""
    piece = "try:\n    pay(70)\nexcept Exception as error:\n    print(type(error), hasattr(error, 'decision'), error.args)"
    agent = guard_agent(guard, coder(piece, tools=[pay], name="boss"))
    with guard.task("boss", initiator="user:test"):
        agent.run("go")
    assert "ToolDenied" in observed(agent)
    assert "False ('Denied (argument_not_allowed)" in observed(agent)
    assert "70" not in observed(agent)


def test_a_denial_ends_the_run_though_code_catches_it(guard: Guard) -> None:
    piece = "try:\n    pay(70)\nexcept Exception:\n    pass\nfinal_answer('all is well')"
    with guard.task("boss", initiator="user:test"), pytest.raises(Denied) as caught:
        guard_agent(guard, coder(piece, tools=[pay], name="boss"), on_deny="raise").run("go")
    assert caught.value.code == "argument_not_allowed"


def test_what_is_no_picture_is_told_as_text(guard: Guard) -> None:
    """smolagents would store what a tool of pictures gives, and say that it did."""

    class Picture(Pay):
        name = "picture"
        inputs: ClassVar[dict[str, Any]] = {}
        output_type = "image"
        skip_forward_signature_validation = True

        def forward(self) -> str:
            return "a.png"

    agent = guard_agent(guard, caller([Call("picture", {})], tools=[Picture()], name="boss"))
    agent.run("go")
    assert "Denied (artifact_missing)" in observed(agent)


@pytest.mark.parametrize("kind", ["calls", "code"])
def test_a_managed_agent_acts_under_a_narrower_task(guard: Guard, kind: str) -> None:
    clerk = caller(*paying(7, 5), tools=[pay], name="clerk", description="pays")
    asks = {"calls": caller([Call("clerk", {"task": "pay"})], name="boss", managed_agents=[clerk])}
    boss = asks["calls"] if kind == "calls" else coder("print(clerk(task='pay'))", name="boss", managed_agents=[clerk])
    guard_agent(guard, boss)
    with guard.task("boss", initiator="user:test"):
        boss.run("go")
    assert taken == [5]
    (outer,) = records(guard, "decision", agent="boss")
    assert (outer["tool"], outer["verdict"]) == ("clerk", "allow")
    assert codes(guard, "clerk") == ["argument_not_allowed", "allow"]
    assert {one["caused_by"] for one in records(guard, "decision", agent="clerk")} == {outer["id"]}


def test_an_agent_may_be_made_anew_for_each_run(guard: Guard) -> None:
    with guard.task("boss", initiator="user:test"):
        for _ in range(2):
            clerk = caller(*paying(5), tools=[pay], name="clerk", description="pays")
            guard_agent(guard, caller([Call("clerk", {"task": "pay"})], name="boss", managed_agents=[clerk])).run("go")
    assert taken == [5, 5]


@pytest.mark.parametrize("kind", ["calls", "code"])
@pytest.mark.parametrize("on_deny", ["message", "raise"])
def test_asking_a_managed_agent_is_judged(guard: Guard, kind: str, on_deny: Any) -> None:
    clerk = caller(*paying(5), tools=[pay], name="clerk", description="pays")
    said = "a task that is much too long for it"
    if kind == "calls":
        boss: Any = caller([Call("clerk", {"task": said})], name="boss", managed_agents=[clerk])
    else:
        boss = coder(f"clerk(task={said!r})", name="boss", managed_agents=[clerk])
    guard_agent(guard, boss, on_deny=on_deny)
    with guard.task("boss", initiator="user:test"):
        if on_deny == "raise":
            with pytest.raises(Denied):
                boss.run("go")
        else:
            boss.run("go")
            assert "Denied (argument_not_allowed)" in observed(boss)
    assert taken == []
    assert codes(guard) == ["argument_not_allowed"]
    assert len(clerk.model.steps) == 1


def test_what_was_added_later_is_guarded(guard: Guard) -> None:
    boss = guard_agent(guard, coder("pay(70)", name="boss"))
    boss.tools["pay"] = pay
    with guard.task("boss", initiator="user:test"):
        boss.run("go")
        boss.managed_agents["clerk"] = caller(name="clerk", description="pays")
        with pytest.raises(InvalidInput, match="is not guarded"):
            boss.run("go")
    assert taken == []


def test_a_timeout_is_smolagents_own(guard: Guard) -> None:
    """The executor's thread would know no task; the guarded one's does, and keeps the time."""
    agent = guard_agent(guard, coder("pay(7)\nwhile True:\n    pass", tools=[pay], name="boss", executor_kwargs={"timeout_seconds": 1}))
    with guard.task("boss", initiator="user:test"):
        agent.run("go")
    assert taken == [7]
    assert "the code ran for more than 1 seconds" in observed(agent)


def test_what_could_act_past_the_guard_is_refused(guard: Guard) -> None:
    with pytest.raises(InvalidInput, match="through os code can act past"):
        guard_agent(guard, coder(name="boss", additional_authorized_imports=["os"]))
    guard_agent(guard, coder(name="boss", additional_authorized_imports=["os"]), unsafe_imports=True)

    class Elsewhere:
        additional_authorized_imports: ClassVar[list[str]] = []

    with pytest.raises(InvalidInput, match="Elsewhere runs copies of tools elsewhere"):
        guard_agent(guard, coder(name="boss", executor=Elsewhere()))

    class Calls(Pay):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return "called"

    with pytest.raises(InvalidInput, match="a `__call__` of its own"):
        guard_tools(guard, [Calls()])
    with pytest.raises(InvalidInput, match="without a name"):
        guard_agent(guard, caller())
    boss = guard_agent(guard, caller(name="boss"))
    with pytest.raises(InvalidInput, match="guarded already"):
        guard_agent(guard, boss)


def test_tools_of_the_provider_are_refused(guard: Guard) -> None:
    clerk = caller(name="clerk", description="pays")
    clerk.model.kwargs["web_search_options"] = {"search_context_size": "low"}
    with pytest.raises(InvalidInput, match="web search runs at the model's provider"):
        guard_agent(guard, caller(name="boss", managed_agents=[clerk]))
    guard_agent(guard, caller(name="boss", managed_agents=[clerk]), unsafe_provider_tools=True)


@pytest.mark.parametrize("on_deny", ["message", "raise"])
def test_guarded_tools_of_a_guarded_agent_are_decided_once(guard: Guard, on_deny: Any) -> None:
    boss = guard_agent(guard, caller(*paying(7, 70), tools=guard_tools(guard, [pay]), name="boss"), on_deny=on_deny)
    with guard.task("boss", initiator="user:test"):
        if on_deny == "raise":
            with pytest.raises(Denied):
                boss.run("go")
        else:
            boss.run("go")
    assert codes(guard) == ["allow", "argument_not_allowed"]
    assert taken == [7]


def test_tools_of_another_guard_are_asked_about_by_both(guard: Guard, tmp_path: Path) -> None:
    with Guard.open(POLICY, home=tmp_path / "other", durability="process") as other:
        boss = guard_agent(guard, caller(*paying(7), tools=guard_tools(other, [pay], agent="boss"), name="boss"))
        with guard.task("boss", initiator="user:test"):
            boss.run("go")
        assert (codes(guard), codes(other)) == (["allow"], ["artifact_missing"])
    assert taken == []
