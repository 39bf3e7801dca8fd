"""Options of the commands here: an invalid one gives a sentence with the nearest name and exit status 2."""

import argparse

from harness.errors import UserError, unknown


class Parser(argparse.ArgumentParser):
    """The options of a command, ``--name=value``; the kind of one raises UserError for a wrong value."""

    def __init__(self, command, text):
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(command, description=text, formatter_class=raw, allow_abbrev=False)

    def option(self, name, default, text, kind=str):
        self.add_argument(name, default=default, help=f"{text} (default: {default or 'all'})", type=kind)

    def parse_args(self, arguments=None):
        try:
            options, rest = self.parse_known_args(arguments)
            for argument in rest:
                names = [f"--{name.replace('_', '-')}" for name in vars(options)]
                raise unknown("argument", argument.partition("=")[0], names)
        except UserError as error:
            self.exit(2, f"Error: {error}\n")
        return options

    def error(self, message):
        raise UserError(f"{message[0].upper()}{message[1:]}.")


def name_of(kind, allowed):
    """Return the kind of an option that is one of these names."""

    def parse(name):
        if name not in allowed:
            raise unknown(kind, name, allowed)
        return name

    return parse


def names_of(kind, allowed):
    """Return the kind of an option that is a list of these names."""
    return lambda text: tuple(map(name_of(kind, allowed), text.replace(" ", "").split(",")))


def positive(text):
    """Parse a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"A count must be a whole number of at least 1, got {text!r}.")
    return int(text)
