"""Policies of several files: what merges, what clashes, and that every place names the file in which it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentguard.errors import InvalidInput
from agentguard.policy import load
from agentguard.policy.imports import MAX_FILES, MAX_WAY, File, read_files, read_policy

HEAD = "agentguard: 1\n"


def write(directory: Path, **files: str) -> Path:
    """Files by name (`__` stands for a slash); gives the path of the first."""
    paths = []
    for name, text in files.items():
        path = directory / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        paths.append(path)
    return paths[0]


def error_of(path: Path) -> str:
    with pytest.raises(InvalidInput) as caught:
        load(path)
    return str(caught.value).replace(str(path.parent), "")


MAIN = HEAD + "name: main\nimport: [base.yaml, shared/tools.yaml]\nagents: {clerk: {groups: [reader], tools: {send: {to: any}}}}\n"
BASE = HEAD + "groups:\n  reader: {tools: {read: {id: {regex: 'T-[0-9]+'}}}}\nforbid: [{tool: 'wipe_*'}]\n"
TOOLS = HEAD + "name: shared\nimport: [../base.yaml]\ntools: {send: {rerun: safe}}\nenvironment: {deployment: {one_of: [prod]}}\n"


def test_files_merge_and_the_digest_is_that_of_the_one_file_they_stand_for(tmp_path: Path) -> None:
    path = write(tmp_path, main=MAIN, base=BASE, shared__tools=TOOLS)
    one = load(
        HEAD
        + "name: main\nagents: {clerk: {groups: [reader], tools: {send: {to: any}}}}\n"
        + BASE.removeprefix(HEAD)
        + "tools: {send: {rerun: safe}}\nenvironment: {deployment: {one_of: [prod]}}\n"
    )
    merged = load(path)
    assert (merged.name, merged.digest, merged.canonical) == ("main", one.digest, one.canonical)
    assert load(merged.canonical.decode()).digest == merged.digest
    (tmp_path / "base.yaml").write_text(BASE.replace("T-", "U-"), "utf-8")
    assert load(path).digest != merged.digest


def test_places_name_the_file_in_which_a_rule_is_written(tmp_path: Path) -> None:
    policy = load(write(tmp_path, main=MAIN, base=BASE, shared__tools=TOOLS))
    clerk = policy.agents["clerk"]
    assert clerk.place == f"{tmp_path}/main.yaml:4"
    assert clerk.tools["read"].places["id"] == f"{tmp_path}/base.yaml:3"
    assert policy.environment_places["deployment"] == f"{tmp_path}/shared/tools.yaml:5"
    assert policy.warnings == (
        f"{tmp_path}/base.yaml:4: forbid wipe_*: matches no tool that an agent has, or only what an earlier rule forbids",
    )
    reason = policy.judge("clerk", "read", {"id": "X"})
    assert reason is not None
    assert reason.place == f"{tmp_path}/base.yaml:3"


def test_a_file_that_is_named_on_two_ways_counts_once(tmp_path: Path) -> None:
    assert len(load(write(tmp_path, main=MAIN, base=BASE, shared__tools=TOOLS)).forbid.rules) == 1


def test_lists_follow_one_another_the_importing_file_first(tmp_path: Path) -> None:
    rules = "forbid: [{{tool: '{0}_1'}}, {{tool: '{0}_2'}}]\n"
    path = write(
        tmp_path,
        main=HEAD + "name: m\nimport: [b.yaml, c.yaml]\nagents: {}\n" + rules.format("a"),
        b=HEAD + "import: [d.yaml]\n" + rules.format("b"),
        c=HEAD + rules.format("c"),
        d=HEAD + rules.format("d"),
    )
    assert [rule.tool for rule in load(path).forbid.rules] == ["a_1", "a_2", "b_1", "b_2", "d_1", "d_2", "c_1", "c_2"]
    assert load(path).forbid.rules[5].place == f"{tmp_path}/d.yaml:2"


def test_the_same_thing_in_two_files_is_fine_if_it_is_the_same(tmp_path: Path) -> None:
    agents = "agents:\n  clerk: {tools: {send: {to: any, n: {range: {min: 1, max: 2}}}}}\n"
    again = "agents: {clerk: {tools: {send: {n: {range: {max: 2.0, min: 1}}, to: any}}}}\n"
    assert load(write(tmp_path, main=HEAD + "name: m\nimport: [b.yaml]\n" + agents, b=HEAD + again)).agents.keys() == {"clerk"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"b": "agents: {clerk: {tools: {send: {to: {exact: eve}}}}}\n"},
            "/b.yaml:2:10: agents.clerk: /main.yaml:4 says something else under this name (give one of them another name, "
            "or write it in one file only)",
        ),
        ({"b": "agents: [clerk]\n"}, "/b.yaml:2:1: agents: /main.yaml:4 says something else under this name"),
        ({"b": "agents: {eve: {tool: {}}}\n"}, "/b.yaml:2:16: agents.eve.tool: unknown key 'tool' (did you mean 'tools'?)"),
        ({"b": "agnets: {eve: {}}\n"}, "/b.yaml:2:1: agnets: unknown key 'agnets' (did you mean 'agents'?)"),
        ({"b": "forbid: [{tool: x}, {tol: y}]\n"}, "/b.yaml:2:22: forbid[1].tol: unknown key 'tol' (did you mean 'tool'?)"),
        ({"b": "name: 7\n"}, "/b.yaml:2:7: name: expected a string, found 7"),
        ({"b": "import: base.yaml\n"}, "/b.yaml:2:9: import: expected a list of file names (import: [base.yaml])"),
        ({"b": "import: [7]\n"}, "/b.yaml:2:9: import: expected a list of file names (import: [base.yaml])"),
        ({"b": "import: [c.yaml, c.yaml]\n", "c": ""}, "/b.yaml:2:18: 'c.yaml' is imported twice (take one of them out)"),
        ({"b": "import: [gone.yaml]\n"}, "/b.yaml:2:10: cannot read 'gone.yaml': No such file or directory"),
        ({"b": "import: [main.yaml]\n"}, "/b.yaml:2:10: the import leads back to where it began: main.yaml -> b.yaml -> main.yaml"),
        ({"b": "import: [./b.yaml]\n"}, "/b.yaml:2:10: the import leads back to where it began: b.yaml -> b.yaml"),
        (
            {"b": "import: [s/c.yaml]\n", "s__c": "import: [../b.yaml]\n"},
            "/s/c.yaml:2:10: the import leads back to where it began: b.yaml -> s/c.yaml -> b.yaml",
        ),
    ],
)
def test_what_is_wrong_is_told_with_the_file_it_stands_in(tmp_path: Path, files: dict[str, str], message: str) -> None:
    main = HEAD + "name: m\nimport: [b.yaml]\nagents: {clerk: {tools: {send: {to: any}}}}\nforbid: [{tool: z}]\n"
    assert message in error_of(write(tmp_path, main=main, **{name: HEAD + text for name, text in files.items()}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\n", "/b.yaml:1:1: the key 'agentguard' is missing (write agentguard: 1 in each file)"),
        ("agentguard: 2\n", "/b.yaml:1:13: agentguard: this release reads version 1 of the policy language, found 2"),
        ("agentguard: true\n", "/b.yaml:1:13: agentguard: this release reads version 1 of the policy language, found True"),
        ("[]\n", "/b.yaml:1:1: expected a mapping, found a list"),
        ("x\n", "/b.yaml:1:1: expected a mapping, found 'x'"),
        ("a: &x 1\n", "/b.yaml:1:4: an anchor is not accepted"),
    ],
)
def test_an_imported_file_is_read_as_strictly(tmp_path: Path, text: str, message: str) -> None:
    assert message in error_of(write(tmp_path, main=HEAD + "name: m\nimport: [b.yaml]\nagents: {}\n", b=text))


def test_problems_of_several_files_are_told_together_in_their_order(tmp_path: Path) -> None:
    main = HEAD + "name: m\nimport: [b.yaml]\nagents:\n  a: {tools: {t: {p: 5}}}\n"
    message = error_of(write(tmp_path, main=main, b=HEAD + "agents: {b: {tools: {t: {p: 6}}}}\n"))
    assert message.startswith("/main.yaml:5:22: agents.a.tools.t.p: ")
    assert "also " in message
    assert "/b.yaml:2:29: agents.b.tools.t.p: " in message


def test_a_text_imports_nothing() -> None:
    with pytest.raises(InvalidInput) as caught:
        load(MAIN)
    assert str(caught.value) == "<policy>:3:10: a policy that is given as a text cannot import (give the path of the file)"


def test_files_and_ways_are_bounded(tmp_path: Path) -> None:
    names = ", ".join(f"f{index}.yaml" for index in range(MAX_FILES))
    many = {f"f{index}": HEAD for index in range(MAX_FILES)}
    assert f"the policy has more than {MAX_FILES} files" in error_of(write(tmp_path, main=HEAD + f"name: m\nimport: [{names}]\n", **many))
    deep = {f"d{index}": HEAD + f"import: [d{index + 1}.yaml]\n" for index in range(MAX_WAY + 1)}
    path = write(tmp_path, deep=HEAD + "name: m\nimport: [d0.yaml]\n", **deep)
    assert f"imports nest deeper than {MAX_WAY} files" in error_of(path)


def test_sources_are_what_a_bundle_carries(tmp_path: Path) -> None:
    path = write(tmp_path, main=MAIN, base=BASE, shared__tools=TOOLS)
    found = read_policy(path)
    assert [file.name for file in found.files] == ["main.yaml", "base.yaml", "shared/tools.yaml"]
    carried = read_files(found.files, "m@3/")
    assert carried.document.value == found.document.value
    assert carried.document.line(("groups", "reader")) == "m@3/base.yaml:3"
    for files, message in [
        ((), "at least one file"),
        ((*found.files, File("main.yaml", "")), "each name once"),
        ((*found.files, File("more.yaml", HEAD)), "nothing imports the file 'more.yaml'"),
        (found.files[:2], "the bundle has no file 'shared/tools.yaml'"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            read_files(files, "m@3/")
