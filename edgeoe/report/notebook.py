"""HTML of runs and validations for notebooks: a page in an iframe, without scripts or external files."""

from __future__ import annotations

from html import escape

from edgeoe.errors import EdgeoeError
from edgeoe.records.measurement import Validation
from edgeoe.report.html import read_report, report_page, validation_page
from edgeoe.run.directory import Run

__all__ = ["page_of_run", "page_of_validation"]


def page_of_run(run: Run) -> str | None:
    """The report of `run` as HTML for a notebook; None if the run is not finished or its files were changed."""
    try:
        return _frame(report_page(read_report(run)), height=640)
    except (EdgeoeError, ImportError, OSError):
        return None


def page_of_validation(validation: Validation) -> str | None:
    """Figures and verdict as HTML for a notebook; None if jinja2 is not installed."""
    try:
        return _frame(validation_page(validation), height=360)
    except ImportError:
        return None


def _frame(page: str, *, height: int) -> str:
    """`page` in an iframe of `height` pixels, which isolates its styles; the empty sandbox forbids scripts."""
    style = f"width: 100%; height: {height}px; border: 0"
    return f'<iframe sandbox="" style="{style}" srcdoc="{escape(page, quote=True)}"></iframe>'
