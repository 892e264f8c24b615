"""Pages for a reader: HTML that stands alone in one file; and the picture of a comparison."""

from edgecnn.report.bench_page import bench_page, write_bench_page
from edgecnn.report.html import check_place
from edgecnn.report.page import analysis_page, write_page
from edgecnn.report.write import write_comparison

__all__ = ["analysis_page", "bench_page", "check_place", "write_bench_page", "write_comparison", "write_page"]
