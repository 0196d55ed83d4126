"""The shape of a policy file, version 1, and the errors of one that has another shape.

The models check shape only: names, lists, closed sets of keys. The rules of arguments and facts stay as they were read;
`agentguard.policy.model` hands them to the constraint language. What pydantic finds is said again in this project's words, with the place.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from agentguard.errors import InvalidInput
from agentguard.policy.file import Document, Steps

#: How many problems are looked into, and how many of them an error tells.
MAX_PROBLEMS: Final = 50
MAX_SHOWN: Final = 10

#: Agents, tools and facts: printable ASCII without spaces, because names compare as bytes (see `agentguard.call`).
Name = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,256}\z")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=256)]
#: What an argument or a fact must be: `agentguard.constraints.rules` reads it, `policy.json_schema` describes it.
Rule = Annotated[Any, WithJsonSchema({"format": "rule"})]
Rules = dict[str, Rule]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def _version(value: int) -> int:
    if value != 1:
        raise PydanticCustomError("version", "this release reads version 1 of the policy language")
    return value


def _wrap(form: type, key: str | None, written: Any) -> BeforeValidator:
    """A short form: a value of type `form` stands for a list of it, or for `{key: value}`. `written` is what people may write."""

    def unfold(value: Any) -> Any:
        return value if type(value) is not form else [value] if key is None else {key: value}

    return BeforeValidator(unfold, json_schema_input_type=written)


def _word(word: Any, written: Any) -> BeforeValidator:
    """A word that stands for `{}`."""
    return BeforeValidator(lambda value: {} if type(value) is type(word) and value == word else value, json_schema_input_type=written)


Names = Annotated[list[Name], Field(min_length=1), _wrap(str, None, Name | list[Name])]
Count = Annotated[int, Field(ge=1, le=2**53 - 1)]
Number = Annotated[Any, WithJsonSchema({"type": "number", "exclusiveMinimum": 0})]
Span = Annotated[
    Any, WithJsonSchema({"anyOf": [{"type": "string", "pattern": "^[1-9][0-9]{0,8}[smhd]?$"}, {"type": "integer", "minimum": 1}]})
]


class TargetModel(_Model):
    """Which tools a rule is about: by name, or all with a tag."""

    tool: Names | None = None
    tag: Name | None = None

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.tool is not None and self.tag is not None:
            raise PydanticCustomError("target", "a rule names tools or a tag, and not both")
        return self


Target = Annotated[TargetModel, _wrap(str, "tool", Name | list[Name] | TargetModel), _wrap(list, "tool", Name | list[Name] | TargetModel)]


class WindowModel(_Model):
    fixed: Span = None
    sliding: Span = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.fixed is None) == (self.sliding is None):
            raise PydanticCustomError("window", "a window is {fixed: 1d} or {sliding: 24h}")
        return self


class CostModel(_Model):
    argument: Text | None = None
    output: Text | None = None
    reserve: Number = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.argument is None) == (self.output is None) or (self.output is None) != (self.reserve is None):
            raise PydanticCustomError("cost", "a cost is the name of an argument, or {output: where it is, reserve: how much is set aside}")
        return self


class BudgetModel(TargetModel):
    calls: Count | None = None
    cost: Annotated[CostModel, _wrap(str, "argument", Text | CostModel)] | None = None
    limit: Number = None
    per: Literal["task", "agent", "initiator"]
    window: WindowModel | None = None

    @model_validator(mode="after")
    def _calls_or_cost(self) -> Self:
        if (self.calls is None) == (self.cost is None) or (self.cost is None) != (self.limit is None):
            raise PydanticCustomError("budget", "a budget is {calls: n, per: ...} or {cost: argument, limit: n, per: ...}")
        return self


class AskModel(_Model):
    """Who may approve. An empty one: anyone whom the home trusts as an approver."""

    by: Annotated[list[Text], Field(min_length=1), _wrap(str, None, Text | list[Text])] | None = None
    of: Annotated[int, Field(ge=1, le=64)] = 1
    expires: Span = "15m"
    initiator: Literal["accepted"] | None = None


class SequenceModel(TargetModel):
    before: Target | None = None
    never_after: Target | None = None
    at_most: Count | None = None
    only_after_approval: Annotated[AskModel, _word(True, Literal[True] | AskModel)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(one is not None for one in (self.before, self.never_after, self.at_most, self.only_after_approval)) != 1:
            raise PydanticCustomError("sequence", "a sequence rule says one of before, never_after, at_most and only_after_approval")
        if self.tool is None and self.tag is None:
            raise PydanticCustomError("sequence", "a sequence rule names a tool or a tag")
        return self


class ApprovalModel(AskModel, TargetModel):
    when: Text | None = None


class HoursModel(_Model):
    days: list[Text] | None = None
    start: Text | None = Field(default=None, alias="from")
    to: Text | None = None
    zone: Text
    tools: Names | None = None


class TrialModel(_Model):
    until: Text


class ShadowModel(TrialModel):
    tools: Names | None = None


class DelegateModel(_Model):
    depth: Annotated[int, Field(ge=1, le=16)] = 1


class GroupModel(_Model):
    """What several agents have in common."""

    tools: dict[Name, Rules] = {}
    tags: list[Name] = []
    delegates: dict[Name, DelegateModel] = {}
    groups: list[Name] = []
    where: dict[Name, list[str]] = {}
    hours: list[HoursModel] = []
    budgets: list[BudgetModel] = []
    sequence: list[SequenceModel] = []
    approval: list[ApprovalModel] = []


class AgentModel(GroupModel):
    unsafe_shadow: ShadowModel | None = None


class ForbidModel(_Model):
    tool: Name | None = None
    tag: Name | None = None
    agent: Name | None = None
    reason: Text | None = None
    unsafe_shadow: TrialModel | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> ForbidModel:
        if (self.tool is None) == (self.tag is None):
            raise PydanticCustomError("forbid", "a forbid rule names a tool or a tag, and not both")
        return self


class ToolModel(_Model):
    tags: list[Name] = []
    arguments: Rules | None = None
    approval: Annotated[AskModel, _word("required", Literal["required"] | AskModel)] | None = None
    output: dict[str, Any] | None = None
    rerun: Literal["safe"] | None = None
    proof: Literal["required"] | None = None
    opaque: Literal["accepted"] | None = None
    plain_chains: Literal["accepted"] | None = None
    unsafe_any_arguments: bool = False


class PolicyModel(_Model):
    agentguard: Annotated[int, AfterValidator(_version)]
    name: Text
    imports: list[str] = Field(default=[], alias="import")  # policy/imports.py reads it before, and merges what it names
    agents: dict[Name, AgentModel]
    groups: dict[Name, GroupModel] = {}
    forbid: list[ForbidModel] = []
    tools: dict[Name, ToolModel] = {}
    sequence: list[SequenceModel] = []
    environment: dict[Name, Rule] = {}


#: Which model stands where; None matches any name or index.
_MODELS: Final[tuple[tuple[tuple[str | None, ...], type[_Model]], ...]] = (
    ((), PolicyModel),
    (("agents", None), AgentModel),
    (("groups", None), GroupModel),
    (("groups", None, "delegates", None), DelegateModel),
    (("agents", None, "delegates", None), DelegateModel),
    (("forbid", None), ForbidModel),
    (("forbid", None, "unsafe_shadow"), TrialModel),
    (("tools", None), ToolModel),
    (("tools", None, "approval"), AskModel),
    (("sequence", None, "only_after_approval"), AskModel),
    (("sequence", None), SequenceModel),
    (("sequence", None, "before"), TargetModel),
    (("sequence", None, "never_after"), TargetModel),
    (("agents", None, "unsafe_shadow"), ShadowModel),
    *[
        ((kind, None, *path), model)
        for kind in ("agents", "groups")
        for path, model in (
            (("budgets", None), BudgetModel),
            (("budgets", None, "cost"), CostModel),
            (("budgets", None, "window"), WindowModel),
            (("sequence", None), SequenceModel),
            (("sequence", None, "before"), TargetModel),
            (("sequence", None, "never_after"), TargetModel),
            (("sequence", None, "only_after_approval"), AskModel),
            (("approval", None), ApprovalModel),
            (("hours", None), HoursModel),
        )
    ],
)

#: Words that the design has and this version does not enforce. A rule that does nothing must not look like one that does.
_NOT_BUILT: Final[dict[type[_Model], frozenset[str]]] = {
    ToolModel: frozenset({"labels"}),
}

_FOUND: Final[dict[type, str]] = {
    dict: "a mapping",
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    type(None): "nothing",
}
_EXPECTED: Final[dict[str, str]] = {
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "list_type": "a list",
    "int_type": "a whole number",
    "string_type": "a string",
    "bool_type": "true or false",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a document: where, what, and what may help."""

    path: Steps
    message: str
    hint: str | None = None
    at_key: bool = False

    def text(self, document: Document) -> str:
        where = path_text(document.at(self.path)[1])
        return f"{where}: {self.message}" if where else self.message


