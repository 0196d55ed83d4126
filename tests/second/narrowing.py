"""May this child stand under this parent? The draft's table of pairs and key rules (section 4.5), exactly.

They decide for plain chains. Between profile links the product may accept more, as long as it is sound: see ``refute``.
"""

from __future__ import annotations

from . import canon
from .constraints import Constraint, accepts, is_required, named, normalized


def subsumes(parent: Constraint, child: Constraint) -> bool:
    """One row of the table: does the parent subsume the child? ``optional`` is ignored."""
    above, below = parent["constraint_type"], child["constraint_type"]
    if above == "wildcard":
        return True
    if below == "exact" and above in ("range", "one_of"):
        return accepts(parent, child["value"])
    if above != below:
        return False
    if above == "exact":
        return canon.same(parent["value"], child["value"])
    if above == "range":
        return _range_subsumes(parent, child)
    if above == "one_of":
        return canon.keys(child["values"]) <= canon.keys(parent["values"])
    if above == "not_one_of":
        return canon.keys(child["excluded"]) >= canon.keys(parent["excluded"])
    if above == "contains":
        return canon.keys(child["required"]) >= canon.keys(parent["required"])
    if above == "subset":
        return canon.keys(child["allowed"]) <= canon.keys(parent["allowed"])
    if above == "all":
        return all(any(subsumes(p, c) for c in child["constraints"]) for p in parent["constraints"])
    if above == "any":
        return all(any(subsumes(p, c) for p in parent["constraints"]) for c in child["constraints"])
    return False


def _range_subsumes(parent: Constraint, child: Constraint) -> bool:
    for bound, sign in (("min", 1), ("max", -1)):
        if bound not in parent:
            continue
        if bound not in child:
            return False
        above, below = sign * float(parent[bound]), sign * float(child[bound])
        flag = f"{bound}_inclusive"
        if below < above:
            return False
        if below == above and child.get(flag, True) and not parent.get(flag, True):
            return False
    return True


def map_problem(parent: dict[str, Constraint], child: dict[str, Constraint]) -> str | None:
    """Draft steps 4p2, 4p3 and 4p4 for one tool's maps: what is wrong, or ``None``."""
    parent, child = normalized(parent), normalized(child)
    above, below = named(parent), named(child)
    if "*" in child and "*" not in parent:
        return '4p2 adds "*"'
    for name in below:
        if name not in above and "*" not in parent:
            return f"4p2 adds {name}"
    for name, constraint in above.items():
        if name not in below and (is_required(constraint) or "*" in child):
            return f"4p2 omits {name}"
        if name in below and is_required(constraint) and not is_required(below[name]):
            return f"4p3 {name} becomes optional"
    for name, constraint in below.items():
        if not subsumes(above.get(name, parent.get("*", constraint)), constraint):
            return f"4p4 {name} is wider"
    return None
