"""The configuration. In: command-line overrides and the YAML groups in this folder. Out: one typed, checked `Config`.
Must not know: any other package of the project, nor torch, ray or vllm.
"""
