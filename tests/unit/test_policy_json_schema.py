"""The JSON Schema for editors accepts what the loader accepts, refuses plain mistakes, and is the one that is published."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from agentguard.constraints.rules import KEYS
from agentguard.errors import InvalidInput
from agentguard.policy import load
from agentguard.policy.file import read
from agentguard.policy.json_schema import _ONE_OF, _VALUES, json_schema

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
POLICIES = sorted(path for path in (ROOT / "policies").glob("*.yaml") if len(path.suffixes) == 1)
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs" / "policy.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
HEAD = "agentguard: 1\nname: x\n"


#: One of everything.
WHOLE = """agentguard: 1
name: finance
agents:
  clerk:
    tools:
      send_money: {amount: {range: {min: 0, max: 1000}}, from: any, to: any, quantity: {range: {min: 1, max: 10}, optional: true}}
      send_email: {to: any}
      ask_model: {q: any}
      check_balance: {}
      read_secret: {}
      wipe: {}
    where: {send_money: ["amount <= 1000", "to != from"]}
    hours: [{days: [mon, tue, wed, thu, fri], from: "08:00", to: "18:00", zone: Europe/Berlin, tools: [send_money]}]
    budgets:
      - {calls: 50, per: task}
      - {calls: 5, tool: send_email, per: task}
      - {cost: amount, tool: send_money, limit: 5000, per: initiator, window: {sliding: 24h}}
      - {cost: {output: usage.tokens, reserve: 500}, tool: ask_model, limit: 100000, per: agent, window: {fixed: 1d}}
    sequence:
      - {tool: check_balance, before: send_money}
      - {tag: egress, never_after: read_secret}
      - {tool: send_email, at_most: 3}
      - {tool: wipe, only_after_approval: true}
    approval:
      - {tool: send_money, when: "amount > 100", by: ["user:carol", "user:dan"], of: 2, expires: 1h, initiator: accepted}
    unsafe_shadow: {until: "2026-12-31", tools: [send_money]}
tools:
  send_email: {tags: [egress]}
  wipe: {approval: {by: ["user:carol"], of: 1, expires: 15m}}
  ask_model: {output: {max_bytes: 20000, excess: truncate}}
