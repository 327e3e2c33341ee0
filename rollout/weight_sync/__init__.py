"""Weight sync: the learner's weights on their way into every sampler (update_weights, broadcast).

The path of one version, from the training loop's `sync.WeightSync.start` to vLLM:

1. sync           waits for the previous sync, calls the learner ranks, then the rollout workers
2. sender         a learner rank's side: gathers (ZeRO-3) and merges (LoRA) the parameters, by one of three transports
3. weights        what is sent: `Weights` (the tensors themselves) or an `Offer` (where to fetch them), and the
                  `Route` (which transport, time-outs)
4. handshake      ipc and nccl: rank and worker find each other and wait for each other, with time-outs that name both
5. transport      how bytes move: Ray's object store, CUDA IPC (a memory file on a CPU), NCCL (gloo on a CPU), in a
                  broadcast_group
6. vllm_receiver  inside vLLM: update_weights, layer by layer, checked for completeness before vLLM finalizes it

A restarted rollout worker fetches the newest version from `orchestrator.cluster.latest_weights`.
`orchestrator.training.logprob_check` samples after a sync and has the learner score the same tokens.
"""
