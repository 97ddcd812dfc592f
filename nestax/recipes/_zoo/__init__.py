"""How the trained optimizers that come with the package are made, each from one seed, with its card."""

from ._entries import ENTRIES as ENTRIES, GAME_ENTRIES as GAME_ENTRIES, SHIPPED as SHIPPED, STRONGER as STRONGER
from ._entry import AbstractEntry as AbstractEntry, steps_of as steps_of
from ._games import GAMES as GAMES, GameEntry as GameEntry
from ._make import make_pretrained as make_pretrained
from ._minimization import FAMILIES as FAMILIES, Entry as Entry, Phase as Phase
