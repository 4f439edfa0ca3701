"""Names for sandboxes that were given none: a word and an animal, as people of docker expect."""

from __future__ import annotations

import secrets
from collections.abc import Container

_WORDS = """
amber ample bold brave brisk calm clear clever crisp daring deft eager early easy fair fast fine firm fleet fond fresh
gentle glad golden grand happy hardy keen kind lively loyal lucid lucky mellow merry mild neat nimble noble open patient
plain plucky polite proud pure quick quiet ready rosy sharp silver smart snug solid spry steady still sunny sure swift
tidy tough true vivid warm wise witty zesty
"""
_ANIMALS = """
adder alpaca badger bat bear beaver bison boar bream camel carp cat civet cod colt crab crane crow deer dingo dove duck
eagle eel egret elk falcon ferret finch fox frog gecko goat goose grouse hare hawk hen heron hippo horse ibex ibis
jackal jay kite koala lark lemur lion llama lynx magpie marten mole moose moth mouse mule newt ocelot orca otter owl ox
panda perch pike pony puffin puma quail rabbit raven robin rook salmon seal shrew skunk sloth snail sole stoat stork
swan tapir teal tern tiger toad trout turtle vole walrus wasp weasel whale wolf wombat wren yak zebra
"""
_TRIES = 20


def new_name(taken: Container[str]) -> str:
    """A name that is not in `taken`; after some misses with digits at its end."""
    words, animals = _WORDS.split(), _ANIMALS.split()
    name = ""
    for _ in range(_TRIES):
        name = f"{secrets.choice(words)}_{secrets.choice(animals)}"
        if name not in taken:
            return name
    while True:
        numbered = f"{name}{secrets.randbelow(1_000_000)}"
        if numbered not in taken:
            return numbered
