"""The command line of every program: help without "(default: None)", and mistakes that end in one line.
"""
import argparse
import difflib


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults behind the help texts, but not "(default: None)"."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """ValueError, which command.py prints, where argparse would print its whole usage and exit.

    text: what the program does, in its first line."""

    def __init__(self, text="", **settings):
        title = text.partition("\n")[0]
        super().__init__(description=title, allow_abbrev=False, formatter_class=Formatter, **settings)

    def error(self, message):
        raise ValueError(message)

    def parse_args(self, argv=None, namespace=None):
        args, unknown = self.parse_known_args(argv, namespace)
        if unknown:
            raise ValueError(self.refusal(unknown[0]))
        return args

    def refusal(self, word):
        """Why a word on the command line is none that the program knows."""
        flag = word.split("=")[0]
        if not flag.startswith("-"):
            return f"unrecognized arguments: {word}"
        close = difflib.get_close_matches(flag, self._option_string_actions, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"unrecognized arguments: {flag}{hint}"
