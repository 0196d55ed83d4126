"""Every exception that leaves agentguard, named by what the caller can do about it.

AgentguardError
├── InvalidInput        the artifact, policy, call, key, lock or log that was given is wrong: mend it
├── Denied              the call must not run, and did not (`.decision` says why)
│   └── ApprovalRequired   the same, but somebody may still say yes
├── EvidenceUnavailable the log cannot promise that a record is durable: nothing runs until it is reopened
│   └── LogBusy         the same for one record only, because too many wait for the disk: try again later
├── StateUnavailable    the state store cannot admit: nothing runs
├── OutcomeUnrecorded   the tool ran, its outcome could not be recorded, its output is withheld: never retry
└── OutputRefused       the tool ran, and the policy lets nobody have what it gave, or what it said when it failed
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentguard.decision import Code, Decision


class AgentguardError(Exception):
    """Root of all errors of this library."""


class InvalidInput(AgentguardError):
    """Something that was handed in cannot be used.

    `place` names where: a file with line and column, a link and a step of the draft, a byte offset.
    """

    def __init__(self, message: str, *, place: str | None = None, hint: str | None = None) -> None:
        self.message = message
        self.place = place
        self.hint = hint
        text = f"{place}: {message}" if place else message
        super().__init__(f"{text} ({hint})" if hint else text)


class EvidenceUnavailable(AgentguardError):
    """A record could not be made durable. The log is poisoned until it is opened anew."""


class LogBusy(EvidenceUnavailable):
    """A record did not get its turn at the disk in time, and nothing may run on its account. The log is sound, and takes others.

    Mostly it was never written. If it was on its way already, it may become durable; then an outcome `not_run` follows it.
    """


class StateUnavailable(AgentguardError):
    """The state store did not answer, or is not the one that may count this call."""


class OutcomeUnrecorded(AgentguardError):
    """The tool ran, but its outcome could not be recorded. The output is withheld; do not retry."""

    def __init__(self, execution: str, cause: str) -> None:
        self.execution = execution
        super().__init__(
            f"the tool ran, but the outcome of execution {execution} could not be recorded ({cause}); "
            "its output is withheld: do not retry, reopen the guard and look at `agentguard log verify`"
        )


class OutputRefused(AgentguardError):
    """The tool ran, and its output is withheld by the policy's rule for it (`tools: {name: {output: ...}}`).

    why      what is wrong with the output, in words for a model: neither they nor the chain of this exception hold any of it
    failed   the class of the tool's own exception, where that is what is withheld; else empty
    """

    def __init__(self, why: str, failed: str = "") -> None:
        self.why, self.failed = why, failed
        what = f"the tool failed with {failed}, and its message is withheld" if failed else "the tool ran, but its output is withheld"
        super().__init__(f"{what}: {why}")

    @property
    def for_model(self) -> str:
        """One short sentence that a model can act on, as `Denied` has one."""
        return str(self)

    def __reduce__(self) -> tuple[type[OutputRefused], tuple[str, str]]:
        return (type(self), (self.why, self.failed))


class Denied(AgentguardError):
    """The call is refused and its tool did not run. `decision` is the whole answer."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        super().__init__(decision.explain())

    @property
    def code(self) -> Code | None:
        """The code of the first failed stage."""
        return self.decision.code

    @property
    def for_model(self) -> str:
        """One short sentence that a model can act on. It holds no secrets and no argument values."""
        return self.decision.for_model()

    def __reduce__(self) -> tuple[type[Denied], tuple[Decision]]:
        return (type(self), (self.decision,))


class ApprovalRequired(Denied):
    """The verdict is `ask`: the call may run once somebody entitled to it approves.

    Wait with `guard.wait_answer(error.request)`, or later make exactly the same call in the same task again.
    """

    @property
    def request(self) -> str:
        """The id of the request, as `agentguard approvals show` takes it."""
        return self.decision.request
