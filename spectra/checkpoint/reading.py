"""How a checkpoint is to be read: which weights of the file, under which names, and whether its code may run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """What the options of these names ask for.

    Attributes:
        key: where the weights lie in the file, as ``ema_state_dict`` or, inside of dictionaries, ``state.model``; the
            rest of it may be what names begin with, so that ``state_dict.encoder`` takes the weights of the encoder
            alone. None takes the only weights that there are.
        strip_prefix: what all names begin with and lose, such as ``model.``; empty leaves the names of Lightning's
            files as they are; None takes off what is sure to be a wrapper's.
        trust_pickle: whether the file's pickled code may run where its weights cannot be had otherwise.

    >>> ReadingOptions(key="ema").key
    'ema'
    """

    key: str | None = None
    strip_prefix: str | None = None
    trust_pickle: bool = False
