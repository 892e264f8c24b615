"""Pages for a reader: HTML that stands alone in one file."""

from edgecnn.report.bench_page import bench_page, write_bench_page
from edgecnn.report.page import analysis_page, check_place, write_page

__all__ = ["analysis_page", "bench_page", "check_place", "write_bench_page", "write_page"]
