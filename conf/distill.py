"""The section `distill` of the configuration (see `conf.schema`).

In: nothing. Out: dataclasses whose comments are the help, and a check. Must not know: Hydra, files, other packages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from conf.choices import Keep, LongAnswer, OverLength, Pairing
from conf.errors import BadConfig
from conf.ranges import FOLDER, LINES, PATH, number, text

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass
class TeacherConf:
    """A model that answers: sampled on the cluster by vLLM (`model`), or asked over HTTP (`endpoint`)."""

    model: str | None = text(None, PATH)  # Hugging Face folder or hub id; engines as rollout.* says
    revision: str | None = None  # hub revision of it
    endpoint: str | None = None  # base URL of an OpenAI-compatible API, e.g. http://host:8000/v1
    name: str | None = None  # of the model at the endpoint; null: the only one that it lists
    key_env: str | None = None  # environment variable that holds the endpoint's key; null: none is sent
    thinking: bool | None = None  # enable_thinking of chat templates that have it (Qwen3); null: as the template does
    instruction: str | None = text(BOXED, LINES)  # text behind the question, for this teacher alone; null: none
    temperature: float = number(0.6, "[0, 2]")  # 0: greedy
    top_p: float = number(0.95, "(0, 1]")  # of nucleus sampling
    max_tokens: int = number(16384, "[1, 1e8]")  # of one answer, thinking included
    concurrency: int = number(64, "[1, 100000]")  # requests under way at the endpoint at a time
    timeout_s: float = number(3600.0, "[0.1, 1e7]")  # for one answer of the endpoint
    workers: int | None = number(None, "[1, 10000]")  # vLLM engines; null: rollout.workers
    tensor_parallel: int | None = number(None, "[1, 1024]")  # GPUs of each; null: rollout.tensor_parallel

    def asked(self, problem: str) -> str:
        """What it is given: the question, and the instruction behind an empty line."""
        return f"{problem}\n\n{self.instruction}" if self.instruction else problem


@dataclass
class DistillConf:
    """`thinkless distill`: warm-up data from a teacher that reasons and one that is brief. The questions are data.*."""

    out: str | None = text(None, FOLDER)  # folder of the data set; null: <run.root>/distilled
    think: TeacherConf = field(default_factory=TeacherConf)
    short: TeacherConf = field(default_factory=TeacherConf)
    samples: int = number(4, "[1, 10000]")  # answers of each teacher to a question
    problems: int | None = number(None, "[1, 1e9]")  # questions, drawn by run.seed; null: all of data.path
    pairing: Pairing = Pairing.paired  # of the questions
    keep: Keep = Keep.correct  # answers that may be taken
    long_answer: LongAnswer = LongAnswer.shortest  # of several; of short answers the shortest is taken
    over_length: OverLength = OverLength.drop  # answers that reached max_tokens
    against: Any = text(
        None, PATH
    )  # evaluation sets (a path or a list) whose questions, and likenesses of them, are left out
    ngram: int = number(13, "[1, 1000]")  # words in a row that make two questions alike; shorter ones: all words
    renumbered: bool = True  # an evaluation question with other numbers is a copy; false where only numbers differ
    shard_rows: int = number(10000, "[1, 1e8]")  # rows of a file of the data set
    license: str | None = None  # of the questions, for the data card
    retries: int = number(8, "[0, 1e6]")  # of a request that an endpoint limited, dropped or failed
    backoff_s: float = number(1.0, "[0, 1e5]")  # before the first of them; doubled each time, unless Retry-After says


def check_distill(conf: DistillConf) -> None:
    """Raises BadConfig for teachers that are not one model each."""
    for side in ("think", "short"):
        teacher: TeacherConf = getattr(conf, side)
        key = f"distill.{side}"
        if (teacher.model is None) == (teacher.endpoint is None):
            given = "neither" if teacher.model is None else "both"
            raise BadConfig(
                f"{key} needs one teacher, got {given}: give {key}.model=<Hugging Face folder or hub id>, or "
                f"{key}.endpoint=<URL of an OpenAI-compatible API>"
            )
        if teacher.endpoint is not None and not teacher.endpoint.startswith(("http://", "https://")):
            raise BadConfig(f"{key}.endpoint must begin with http:// or https://, got {teacher.endpoint}")
        if teacher.model is not None and teacher.temperature != 0 and teacher.temperature < 0.01:
            raise BadConfig(f"{key}.temperature must be 0, or at least 0.01 (vLLM), got {teacher.temperature}")
