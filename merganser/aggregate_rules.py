"""Which aggregates can be kept incrementally, and what is kept of them: the table ``RULES``, a row for each.

A rule rewrites a call where the result would depend on the order of rows; aggregates.py says how ties are broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rule:
    """How an aggregate is kept.

    - ``arguments``: how many it must have; those behind the first ``vary`` must be constants;
    - ``distinct``: with DISTINCT it is kept by its "values"; is the "same" as without; or None, is refused;
    - ``ordered``: it needs an ORDER BY inside; others may have none;
    - ``keep``: the SQL to keep in place of the call, or None for the call itself;
    - ``finish``: it is always kept by its values, and this finishes them.
    """

    arguments: int
    vary: int = 1
    optional: int = 0
    distinct: Literal["values", "same"] | None = None
    ordered: bool = False
    approximate: bool = False
    keep: Callable[[Parts], Spelling] | None = None
    finish: str | None = None


@dataclass(frozen=True)
class Parts:
    """A call's texts: arguments, ``(key, direction)`` of its ORDER BY, FILTER."""

    name: str
    arguments: tuple[str, ...]
    order: tuple[tuple[str, str], ...]
    condition: str | None

    def spell(self, name: str, arguments: Iterable[str], *, condition: str | None = None, order: str = "") -> str:
        """A call with this FILTER, and another condition with it."""
        both = " AND ".join(f"({each})" for each in (self.condition, condition) if each)
        inside = f"{', '.join(arguments)}{f' ORDER BY {order}' if order else ''}"
        return f"{name}({inside}){f' FILTER (WHERE {both})' if both else ''}"

    def total_order(self) -> tuple[tuple[str, str], ...]:
        """The ORDER BY, made total as far as results go: rows that are equal in it have equal values."""
        value = self.arguments[0]
        return self.order if any(key == value for key, _ in self.order) else (*self.order, (value, "ASC NULLS LAST"))


@dataclass(frozen=True)
class Spelling:
    """What is kept, and the same for batch SQL."""

    keep: str
    batch: str


def _sort_key(keys: Iterable[tuple[str, str]]) -> str:
    """One BLOB that sorts as the keys do; never NULL."""
    return f"create_sort_key({', '.join(f'{key}, {chr(39)}{direction}{chr(39)}' for key, direction in keys)})"


def _extreme(function: str, tie: str, of: str, *, nulls: bool = False) -> Callable[[Parts], Spelling]:
    """``arg_max(x, y)``, without regard to the order of rows: x takes part in what is compared.

    ``tie`` is how x sorts among equal y, ``of`` how y sorts; ``nulls`` whether rows without y take part.
    """

    def keep(parts: Parts) -> Spelling:
        x, y = parts.arguments
        key = _sort_key(((y, of), (x, tie)))
        text = parts.spell(function, (x, key), condition=None if nulls else f"{y} IS NOT NULL")
        return Spelling(text, text)

    return keep


def _place(function: str) -> Callable[[Parts], Spelling]:
    """``first(x ORDER BY t)`` as ``arg_min``: its state is one row, not all of them."""

    def keep(parts: Parts) -> Spelling:
        kept = parts.spell(function, (parts.arguments[0], _sort_key(parts.total_order())))
        return Spelling(kept, _listed(parts).batch)

    return keep


def _listed(parts: Parts) -> Spelling:
    order = ", ".join(f"{key} {direction}" for key, direction in parts.total_order())
    text = parts.spell(parts.name, parts.arguments, order=order)
    return Spelling(text, text)


def _mode(parts: Parts) -> Spelling:
    text = parts.spell("mode", parts.arguments, order=parts.arguments[0])
    return Spelling(text, text)


SUM = Rule(1, distinct="values")
SAME = Rule(1, distinct="same")
PAIR = Rule(2, vary=2)
QUANTILE = Rule(2, distinct="values")
SKETCH = Rule(2, approximate=True)
LIST = Rule(1, distinct="values", ordered=True, keep=_listed)
TEXT = Rule(1, optional=1, distinct="values", ordered=True, keep=_listed)
FIRST = Rule(1, distinct="same", ordered=True, keep=_place("arg_min_null"))
LAST = Rule(1, distinct="same", ordered=True, keep=_place("arg_max_null"))
ANY = Rule(1, distinct="same", ordered=True, keep=_place("arg_min"))
LARGEST = Rule(2, vary=2, keep=_extreme("arg_max", "ASC NULLS LAST", "ASC NULLS LAST"))
SMALLEST = Rule(2, vary=2, keep=_extreme("arg_min", "ASC NULLS LAST", "ASC NULLS LAST"))

MAP_OF_VALUES = (
    "map(list(value ORDER BY value) FILTER (WHERE value IS NOT NULL),"
    " list(n::UBIGINT ORDER BY value) FILTER (WHERE value IS NOT NULL))"
)
MOST_FREQUENT = "arg_min(value, create_sort_key(n, 'DESC NULLS LAST', value, 'ASC NULLS LAST'))"
# A lambda's parameter gives way to a column of its name where a dot follows, so these have names that no column has.
ENTROPY = (
    "coalesce(list_transform([{'l': list(n ORDER BY n) FILTER (WHERE value IS NOT NULL),"
    " 't': sum(n) FILTER (WHERE value IS NOT NULL)::DOUBLE}],"
    " lambda _of: list_sum(list_transform(_of.l, lambda _c: _c / _of.t * log2(_of.t / _c))))[1], 0)"
)

