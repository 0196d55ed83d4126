"""From what was passed as an argument to the narrowest rule of the language that covers it, and to what may be said about that rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from agentguard.analysis.habits import MOST_COUNTED, Few, Habit, Steps, Texts
from agentguard.analysis.shapes import Shape, pattern_of
from agentguard.canonical import Frozen, Json, jcs, parse
from agentguard.constraints.matchers import MAX_PATTERN
from agentguard.constraints.rules import KEYS

#: Fewer calls than these say little, however alike they were.
FEW_CALLS: Final = 10
_SURE: Final = 0.05
_FAIRLY: Final = 0.2


@dataclass(frozen=True, slots=True)
class Proposal:
    """A rule, and why.

    rule      as a policy writes it
    calls     how many calls passed the argument
    optional  whether some calls left it out
    found     what was generalised, in words
    misses    the estimated share of further calls that the rule would refuse if they go on as these did: for listed values after Good and
              Turing, the values that came once among all calls; else by the rule of succession, which is the least that may be said
    wider     what to write instead where more values of this kind are meant; None where the rule is that already
    """

    rule: dict[str, Json]
    calls: int
    optional: bool
    found: str
    misses: float
    wider: dict[str, Json] | None

    @property
    def share(self) -> str:
        """`misses` as people say it."""
        return f"about {self.misses:.0%}" if self.misses >= 0.01 else "under 1%"

    @property
    def sure(self) -> str:
        """How sure it is, in words."""
        if self.calls < FEW_CALLS:
            return "few calls, so not sure"
        return "sure" if self.misses <= _SURE else "fairly sure" if self.misses <= _FAIRLY else "not sure"


@dataclass(frozen=True, slots=True)
class _Part:
    """The rule for the values of one JSON type. `news` is how many of them were seen that nothing before had let one expect."""

    rule: dict[str, Json]
    found: str
    news: int
    wider: dict[str, Json] | None = None


def propose(habit: Habit, calls: int) -> Proposal:
    """The rule for an argument that `habit` tells about, of a tool that was called `calls` times."""
    listed, once, parts = _listed(habit)
    if listed:
        single = len(listed) == 1 and type(listed[0]) is not dict  # `exact` takes no objects
        rule: dict[str, Json] = {"exact": listed[0]} if single else {"one_of": listed}
        found = "the one value that came" if len(listed) == 1 else f"the {len(listed)} values that came"
        parts.insert(0, _Part(rule, found, once, _wider(habit) if len(listed) > 1 else None))
    rule = parts[0].rule if len(parts) == 1 else {"any": [part.rule for part in parts]}
    misses = min(1.0, max(1, sum(part.news for part in parts)) / (habit.calls + 1))
    return Proposal(
        rule=rule,
        calls=habit.calls,
        optional=habit.calls < calls,
        found="; ".join(part.found for part in parts),
        misses=misses,
        wider=parts[0].wider if len(parts) == 1 and misses > _SURE else None,
    )


def _listed(habit: Habit) -> tuple[list[Json], int, list[_Part]]:
    """The values that can be named one by one, how many of them came once, and a part for each type where they cannot."""
    values: list[Frozen] = [None] if habit.kinds["null"] else []
    once = int(habit.kinds["null"] == 1)
    parts: list[_Part] = []
    for kind, few, other in (
        ("boolean", habit.booleans, None),
        ("number", habit.numbers, _number),
        ("string", habit.texts.few, _string),
        ("object", habit.objects, _object),
    ):
        if not habit.kinds[kind]:
            continue
        named = few.listed()
        if named is None and other is not None:
            parts.append(other(habit))
        else:
            values += named or []
            once += few.once()
    if habit.kinds["array"]:
        parts.append(_array(habit))
    return [_plain(value) for value in values], once, parts


def _wider(habit: Habit) -> dict[str, Json] | None:
    """The rule that would stand there if the values were too many to be listed, where all are of one type."""
    if habit.kinds["string"] == habit.calls:
        return _string(habit).rule
    return _number(habit).rule if habit.kinds["number"] == habit.calls else None


def _number(habit: Habit) -> _Part:
    bounds = {"min": _plain(habit.low), "max": _plain(habit.high)}
    return _Part({"range": bounds}, f"{_different(habit.numbers)} numbers, and all between them", 2)


def _object(habit: Habit) -> _Part:
    return _Part({"type": "object"}, f"WIDE: any object, {_different(habit.objects)} came and no rule looks into objects", 1)


def _array(habit: Habit) -> _Part:
    elements = habit.elements.listed()
    if elements is None:
        return _Part({"type": "array"}, "WIDE: any array, the elements that came are too many or too deep to be listed", 1)
    found = f"arrays of the {len(elements)} elements that came, in any order and number"
    return _Part({"subset": [_plain(element) for element in elements]}, found, habit.elements.once())


def _string(habit: Habit) -> _Part:
    texts = habit.texts
    for rule, what in (_paths(texts), _urls(texts), _emails(texts), _shaped(texts)):
        if rule is not None:
            return _Part(rule, f"{_different(texts.few)} {what}", 1)
    return _Part({"max_length": texts.longest}, f"WIDE: {_different(texts.few)} texts, so any text up to that length", 1)


def _paths(texts: Texts) -> tuple[dict[str, Json] | None, str]:
    if not texts.trees:
        return None, ""
    roots = [_joined(steps) for _, steps in sorted(texts.trees.items())]
    wide = "WIDE: " if "/" in roots else ""
    return _either([{"path": root} for root in roots]), f"{wide}paths, and all below {' or '.join(map(quoted, roots))}"


def _urls(texts: Texts) -> tuple[dict[str, Json] | None, str]:
    if not texts.sites:
        return None, ""
    rules: list[dict[str, Json]] = []
    for (scheme, port), (hosts, steps) in sorted(texts.sites.items(), key=lambda site: (site[0][0], site[0][1] or 0)):
        rule: dict[str, Json] = {"hosts": sorted(hosts)}
        if scheme != "https":
            rule["schemes"] = [scheme]
        if port is not None:
            rule["ports"] = [port]
        if steps:
            rule["path"] = _joined(steps)
        rules.append({"url": rule})
    return _either(rules), "URLs, and all others at these hosts and below these paths"


def _emails(texts: Texts) -> tuple[dict[str, Json] | None, str]:
    return ({"email": {"domains": sorted(texts.domains)}}, "addresses, and all others at these domains") if texts.domains else (None, "")


def _shaped(texts: Texts) -> tuple[dict[str, Json] | None, str]:
    for shape in (texts.fine, texts.coarse):
        pattern = _pattern(shape)
        if pattern:
            return {"regex": pattern}, "texts, and all others of their shape"
    return None, ""


def _pattern(shape: Shape | None) -> str:
    pattern = pattern_of(shape) if shape else ""
    return pattern if len(pattern) <= MAX_PATTERN else ""


def _plain(value: Frozen) -> Json:
    """The one form of a value: `1.0` is `1`, whichever came first."""
    return parse(jcs(value))


def _either(rules: list[dict[str, Json]]) -> dict[str, Json]:
    return rules[0] if len(rules) == 1 else {"any": rules}


def _joined(steps: Steps) -> str:
    return "/" + "/".join(steps)


def _different(few: Few) -> str:
    return f"{few.different} different" if few.different < MOST_COUNTED else f"{MOST_COUNTED} or more different"


# --- as text ------------------------------------------------------------------------------------------------------------------------------


def quoted(text: str) -> str:
    """A string as YAML writes it in double quotes, in printable ASCII only: nothing hides in it, and nothing ends it early."""
    return '"' + "".join(map(_sign, text)) + '"'


def _sign(sign: str) -> str:
    if sign in '"\\':
        return "\\" + sign
    if " " <= sign <= "~":
        return sign
    code = ord(sign)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def flow(value: Any) -> str:
    """A JSON value on one line, as `quoted` writes strings; the words of a rule stand without quotes."""
    if type(value) is str:
        return quoted(value)
    if type(value) is dict:
        return "{" + ", ".join(f"{name if name in _WORDS else quoted(name)}: {flow(item)}" for name, item in value.items()) + "}"
    if type(value) is list:
        return "[" + ", ".join(map(flow, value)) + "]"
    return jcs(value).decode()


#: The words of rules; none of them is anything but a string to YAML.
_WORDS: Final = frozenset({*KEYS, "min", "max", "min_inclusive", "max_inclusive", "hosts", "schemes", "ports", "domains", "tools"})
