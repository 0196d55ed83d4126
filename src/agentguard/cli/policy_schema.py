"""`agentguard policy schema`: the policy language as a JSON Schema, for editors."""

from __future__ import annotations

from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption
from agentguard.cli.terminal import print_json


def schema(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Print the JSON Schema of the policy language, so that an editor completes and marks while one writes.

    It knows shapes, not meanings: `agentguard policy check` says the rest. Many editors read a first line such as
    `# yaml-language-server: $schema=policy.schema.json` in the policy.

    Example: `agentguard policy schema > policy.schema.json`
    """
    from agentguard.policy.json_schema import json_schema

    print_json(json_schema())
