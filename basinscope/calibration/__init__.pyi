from .call import llc as llc
from .run import LlcRequest as LlcRequest
from .run import reserved_for_llc as reserved_for_llc
from .run import run_llc as run_llc
from .view import calibration_json as calibration_json
from .view import calibration_table as calibration_table