sequence: [{tool: send_email, at_most: 3}]
forbid: [{tool: "delete_*"}]
"""


def complaints(text: str) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(read(text, "t").value)]


def test_it_is_a_schema_and_the_published_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    published = json.loads((ROOT / "docs" / "policy.schema.json").read_text("utf-8"))
    assert published == SCHEMA, "write it anew: agentguard policy schema > docs/policy.schema.json"


def test_every_key_of_a_rule_is_described() -> None:
    assert set(_VALUES) == set(KEYS) - {"optional"}


def test_every_choice_among_members_is_one_of_a_model() -> None:
    for name, members in _ONE_OF.items():
        assert set(members) <= SCHEMA["$defs"][name]["properties"].keys(), name


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_the_example_policies_fit(path: Path) -> None:
    assert complaints(path.read_text("utf-8")) == []
    assert complaints(load(path).canonical.decode("utf-8")) == []


@pytest.mark.parametrize("text", BLOCKS, ids=range(len(BLOCKS)))
def test_the_policies_of_the_page_fit(text: str) -> None:
    assert complaints(text) == []
    assert complaints(load(text).canonical.decode("utf-8")) == []


def test_every_construct_fits() -> None:
    assert complaints(WHOLE) == []
    assert complaints(load(WHOLE).canonical.decode("utf-8")) == []


def parts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inner in value.items() if type(value) is dict else enumerate(value) if type(value) is list else ():
        yield (*path, key)
        yield from parts(inner, (*path, key))


def changed(value: Any, path: tuple[Any, ...], to: Any) -> Any:
    copy = dict(value) if type(value) is dict else list(value)
    copy[path[0]] = changed(copy[path[0]], path[1:], to) if len(path) > 1 else to
    return copy


def test_what_it_refuses_the_loader_refuses_too() -> None:
    """Every part of the policy above, replaced by each kind of value: an editor never marks what would load."""
    document, refused = read(WHOLE, "t").value, 0
    for path in parts(document):
        for to in (None, -1, "x", [], {"x": "any"}):
            text = json.dumps(changed(document, path, to))
            if complaints(text):
                refused += 1
                with pytest.raises(InvalidInput):
                    load(text)
    assert refused > 300


def test_imports_fit() -> None:
    assert complaints(HEAD + "import: [base.yaml]\nagents: {}\n") == []


@pytest.mark.parametrize(
    "text",
    [
        "name: x\nagents: {}\n",
        "agentguard: 2\nname: x\nagents: {}\n",
        HEAD,
        HEAD + "agents: []\n",
        HEAD + "agent: {}\nagents: {}\n",
        HEAD + "import: base.yaml\nagents: {}\n",
        HEAD + "agents: {a b: {}}\n",
        HEAD + "agents: {a: {tool: {}}}\n",
        HEAD + "agents: {a: {tools: {t: any}}}\n",
        HEAD + "agents: {a: {tools: {t: {p: 5}}}}\n",
        HEAD + "agents: {a: {tools: {t: {p: {}}}}}\n",
        HEAD + "agents: {a: {tools: {t: {p: anything}}}}\n",
        HEAD + "agents: {a: {tools: {t: {p: {rang: {min: 1}}}}}}\n",
        HEAD + "agents: {a: {tools: {t: {p: {range: {mn: 1}}}}}}\n",
        HEAD + "agents: {a: {tools: {t: {p: {range: {min: '1'}}}}}}\n",
        HEAD + "agents: {a: {tools: {t: {p: {one_of: x}}}}}\n",
        HEAD + "agents: {a: {tools: {t: {p: {email: {}}}}}}\n",
        HEAD + "agents: {a: {tools: {t: {p: {url: {hosts: []}}}}}}\n",
        HEAD + "agents: {a: {tools: {t: {p: {any: [{exact: 1, optional: true}]}}}}}\n",
        HEAD + "agents: {a: {tools: {t: {p: {max_length: -1}}}}}\n",
        HEAD + "agents: {a: {tools: {t: {p: {exact: 1, optional: 1}}}}}\n",
        HEAD + "agents: {a: {budgets: [{calls: 0, per: task}]}}\n",
        HEAD + "agents: {a: {budgets: [{calls: 1}]}}\n",
        HEAD + "agents: {a: {delegates: {b: {depth: 17}}}}\n",
        HEAD + "agents: {a: {budgets: [{calls: 1, cost: x, limit: 1, per: task}]}}\n",
        HEAD + "agents: {a: {budgets: [{cost: x, limit: 1, per: task, window: {fixed: 1d, sliding: 1d}}]}}\n",
        HEAD + "agents: {a: {budgets: [{cost: x, limit: 1, per: task, window: {fixed: soon}}]}}\n",
        HEAD + "agents: {a: {sequence: [{tool: x}]}}\n",
        HEAD + "agents: {a: {sequence: [{tool: x, at_most: 1, before: y}]}}\n",
        HEAD + "agents: {a: {hours: [{days: [mon]}]}}\n",
        HEAD + "agents: {a: {unsafe_shadow: {}}}\n",
        HEAD + "agents: {a: {approval: [{tool: x, of: 0}]}}\n",
        HEAD + "agents: {}\nforbid: [{}]\n",
        HEAD + "agents: {}\nforbid: [{tool: x, tag: y}]\n",
        HEAD + "agents: {}\ntools: {t: {rerun: true}}\n",
        HEAD + "agents: {}\ntools: {t: {unsafe_any_arguments: 1}}\n",
        HEAD + "agents: {}\nenvironment: {stage: prod}\n",
    ],
)
def test_plain_mistakes_are_refused_by_both(text: str) -> None:
    assert complaints(text)
    with pytest.raises(InvalidInput):
        load(text)


def test_the_command_prints_it(capsys: Any) -> None:
    from typer.main import get_command

    from agentguard.cli.root import app

    get_command(app).main(["policy", "schema"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == SCHEMA
