"""Who holds the GPUs: what samplers and learner say before they use them.

In: who is about to work. Out: nothing; the call returns when the GPUs are theirs. Must not know: how they change hands
(`orchestrator.cluster.colocation`), Ray.
"""

from __future__ import annotations


class GpuSharing:
    """Everyone has GPUs of their own: nobody waits. Placement disaggregated, and CPUs without turns."""

    def sampling(self) -> None:
        """Before sequences are asked for."""

    def pushing(self) -> None:
        """Before weights are published and loaded. What was published before has arrived."""

    def learning(self, changes: bool) -> None:
        """Before the learner does anything else. changes: its weights will be others than the samplers' afterwards.

        Nothing is being sampled or pushed any more.
        """
