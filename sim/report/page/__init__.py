"""One self-contained HTML page of a run or a sweep: no server, no request to anywhere, opened from a file.

Read: schedules (who looks at which runs), run (what a page of a replay shows), shell (one file of many parts). The
parts are plain modules, styles and HTML beside these files; the palette and the frame are those of the server's page.
"""

from sim.report.page.run import write_report, write_schedules
from sim.report.page.schedules import Schedules

__all__ = ["Schedules", "write_report", "write_schedules"]
