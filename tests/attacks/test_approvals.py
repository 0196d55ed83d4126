"""Attacks on approvals: replayed, misfiled, forged and self-made answers; requests that show something else; races, links, clocks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentguard import AgentguardError, Guard, InvalidInput, ToolCall
from agentguard.approvals import MAX_ANSWER, Question, Request, Terms, make_answer, make_request, read_request
from agentguard.bell import Bell, ring
from agentguard.canonical import freeze
from agentguard.cli import app
from agentguard.cli.approvals_show import rendered
from agentguard.environment import NANOSECOND
from agentguard.keys import LocalKey
from support.approving import CALL, answers, asks, opened, place, policy, rewrite, runs
from support.guarded import denied, records

OTHER = ToolCall("clerk", "send_money", {"amount": 1_000_000, "to": "mallory"})


@pytest.fixture
def guard(home: Path) -> Iterator[Guard]:
    with opened(home) as made:
        yield made


def cli(home: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["approvals", *arguments, "--home", str(home)], catch_exceptions=False)


def lies_at(guard: Guard, request: Request) -> Path:
    return guard.home.inbox._place(request.question)


# --- answers in the wrong place -----------------------------------------------------------------------------------------------------------


def test_a_used_approval_that_is_put_back_is_good_for_nothing(guard: Guard, tmp_path: Path) -> None:
    with guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        answers(guard.home, request)
        shutil.copytree(lies_at(guard, request), tmp_path / "kept")
        runs(guard)
        shutil.copytree(tmp_path / "kept", lies_at(guard, request))
        assert guard.decide(CALL).allowed, "up to admission it looks like one"
        assert asks(guard).id != request.id


def test_the_same_after_a_restart_and_in_another_process(home: Path, tmp_path: Path) -> None:
    with opened(home) as guard, guard.task("clerk", initiator="user:alice") as task:
        presentation = task.presentation()
        request = asks(guard)
        answers(guard.home, request)
        shutil.copytree(lies_at(guard, request), tmp_path / "kept")
        runs(guard)
    with opened(home) as guard, guard.accept(presentation, guard.home.keys.holder("clerk")):
        shutil.copytree(tmp_path / "kept", lies_at(guard, request))
        assert asks(guard).id != request.id


def test_an_answer_to_one_call_does_not_answer_another(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        small, large = asks(guard), asks(guard, OTHER)
        answers(guard.home, small)
        for file in lies_at(guard, small).glob("*.answer"):
            shutil.copy(file, lies_at(guard, large))
        asks(guard, OTHER)
        assert "it is for other arguments" in cli(guard.home.path, "show", large.id).output


def test_a_whole_request_that_was_moved_answers_nothing(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        small, large = asks(guard), asks(guard, OTHER)
        answers(guard.home, small)
        shutil.rmtree(lies_at(guard, large))
        shutil.copytree(lies_at(guard, small), lies_at(guard, large))
        again = asks(guard, OTHER)
        assert again.question.arguments == OTHER.arguments
        assert not list(lies_at(guard, again).glob("*.answer"))


def test_an_answer_under_one_artifact_is_not_one_under_another(guard: Guard) -> None:
    call = ToolCall("helper", "send_money", {"amount": 1, "to": "bob"})
    with guard.task("clerk", initiator="user:alice") as task:
        with task.delegate("helper"):
            request = asks(guard, call)
            answers(guard.home, request, "user:carol")
            answers(guard.home, request, "user:dan")
        with task.delegate("helper"):
            assert asks(guard, call).id != request.id


def test_an_answer_under_one_policy_is_not_one_under_another(home: Path) -> None:
    with opened(home) as guard, guard.task("clerk", initiator="user:alice") as task:
        presentation = task.presentation()
        request = asks(guard)
        answers(guard.home, request)
    with opened(home, policy(name="finance -> finance-2")) as guard, guard.accept(presentation, guard.home.keys.holder("clerk")):
        denied("policy_mismatch", guard.check, CALL)
    with opened(home) as guard, guard.accept(presentation, guard.home.keys.holder("clerk")):
        assert runs(guard)


def test_an_answer_in_one_task_is_not_one_in_another(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        answers(guard.home, request)
        with guard.task("clerk", initiator="user:mallory"):
            assert asks(guard).id != request.id


# --- who answers --------------------------------------------------------------------------------------------------------------------------


def test_one_approver_is_one_approver(guard: Guard) -> None:
    call = ToolCall("helper", "send_money", {"amount": 1, "to": "bob"})
    with guard.task("clerk", initiator="user:alice") as task, task.delegate("helper"):
        request = asks(guard, call)
        answers(guard.home, request, "user:carol")
        answers(guard.home, request, "user:carol")
        (file,) = lies_at(guard, request).glob("*.answer")
        shutil.copy(file, file.with_name(f"{LocalKey.generate().public.thumbprint()}.answer"))
        guard.home.keys.approver("user:dan")
        dan = guard.home.keys.approver("user:dan").public.thumbprint()
        shutil.copy(file, file.with_name(f"{dan}.answer"))
        assert asks(guard, call).id == request.id


def test_a_key_under_two_names_counts_once(guard: Guard) -> None:
    call = ToolCall("helper", "send_money", {"amount": 1, "to": "bob"})
    carol = guard.home.keys.approver("user:carol")
    keys = guard.home.path / "keys"
    pem = (keys / "approver-user%3Acarol.pem").read_text()
    rewrite(keys / "approver-user%3Adan.pem", pem.replace("user:carol", "user:dan"))
    with guard.task("clerk", initiator="user:alice") as task, task.delegate("helper"):
        request = asks(guard, call)
        for name in ("user:carol", "user:dan"):
            text = make_answer(request, carol, name, "approve", now=request.asked)
            guard.home.inbox.reply(request, carol.public.thumbprint(), text)
            assert asks(guard, call).id == request.id


@pytest.mark.parametrize("file", ["issuer.pem", "log.pem", "holder-clerk.pem", "holder-helper.pem"])
def test_the_key_of_an_agent_or_of_the_guard_never_answers(guard: Guard, file: str) -> None:
    with guard.task("clerk", initiator="user:alice") as task, task.delegate("helper"):
        pass
    keys = guard.home.path / "keys"
    pem = (keys / file).read_text()
    body = pem[pem.index("-----BEGIN") :]
    rewrite(keys / "approver-user%3Acarol.pem", f"approver: user:carol\n{body}")
    with guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        with pytest.raises(InvalidInput, match="nobody who may answer holds this key"):
            answers(guard.home, request)
        key = guard.home.keys.approver("user:carol")
        text = make_answer(request, key, "user:carol", "approve", now=request.asked)
        guard.home.inbox.reply(request, key.public.thumbprint(), text)
        asks(guard)


def test_the_agent_does_not_approve_itself_nor_do_those_it_acts_for(home: Path) -> None:
    with opened(home, policy(by='by: ["user:carol", "user:dan"], of: 2 -> by: [clerk, helper], of: 1')) as guard:
        call = ToolCall("helper", "send_money", {"amount": 1, "to": "bob"})
        with guard.task("clerk", initiator="user:alice") as task, task.delegate("helper"):
            request = asks(guard, call)
            for name in ("clerk", "helper"):
                with pytest.raises(InvalidInput, match="never by the requester"):
                    answers(guard.home, request, name)
                done = cli(home, "approve", request.id, "--as", name)
                assert (done.exit_code, "never by the requester" in done.output) == (3, True)


def test_the_initiator_does_not_approve_what_is_done_on_its_behalf(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:carol"):
        request = asks(guard)
        with pytest.raises(InvalidInput, match="is the initiator"):
            answers(guard.home, request, "user:carol")
        carol = guard.home.keys.approver("user:carol")
        text = make_answer(request, carol, "user:carol", "approve", now=request.asked)
        guard.home.inbox.reply(request, carol.public.thumbprint(), text)
        asks(guard)


def test_a_renamed_key_file_makes_nobody_an_approver(guard: Guard) -> None:
    guard.home.keys.approver("user:mallory")
    keys = guard.home.path / "keys"
    (keys / "approver-user%3Amallory.pem").rename(keys / "approver-user%3Acarol.pem")
    assert guard.home.approvers() == {}
    (keys / "approver-user%3Acarol.pem").chmod(0o644)
    assert guard.home.approvers() == {}


def test_a_key_that_was_withdrawn_answers_nothing_any_more(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        answers(guard.home, request)
        guard.stop("key", guard.home.keys.approver("user:carol").public.thumbprint())
        assert asks(guard).id == request.id
        assert "does not count" in cli(guard.home.path, "show", request.id).output


# --- what the human sees ------------------------------------------------------------------------------------------------------------------


def test_a_request_that_somebody_changed_is_none(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        request = asks(guard, OTHER)
        file = lies_at(guard, request) / "request"
        header, _, signature = request.token.split(".")
        harmless = asks(guard)
        rewrite(file, f"{header}.{harmless.token.split('.')[1]}.{signature}")
        shown = cli(guard.home.path, "list").output
        assert "the guard of this home did not sign this request" in shown
        assert cli(guard.home.path, "show", request.id).exit_code == 3
        assert cli(guard.home.path, "approve", request.id, "--as", "user:carol").exit_code == 3
        again = asks(guard, OTHER)
        assert read_request((lies_at(guard, again) / "request").read_text(), guard.home.issuer.key).question.arguments == OTHER.arguments


def test_even_the_guards_key_cannot_make_one_request_look_like_another(guard: Guard) -> None:
    """Whoever holds the issuer's key can put any request. What is approved is what it says, and nothing else."""
    with guard.task("clerk", initiator="user:alice"):
        real = asks(guard, OTHER)
        question = real.question
        shown = Question(question.task, question.leaf, "clerk", "send_money", freeze({"amount": 1, "to": "bob"}), None, question.policy)  # type: ignore[arg-type]
        forged = make_request(
            guard.home.keys.issuer(), shown, real.terms, agents=real.agents, keys=real.keys, initiator=real.initiator,
            execution=real.execution, caused_by=None, reason=real.reason, place=real.place, now=real.asked, salt=real.salt,
        )  # fmt: skip
        rewrite(lies_at(guard, real) / "request", forged.token)
        assert "another call than the directory it lies in" in cli(guard.home.path, "list").output
        guard.home.inbox.open(forged, forged.asked, lambda _: True)
        answers(guard.home, forged)
        asks(guard, OTHER)


