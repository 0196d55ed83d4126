"""The log in the forms of other tools: OCSF events, W3C PROV, CSV, Parquet. Each is read from the segments, and none holds a value.

Everything but PROV, which is about one task, streams: memory does not grow with the log.
"""

from agentguard.exports.calls import Call, Entry, calls, records
from agentguard.exports.ocsf import events
from agentguard.exports.prov import provenance
from agentguard.exports.tables import COLUMNS, rows, write_csv, write_parquet

__all__ = ["COLUMNS", "Call", "Entry", "calls", "events", "provenance", "records", "rows", "write_csv", "write_parquet"]
