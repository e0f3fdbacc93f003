"""Picture: a matplotlib figure that a notebook shows, whether pyplot is loaded there or not."""

from io import BytesIO

from matplotlib.figure import Figure

DPI = 144
"""Of what a notebook shows; a file that is written has that of sim.report.style."""


class Picture(Figure):
    """A Figure like any other; pyplot, which keeps every figure in a global list, knows nothing of it."""

    def __repr__(self) -> str:
        titles = [axes.get_xlabel() for axes in self.axes if axes.get_xlabel()]
        width, height = self.get_size_inches()
        return f"<Picture of {', '.join(titles)}: {width:.1f} x {height:.1f} in; savefig(path) writes it>"

    def _repr_png_(self) -> bytes:
        """IPython's protocol."""
        found = BytesIO()
        self.savefig(found, format="png", dpi=DPI)
        return found.getvalue()
