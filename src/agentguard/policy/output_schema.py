"""The JSON Schema of an output, on jsonschema-rs: it reads no file and no network, and its regular expressions take linear time."""

from __future__ import annotations

from typing import Any, Final

from agentguard.canonical import freeze, thaw
from agentguard.constraints.values import shorten, show
from agentguard.errors import InvalidInput

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
#: The dialect, closed: a keyword that nobody knows would check nothing. (`$dynamicRef` leads the whole meta-schema back to this one.)
_STRICT: Final = {"$id": "urn:agentguard:schema", "$dynamicAnchor": "meta", "$ref": DIALECT, "unevaluatedProperties": False}
_PATTERN_MEMORY: Final = 1 << 20


class Schema:
    """A schema of draft 2020-12, closed and compiled. Formats are checked. Raises InvalidInput where it cannot be relied on."""

    def __init__(self, node: Any) -> None:
        if not isinstance(node, dict):
            raise InvalidInput(f"schema must be an object, found {show(node)}", hint="such as {type: object, required: [id]}")
        try:
            self.json = thaw(freeze(node))
        except InvalidInput as error:
            raise InvalidInput(f"schema: {error.message}", hint=error.hint) from None
        if self.json.get("$schema", DIALECT) != DIALECT:
            raise InvalidInput(f"schema.$schema must be {DIALECT}, found {show(self.json['$schema'])}")
        if "type" not in self.json:
            hint = "properties, required and the like hold of everything that is no object: say what the output is"
            raise InvalidInput("schema needs a type", hint=hint)
        self._validator = _compiled(self.json)

    def failure(self, value: Any) -> str:
        """Where in the schema a JSON value fails, such as `properties/id/type`; empty where it holds."""
        try:
            if self._validator.is_valid(value):
                return ""
            for error in self._validator.iter_errors(value):
                return "/".join([str(step) for step in error.schema_path])
        except (ValueError, UnicodeEncodeError):  # no JSON, after all
            pass
        return "type"


def _compiled(schema: dict[str, Any]) -> Any:
    try:
        import jsonschema_rs as engine
    except ImportError:
        hint = "pip install 'agentguard[schema]'"
        raise InvalidInput("schema needs the library jsonschema-rs, which is not installed", hint=hint) from None
    try:
        wrong = max(engine.Draft202012Validator(_STRICT, retriever=_refuse).iter_errors(schema), key=_depth, default=None)
        if wrong is not None:
            raise wrong
        return engine.Draft202012Validator(
            schema,
            pattern_options=engine.RegexOptions(size_limit=_PATTERN_MEMORY),  # without look-around, and linear
            validate_formats=True,
            ignore_unknown_formats=False,
            retriever=_refuse,
        )
    except ValueError as error:
        raise InvalidInput(f"schema{_place(getattr(error, 'instance_path', ()))} {_said(error)}") from None


def _refuse(uri: str) -> Any:
    raise ValueError("only references within the schema (#...) are followed")


def _depth(error: Any) -> int:
    """How far inside an error lies: around it everything is wrong too."""
    return len(error.instance_path)


def _place(path: Any) -> str:
    return "".join([f"[{step}]" if type(step) is int else f".{step}" for step in path])


def _said(error: Exception) -> str:
    return "is not one that can be checked: " + shorten(str(getattr(error, "message", "") or error).splitlines()[0], 160)
