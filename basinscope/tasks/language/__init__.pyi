from .model import load_tokenizer as load_tokenizer
from .text import Sequences as Sequences
from .text import joined as joined
from .text import packed as packed
from .text import read_text as read_text
from .text import tokenised as tokenised