RULES: dict[str, Rule] = {
    "count_star": Rule(0),
    "count": SUM,
    "count_if": SUM,
    "countif": SUM,
    "sum": SUM,
    "avg": SUM,
    "mean": SUM,
    "fsum": SUM,
    "kahan_sum": SUM,
    "sumkahan": SUM,
    "favg": SUM,
    "product": SUM,
    "stddev": SUM,
    "stddev_pop": SUM,
    "stddev_samp": SUM,
    "variance": SUM,
    "var_pop": SUM,
    "var_samp": SUM,
    "sem": SUM,
    "skewness": SUM,
    "kurtosis": SUM,
    "kurtosis_pop": SUM,
    "median": SUM,
    "mad": SUM,
    "bit_xor": SUM,
    "min": SAME,
    "max": SAME,
    "bool_and": SAME,
    "bool_or": SAME,
    "bit_and": SAME,
    "bit_or": SAME,
    "quantile": QUANTILE,
    "quantile_cont": QUANTILE,
    "quantile_disc": QUANTILE,
    "approx_quantile": SKETCH,
    "approx_top_k": SKETCH,
    "approx_count_distinct": Rule(1),  # HyperLogLog: the same registers in whatever order
    "corr": PAIR,
    "covar_pop": PAIR,
    "covar_samp": PAIR,
    "regr_avgx": PAIR,
    "regr_avgy": PAIR,
    "regr_count": PAIR,
    "regr_intercept": PAIR,
    "regr_r2": PAIR,
    "regr_slope": PAIR,
    "regr_sxx": PAIR,
    "regr_sxy": PAIR,
    "regr_syy": PAIR,
    "arg_max": LARGEST,
    "argmax": LARGEST,
    "max_by": LARGEST,
    "arg_min": SMALLEST,
    "argmin": SMALLEST,
    "min_by": SMALLEST,
    # Where x may be NULL, a value is preferred to NULL among equal y.
    "arg_max_null": Rule(2, vary=2, keep=_extreme("arg_max_null", "ASC NULLS FIRST", "ASC NULLS LAST")),
    "arg_min_null": Rule(2, vary=2, keep=_extreme("arg_min_null", "ASC NULLS LAST", "ASC NULLS LAST")),
    "arg_max_nulls_last": Rule(
        2, vary=2, keep=_extreme("arg_max_null", "ASC NULLS FIRST", "ASC NULLS FIRST", nulls=True)
    ),
    "arg_min_nulls_last": Rule(
        2, vary=2, keep=_extreme("arg_min_null", "ASC NULLS LAST", "ASC NULLS LAST", nulls=True)
    ),
    "first": FIRST,
    "arbitrary": FIRST,
    "last": LAST,
    "any_value": ANY,
    "list": LIST,
    "array_agg": LIST,
    "string_agg": TEXT,
    "group_concat": TEXT,
    "listagg": TEXT,
    "histogram": Rule(1, finish=MAP_OF_VALUES),
    "mode": Rule(1, keep=_mode, finish=MOST_FREQUENT),
    "entropy": Rule(1, finish=ENTROPY),
}
"""One row for each aggregate that can be kept: those that tests/test_aggregates.py proves."""

INSTEAD: dict[str, str] = {
    "reservoir_quantile": "approx_quantile(x, 0.9), or quantile_cont(x, 0.9) for the exact one",
    "max": "list(x ORDER BY x DESC)[:n] for the n largest",
    "min": "list(x ORDER BY x)[:n] for the n smallest",
    "arg_max": "list(x ORDER BY y DESC)[:n]",
    "argmax": "list(x ORDER BY y DESC)[:n]",
    "max_by": "list(x ORDER BY y DESC)[:n]",
    "arg_max_nulls_last": "list(x ORDER BY y DESC)[:n]",
    "arg_min": "list(x ORDER BY y)[:n]",
    "argmin": "list(x ORDER BY y)[:n]",
    "min_by": "list(x ORDER BY y)[:n]",
    "arg_min_nulls_last": "list(x ORDER BY y)[:n]",
    "bitstring_agg": "list(DISTINCT x ORDER BY x)",
    "histogram": "histogram(x) without bins, or histogram(x // 10 * 10)",
    "histogram_exact": "histogram(x)",
    "lttb": "list((t, y) ORDER BY t), and thin it out when the view is read",
    "sum_no_overflow": "sum(x)",
    "decimal_average": "avg(x)",
    "quantile": "quantile(x, 0.5)",
    "quantile_disc": "quantile_disc(x, 0.5)",
}
"""What to use for an aggregate, or a number of arguments, that cannot be kept."""

MACROS: dict[str, str] = {
    "json_group_array": "to_json(list(x ORDER BY some_time))",
    "json_group_object": "to_json(map(list(k ORDER BY k), list(v ORDER BY k)))",
    "json_group_structure": "json_structure(to_json(list(x ORDER BY some_time)))",
    "variant_group_array": "list(x ORDER BY some_time)::VARIANT",
}
"""What to use for macros whose order nobody can say."""
