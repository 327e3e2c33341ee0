"""The keys of endpoints on their way to a job: in no file, log or metadata of Ray's.

In: on the job's side an environment variable with the name under which the head keeps them. Out: the keys among this
process's environment variables. Must not know: what they open.

A job's environment variables are shown to whoever lists jobs, and written to logs. `Client.hand_over` puts the keys
into the head's memory instead, and the job is told their place there; it takes them, and they are gone from the head.
"""

from __future__ import annotations

import json
import os

from orchestrator.base.errors import RunError

HANDED = "THINKLESS_HANDED_KEYS"  # environment variable of a job: where its keys are


def take() -> None:
    """Set the environment variables that were handed over to this job, if any."""
    place = os.environ.pop(HANDED, None)
    if place is None:
        return
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # a compiled module

    try:
        head = GcsClient(address=os.environ["RAY_ADDRESS"])
        found = head.internal_kv_get(place.encode(), None, timeout=60)
        head.internal_kv_del(place.encode(), False, None, timeout=60)
    except (ray.exceptions.RayError, KeyError) as error:
        raise RunError(f"the head does not hand over the keys of the endpoints ({error}): submit again") from error
    if found is None:
        raise RunError("the head no longer has the keys of the endpoints (it was restarted?): submit again")
    os.environ.update(json.loads(found))
