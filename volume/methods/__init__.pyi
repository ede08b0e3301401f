from .bits_back import DescriptionLength as DescriptionLength
from .bits_back import description_length as description_length
from .choice import check_preconditioner as check_preconditioner
from .choice import choose_preconditioner as choose_preconditioner
from .determinants import determinant_results as determinant_results
from .mass_check import held_against_cost as held_against_cost
from .segment_method import segment_results as segment_results
from .sweep_sampling import sample_cutoffs as sample_cutoffs
