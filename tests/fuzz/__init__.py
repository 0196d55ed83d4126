"""Fuzzing of the four readers that take bytes from outside; `make fuzz` runs it with atheris, `test_corpus.py` without."""
