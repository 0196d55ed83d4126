"""Artifacts: signed grants, chains of them, proofs of possession, and what withdraws them (DESIGN §4)."""
