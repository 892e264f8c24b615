"""Pages for a reader: HTML that stands alone in one file; and the picture of a comparison."""

from edgecnn.report.bench_page import bench_page, write_bench_page
from edgecnn.report.bundle_page import bundle_page, write_report
from edgecnn.report.gather import Findings, ReportConfig, gather
from edgecnn.report.page import analysis_page, write_page
from edgecnn.report.write import write_comparison

__all__ = [
    "Findings",
    "ReportConfig",
    "analysis_page",
    "bench_page",
    "bundle_page",
    "gather",
    "write_bench_page",
    "write_comparison",
    "write_page",
    "write_report",
]
