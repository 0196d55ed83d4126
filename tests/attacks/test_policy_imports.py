"""Ways around the imports of a policy: out of the directory, in a circle, by a bomb, by a file that is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentguard.errors import InvalidInput
from agentguard.policy import load
from agentguard.policy.file import MAX_BYTES

HEAD = "agentguard: 1\n"
GAIN = HEAD + "agents: {eve: {tools: {wipe: {}}}}\n"


def refused(path: Path) -> str:
    with pytest.raises(InvalidInput) as caught:
        load(path)
    return str(caught.value)


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A directory of policies, and beside it a file that is not theirs."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "outside.yaml").write_text(GAIN, "utf-8")
    (tmp_path / "policies-2").mkdir()
    (tmp_path / "policies-2" / "outside.yaml").write_text(GAIN, "utf-8")
    return tmp_path / "policies"


def main(inside: Path, name: str) -> Path:
    path = inside / "main.yaml"
    path.write_text(HEAD + f"name: m\nimport: [{name}]\nagents: {{}}\n", "utf-8")
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../outside.yaml",
        "../policies-2/outside.yaml",
        "sub/../../outside.yaml",
        "./../outside.yaml",
        "..",
        ".",
        "''",
        "sub/",
        "sub/..",
        "/etc/passwd",
        "//etc/passwd",
        '"..\\\\outside.yaml"',
        '"C:outside.yaml"',
        "file:///etc/passwd",
        "https://example.com/x.yaml",
        '"a\\tb.yaml"',
        '"main.yaml\\u0000.yaml"',
        f"{'a/' * 600}b.yaml",
    ],
)
def test_a_name_does_not_lead_out(inside: Path, name: str) -> None:
    assert "main.yaml:3" in refused(main(inside, name))


def test_the_way_out_and_in_again_is_refused_too(inside: Path) -> None:
    """`policies` is a name that the policy cannot know: it may lie elsewhere tomorrow."""
    (inside / "base.yaml").write_text(HEAD, "utf-8")
    assert "leads out of the policy's directory" in refused(main(inside, "../policies/base.yaml"))


@pytest.mark.parametrize("relative", [True, False])
def test_no_link_leads_out(inside: Path, relative: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    (inside / "link.yaml").symlink_to("../outside.yaml" if relative else inside.parent / "outside.yaml")
    (inside / "up").symlink_to("..")
    (inside / "sibling").symlink_to("../policies-2")
    monkeypatch.chdir(inside)
    for name in ("link.yaml", "up/outside.yaml", "sibling/outside.yaml"):
        path = main(inside, name)
        for given in (path, Path("main.yaml"), Path("../policies/main.yaml")):
            assert "is a link that leads out of" in refused(given)


def test_a_link_inside_is_fine_as_mounted_configuration_has_them(inside: Path) -> None:
    (inside / "..data").mkdir()
    (inside / "..data" / "base.yaml").write_text(GAIN, "utf-8")
    (inside / "base.yaml").symlink_to("..data/base.yaml")
    assert load(main(inside, "base.yaml")).agents.keys() == {"eve"}


def test_what_is_no_file_is_not_waited_for(inside: Path) -> None:
    os.mkfifo(inside / "pipe.yaml")
    (inside / "sub").mkdir()
    assert "'pipe.yaml' is not a regular file" in refused(main(inside, "pipe.yaml"))
    assert "'sub' is not a regular file" in refused(main(inside, "sub"))


def test_a_link_to_itself_and_a_name_too_long_are_errors(inside: Path) -> None:
    (inside / "loop.yaml").symlink_to("loop.yaml")
    assert "cannot read 'loop.yaml'" in refused(main(inside, "loop.yaml"))
    assert "cannot read" in refused(main(inside, "a" * 300 + ".yaml"))


def test_a_circle_through_a_link_ends(inside: Path) -> None:
    (inside / "again.yaml").symlink_to("main.yaml")
    assert "again.yaml -> again.yaml" in refused(main(inside, "again.yaml"))


def test_no_bomb(inside: Path) -> None:
    """Each level names both files of the next: 2^n ways, n files. Aliases are refused before that."""
    for level in range(12):
        names = f"import: [a{level + 1}.yaml, b{level + 1}.yaml]\n" if level < 11 else ""
        for name in "ab":
            (inside / f"{name}{level}.yaml").write_text(HEAD + names + f"agents: {{{name}{level}: {{}}}}\n", "utf-8")
    assert len(load(main(inside, "a0.yaml")).agents) == 23
    (inside / "laughs.yaml").write_text(HEAD + "a: &a [x]\nb: [*a, *a]\n", "utf-8")
    assert "an anchor is not accepted" in refused(main(inside, "laughs.yaml"))


def test_all_files_together_are_bounded(inside: Path) -> None:
    filler = HEAD + "#" * (MAX_BYTES // 3) + "\n"
    for name in "abc":
        (inside / f"{name}.yaml").write_text(filler, "utf-8")
    assert "larger than" in refused(main(inside, "a.yaml, b.yaml, c.yaml"))


def test_an_import_cannot_widen_what_is_written_already(inside: Path) -> None:
    (inside / "more.yaml").write_text(HEAD + "agents: {clerk: {tools: {wipe: {}}}}\ntools: {send: {unsafe_any_arguments: true}}\n", "utf-8")
    path = inside / "main.yaml"
    body = "agents: {clerk: {tools: {send: {to: any}}}}\n"
    path.write_text(HEAD + f"name: m\nimport: [more.yaml]\n{body}", "utf-8")
    assert "agents.clerk" in refused(path)
    path.write_text(HEAD + "name: m\nimport: [more.yaml]\ntools: {send: {unsafe_any_arguments: false}}\nagents: {}\n", "utf-8")
    assert "tools.send" in refused(path)
    path.write_text(HEAD + "name: m\nimport: [more.yaml]\ntools: {send: {unsafe_any_arguments: 1}}\nagents: {}\n", "utf-8")
    assert "tools.send" in refused(path)  # 1 is not true


def test_a_forbid_rule_of_an_import_wins_over_the_importing_file(inside: Path) -> None:
    (inside / "never.yaml").write_text(HEAD + "forbid: [{tool: 'wipe*'}]\n", "utf-8")
    path = inside / "main.yaml"
    path.write_text(HEAD + "name: m\nimport: [never.yaml]\nagents: {clerk: {tools: {wipe: {}}}}\n", "utf-8")
    assert load(path).judge("clerk", "wipe", {}) is not None