def path_text(path: Steps) -> str:
    """`agents.triage.tools.search.limit`; members of lists and names that hold more than letters, digits, `_`, `-` stand in brackets."""
    text = ""
    for step in path:
        if type(step) is int:
            text += f"[{step}]"
        elif str(step).replace("_", "").replace("-", "").isalnum():
            text += f".{step}" if text else str(step)
        else:
            text += f"[{step!r}]"
    return text


def suggestion(word: str, known: Iterable[str]) -> str:
    """`did you mean 'range'?`, or the list of what there is."""
    names = sorted(known)[:200]
    near = difflib.get_close_matches(word[:64], names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known here: {', '.join(names)}"[:200] if names else "nothing is known here"


def refuse(document: Document, problems: Sequence[Problem], uncounted: int = 0) -> InvalidInput:
    """One error for all problems, in the order of the document; the first gives the place, the others follow with theirs.

    `uncounted` problems are only said to exist.
    """
    ordered = sorted(problems, key=lambda problem: document.rank(problem.path, key=problem.at_key))
    first, rest = ordered[0], ordered[1:]
    hint = first.hint
    if rest:
        lines = [f"{document.place(other.path, key=other.at_key)}: {other.text(document)}" for other in rest[: MAX_SHOWN - 1]]
        left = len(rest) - len(lines) + uncounted
        more = f"; and {left} more" if left else ""
        hint = (f"{hint}; " if hint else "") + "also " + "; ".join(lines) + more
    return InvalidInput(first.text(document), place=document.place(first.path, key=first.at_key), hint=hint)


def validate(document: Document) -> PolicyModel:
    """The document as a `PolicyModel`. Raises InvalidInput that lists what is wrong, each with its place."""
    try:
        return PolicyModel.model_validate(document.value)
    except ValidationError as error:
        details = error.errors(include_url=False)[:MAX_PROBLEMS]
        raise refuse(document, [_problem(each) for each in details], error.error_count() - len(details)) from None


def _problem(details: ErrorDetails) -> Problem:
    path, kind, found = details["loc"], details["type"], details["input"]
    context = details.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if path and path[-1] == "[key]":
        path = path[:-1]
        return Problem(path, "a name is 1 to 256 printable ASCII characters without spaces", at_key=True)
    if kind in ("forbid", "target", "window", "cost", "budget", "sequence"):
        return Problem(path, details["msg"])
    if kind == "missing":
        return Problem(path[:-1], f"the key {path[-1]!r} is missing")
    if kind == "string_pattern_mismatch":
        return Problem(path, f"a name is 1 to 256 printable ASCII characters without spaces, found {found!r:.80}")
    if kind == "literal_error":
        return Problem(path, f"must be {context['expected']}, found {_found(found)}")
    if kind in _EXPECTED:
        return Problem(
            path, f"expected {_EXPECTED[kind]}, found {_found(found)}", "an empty mapping is written {}" if found is None else None
        )
    if kind == "too_short":
        return Problem(path, "must have at least one entry, found none")
    if kind == "greater_than_equal":
        return Problem(path, f"must be at least {context['ge']}, found {_found(found)}")
    if kind == "less_than_equal":
        return Problem(path, f"must be at most {context['le']}, found {_found(found)}")
    return Problem(path, f"{details['msg'][:1].lower() + details['msg'][1:]}, found {_found(found)}")


def _found(value: Any) -> str:
    if type(value) is dict or type(value) is list or value is None:
        return _FOUND[type(value)]
    return f"{value!r:.60}" if type(value) is not bool else str(value).lower()


def _unknown_key(path: Steps) -> Problem:
    model = next(model for shape, model in _MODELS if _fits(path[:-1], shape))
    key = str(path[-1])
    if key in _NOT_BUILT.get(model, ()):
        return Problem(path, f"{key!r} is not supported yet in this version, so nothing would enforce it", "take it out", at_key=True)
    known = [field.alias or name for name, field in model.model_fields.items()]
    return Problem(path, f"unknown key {key!r:.80}", suggestion(key, known), at_key=True)


def _fits(path: Steps, shape: tuple[str | None, ...]) -> bool:
    return len(path) == len(shape) and all(want is None or want == step for step, want in zip(path, shape, strict=True))
