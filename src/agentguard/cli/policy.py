"""`agentguard policy check|show|explain`: is a policy well-formed, what does it say, and why would it refuse?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentguard.cli import (
    policy_diff,
    policy_explain,
    policy_export,
    policy_fetch,
    policy_learn,
    policy_prove,
    policy_schema,
    policy_sign,
    policy_simulate,
    policy_test,
)
from agentguard.cli.exits import FAILED, INVALID, complain, leave
from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption
from agentguard.cli.policy_words import agent_words, forbid_words, rule_words, tool_words
from agentguard.cli.terminal import count, print_json, result, say, table
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.analysis.review import Notice
    from agentguard.policy.model import AgentPolicy, Policy
    from agentguard.tools.integrity import Lock

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Check a policy, show what it says, explain what an agent may do.\n\nExample: `agentguard policy check policies/support.yaml`",
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The policy, a YAML file.")]


@app.command("check")
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Policies to check.")],
    lock: Annotated[
        Path | None,
        typer.Option("--lock", metavar="FILE", help="The tool lock, such as .agentguard/tools.lock.json: does it name every tool?"),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="A warning is a failure.")] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Check that policies are well-formed. Every error names file, line and column; one error and the policy does not load.

    A warning is about what loads and most likely says something else than was meant: a rule that can never be met or never matters, a
    delegate that may pass more than who delegates to it. A note is about what may well be meant, such as a forbid rule that stands guard
    over the tools of tomorrow. Exit 0 if all are fine, 3 if one is not, and with --strict 1 if there is a warning.

    Example: `agentguard policy check policy.yaml --lock .agentguard/tools.lock.json`
    """
    answers = [_checked(file, _lock(lock)) for file in files]
    if as_json:
        print_json({"ok": all(answer["ok"] for answer in answers), "policies": answers})
    for answer in answers:
        if not answer["ok"]:
            complain(answer["error"])
        elif not as_json:
            tools = sum(agent["tools"] for agent in answer["agents"].values())
            size = f"{count(len(answer['agents']), 'agent')}, {count(tools, 'tool rule')}"
            print(f"{answer['file']}: ok, {answer['name']}, {size}, {answer['digest']}")
            for word in ("warning", "note"):
                for line in answer[f"{word}s"]:
                    complain(line, word=word)
    if not all(answer["ok"] for answer in answers):
        leave(INVALID)
    if strict and any(answer["warnings"] for answer in answers):
        leave(FAILED)


def _lock(file: Path | None) -> Lock | None:
    from agentguard.tools.integrity import Lock

    lock = Lock.load(file) if file is not None else None
    if file is not None and lock is None:
        raise InvalidInput("there is no such file", place=str(file), hint="`agentguard tools lock` writes one")
    return lock


def _checked(file: Path, lock: Lock | None) -> dict[str, Any]:
    from agentguard.analysis.review import review
    from agentguard.policy.compile import compile_document
    from agentguard.policy.imports import read_policy

    try:
        document = read_policy(file).document
        policy = compile_document(document)
    except InvalidInput as error:
        return {"file": str(file), "ok": False, "error": str(error), "place": error.place}
    notices = review(policy, document, lock)
    standing = tuple(f"{rule.place}: forbid " for rule in policy.forbid.rules)  # over the tools of tomorrow
    return {
        "file": str(file),
        "ok": True,
        "name": policy.name,
        "digest": policy.digest,
        "agents": {name: {"tools": len(agent.tools), "delegates": sorted(agent.delegates)} for name, agent in policy.agents.items()},
        "forbid": len(policy.forbid.rules),
        "warnings": [*(line for line in policy.warnings if not line.startswith(standing)), *_lines(notices, "warning")],
        "notes": [*(line for line in policy.warnings if line.startswith(standing)), *_lines(notices, "note")],
    }


def _lines(notices: tuple[Notice, ...], level: str) -> list[str]:
    return [notice.text() for notice in notices if notice.level == level]


@app.command("show")
def show(file: FileArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show a policy in words: every agent, its tools, and what each argument may be.

    With --json: the policy in its one normal form, whose digest artifacts are bound to.

    Example: `agentguard policy show policy.yaml`
    """
    from agentguard.canonical import parse
    from agentguard.policy import load

    policy = load(file)
    document = {"digest": policy.digest, "policy": parse(policy.canonical)} if as_json else None
    result(as_json, document, lambda out: _show(out, policy))


def _show(out: Console, policy: Policy) -> None:
    say(out, (policy.name, "name"), f"  {policy.digest}")
    for name, entry in policy.environment.items():
        say(out, "runs only where ", (name, "name"), f" is {rule_words(entry)}", (f"  {policy.environment_places[name]}", "dim"))
    for forbidden in policy.forbid.rules:
        who = f" to {forbidden.agent}" if forbidden.agent else ""
        say(out, ("forbids ", "bad"), (forbidden.tool, "name"), f"{who}{forbid_words(forbidden)}", (f"  {forbidden.place}", "dim"))
    for name, agent in policy.agents.items():
        out.print()
        _show_agent(out, policy, name, agent)


def _show_agent(out: Console, policy: Policy, name: str, agent: AgentPolicy) -> None:
    say(out, (name, "name"), (f"  {agent.place}", "dim"))
    rows = table("  tool", "argument", "may be", "where")
    for tool, rule in agent.tools.items():
        title = f"  {tool}" + ("" if rule.forbidden is None else " (forbidden)")
        for index, (argument, entry) in enumerate(rule.arguments.items()):
            rows.add_row("" if index else title, argument, rule_words(entry), rule.places[argument])
        if rule.map.rest:
            rows.add_row("" if rule.arguments else title, "*", "any other argument", rule.place)
        elif not rule.arguments:
            rows.add_row(title, "", "no arguments", rule.place)
    if agent.tools:
        out.print(rows)
    else:
        say(out, ("  no tools", "dim"))
    for words, place in agent_words(policy, name):
        say(out, f"  {words}", (f"  {place}", "dim"))
    for to, delegate in agent.delegates.items():
        hops = "" if delegate.depth == 1 else f", up to {delegate.depth} hops"
        say(out, "  may delegate to ", (to, "name"), hops, (f"  {delegate.place}", "dim"))
    for tool in agent.tools:
        if notes := tool_words(policy, tool):
            say(out, "  ", (tool, "name"), f": {', '.join(notes)}")


app.command("explain")(policy_explain.explain)
app.command("test")(policy_test.run_cases)
app.command("simulate")(policy_simulate.simulate)
app.command("diff")(policy_diff.diff)
app.command("prove")(policy_prove.prove)
app.command("export")(policy_export.export)
app.command("learn")(policy_learn.learn)
app.command("schema")(policy_schema.schema)
app.command("sign")(policy_sign.sign)
app.command("fetch")(policy_fetch.fetch)
