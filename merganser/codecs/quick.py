"""What of JSON need not be looked at as text: the types that DuckDB reads fastest, and where what they give is surely right.

DuckDB takes booleans for 0 and 1, and numbers with a fraction, or an exponent, as the nearest DOUBLE.
"""

from __future__ import annotations

from merganser.codecs.values import FLOATS, LARGE, SMALL, Rule, rule, short, usual

_NO_TRUTH = "CASE WHEN {} IN (0, 1) THEN NOT (contains(l, 'true') OR contains(l, 'false')) ELSE true END"


def quick(kind: str) -> Rule:
    """The rule of a type, for records ``l``. Its check is false where the value may be another than the one of ``values.rule``."""
    if kind in SMALL:
        return Rule(f"{{}}::{kind}", f"{{}} = trunc({{}}) AND {_NO_TRUTH}", "DOUBLE")
    if kind in LARGE:
        return Rule(f"{{}}::{kind}", f"{{}}::{kind}::VARCHAR = {{}}")
    if kind in FLOATS:
        return Rule("{}" if kind == "DOUBLE" else "{}::FLOAT", f"isfinite({{}}) AND {_NO_TRUTH}", "DOUBLE")
    if kind == "BOOLEAN":
        return Rule("{} = 'true'", "{} IN ('true', 'false')")
    if kind.startswith("TIMESTAMP") and not kind.endswith("]"):
        return Rule(rule(kind).value, usual(kind))
    if kind.startswith("DECIMAL(") and kind.endswith(")"):
        return Rule(f"{{}}::{kind}", short(kind))
    return rule(kind, json=True)
