"""A second, independent evaluator of agentguard's decision, for differential tests.

Written from DESIGN.md, AAT.md, draft-niyikiza-oauth-attenuating-agent-tokens-02 and docs/policy*.md alone. It imports nothing from
``agentguard``; it is slow on purpose, and each file is one chapter:

==================  =====================================================================
``canon``           strict JSON, JCS (RFC 8785) and the admissibility of numbers
``keys``            base64url, Ed25519 keys and signatures, thumbprints
``lexical``         paths, URLs, e-mail addresses, globs, networks
``constraints``     well-formedness of a constraint, and does it accept a value
``outcome``         how a stage says no
``narrowing``       the draft's table of (parent, child) pairs and its key rules
``samples``         values worth trying against constraints
``regex_samples``   strings that a regular expression matches
``refute``          search for a call that a child admits and its parent does not
``tokens``          one token: header, claims, the profile's claim object
``chain``           a chain of tokens (draft steps 1 to 5)
``proof``           the proof-of-possession JWT (draft step 7)
``rules``           the policy language, version 1
``evaluator``       ``evaluate``: stages 0 to 10 in order
``written_out``     what an agent holds once groups and tags are written out
``wall_clock``      hours
``standing``        ``judge``: the policy's stages 10 and 12 and its budgets, after a history
``mint``            signing tokens for tests
``universe``        the small world that the strategies draw from
``chooser``         where choices come from
``plan``            what a case is made from
``recipe``          a chain written down before it is signed; the damage done to it
``faults``          what goes wrong in a case
``strategies``      ``cases()`` for hypothesis, ``seeded_case(seed)`` for long runs
``standing_strategies``  policies with standing rules, histories and calls
``corpus``          cases without chance: all damages, all pairs of constraints, all values
==================  =====================================================================
"""
