from .model import load_tokenizer as load_tokenizer
from .text import tokenised as tokenised
