"""Claims as tables for a terminal. Knows how they are written down, not how they are found."""

from rich.table import Table

from pieria.plan.claims import Claims


def tables(found: Claims) -> list[Table]:
    """Rates of every card by model, and each claim with what would have to be true."""
    rates = Table("model", "at", "card", "in", title="predicted, of one card", title_justify="left")
    for title in ("tokens/s", "for each PFLOP/s", "for each W"):
        rates.add_column(title, justify="right")
    rates.add_column("note")
    previous = None
    for rate in found.rates:
        scene = rate.model, rate.phase
        if previous not in (None, scene):
            rates.add_section()
        first = () if previous == scene else (rate.model, f"{rate.phase}: {rate.setting}")
        previous = scene
        bound = "" if rate.low is None else f" ({_number(rate.low)} to {_number(rate.high)})"
        rates.add_row(
            *(first or ("", "")),
            rate.device,
            rate.precision,
            _number(rate.tokens_per_second) + bound,
            _number(rate.per_petaflops),
            _number(rate.per_watt),
            rate.note,
        )
    made = [rates]
    for claim in found.claims:
        title = f"{claim.name}: said {claim.said:g} {claim.unit} ({claim.source})"
        table = Table("if", "predicted", "met", title=title, title_justify="left")
        table.add_row(claim.setting, _number(claim.predicted), "yes" if claim.met else "no")
        table.add_section()
        for one in claim.conditions:
            table.add_row(one.what, _number(one.predicted), "yes" if one.met else "no")
        made.append(table)
    return made


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
