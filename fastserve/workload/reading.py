"""Reading: what a reader took for what, for whoever is shown the trace."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reading:
    """Which columns were read as what, and what was assumed."""

    format: str
    """The project whose files have these columns; "" where none is known."""
    columns: dict[str, str]
    """Field -> column or columns, in the order arrival, prompt, output, others."""
    unit: str
    """Of the arrivals: s, ms, us, ns, date, or none where there is no such column."""
    why: str
    """How the unit is known."""
    epoch: str
    """Where time begins."""
    ignored: dict[str, str]
    """Column that is not used -> why not; "" where nothing here has such a field."""
    notes: list[str] = field(default_factory=list)
    """Sentences on rows: sorted, left out, not looked at."""

    def lines(self) -> list[str]:
        """For people: what was read, what was not, and a line for each note."""
        when = f"{self.unit}, {self.why}; {self.epoch}" if self.unit != "none" else ""
        read = [
            f"{name} = {column}" + (f" ({when})" if name == "arrival" else "") for name, column in self.columns.items()
        ]
        found = ["read " + ", ".join(read)]
        if self.ignored:
            ignored = [f"{name} ({why})" if why else name for name, why in self.ignored.items()]
            found.append("ignored " + ", ".join(ignored))
        return found + self.notes
