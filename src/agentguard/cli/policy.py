"""`agentguard policy check|show|explain`: is a policy well-formed, what does it say, and why would it refuse?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentguard.cli import policy_diff, policy_learn, policy_prove, policy_simulate, policy_test
from agentguard.cli.exits import INVALID, complain, leave
from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption
from agentguard.cli.terminal import count, print_json, result, say, table
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.constraint import Entry
    from agentguard.policy import AgentPolicy, Policy

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Check a policy, show what it says, explain what an agent may do.\n\nExample: `agentguard policy check policies/support.yaml`",
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The policy, a YAML file.")]


@app.command("check")
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Policies to check.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Check that policies are well-formed. Every error names file, line and column; one error and the policy does not load.

    Exit 0 if all are fine, 3 if one is not. Warnings are about what loads and has no effect.

    Example: `agentguard policy check policy.yaml`
    """
    from agentguard.policy import load

    answers: list[dict[str, Any]] = []
    for file in files:
        try:
            policy = load(file)
        except InvalidInput as error:
            answers.append({"file": str(file), "ok": False, "error": str(error), "place": error.place})
        else:
            answers.append({"file": str(file), "ok": True, **_summary(policy)})
    if as_json:
        print_json({"ok": all(answer["ok"] for answer in answers), "policies": answers})
    for answer in answers:
        if not answer["ok"]:
            complain(answer["error"])
        elif not as_json:
            tools = sum(agent["tools"] for agent in answer["agents"].values())
            size = f"{count(len(answer['agents']), 'agent')}, {count(tools, 'tool rule')}"
            print(f"{answer['file']}: ok, {answer['name']}, {size}, {answer['digest']}")
            for warning in answer["warnings"]:
                complain(warning, word="warning")
    if not all(answer["ok"] for answer in answers):
        leave(INVALID)


def _summary(policy: Policy) -> dict[str, Any]:
    return {
        "name": policy.name,
        "digest": policy.digest,
        "agents": {name: {"tools": len(agent.tools), "delegates": sorted(agent.delegates)} for name, agent in policy.agents.items()},
        "forbid": len(policy.forbid.rules),
        "warnings": list(policy.warnings),
    }


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
        say(out, "runs only where ", (name, "name"), f" is {_words(entry)}", (f"  {policy.environment_places[name]}", "dim"))
    for forbidden in policy.forbid.rules:
        who = f" to {forbidden.agent}" if forbidden.agent else ""
        why = f": {forbidden.reason}" if forbidden.reason else ""
        say(out, ("forbids ", "bad"), (forbidden.tool, "name"), f"{who}{why}", (f"  {forbidden.place}", "dim"))
    for name, agent in policy.agents.items():
        out.print()
        _show_agent(out, policy, name, agent)


def _show_agent(out: Console, policy: Policy, name: str, agent: AgentPolicy) -> None:
    say(out, (name, "name"), (f"  {agent.place}", "dim"))
    rows = table("  tool", "argument", "may be", "where")
    for tool, rule in agent.tools.items():
        title = f"  {tool}" + ("" if rule.forbidden is None else " (forbidden)")
        for index, (argument, entry) in enumerate(rule.arguments.items()):
            rows.add_row("" if index else title, argument, _words(entry), rule.places[argument])
        if rule.map.rest:
            rows.add_row("" if rule.arguments else title, "*", "any other argument", rule.place)
        elif not rule.arguments:
            rows.add_row(title, "", "no arguments", rule.place)
    if agent.tools:
        out.print(rows)
    else:
        say(out, ("  no tools", "dim"))
    for budget in agent.budgets:
        say(out, f"  at most {budget.limit} {budget.name}", (f"  {budget.place}", "dim"))
    for to, delegate in agent.delegates.items():
        hops = "" if delegate.depth == 1 else f", up to {delegate.depth} hops"
        say(out, "  may delegate to ", (to, "name"), hops, (f"  {delegate.place}", "dim"))
    for tool in agent.tools:
        if words := _attributes(policy, tool):
            say(out, "  ", (tool, "name"), f": {', '.join(words)}")


def _words(entry: Entry) -> str:
    return entry.constraint.describe() + (", or left out" if entry.optional else "")


