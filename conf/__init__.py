"""What a person turns. In: command-line overrides and the YAML groups beside this file. Out: one typed, checked
`Config`. Must not know: any other room, nor torch, ray or vllm.
"""
