"""Questions to a log: the index over it, queries, and lineage (DESIGN §8)."""