def _attributes(policy: Policy, tool: str) -> list[str]:
    attributes = policy.attributes(tool)
    words = {
        "each call needs a proof of possession": attributes.proof_required,
        "a repeated call may run again while its outcome is unknown": attributes.rerun_safe,
        "UNSAFE: artifacts may grant it with any arguments": attributes.unsafe_any_arguments,
        "runs although its code cannot be pinned": attributes.opaque,
        "plain AAT chains are enough": attributes.plain_chains,
    }
    return [text for text, holds in words.items() if holds]


@app.command("explain")
def explain(
    file: FileArgument,
    agent: Annotated[str, typer.Option("--agent", "-a", metavar="NAME", help="The agent in question.")],
    tool: Annotated[str | None, typer.Option("--tool", "-t", metavar="NAME", help="One tool of it; all of them by default.")] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Explain what an agent may do under a policy, and which line says so.

    For one concrete call, ask `agentguard check`. Exit 2 if the agent, or the tool, is refused whatever the arguments.

    Example: `agentguard policy explain policy.yaml --agent triage --tool send_email`
    """
    from agentguard.policy import load

    policy = load(file)
    answer = _explain(policy, agent, tool)
    result(as_json, answer, lambda out: _say_explanation(out, answer))
    if not answer["possible"]:
        leave(2)


def _explain(policy: Policy, agent: str, tool: str | None) -> dict[str, Any]:
    answer: dict[str, Any] = {"policy": policy.digest, "agent": agent, "possible": False, "reason": "", "tools": {}}
    rules = policy.agents.get(agent)
    reason = policy.known(agent)
    if rules is None or reason is not None:
        return {**answer, "reason": reason.sentence() if reason is not None else ""}
    answer["budgets"] = [{"at_most": budget.limit, "what": budget.name, "place": budget.place} for budget in rules.budgets]
    answer["delegates"] = {to: {"hops": delegate.depth, "place": delegate.place} for to, delegate in rules.delegates.items()}
    answer["reachable"] = list(policy.reachable(agent))
    for name in rules.tools if tool is None else (tool,):
        rule = rules.tools.get(name)
        if rule is None or rule.forbidden is not None:
            refused = policy.judge(agent, name, {})
            answer["tools"][name] = {"possible": False, "reason": refused.sentence() if refused is not None else ""}
            continue
        arguments = {
            argument: {"required": not entry.optional, "may_be": entry.constraint.describe(), "place": rule.places[argument]}
            for argument, entry in rule.arguments.items()
        }
        answer["tools"][name] = {"possible": True, "place": rule.place, "arguments": arguments, "notes": _attributes(policy, name)}
    answer["possible"] = any(entry["possible"] for entry in answer["tools"].values())
    return answer


def _say_explanation(out: Console, answer: dict[str, Any]) -> None:
    if answer["reason"]:
        say(out, ("no: ", "bad"), answer["reason"])
        return
    agent = answer["agent"]
    for name, entry in answer["tools"].items():
        if not entry["possible"]:
            say(out, ("no: ", "bad"), entry["reason"])
            continue
        say(out, ("yes: ", "good"), f"{agent} may call {name}", (f"  {entry['place']}", "dim"))
        for argument, rule in entry["arguments"].items():
            need = "must be" if rule["required"] else "may be left out, else must be"
            say(out, f"       {argument} {need} {rule['may_be']}", (f"  {rule['place']}", "dim"))
        if not entry["arguments"]:
            say(out, "       without arguments")
        for note in entry["notes"]:
            say(out, f"       {note}")
    for budget in answer["budgets"]:
        say(out, f"at most {budget['at_most']} {budget['what']}", (f"  {budget['place']}", "dim"))
    for to, delegate in answer["delegates"].items():
        say(
            out,
            f"may delegate to {to}, {delegate['hops']} hop{'s' if delegate['hops'] > 1 else ''} deep",
            (f"  {delegate['place']}", "dim"),
        )
    if not answer["tools"]:
        say(out, f"{agent} has no tools")


app.command("test")(policy_test.run_cases)
app.command("simulate")(policy_simulate.simulate)
app.command("diff")(policy_diff.diff)
app.command("prove")(policy_prove.prove)
app.command("learn")(policy_learn.learn)
