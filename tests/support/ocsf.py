"""What OCSF 1.8.0 requires of an API Activity event with the profile `security_control`, kept by hand from the public schema.

`problems(event)` names everything that is missing, of another type, no value of its enumeration, or no attribute at all.
"""

from __future__ import annotations

from typing import Any

ACTIVITIES = {0: "Unknown", 1: "Create", 2: "Read", 3: "Update", 4: "Delete", 99: "Other"}
ACTIONS = {0: "Unknown", 1: "Allowed", 2: "Denied", 3: "Observed", 4: "Modified", 99: "Other"}
SEVERITIES = {0: "Unknown", 1: "Informational", 2: "Low", 3: "Medium", 4: "High", 5: "Critical", 6: "Fatal", 99: "Other"}
STATUSES = {0: "Unknown", 1: "Success", 2: "Failure", 99: "Other"}
DISPOSITIONS = dict(
    enumerate(
        (
            "Unknown", "Allowed", "Blocked", "Quarantined", "Isolated", "Deleted", "Dropped", "Custom Action", "Approved", "Restored",
            "Exonerated", "Corrected", "Partially Corrected", "Uncorrected", "Delayed", "Detected", "No Action", "Logged", "Tagged",
            "Alert", "Count", "Reset", "Captcha", "Challenge", "Access Revoked", "Rejected", "Unauthorized", "Error",
        )
    )
) | {99: "Other"}  # fmt: skip

#: Members of an object: {name: type, or the object's name; "+" in front: required}. Only what the exporter uses is listed.
OBJECTS: dict[str, dict[str, Any]] = {
    "event": {
        "+activity_id": int, "activity_name": str, "+category_uid": int, "category_name": str, "+class_uid": int, "class_name": str,
        "+type_uid": int, "type_name": str, "+time": int, "timezone_offset": int, "+severity_id": int, "severity": str, "status_id": int,
        "status": str, "status_code": str, "message": str, "+metadata": "metadata", "unmapped": dict, "+actor": "actor", "+api": "api",
        "+src_endpoint": "network_endpoint", "action_id": int, "action": str, "disposition_id": int, "disposition": str, "is_alert": bool,
        "policy": "policy",
    },
    "metadata": {
        "+version": str, "+product": "product", "profiles": [str], "uid": str, "correlation_uid": str, "original_event_uid": str,
        "original_time": str, "log_provider": str, "log_name": str, "log_version": str, "event_code": str, "sequence": int,
    },
    "product": {"name": str, "vendor_name": str, "version": str},
    "actor": {"app_name": str, "authorizations": ["authorization"], "user": "user", "idp": "idp", "session": "session"},
    "authorization": {"decision": str, "policy": "policy"},
    "policy": {"uid": str, "is_applied": bool},
    "user": {"uid": str, "type_id": int, "type": str},
    "idp": {"name": str},
    "session": {"uid": str},
    "api": {"+operation": str, "request": "request", "response": "response", "service": "service", "version": str},
    "request": {"+uid": str},
    "response": {"message": str, "error": str},
    "service": {"name": str},
    "network_endpoint": {"name": str, "svc_name": str},
}  # fmt: skip
#: Objects of which one of these members must be there.
AT_LEAST_ONE = {
    "actor": ("process", "user", "invoked_by", "session", "app_name", "app_uid"),
    "user": ("account", "name", "uid"),
    "policy": ("name", "type", "uid"),
    "product": ("name", "uid"),
    "idp": ("name", "uid"),
    "service": ("name", "uid"),
    "network_endpoint": ("ip", "uid", "name", "hostname", "svc_name", "instance_uid", "interface_uid", "interface_name", "domain"),
}
_ENUMERATIONS = {
    "activity_id": (ACTIVITIES, None),
    "action_id": (ACTIONS, "action"),
    "disposition_id": (DISPOSITIONS, "disposition"),
    "severity_id": (SEVERITIES, "severity"),
    "status_id": (STATUSES, "status"),
}


def problems(event: dict[str, Any]) -> list[str]:
    """Everything that is wrong with an event."""
    found = list(_object(event, "event", "event"))
    for name, (values, caption) in _ENUMERATIONS.items():
        value = event.get(name)
        if value not in values:
            found.append(f"{name} {value!r} is not in its enumeration")
        elif caption is not None and value != 99 and event.get(caption) != values[value]:
            found.append(f"{caption} {event.get(caption)!r} is not the caption of {name} {value}")
    if (event.get("category_uid"), event.get("class_uid")) != (6, 6003):
        found.append("not of the class API Activity")
    if event.get("type_uid") != 6003 * 100 + event.get("activity_id", 0):
        found.append("type_uid is not class_uid * 100 + activity_id")
    if event.get("metadata", {}).get("version") != "1.8.0" or "security_control" not in event.get("metadata", {}).get("profiles", ()):
        found.append("metadata name another schema or not the profile")
    if type(event.get("time")) is not int or not 10**12 < event["time"] < 10**14:
        found.append("time is not in milliseconds")
    return found


def _object(value: dict[str, Any], kind: str, place: str) -> Any:
    members = {name.removeprefix("+"): (wanted, name.startswith("+")) for name, wanted in OBJECTS[kind].items()}
    for name, (_, required) in members.items():
        if required and name not in value:
            yield f"{place}.{name} is missing"
    if kind in AT_LEAST_ONE and not any(name in value for name in AT_LEAST_ONE[kind]):
        yield f"{place} has none of {AT_LEAST_ONE[kind]}"
    for name, item in value.items():
        if name not in members:
            yield f"{place}.{name} is no attribute"
            continue
        wanted = members[name][0]
        items, wanted = (item, wanted[0]) if isinstance(wanted, list) else ([item], wanted)
        for one in items:
            if isinstance(wanted, str):
                yield from _object(one, wanted, f"{place}.{name}")
            elif type(one) is not wanted:
                yield f"{place}.{name} is {type(one).__name__}, not {wanted.__name__}"
