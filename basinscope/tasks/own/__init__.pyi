from .choice import DATA_FORMS as DATA_FORMS
from .choice import LOSS_FORMS as LOSS_FORMS
from .choice import MODEL_FORMS as MODEL_FORMS
from .choice import chosen_task as chosen_task
from .choice import task_on as task_on
from .template import task_template as task_template
