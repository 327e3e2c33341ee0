"""Which combinations of settings keep checkpoints that there are (see `conf.schema.RunConf`).

In: the sections that matter. Out: nothing, or `BadConfig`. Must not know: how checkpoints are written.
"""

from __future__ import annotations

from conf.errors import BadConfig


def check_retention(
    save_every: int, keep_every: int, keep_best: str | None, validate_every: int, validation_size: int | None
) -> None:
    """validation_size: None when the validation's problems are in a file."""
    if keep_every and (not save_every or keep_every % save_every):
        raise BadConfig(
            f"run.keep_every={keep_every} must be a multiple of run.save_every={save_every}: only those steps' "
            "checkpoints are there to be kept"
        )
    if keep_best is None:
        return
    if not validate_every or validation_size == 0:
        missing = "validation.size" if validate_every else "evaluate.every"
        raise BadConfig(
            f"run.keep_best={keep_best} compares validations, but {missing}=0: set it, or run.keep_best=null"
        )
    if not save_every or save_every % validate_every:
        raise BadConfig(
            f"run.keep_best={keep_best} needs a validation at each checkpoint: run.save_every={save_every} must be a "
            f"multiple of evaluate.every={validate_every}"
        )
