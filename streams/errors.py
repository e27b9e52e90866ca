"""Everything Tidecast raises on purpose, as one tree.

::

    TidecastError                    exit code 1
    ├── ConfigurationError           2   a setting is missing or wrong
    ├── SourceError                  2   a source file cannot be read as its TOML says
    ├── TopicsError                  3   topics are missing, or their partitions do not match
    ├── RecoveryError                4   checkpoint, committed offsets and log contradict each other
    │   ├── CheckpointAhead              R > C
    │   ├── CheckpointOrphaned           R without C
    │   └── LogTruncated                 the log starts after R
    ├── Fenced                       5   another worker owns this identity now
    ├── StoreUnavailable             6   Redis does not answer
    └── CheckpointConflict               the checkpoint is not the one this owner wrote last

Messages name the place, the value and the repair.
"""

from __future__ import annotations


class TidecastError(Exception):
    """Root of the tree; `exit_code` is what the command line returns for it."""

    exit_code = 1


class ConfigurationError(TidecastError):
    """A setting is missing or wrong."""

    exit_code = 2


class SourceError(TidecastError):
    """A source description or one of its files cannot be used."""

    exit_code = 2


class TopicsError(TidecastError):
    """Topics are missing, or their partition counts do not match."""

    exit_code = 3


class RecoveryError(TidecastError):
    """Checkpoint, committed offsets and log contradict each other; nothing is guessed."""

    exit_code = 4


class CheckpointAhead(RecoveryError):
    """The checkpoint is ahead of the committed offsets (R > C)."""


class CheckpointOrphaned(RecoveryError):
    """There is a checkpoint, but Kafka has no committed offsets (R without C)."""


class LogTruncated(RecoveryError):
    """The log starts after the offset that recovery must read from."""


class Fenced(TidecastError):
    """Another process took over this identity; this one must end."""

    exit_code = 5


class StoreUnavailable(TidecastError):
    """The store does not answer; the caller pauses, and never takes this for 'new'."""

    exit_code = 6


class CheckpointConflict(TidecastError):
    """The stored checkpoint is not the one this owner wrote last: abort and recover."""
