"""What documents say to type: the commands in their shell blocks."""

from __future__ import annotations

import re
import shlex
from argparse import Namespace
from importlib import import_module

from ghosttrain.cli.common import new_parser
from ghosttrain.cli.main import COMMANDS, parse

_SUM = re.compile(r"\$\(\([^)]*\)\)")
_VARIABLE = re.compile(r"\$\w+|\$\{\w+\}")
_ENDS = frozenset({"|", ">", ">>", "<", "&", "&&", ";", "done"})


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """The words of each `ghosttrain` in the shell blocks, up to a pipe or a redirection.

    A variable of the shell counts as 1, a sum as 2: what comes of `$day` and `$((day + 1))` in a
    loop over days.
    """
    found = []
    for block in blocks(text, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            filled = _VARIABLE.sub("1", _SUM.sub("2", line))
            lexer = shlex.shlex(filled, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words = list(lexer)
            for at, word in enumerate(words):
                if word == "ghosttrain" and (at == 0 or words[at - 1] in _ENDS | {"do"}):
                    rest = words[at + 1 :]
                    ends = [k for k, one in enumerate(rest) if one in _ENDS]
                    found.append(rest[: ends[0] if ends else None])
    return found


def parsed(words: list[str]) -> Namespace:
    """What the command's own parser makes of the words; a usage error is a SystemExit."""
    name = words[0]
    parser = new_parser(name, *COMMANDS[name])
    import_module(f"ghosttrain.cli.{name}").add_arguments(parser)
    args = parse(parser, words[1:])
    args.words = words[1:]
    return args
