"""For tests: fixtures for those who use a guard, and the conformance suite for those who write an adapter. Needs pytest.

The fixtures `guard`, `guard_policy` and `assert_denied` come with the plugin, which pytest finds by itself:

    @pytest.mark.guard_policy("policies/support.yaml")
    def test_mail_stays_in_the_house(guard, assert_denied):
        send_email = guard.tool(mail.send_email)
        with guard.task("triage", initiator="user:alice"), assert_denied("argument_not_allowed"):
            send_email(to="eve@evil.test", subject="Hi", body="...")

An adapter's tests inherit `AdapterConformance` and say in three methods how their framework runs tools.
"""

import pytest

# Before they are imported, so that their asserts say what was compared.
pytest.register_assert_rewrite("agentguard.testing.cases", "agentguard.testing.conformance", "agentguard.testing.evidence")

from agentguard.testing.conformance import AdapterConformance  # noqa: E402
from agentguard.testing.evidence import assert_denied, checked, denied_in, records  # noqa: E402
from agentguard.testing.scene import ASYNC, MODES, Call, Mode, Reply, Scene  # noqa: E402

__all__ = ["ASYNC", "MODES", "AdapterConformance", "Call", "Mode", "Reply", "Scene", "assert_denied", "checked", "denied_in", "records"]
