"""How the processes of `make test` share the tests: each takes the next file, or the next line of files."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController


class Sharing(LoadScopeScheduling):
    """places: of the files that share what they start, and stay in one process, in the order in which they begin."""

    def __init__(self, config: pytest.Config, log: Any, places: dict[str, int]):
        super().__init__(config, log)
        self._places = places

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return f"line {self._places[file]}" if file in self._places else file

    def remove_node(self, node: WorkerController) -> str | None:
        """Of a process that has ended. If it crashed, the others and the one that replaces it do what it has left, but
        for the test in which it did, which is returned, and failed.

        (xdist's own gives them that test again, and whole files that were done, of which nothing comes back.)
        """
        units = self.assigned_work.pop(node).items()
        left = {scope: {test: False for test, done in unit.items() if not done} for scope, unit in units}
        crashed = next((test for unit in left.values() for test in unit), None)
        if crashed is not None:
            for unit in left.values():
                unit.pop(crashed, None)
            self.workqueue.update({scope: unit for scope, unit in left.items() if unit})
            for other in self.assigned_work:
                self._reschedule(other)
        return crashed

    def _reschedule(self, node: WorkerController) -> None:
        """A process begins a test when it knows the next one, or that there is none: it waits for ever with one alone,
        as one that replaces another may get."""
        while node in self.registered_collections and not node.shutting_down:
            super()._reschedule(node)
            if self._pending_of(self.assigned_work[node]) >= 2:
                break
