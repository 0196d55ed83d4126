"""Which tests judge which module: those that are about it, and quick."""

from __future__ import annotations

from typing import Final

_WHOLE: Final = (
    "tests/unit/test_guard_codes.py",
    "tests/unit/test_policy_standing.py",
    "tests/unit/test_guard_approvals.py",
    "tests/unit/test_policies.py",
    "tests/attacks/test_policy.py",
    "tests/attacks/test_policy_standing.py",
    "tests/property/test_second_opinion.py::test_what_the_second_evaluator_denies_is_denied",
    "tests/property/test_policy_second.py::test_both_say_the_same",
    "tests/vectors/test_vectors.py",
)
_STANDING: Final = (
    "tests/unit/test_mutants_values.py",
    "tests/unit/test_standing_rules.py",
    "tests/unit/test_mutants_budgets.py",
    "tests/unit/test_mutants_sequences.py",
    "tests/unit/test_policy.py",
    "tests/unit/test_policy_errors.py",
    "tests/unit/test_analysis_cases.py",
)
_CHAIN: Final = (
    "tests/unit/test_chain.py",
    "tests/unit/test_mutants_chain.py",
    "tests/unit/test_mutants_values.py",
    "tests/unit/test_artifact.py",
    "tests/property/test_chain.py",
    "tests/attacks/test_tokens.py",
)
_RULES: Final = (
    "tests/unit/test_constraint.py",
    "tests/unit/test_constraint_map.py",
    "tests/unit/test_constraint_narrowing.py",
    "tests/unit/test_constraint_rules.py",
    "tests/attacks/test_constraints.py",
    "tests/property/test_narrowing.py",
)

JUDGES: Final[dict[str, tuple[str, ...]]] = {
    "decide": (
        *_WHOLE,
        "tests/unit/test_tasks.py",
        "tests/unit/test_bundle.py",
        "tests/unit/test_decide.py",
        "tests/unit/test_mutants_decide.py",
        "tests/unit/test_mutants_values.py",
        "tests/unit/test_approvals.py",
        "tests/unit/test_proof.py",
        "tests/attacks/test_approvals.py",
        "tests/attacks/test_bundles.py",
        "tests/attacks/test_guard_authority.py",
        "tests/attacks/test_guard_issuers.py",
        "tests/attacks/test_guard_paths.py",
        "tests/attacks/test_guard_tools.py",
        "tests/attacks/test_rule_shadow.py",
    ),
    "premises": ("tests/unit/test_decide.py", "tests/unit/test_mutants_values.py", "tests/unit/test_guard_codes.py"),
    "policy.forbid": (
        "tests/unit/test_mutants_forbid.py",
        "tests/unit/test_mutants_values.py",
        "tests/unit/test_standing_rules.py",
        "tests/unit/test_policy.py",
        "tests/attacks/test_policy.py",
        "tests/property/test_second_opinion.py::test_what_the_second_evaluator_denies_is_denied",
    ),
    "policy.standing": (*_WHOLE, *_STANDING),
    "policy.sequences": (*_WHOLE, *_STANDING),
    "policy.budgets": (*_WHOLE, *_STANDING),
    "admission": (*_WHOLE, *_STANDING, "tests/unit/test_state.py", "tests/attacks/test_state.py"),
    "authority": (
        "tests/unit/test_mutants_authority.py",
        *_WHOLE,
        "tests/unit/test_tasks.py",
        "tests/attacks/test_guard_authority.py",
        "tests/attacks/test_guard_issuers.py",
        "tests/attacks/test_reload.py",
    ),
    "constraints.narrowing": (*_RULES, "tests/unit/test_mutants_narrowing.py", "tests/vectors/test_vectors.py"),
    "artifacts.chain": (
        *_CHAIN,
        "tests/unit/test_guard_codes.py",
        "tests/vectors/test_vectors.py",
        "tests/attacks/test_guard_authority.py",
    ),
    "constraints.rules": (*_RULES, "tests/unit/test_mutants_rules.py", "tests/unit/test_policy.py"),
}
