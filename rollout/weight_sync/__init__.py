"""Weight sync: the learner's weights on their way into every sampler (update_weights, broadcast).

The whole trip of one version, as `sync.WeightSync.start` makes it:

1. sync           waits for the version before, asks the learner to publish and the samplers to load
2. sender         a learner rank's side: gathers (ZeRO-3) and merges (LoRA) the parameters, by one of three transports
3. weights        what is sent: `Weights` (the tensors themselves) or an `Offer` (where to fetch them), and the `Route`
4. transport      how bytes move: Ray's object store, CUDA IPC (a memory file on a CPU), NCCL (gloo on a CPU)
5. handshake      ipc and nccl: rank and worker find each other and wait for each other, with limits that name both
6. vllm_receiver  inside vLLM: update_weights, layer by layer, checked for completeness before it is finished

A sampler that starts again in mid-run asks `orchestrator.cluster.latest_weights` for the newest version.
`orchestrator.training.logprob_check` samples after a push and has the learner score the same tokens.
"""
