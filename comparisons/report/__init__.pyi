from .page import FEW as FEW
from .page import report_page as report_page
from .page import write_report as write_report
from .words import summary_sentences as summary_sentences
