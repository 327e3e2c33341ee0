"""What samplers and learner call before they use the GPUs that they may share.

In: which of them is about to work. Out: nothing; the call returns when the GPUs are free for it. Must not know: how
they are handed over (`orchestrator.cluster.colocation`), Ray.
"""

from __future__ import annotations


class GpuSharing:
    """Disaggregated placement: everyone has devices of their own, and no call waits."""

    shared = False  # whether calls may wait, and the learner's tensors leave its devices

    def starting(self) -> None:
        """Before learner ranks load their model: the first ones, and those that replace lost ones."""

    def sampling(self) -> None:
        """Before sequences are requested, and before they are waited for."""

    def pushing(self) -> None:
        """Before weights are published and loaded. Those published before have been loaded."""

    def learning(self, changes: bool) -> None:
        """Before the learner does anything else, when nothing is being pushed; what is being sampled stops until
        `sampling`. changes: the learner's weights will differ from the samplers' afterwards."""
