"""Conditions over several arguments as formulas of z3.

Each argument is a value of its own (`symbolic.Value`), there or not, and the members of objects that conditions ask about are values, too.
A condition becomes two formulas: that it holds, and that it does not, without an error. What neither of them says is an error. Where the
translation is not exact it admits more than there is, both for a condition that shall hold and for one that shall not:

- a text stands for all texts whose characters are of the same classes, so two that differ may be the same text of z3;
- whether two arrays or objects are equal, and whether an array holds something that is no constant, is a free choice within bounds;
- a number is any real, and not only one that a double carries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

from agentguard.analysis.formulas import ANYTHING, Both, Formula, leaves
from agentguard.analysis.symbolic import (
    ARRAY,
    BOOLEAN,
    NULL,
    NUMBER,
    OBJECT,
    STRING,
    Language,
    Unsupported,
    Value,
    constants_of,
    elements_of,
    real,
)
from agentguard.canonical import Frozen
from agentguard.constraints.values import ARRAYS, OBJECTS, key
from agentguard.constraints.vocabulary import AllOf, Exact, OneOf
from agentguard.policy.condition_tree import (
    Among,
    Compare,
    Every,
    Has,
    Items,
    Literal,
    Name,
    Negative,
    Node,
    Not,
    Part,
    Product,
    Size,
    Some,
    Sum,
    Term,
    Test,
    Truth,
    parts,
    write,
)

Path: TypeAlias = tuple[str, ...]


@dataclass(slots=True)
class Place:
    """Where a name leads: whether something is there, and what."""

    path: Path
    present: Any
    value: Value
    members: dict[str, Place] = field(default_factory=dict)


#: That a test holds, and that it fails without an error; or the answer of a comparison, and that it is no error.
_Two: TypeAlias = tuple[Any, Any]


def plain(constant: Literal | Items) -> Frozen:
    """A constant as JSON has it."""
    if isinstance(constant, Items):
        return tuple(map(plain, constant.items))
    return float(constant.value) if isinstance(constant.value, Decimal) else constant.value


class Translation:
    """The conditions of one question. `formulas` are the constraints of the arguments that they ask about."""

    def __init__(self, z3: Any, formulas: Mapping[str, Formula], tests: Iterable[Test]) -> None:
        self.z3 = z3
        self._formulas = formulas
        self._constants: dict[Path, list[Frozen]] = {}
        self._elements: dict[Path, list[Frozen]] = {}
        texts: list[Frozen] = []
        for formula in formulas.values():
            for leaf in leaves(formula):
                texts += elements_of(leaf)
                texts += [item for constant in constants_of(leaf) if type(constant) in ARRAYS for item in constant]
        for test in tests:
            self._collect(test, texts)
        self._language = Language(z3, [ANYTHING, *formulas.values()], texts)
        self._facts: list[Any] = []
        self._tests: dict[str, _Two] = {}
        self._equal: dict[tuple[Path, Path], Any] = {}
        self._inside: list[tuple[Any, Path, Path]] = []
        self._held: list[tuple[Any, Path | None, Path]] = []
        self.places: dict[Path, Place] = {}
        for name in formulas:
            self.place((name,))

    def facts(self) -> list[Any]:
        """What is so whatever is asked. To be called when all has been translated."""
        return [*self._facts, *self._counts(), *(fact for place in self.places.values() for fact in place.value.facts)]

    def _collect(self, node: Node, texts: list[Frozen]) -> None:
        """What names are compared with: z3 is told of it before it is told of them."""
        pairs: tuple[tuple[Node, Node], ...] = ()
        if isinstance(node, Compare):
            pairs = ((node.left, node.right), (node.right, node.left))
        elif isinstance(node, Among):
            pairs = tuple((node.item, each) for each in node.of.items) if isinstance(node.of, Items) else ()
            if isinstance(node.item, Literal) and isinstance(node.of, Name):
                self._elements.setdefault(node.of.path, []).append(plain(node.item))
        for name, constant in pairs:
            if isinstance(name, Name) and isinstance(constant, Literal | Items):
                self._constants.setdefault(name.path, []).append(plain(constant))
        if isinstance(node, Literal) and type(node.value) is str:
            texts.append(node.value)
        for part in parts(node):
            self._collect(part, texts)

    def place(self, path: Path) -> Place:
        """Where a name leads."""
        place = self.places.get(path)
        if place is None:
            formula = self._formulas.get(path[0], ANYTHING) if len(path) == 1 else ANYTHING
            name = f"argument {len(self.places)}"
            value = Value(self.z3, self._language, formula, name, self._constants.get(path, ()), self._elements.get(path, ()))
            place = self.places[path] = Place(path, self.z3.Bool(f"{name} is there"), value)
            if len(path) > 1:
                parent = self.place(path[:-1])
                if any(type(constant) in OBJECTS for _, constant in parent.value.wholes.values()):
                    raise Unsupported(f"members of {'.'.join(path[:-1])}, which is compared with objects, are not translated")
                parent.members[path[-1]] = place
                self._facts.append(self.z3.Implies(place.present, self._is_object(parent)))
        return place

    def _is_object(self, place: Place) -> Any:
        return self.z3.And(place.present, place.value.kind == OBJECT)

    def _counts(self) -> Iterator[Any]:
        z3 = self.z3
        for place in self.places.values():
            if place.value.size is not None and place.members:
                count = z3.Sum(*(z3.If(member.present, 1, 0) for member in place.members.values()))
                yield z3.Implies(place.value.kind == OBJECT, place.value.size >= count)

    # --- conditions -----------------------------------------------------------------------------------------------------------------

    def test(self, test: Test) -> _Two:
        """That it holds, and that it fails without an error. What stands twice is one question, also where its answer is free."""
        text = write(test)
        if text not in self._tests:
            self._tests[text] = self._test(test)
        return self._tests[text]

    def _test(self, test: Test) -> _Two:
        z3 = self.z3
        if isinstance(test, Every | Some):
            return self._joined(test)
        if isinstance(test, Not):
            holding, failing = self.test(test.part)
            return failing, holding
        if isinstance(test, Has):
            return self.place(test.name.path).present, self._missing(test.name.path)
        if isinstance(test, Truth):
            place = self.place(test.name.path)
            boolean = z3.And(place.present, place.value.kind == BOOLEAN)
            return z3.And(boolean, place.value.truth), z3.And(boolean, z3.Not(place.value.truth))
        if isinstance(test, Compare):
            so, known = self._compare(test)
        elif isinstance(test, Among):
            so, known = self._among(test)
        else:
            so, known = self._part(test)
        return z3.And(known, so), z3.And(known, z3.Not(so))

    def _joined(self, test: Every | Some) -> _Two:
        """From left to right: what follows counts only where what stands before leaves the answer open."""
        z3 = self.z3
        pairs = [self.test(part) for part in test.parts]
        if isinstance(test, Some):
            pairs = [(failing, holding) for holding, failing in pairs]
        all_so = z3.And(*(so for so, _ in pairs))
        one_not = pairs[-1][1]
        for so, other in reversed(pairs[:-1]):
            one_not = z3.Or(other, z3.And(so, one_not))
        return (one_not, all_so) if isinstance(test, Some) else (all_so, one_not)

    def _missing(self, path: Path) -> Any:
        z3 = self.z3
        absent = z3.Not(self.place(path).present)
        if len(path) == 1:
            return absent
        return z3.Or(self._missing(path[:-1]), z3.And(self._is_object(self.place(path[:-1])), absent))

    def _compare(self, test: Compare) -> _Two:
        """The answer, and that it is no error."""
        if test.operator in ("==", "!="):
            same, known = self._same(test.left, test.right)
            return (same if test.operator == "==" else self.z3.Not(same)), known
        (left, one), (right, other) = self._number(test.left), self._number(test.right)
        so = {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[test.operator]
        return so, self.z3.And(one, other)

    def _same(self, left: Term, right: Term) -> _Two:
        z3 = self.z3
        if not isinstance(left, Name) and isinstance(right, Name):
            left, right = right, left
        if isinstance(left, Name):
            place = self.place(left.path)
            if isinstance(right, Name):
                other = self.place(right.path)
                return self._equal_places(place, other), z3.And(place.present, other.present)
            if isinstance(right, Literal | Items):
                return place.value.equals(plain(right)), place.present
            number, known = self._number(right)
            return z3.And(place.value.kind == NUMBER, place.value.number == number), z3.And(place.present, known)
        (one, first), (two, second) = self._number(left), self._number(right)
        return one == two, z3.And(first, second)

    def _equal_places(self, one: Place, two: Place) -> Any:
        """Whether two values are equal: exact for scalars, but that texts may differ in what z3 does not see."""
        z3 = self.z3
        one, two = sorted((one, two), key=lambda place: place.path)
        pair = (one.path, two.path)
        if pair in self._equal:
            return self._equal[pair]
        same = self._equal[pair] = z3.Bool(f"equal {len(self._equal)}")
        v, w = one.value, two.value
        scalar = {
            NULL: z3.BoolVal(True),
            BOOLEAN: v.truth == w.truth,
            NUMBER: v.number == w.number,
        }
        for kind, equal in scalar.items():
            self._facts.append(z3.Implies(z3.And(v.kind == kind, w.kind == kind), same == equal))
        self._facts += [
            z3.Implies(same, v.kind == w.kind),
            z3.Implies(z3.And(same, v.kind == STRING), v.text == w.text),
            z3.Implies(z3.And(z3.Not(same), v.kind == STRING, w.kind == STRING), z3.Or(v.text != w.text, self._varied(v.text))),
            z3.Implies(z3.And(same, z3.Or(v.kind == ARRAY, v.kind == OBJECT)), v.sized() == w.sized()),
        ]
        empty = z3.And(v.kind == ARRAY, w.kind == ARRAY, v.sized() == 0, w.sized() == 0)
        self._facts.append(z3.Implies(empty, same))
        for constant in v.wholes.keys() & w.wholes.keys():
            first, second = v.wholes[constant][0], w.wholes[constant][0]
            self._facts += [z3.Implies(same, first == second), z3.Implies(z3.And(first, second), same)]
        for item in v.members.keys() & w.members.keys():
            self._facts.append(z3.Implies(z3.And(same, v.kind == ARRAY), v.members[item][0] == w.members[item][0]))
        return same

    def _varied(self, text: Any) -> Any:
        return self.z3.InRe(text, self._language.alphabet.varied())

    def _among(self, test: Among) -> _Two:
        z3 = self.z3
        if isinstance(test.of, Items):
            if isinstance(test.item, Name):
                place = self.place(test.item.path)
                return z3.Or(*(place.value.equals(plain(each)) for each in test.of.items)), place.present
            number, known = self._number(test.item)
            wanted = [each.value for each in test.of.items if type(each.value) in (int, Decimal)]
            return z3.Or(*(number == real(z3, each) for each in wanted)), known  # type: ignore[arg-type]  # numbers
        of = self.place(test.of.path)
        array = z3.And(of.present, of.value.kind == ARRAY)
        if isinstance(test.item, Literal):
            return of.value.members[key(plain(test.item))][0], array
        if isinstance(test.item, Name):
            place = self.place(test.item.path)
            known = place.present
            equal = [(place.value.equals(item), mark) for mark, item in self._scalars(of.value)]
            scalar = z3.And(place.value.kind != ARRAY, place.value.kind != OBJECT)
        else:
            number, known = self._number(test.item)
            equal = [(number == real(z3, item), mark) for mark, item in self._scalars(of.value) if type(item) in (int, float)]
            scalar = z3.BoolVal(True)
        held = z3.Bool(f"held {len(self._held)}")
        self._held.append((held, test.item.path if isinstance(test.item, Name) else None, of.path))
        self._facts += [z3.Implies(so, held == mark) for so, mark in equal]
        self._facts.append(z3.Implies(z3.And(held, scalar, array, *(z3.Not(so) for so, _ in equal)), of.value.other))
        return held, z3.And(known, array)

    def _scalars(self, value: Value) -> list[tuple[Any, Frozen]]:
        return [(mark, item) for mark, item in value.members.values() if item is None or type(item) in (str, bool, int, float)]

    def _part(self, test: Part) -> _Two:
        z3 = self.z3
        texts, known = [], []
        for each in (test.text, test.part):
            if isinstance(each, Literal):
                texts.append(self._language.alphabet.literal(str(each.value)))
                continue
            place = self.place(each.path)
            texts.append(place.value.text)
            known.append(z3.And(place.present, place.value.kind == STRING))
        whole, part = texts
        if isinstance(test.part, Literal):
            return self._looks(test.function, whole, part), z3.And(*known)
        few = _few_texts(self._formulas.get(test.part.path[0], ANYTHING)) if len(test.part.path) == 1 else None
        if few is not None:
            literals = map(self._language.alphabet.literal, few)
            return z3.Or(*(z3.And(part == text, self._looks(test.function, whole, text)) for text in literals)), z3.And(*known)
        seen = {"starts_with": z3.PrefixOf(part, whole), "ends_with": z3.SuffixOf(part, whole), "contains": z3.Contains(whole, part)}
        free, so = z3.Bool(f"part {len(self._facts)}"), seen[test.function]
        self._facts += [z3.Implies(free, so), z3.Implies(z3.Not(free), z3.Or(z3.Not(so), self._varied(part)))]
        if isinstance(test.text, Name):
            self._inside.append((free, test.text.path, test.part.path))
        return free, z3.And(*known)

    def _looks(self, function: str, whole: Any, constant: Any) -> Any:
        """Whether a text begins with a constant, ends with it or holds it: as a regular language, which z3 decides best."""
        z3 = self.z3
        anything = z3.Star(z3.AllChar(z3.ReSort(z3.StringSort())))
        before = () if function == "starts_with" else (anything,)
        after = () if function == "ends_with" else (anything,)
        return z3.InRe(whole, z3.Concat(*before, z3.Re(constant), *after))

    # --- numbers --------------------------------------------------------------------------------------------------------------------

    def _number(self, term: Term) -> _Two:
        """The number, and that it is one."""
        z3 = self.z3
        if isinstance(term, Literal):
            return real(z3, term.value), z3.BoolVal(True)  # type: ignore[arg-type]  # a number: the parser looked
        if isinstance(term, Name):
            place = self.place(term.path)
            return place.value.number, z3.And(place.present, place.value.kind == NUMBER)
        if isinstance(term, Size):
            return self._size(self.place(term.of.path))
        if isinstance(term, Negative):
            number, known = self._number(term.of)
            return -number, known
        if isinstance(term, Product):
            pairs = [self._number(factor) for factor in term.factors]
            return z3.Product(*(number for number, _ in pairs)), z3.And(*(known for _, known in pairs))
        if not isinstance(term, Sum):
            raise Unsupported("a list is no number")
        total, known = self._number(term.first)
        for plus, part in term.rest:
            number, more = self._number(part)
            total, known = (total + number if plus else total - number), z3.And(known, more)
        return total, known

    def _size(self, place: Place) -> _Two:
        z3, value = self.z3, place.value
        composite = z3.Or(value.kind == ARRAY, value.kind == OBJECT)
        size = z3.ToReal(z3.If(value.kind == STRING, z3.Length(value.text), value.sized()))
        return size, z3.And(place.present, z3.Or(value.kind == STRING, composite))

    # --- for reading a model --------------------------------------------------------------------------------------------------------

    def equal(self) -> list[tuple[Any, Path, Path]]:
        """Pairs of places that are equal where the first member is so."""
        return [(same, one, two) for (one, two), same in self._equal.items()]

    def joined(self) -> list[tuple[Any, Path, Path]]:
        """Pairs of places whose texts share characters where the first member is so."""
        return [*self.equal(), *self._inside]

    def held(self, path: Path) -> list[tuple[Any, Path | None]]:
        """What an array holds beside constants, where the first member is so: what stands at a place, or a number."""
        return [(so, item) for so, item, of in self._held if of == path]


def _few_texts(formula: Formula) -> tuple[str, ...] | None:
    """The texts that a value may be, where a formula lists them."""
    if isinstance(formula, Exact | OneOf):
        values = (formula.value,) if isinstance(formula, Exact) else formula.values
        return tuple(value for value in values if type(value) is str)
    inner = formula.parts if isinstance(formula, Both) else formula.constraints if isinstance(formula, AllOf) else ()
    return next((found for part in inner if (found := _few_texts(part)) is not None), None)
