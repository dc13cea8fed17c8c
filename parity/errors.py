"""What goes wrong on the user's side of the harness.

ParityError
├── CaseError     a case, a trace or a command line that cannot be used (exit code 2)
├── WeightsError  weights that do not carry over one to one (a mismatch: exit code 1)
└── SideError     one side crashed while it computed (exit code 3)
"""


class ParityError(Exception):
    """Base of all errors that the harness reports."""


class CaseError(ParityError):
    """A case, a trace file or a command line that cannot be used."""


class WeightsError(ParityError):
    """Weights that the rules of a case do not carry over one to one."""


class SideError(ParityError):
    """The reference or the port raised while it computed."""
