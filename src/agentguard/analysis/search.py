"""The search for values that fulfil a combination of constraints: found, proven not to exist, or unknown.

    Search().find(Both((constraint, Not(other))))   ->   Found(value), NOTHING, or Unknown(why)

`NOTHING` is proven for all values: the formula is exact, or where a fact stays hidden (`texts.Hidden`) it admits more than there is. A
value is found only when the constraints themselves accept it. Whatever is neither is `Unknown`, with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Final, Protocol

from agentguard.analysis.formulas import NOTHING, Answer, Formula, Found, Unknown, holds, leaves
from agentguard.analysis.samples import samples
from agentguard.analysis.symbolic import Language, Unsupported, Value
from agentguard.canonical import Frozen
from agentguard.constraints.values import show
from agentguard.errors import InvalidInput

#: Of one property: steps as z3 counts them (most questions take some ten thousand), and seconds.
STEPS: Final = 50_000_000
SECONDS: Final = 60.0
QUESTION_MILLISECONDS: Final = 5_000
_TRIES: Final = 4
_SHORT: Final = 63  # lengths at which the hidden facts of `texts` are known


class Question(Protocol):
    """A question as z3 sees it."""

    z3: Any
    facts: list[Any]  # with the goal among them

    def candidates(self, model: Any) -> Iterator[Frozen]:
        """What a model stands for and what itself says yes to."""

    def preferences(self) -> Iterator[Any]:
        """What makes a model likelier to stand for something real, each tried by itself."""

    def other_than(self, model: Any) -> Any:
        """What sets other models apart from this one."""

    def guesses(self) -> list[str]:
        """Why a model may stand for nothing real."""


class Search:
    """The questions of one property. They share a limit, and an answer that was found once is kept.

    `steps` are those that z3 counts, which makes an answer repeatable; it does not count all that it does, so there is a clock behind them.
    `guess` tries plain values before z3 is asked: they read better.
    """

    def __init__(self, *, steps: int = STEPS, seconds: float = SECONDS, guess: bool = True) -> None:
        self.steps = steps
        self.until = time.monotonic() + seconds
        self.guess = guess
        self.asked = 0
        self._answers: dict[Hashable, Answer] = {}

    def find(self, formula: Formula) -> Answer:
        """A value for which `formula` holds."""
        guesses = (value for value in samples(leaves(formula)) if holds(formula, value))
        return self.answer(formula, guesses, lambda: _One(load_z3(), formula))

    def answer(self, name: Hashable, guesses: Iterator[Frozen], build: Callable[[], Question]) -> Answer:
        """The answer to the question `name`: the first of `guesses`, each of which is right, or else what z3 says."""
        answer = self._answers.get(name)
        if answer is None:
            guess = next(guesses, _NONE) if self.guess else _NONE
            answer = self._answers[name] = Found(guess) if guess is not _NONE else self._ask(build)
        return answer

    def _ask(self, build: Callable[[], Question]) -> Answer:
        milliseconds = min(QUESTION_MILLISECONDS, int((self.until - time.monotonic()) * 1000))
        if self.steps <= 0 or milliseconds <= 0:
            return Unknown("the limit of this property is used up")
        self.asked += 1
        z3 = load_z3()
        try:
            question = build()
            solver = z3.Solver()
            solver.set("rlimit", self.steps)
            solver.set("timeout", milliseconds)
            solver.add(*question.facts)
            before = _counted(solver)
            answer = _search(question, solver)
            self.steps -= _counted(solver) - before
        except Unsupported as reason:
            return Unknown(str(reason))
        except z3.Z3Exception as error:
            return Unknown(f"z3 failed: {show(str(error))}")
        return answer


_NONE: Final = object()


def find(formula: Formula, *, guess: bool = True) -> Answer:
    """One question by itself."""
    return Search(guess=guess).find(formula)


def load_z3() -> Any:
    """The module z3. Raises InvalidInput where it is not installed."""
    try:
        import z3
    except ImportError:
        raise InvalidInput("proofs need z3, which is not installed", hint="pip install 'agentguard[prove]'") from None
    return z3


def _search(question: Question, solver: Any) -> Answer:
    z3 = question.z3
    result = solver.check()
    if result == z3.unsat:
        return NOTHING
    if result != z3.sat:
        return Unknown(_gave_up(solver.reason_unknown()))
    wishes, model = question.preferences(), solver.model()
    for _ in range(_TRIES):
        for value in question.candidates(model):
            return Found(value)
        model = _another(question, solver, wishes, model)
        if model is None:
            break
    return _unconfirmed(question)


def _another(question: Question, solver: Any, wishes: Iterator[Any], model: Any) -> Any:
    """A model as one would wish it, or at least another one; None where there is none."""
    while True:
        wish = next(wishes, None)
        solver.push()
        solver.add(question.other_than(model) if wish is None else wish)
        if solver.check() == question.z3.sat:
            return solver.model()
        solver.pop()
        if wish is None:
            return None


def _unconfirmed(question: Question) -> Unknown:
    why = "; ".join(dict.fromkeys(question.guesses()))
    return Unknown("z3 has a value that the constraints do not confirm" + (f", since not all is translated: {why}" if why else ""))


class _One:
    """Whether there is a value for which a formula holds."""

    def __init__(self, z3: Any, formula: Formula) -> None:
        self.z3, self.formula = z3, formula
        self.value = Value(z3, Language(z3, [formula]), formula)
        self.facts = [*self.value.facts, self.value.goal]

    def candidates(self, model: Any) -> Iterator[Frozen]:
        return (value for value in self.value.examples(model) if holds(self.formula, value))

    def preferences(self) -> Iterator[Any]:
        if self.value.hidden:
            yield self.z3.Length(self.value.text) <= _SHORT

    def other_than(self, model: Any) -> Any:
        return self.value.text != model.eval(self.value.text, model_completion=True)

    def guesses(self) -> list[str]:
        return [fact.why for _, fact in self.value.hidden.values()]


def _counted(solver: Any) -> int:
    """Steps of this process so far."""
    return int(solver.statistics().get_key_value("rlimit count"))


def _gave_up(reason: str) -> str:
    if "canceled" in reason or "timeout" in reason or "resource" in reason:
        return f"z3 did not finish within its limits ({reason})"
    return f"z3 gave up: {show(reason)}"
