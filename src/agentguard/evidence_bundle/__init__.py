"""Evidence bundles: one file about one execution, which a stranger can check (DESIGN §8)."""
