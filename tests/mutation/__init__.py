"""Mutation testing of the decision core: `make mutate` (docs/mutation.md)."""
