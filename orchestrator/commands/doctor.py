"""thinkless doctor: whether this machine, and the cluster that runs would join, can run, one line a finding.

In: run.root, model.path, data.path, cluster.network_interface, --address. Out: lines "ok", "note" or "PROBLEM", each
with what to do, or JSON; exit code 1 when something prevents a run. Must not know: how anything is checked. Heavy
libraries are looked for, not imported, unless a cluster is asked.
"""

from __future__ import annotations

import importlib.util
import os
from argparse import Namespace
from collections.abc import Callable, Iterator

from orchestrator.base.waiting import waiting
from orchestrator.doctor.access import access
from orchestrator.doctor.findings import HANGS, Finding, Told, within
from orchestrator.doctor.machine import clock, disk, limits, machine
from orchestrator.doctor.network import interfaces, loopback
from orchestrator.doctor.rays import leftovers, other_rays, ray_address, ray_folder
from orchestrator.doctor.software import compiler, gpus, packages
from orchestrator.training.run_root import root

LIMIT_S, CLUSTER_LIMIT_S = 30.0, 75.0  # without a finding


def main(options: Namespace) -> None:
    """Print all findings. Ends by SystemExit(1) when something prevents a run."""
    given = options.given
    model, data = given.get("model.path"), given.get("data.path")
    interface = given.get("cluster.network_interface")
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "packages": packages,
        "processors and memory": machine,
        "disk": lambda: disk(root(given.get("run.root", "runs"))),
        "limits": limits,
        "clock": clock,
        "compiler": compiler,
        "GPUs": gpus,
        "Ray's folder": ray_folder,
        "other Rays": other_rays,
        "leftovers": leftovers,
        "model and data": lambda: access(model, data),
        "network": lambda: interfaces(interface),
        "loopback": loopback,
        "RAY_ADDRESS": lambda: ray_address(options.address),
    }
    told = Told(options.json)

    def tell(area: str, seconds: float, check: Callable[[], Iterator[Finding]], why: str = HANGS) -> bool:
        """Whether it prevents nothing."""
        good = True
        with waiting(f"checking {area}") as wait:
            for finding in within(seconds, area, check, why):
                good = good and finding.level != "PROBLEM"
                if not options.json:
                    wait.clear()
                told.add(area, finding, finding.text)
        return good

    good = [tell(area, LIMIT_S, check) for area, check in checks.items()]
    address = options.address or os.environ.get("RAY_ADDRESS")
    if address and good[-1] and importlib.util.find_spec("ray"):

        def of_cluster() -> Iterator[Finding]:
            from orchestrator.doctor.cluster import cluster

            yield from cluster(address, interface, model, data)

        why = f"{address} takes connections but does not answer as a head does: it hangs, or that is another port"
        tell("cluster", CLUSTER_LIMIT_S, of_cluster, why)
    told.end("nothing prevents a run")
