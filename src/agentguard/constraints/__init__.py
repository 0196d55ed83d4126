"""Constraints on argument values: one vocabulary for artifacts, policies and environments (DESIGN §5)."""