def test_weaker_terms_in_a_request_are_not_the_policys(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        real = asks(guard)
        weak = make_request(
            guard.home.keys.issuer(), real.question, Terms(None, 1, 10**8, True), agents=(), keys=(), initiator=None,
            execution=real.execution, caused_by=None, reason="", place="", now=real.asked, salt=real.salt,
        )  # fmt: skip
        rewrite(lies_at(guard, real) / "request", weak.token)
        answers(guard.home, weak, "user:alice")
        again = asks(guard)
        assert again.terms == real.terms
        assert again.initiator == real.initiator


_TRICKS = {
    "line": "bob\nneeds      nobody",
    "return": "bob\rrequest    00000000",
    "colour": "bob\x1b[2J\x1b[1;1Happroved",
    "link": "\x1b]8;;http://evil.test\x07bob\x1b]8;;\x07",
    "bidi": "bob\u202etxt.exe\u2066",
    "hidden": "b\u200bo\u2060b\ufeff",
    "separators": "bob\u2028needs nobody\u2029\x85\x0b\x0c",
    "spaces": "bob" + " " * 500 + "initiator  user:ceo (authenticated by oidc)",
    "c1": "bob\x9b2Japproved",
    "tags": "bob\U000e0041\U000e0042",
    "markup": "[bold red]approved[/] :thumbs_up:",
    "quotes": 'bob"\n  │ amount = 1\n  │ to = "bob',
    "lookalike": "аlice@example.com",
    "wide": "漢" * 300,
    "marks": "a" + "\u0301" * 200,
}


@pytest.mark.parametrize("name", _TRICKS)
def test_an_argument_cannot_forge_what_is_shown(guard: Guard, name: str) -> None:
    text = _TRICKS[name]
    with guard.task("clerk", initiator="user:alice"):
        request = asks(guard, ToolCall("clerk", "send_money", {"amount": 500, "to": text}))
    for command in (("list",), ("show", request.id)):
        output = cli(guard.home.path, *command).output
        assert all(char.isprintable() or char == "\n" for char in output)
    lines = output.splitlines()
    first, last = (next(at for at, line in enumerate(lines) if line.startswith(head)) for head in ("arguments", "on behalf"))
    assert all(line.startswith(("  │ ", "  ┆ ")) for line in lines[first + 1 : last]), lines
    assert sum(line.startswith(("request ", "needs ", "on behalf ", "answers")) for line in lines) == 4
    if not text.isascii():
        assert any("\\u" in line for line in lines), "what is not ASCII is told in ASCII as well"


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("name", _TRICKS)
def test_no_line_is_left_for_the_terminal_to_fold_and_nothing_is_cut(name: str, width: int) -> None:
    from rich.cells import cell_len

    text = _TRICKS[name]
    arguments = freeze({"to": text, text: [{text: 1}]})
    lines = list(rendered(arguments, width))  # type: ignore[arg-type]
    assert all(cell_len(rail + part) < width for rail, part in lines)
    whole = "".join(part if rail == "  ┆ " else f"\n{part}" for rail, part in lines)
    if text.isascii() and text.isprintable():
        assert text in whole.replace('\\"', '"')
    assert whole.isprintable() or set(re.findall(r"[^\x20-\x7e]", whole)) <= {"\n", *(c for c in text if c.isprintable())}


# --- what lies in the directory -----------------------------------------------------------------------------------------------------------


def test_a_link_is_no_request_and_no_answer(guard: Guard, tmp_path: Path) -> None:
    with guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        answers(guard.home, request)
        (file,) = lies_at(guard, request).glob("*.answer")
        moved = tmp_path / "elsewhere"
        shutil.move(file, moved)
        file.symlink_to(moved)
        assert asks(guard).id == request.id
        shown = cli(guard.home.path, "show", request.id).output
        assert "does not count" in shown
        target = tmp_path / "request"
        shutil.move(lies_at(guard, request) / "request", target)
        (lies_at(guard, request) / "request").symlink_to(target)
        assert "it is a symbolic link" in cli(guard.home.path, "list").output
        assert asks(guard).id != request.id
        assert target.exists(), "what a link leads to is left alone"


def test_a_directory_that_is_a_link_is_not_followed(guard: Guard, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "precious").write_text("x")
    with guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        where = lies_at(guard, request)
        shutil.rmtree(where)
        where.symlink_to(elsewhere, target_is_directory=True)
        asks(guard)
        assert (elsewhere / "precious").exists()
        shutil.rmtree(guard.home.path / "approvals")
        (guard.home.path / "approvals").symlink_to(elsewhere, target_is_directory=True)
        denied("state_unavailable", guard.check, CALL)
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]


