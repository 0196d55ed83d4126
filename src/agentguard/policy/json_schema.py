"""The policy language as a JSON Schema, for editors: `agentguard policy schema`, and `docs/policy.schema.json`.

Made from the models that the loader validates with, and from the keys of rules. It knows shapes, not meanings: that a group exists, or
that a range is not empty, only the loader knows. What it refuses, the loader refuses too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agentguard.constraints.addresses import Email, Url
from agentguard.constraints.rules import KEYS
from agentguard.constraints.vocabulary import Constraint, Range
from agentguard.policy.schema import PolicyModel

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TITLE: Final = "agentguard policy, version 1"

_TEXT: Final[Schema] = {"type": "string"}
_TEXTS: Final[Schema] = {"type": "array", "items": _TEXT, "minItems": 1}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_LIST: Final[Schema] = {"type": "array"}
_CLAUSES: Final[Schema] = {"type": "array", "items": {"$ref": "#/$defs/clause"}, "minItems": 1}
_MEMBERS: Final[dict[str, Schema]] = {
    "domains": _TEXTS,
    "hosts": _TEXTS,
    "max": {"type": "number"},
    "max_inclusive": {"type": "boolean"},
    "min": {"type": "number"},
    "min_inclusive": {"type": "boolean"},
    "path": _TEXT,
    "ports": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 65535}},
    "schemes": _TEXTS,
}


def _object(kind: type[Constraint]) -> Schema:
    """A key whose value holds the members of the constraint's token form."""
    properties = {name: _MEMBERS[name] for name in sorted(kind.needs | kind.takes)}
    return {"type": "object", "properties": properties, "required": sorted(kind.needs), "additionalProperties": False}


#: What stands behind each key of a rule.
_VALUES: Final[dict[str, Schema]] = {
    "all": _CLAUSES,
    "any": _CLAUSES,
    "cidr": _TEXT,
    "contains": _LIST,
    "email": _object(Email),
    "exact": {},
    "glob": _TEXT,
    "length": {
        "type": "object",
        "properties": {"max": _COUNT, "min": _COUNT},
        "minProperties": 1,
        "additionalProperties": False,
    },
    "max_length": _COUNT,
    "min_length": _COUNT,
    "not_one_of": _LIST,
    "one_of": _LIST,
    "path": {"anyOf": [_TEXT, {"type": "object", "properties": {"root": _TEXT}, "required": ["root"], "additionalProperties": False}]},
    "range": _object(Range),
    "regex": _TEXT,
    "subset": _LIST,
    "type": _TEXT,
    "url": _object(Url),
    "wildcard": {"const": True},
}

#: What the models check beyond the shapes of their members: of these, exactly one stands there.
_ONE_OF: Final[dict[str, tuple[str, ...]]] = {
    "BudgetModel": ("calls", "cost"),
    "CostModel": ("argument", "output"),
    "ForbidModel": ("tool", "tag"),
    "SequenceModel": ("before", "never_after", "at_most", "only_after_approval"),
    "WindowModel": ("fixed", "sliding"),
}


def json_schema() -> Schema:
    """The schema of a policy file. Imported files may leave out `name` and `agents`; a schema for them is this one without `required`."""
    made = PolicyModel.model_json_schema(by_alias=True, mode="validation")
    definitions = {name: _tidy(schema) for name, schema in made.pop("$defs").items()}
    for name, members in _ONE_OF.items():
        definitions[name]["oneOf"] = [{"required": [member]} for member in members]
    body = _tidy(made)
    body["properties"]["agentguard"] = {"const": 1}
    definitions |= {
        "clause": _rule({name: _VALUES[name] for name in KEYS if name != "optional"}),
        "rule": _rule({**{name: _VALUES[name] for name in KEYS if name != "optional"}, "optional": {"type": "boolean"}}),
    }
    return {"$schema": DIALECT, "title": _TITLE, **body, "$defs": dict(sorted(definitions.items()))}


def _rule(keys: Mapping[str, Schema]) -> Schema:
    """`any`; an object of short forms; or the form that artifacts carry and canonical policies are written in."""
    return {
        "anyOf": [
            {"const": "any"},
            {"type": "object", "properties": dict(sorted(keys.items())), "minProperties": 1, "additionalProperties": False},
            {"type": "object", "properties": {"constraint_type": _TEXT}, "required": ["constraint_type"]},
        ]
    }


def _tidy(schema: Any) -> Any:
    """What pydantic makes, in the dialect that editors read: rules by reference, no names of Python classes, and no other keys beside names
    that have a pattern."""
    if type(schema) is list:
        return [_tidy(item) for item in schema]
    if type(schema) is not dict:
        return schema
    if schema.get("format") == "rule":
        return {"$ref": "#/$defs/rule"}
    tidy = {name: _tidy(value) for name, value in schema.items() if not (name == "title" and type(value) is str)}
    if type(tidy.get("pattern")) is str:
        tidy["pattern"] = tidy["pattern"].replace(r"\z", "$")  # `\z` is Rust's; in a schema, `$` matches at the very end only
    if "patternProperties" in tidy:
        tidy["patternProperties"] = {pattern.replace(r"\z", "$"): value for pattern, value in tidy["patternProperties"].items()}
        tidy["additionalProperties"] = False
    return tidy
