"""The state store: one atomic `admit`, and the revocations (DESIGN §9)."""