def test_files_that_block_or_never_end_hold_nobody_up(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        where = lies_at(guard, request)
        names = [LocalKey.generate().public.thumbprint() for _ in range(3)]
        os.mkfifo(where / f"{names[0]}.answer")
        (where / f"{names[1]}.answer").mkdir()
        (where / f"{names[2]}.answer").write_text("a" * (MAX_ANSWER + 1))
        (where / "notes.txt").write_text("hello")
        assert asks(guard).id == request.id
        answers(guard.home, request)
        assert runs(guard), "they do not keep a real answer from counting"


def test_a_broken_answer_does_not_hide_a_denial(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        answers(guard.home, request, "user:carol")
        answers(guard.home, request, "user:dan", "deny")
        (lies_at(guard, request) / ("-" * 43 + ".answer")).symlink_to("/nowhere")
        denied("approval_denied", guard.check, CALL)


def test_ringing_opens_no_files_that_are_no_bells(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("x")
    bells = tmp_path / "bells"
    bells.mkdir()
    (bells / "bell-link").symlink_to(precious)
    (bells / "bell-file").write_text("y")
    with Bell(bells) as bell:
        ring(bells)
        rung = iter([False, True])
        assert bell.wait(lambda: next(rung), float("inf"))
    assert precious.read_text() == "x"
    assert (bells / "bell-file").read_text() == "y"


def test_only_the_owner_can_read_what_waits(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        answers(guard.home, request)
    root = guard.home.path / "approvals"
    modes = {path.name: path.lstat().st_mode & 0o777 for path in (root, *root.rglob("*"))}
    assert len(modes) == 5  # the inbox, its lock, one place, a request, an answer
    assert set(modes.values()) == {0o700, 0o600}, modes


# --- time, links, races -------------------------------------------------------------------------------------------------------------------


def test_a_clock_that_was_set_back_revives_nothing(guard: Guard) -> None:
    clock = guard._enforcement.clock
    with guard.task("clerk", initiator="user:alice", ttl="1d"):
        request = asks(guard)
        answers(guard.home, request)
        clock._base += 3600 * NANOSECOND
        later = asks(guard)
        clock._wall = lambda: request.asked * NANOSECOND
        assert asks(guard).id == later.id != request.id


def test_a_link_that_points_elsewhere_since_the_approval_is_another_call(home: Path, tmp_path: Path) -> None:
    root = tmp_path / "files"
    root.mkdir()
    for name in ("harmless", "secret"):
        (root / name).write_text(name)
    link = root / "report"
    link.symlink_to(root / "harmless")
    text = policy().replace("/srv", str(root.resolve()))
    with opened(home, text) as guard, guard.task("clerk", initiator="user:alice"):
        call = ToolCall("clerk", "read_file", {"path": str(root.resolve() / "report")})
        request = asks(guard, call)
        assert str(root.resolve() / "harmless") in cli(home, "show", request.id).output
        answers(guard.home, request)
        link.unlink()
        link.symlink_to(root / "secret")
        assert asks(guard, call).id != request.id
        link.unlink()
        link.symlink_to(root / "harmless")
        assert runs(guard, call)


def test_of_two_guards_one_uses_the_approval(home: Path) -> None:
    with opened(home) as one, opened(home) as two:
        task = one.task("clerk", initiator="user:alice").issue()
        presentation, got = task.presentation(), []
        tasks = [(guard, guard.accept(presentation, guard.home.keys.holder("clerk"))) for guard in (one, two)]
        for _ in range(10):
            request = asks(one, task=tasks[0][1])
            answers(one.home, request)
            barrier = threading.Barrier(2)

            def attempt(guard: Guard, task: Any, barrier: threading.Barrier = barrier) -> None:
                barrier.wait()
                try:
                    got.append(bool(runs(guard, task=task)))
                except AgentguardError as error:
                    got.append(str(getattr(error, "code", error)) != "approval_required")

            threads = [threading.Thread(target=attempt, args=pair) for pair in tasks]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(got[-2:]) == [False, True], got
            for filed in one.home.inbox.all():
                if filed.request is not None:
                    one.home.inbox.retire(filed.request)
        charged = [name for record in records(one, "decision") for name, _ in record["reserved"] if name.startswith("approval/")]
        assert len(charged) == len(set(charged)) == 10


_PROCESS = """
import json, sys, time
from pathlib import Path
from agentguard import AgentguardError, Guard, ToolCall
home, policy, presentation = sys.argv[1:4]
with Guard.open(policy, home=home, durability="process") as guard:
    with guard.accept(presentation, guard.home.keys.holder("clerk")):
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            guard.check(ToolCall("clerk", "send_money", {"amount": 500, "to": "bob"})).run(lambda **_: None)
            print("ran")
        except AgentguardError as error:
            print(getattr(error, "code", error))
"""


def test_of_two_processes_one_uses_the_approval(home: Path) -> None:
    import json

    with opened(home) as guard:
        task = guard.task("clerk", initiator="user:alice").issue()
        presentation = json.dumps(task.presentation())
        answers(guard.home, asks(guard, task=task))
        arguments = [sys.executable, "-c", _PROCESS, str(home), policy(), presentation]
        both = [subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in both:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        said = sorted(process.communicate(timeout=60)[0].strip() for process in both)
    assert said == ["approval_required", "ran"]


def test_a_tool_that_writes_into_the_inbox_approves_nothing(guard: Guard) -> None:
    """A file is not an answer. (Whoever may write the keys of a home is another matter: see docs/approvals.md.)"""
    with guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        thumbprint = guard.home.keys.approver("user:carol").public.thumbprint()
        mallory = LocalKey.generate()
        for text in ("", "approve", request.token, make_answer(request, mallory, "user:carol", "approve", now=request.asked), "a.b.c", "é"):
            rewrite(place(guard.home.path) / f"{thumbprint}.answer", text)
            assert asks(guard).id == request.id
