"""What every adapter must do, whatever its framework: a test class to inherit.

    class TestMine(AdapterConformance):
        def run(self, scene, mode): ...          # "sync" and "stream"
        async def arun(self, scene, mode): ...   # "async" and "astream"
        def twins(self, guard, tool): ...        # every other way to reach the tool

The suite runs the real framework with a scripted model; nothing is mocked. Each case is one promise, and its name says which. With
`--adapter-report FILE` pytest writes what became of each as JSON.
"""

from __future__ import annotations

from agentguard.testing.cases.agents import Agents
from agentguard.testing.cases.arguments import Arguments
from agentguard.testing.cases.denials import Denials
from agentguard.testing.cases.faults import Faults
from agentguard.testing.cases.outcomes import Outcomes
from agentguard.testing.cases.speed import Speed
from agentguard.testing.cases.ways import Ways


class AdapterConformance(Denials, Faults, Arguments, Outcomes, Agents, Ways, Speed):
    """Inherit this, and define `run`, `arun` and `twins`.

    modes           the modes that the framework has
    out_of_reach    names of twins that pass no guard, and why; the suite shows that they do run the tool. At most two, and only private
                    or directly callable ones
    names_calls     whether the framework tells a tool, or a hook before it, the id of a call. Where it does not, two calls are two
                    executions, and nothing can be a repetition; the suite shows that, too
    tool_error      the class under which an outcome names what the suite's tool raised, where its exception cannot reach the adapter
    """

    def test_exceptions_from_the_rule_are_few(self) -> None:
        assert len(self.out_of_reach) <= 2
        assert self.modes
        changed = [name for name in cases() if getattr(type(self), name) is not getattr(AdapterConformance, name)]
        assert not changed, "a case is the same for every adapter"


def cases() -> list[str]:
    """The names of the suite's tests, in their order."""
    return [name for part in (*AdapterConformance.__bases__, AdapterConformance) for name in vars(part) if name.startswith("test_")]
