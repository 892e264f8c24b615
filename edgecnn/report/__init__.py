"""Pages for a reader: HTML that stands alone in one file; and the picture of a comparison."""

from edgecnn.report.html import check_place
from edgecnn.report.page import analysis_page, write_page
from edgecnn.report.write import write_comparison

__all__ = ["analysis_page", "check_place", "write_comparison", "write_page"]
