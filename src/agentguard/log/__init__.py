"""The evidence log: segments on disk, one shard a process, verifiable by a stranger (DESIGN §8, docs/log-format.md).

with Log.open(home, key, durability="fsync") as log:
    index = log.append(record)
report = verify(home, key.public)
"""

from agentguard.log.frames import Damage
from agentguard.log.group import Done, Forsaken
from agentguard.log.identity import LogKeys
from agentguard.log.layout import Durability
from agentguard.log.log import Log
from agentguard.log.reader import Entry, Lookup, iter_entries, iter_records, iter_runs, read_record, read_shards
from agentguard.log.scan import Run
from agentguard.log.shard import MAX_RECORD
from agentguard.log.verify import Finding, Severity, ShardReport, VerifyReport, verify

__all__ = [
    "MAX_RECORD",
    "Damage",
    "Done",
    "Durability",
    "Entry",
    "Finding",
    "Forsaken",
    "Log",
    "LogKeys",
    "Lookup",
    "Run",
    "Severity",
    "ShardReport",
    "VerifyReport",
    "iter_entries",
    "iter_records",
    "iter_runs",
    "read_record",
    "read_shards",
    "verify",
]
