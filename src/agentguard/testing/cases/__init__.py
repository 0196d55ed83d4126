"""The cases of the conformance suite, by what they promise. `AdapterConformance` has them all."""
