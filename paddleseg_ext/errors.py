"""What goes wrong on the user's side.

Every message has one form: `where: what was found; what was expected; what to do`.

PaddlesegExtError
├── ConfigError       a YAML file or a command-line override
├── DataError         an image, a label, a list file, a dataset's layout
├── WeightError       a weight file, or weights that do not fit the model
├── CheckpointError   a training checkpoint that cannot be written, read or resumed
└── TrainingError     training cannot go on: a loss that is not finite, a dead worker
"""


class PaddlesegExtError(Exception):
    """Base of all errors that the command line reports in one line, with exit code 2."""


class ConfigError(PaddlesegExtError):
    """A configuration that cannot be used."""


class DataError(PaddlesegExtError):
    """Data that cannot be used."""


class WeightError(PaddlesegExtError):
    """Weights that cannot be read or do not fit."""


class CheckpointError(PaddlesegExtError):
    """A checkpoint that cannot be written, read or resumed."""


class TrainingError(PaddlesegExtError):
    """A training run that cannot go on."""
