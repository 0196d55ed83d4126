"""`agentguard demo`: a real multi-agent run, attacked, without the guard and with it; then each condition on which a call must not run.

    run(console=Console())

Real are the framework, the tools, the HTTP servers, the injections and the guard. Only the model is scripted, unless one is named: it
believes everything that it reads. Everything lies in a temporary directory, which is gone at the end; the network is loopback.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from langsmith.run_helpers import tracing_context
from rich.console import Console

from agentguard import Guard
from agentguard.errors import AgentguardError, InvalidInput
from agentguard.keys import PublicKey
from agentguard_adapters.demo import proof
from agentguard_adapters.demo import story as original
from agentguard_adapters.demo.board import Board
from agentguard_adapters.demo.conditions import Bench, Condition
from agentguard_adapters.demo.gullible import GullibleModel
from agentguard_adapters.demo.result import Result, Runs
from agentguard_adapters.demo.scene import FACTS, Scene, scene
from agentguard_adapters.demo.teller import Teller

STORY: Final = Path(original.__file__)
#: Seconds that the scripted model thinks where somebody watches.
_PAUSE: Final = 0.15


def run(*, console: Console, keep: Path | None = None, model: str | None = None, story: Path = STORY) -> Result:
    """Play the whole demo and say on `console` what happens.

    keep    where to leave the guard's home; nothing may be there yet
    model   any chat model of LangChain as "provider:name", instead of the scripted one
    story   another version of story.py

    Raises InvalidInput where `keep` is taken or the model is not to be had, and AgentguardError where a real model fails.
    """
    if keep is not None and keep.exists():
        raise InvalidInput("is there already", place=str(keep), hint="the demo leaves its evidence where there is none yet")
    began, teller = time.monotonic(), Teller(console)
    brain = _named(model) if model is not None else GullibleModel(pause=_PAUSE if console.is_terminal else 0.0)
    with tracing_context(enabled=False), scene(story) as stage:  # a tracing service is no part of the demo
        teller.opening(stage, model)
        with Guard.open(stage.policy, home=stage.home, environment=FACTS) as guard:
            runs = _both(teller, stage, guard, brain, model)
            conditions = _conditions(teller, stage, guard)
            key = guard.home.keys.log().public
        result = _evidence(teller, stage, key, runs, conditions, model)
        if keep is not None:
            shutil.copytree(stage.home, keep)
    teller.closing(result, keep, time.monotonic() - began)
    return result


def _both(teller: Teller, stage: Scene, guard: Guard, brain: BaseChatModel, model: str | None) -> Runs:
    """The same program twice. In the first its guard line is missing; that one has a home of its own, in which nothing is recorded."""
    teller.runs(stage)
    with teller.growing() as live:
        board = Board(live, stage)
        board.begin(guarded=False)
        with Guard.open(stage.policy, home=stage.root / "unused", environment=FACTS) as idle:
            _play(stage, idle, brain, model, board, guard_line=False)
        leaked, published = stage.attacker.take(), stage.intranet.take()
        board.begin(guarded=True)
        _play(stage, guard, brain, model, board, guard_line=True)
        board.end()
    teller.table(board)
    runs = Runs(board, leaked, published, stage.attacker.take(), stage.intranet.take(), tuple(stage.secrets()))
    teller.received(runs)
    return runs


def _play(stage: Scene, guard: Guard, brain: BaseChatModel, model: str | None, board: Board, *, guard_line: bool) -> None:
    program = stage.program(guard_line=guard_line)
    with _providers(model):
        program.run(guard, brain, stage.files, stage.order, board.watch)


def _conditions(teller: Teller, stage: Scene, guard: Guard) -> tuple[Condition, ...]:
    """Each condition on the same guard, on real calls of the program's own tool."""
    post = stage.program(guard_line=True).post
    found: list[Condition] = []
    with teller.conditions() as show:
        for condition in Bench(guard, stage, post).run():
            found.append(condition)
            show(condition)
    return tuple(found)


def _evidence(teller: Teller, stage: Scene, key: PublicKey, runs: Runs, conditions: tuple[Condition, ...], model: str | None) -> Result:
    """The guard is closed. What is left is files, and its public key."""
    graph = proof.lineage(stage.home, "orchestrator")
    teller.lineage(graph)
    report = proof.verified(stage.home, key)
    flip = proof.flip(stage.home, key, stage.root / "copy")
    teller.log(report, flip)
    return Result(runs, conditions, graph, report, flip, scripted=model is None)


def _named(model: str) -> BaseChatModel:
    """A chat model of LangChain by name."""
    with _providers(model):
        made = init_chat_model(model)
    if not isinstance(made, BaseChatModel):
        raise InvalidInput(f"{model!r:.80} does not name one model", place="--model", hint="provider:name, for example openai:gpt-5")
    return made


@contextmanager
def _providers(model: str | None) -> Iterator[None]:
    """A real model's failures are its provider's own exceptions: no key, no network, no such model."""
    try:
        yield
    except AgentguardError:
        raise
    except Exception as error:
        if model is None:
            raise
        raise AgentguardError(f"the model {model} failed: {type(error).__name__}: {error}") from error
