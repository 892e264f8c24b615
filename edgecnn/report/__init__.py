"""Pages for a reader: HTML that stands alone in one file."""

from edgecnn.report.page import analysis_page, check_place, write_page

__all__ = ["analysis_page", "check_place", "write_page"]
