"""The table of all commands: what `thinkless --help` and `thinkless <command> --help` say, and what each takes.

In: nothing. Out: `COMMANDS`. Must not know: how arguments are parsed, what a command does.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

from orchestrator.commands.options import (
    ADDRESS,
    CHATTING,
    CONFIGURATION,
    DETACH,
    DIAL,
    GRADING,
    INSTALL,
    JOB,
    JSON,
    KEYS,
    WATCHING,
    WORDS,
    Option,
)

ANY_SETTING = "key=value"  # among a command's keys: it takes those of the configuration as well


@dataclass(frozen=True)
class Command:
    about: str  # a line of `thinkless --help`
    usage: tuple[str, ...]  # what follows the command's name, a line each
    description: str
    examples: tuple[str, ...]  # the same
    options: tuple[Option, ...] = CONFIGURATION
    keys: dict[str, str] = field(default_factory=dict)  # its own key=value arguments and their meaning

    @property
    def configured(self) -> bool:
        """It takes the whole configuration, as Hydra composes it."""
        return CONFIGURATION[0] in self.options


COMMANDS = {
    "quickstart": Command(
        "the whole idea on this machine: warm-up, DeGRPO, evaluation, report",
        ("[key=value ...]",),
        "The whole idea on this machine: a tiny model is warmed up on generated arithmetic, learns when to think, and\n"
        "is evaluated. The same as thinkless train experiment=quickstart.",
        ("", "run.seed=7", "run.name=mine run.steps=40"),
    ),
    "distill": Command(
        "warm-up data from a teacher that reasons and one that is brief",
        ("data.path=<problems> distill.think.<model|endpoint>=... distill.short.<model|endpoint>=... [key=value ...]",),
        """
Asks two teachers the problems of data.path, a reasoning one and a brief one, several times each; grades the answers,
takes one of either for every problem, and writes a folder that warmup.path takes, with a data card. A teacher is a
Hugging Face model that is sampled on the cluster, or an OpenAI-compatible endpoint. Whenever it is stopped, the same
command goes on: no answer is lost, and none is asked for twice.
""".strip(),
        (
            "data.path=train.jsonl distill.think.model=/models/r1 distill.short.model=/models/brief distill.out=pairs",
            "data.path=train.jsonl distill.think.endpoint=http://r1:8000/v1 distill.short.model=/models/brief",
            "--help distill                         # its settings",
        ),
    ),
    "warmup": Command(
        "supervised fine-tuning on paired long and short answers",
        ("model.path=<folder or hub id> warmup.path=<pairs> [key=value ...]",),
        "Supervised fine-tuning on paired long and short answers, so that a model answers in both modes. train does\n"
        "it by itself where a warm-up is configured, and takes a finished one from warmup.cache. With\n"
        "warmup.evaluate_every rollout workers answer held-out questions meanwhile, in either mode.",
        (
            "experiment=quickstart",
            "model.path=/models/mine warmup.path=pairs.jsonl warmup.lr=1e-5",
            "model.path=/models/mine warmup.path=pairs.jsonl validation.path=test.jsonl warmup.evaluate_every=200",
        ),
    ),
    "train": Command(
        "reinforcement learning; experiment=<preset>, resume=<run> to go on",
        (
            "experiment=<preset> [key=value ...]",
            "model.path=<folder or hub id> data.path=<problems> warmup.path=<pairs> [key=value ...]",
            "resume=<run> [key=value ...]",
        ),
        "Reinforcement learning: the model learns when to think. A run goes on from its last checkpoint with\n"
        "resume=<run>, also on a machine that has nothing of it: resume=<run.checkpoints>/<run>.",
        (
            "experiment=quickstart run.seed=1 algorithm.alpha=0.5",
            "--multirun experiment=quickstart run.seed=1,2,3",
            "experiment=thinkless_1p5b --cfg job",
            "resume=quickstart-001 run.steps=160",
            "resume=s3://bucket/runs/mine",
            "--config-dir my_conf experiment=mine   # of my_conf/experiment/mine.yaml",
            "--help learner lr                      # settings with one of these words in their names",
            "--help experiment=thinkless_1p5b       # the values that all would have",
        ),
    ),
    "evaluate": Command(
        "measure a model in free and forced modes; run.name=<run> or model.path=<folder>",
        (
            "run.name=<run> [model.path=<other>] [key=value ...]",
            "model.path=<folder or hub id> data.path=<problems> [key=value ...]",
        ),
        "Measures a model on held-out problems, free and with each mode forced: accuracy, tokens, what its own choice\n"
        "of the mode is worth, and the dial between the modes. run.name=<run>: with the run's own settings. The same\n"
        "command goes on where an earlier one was stopped.",
        (
            "run.name=quickstart-001",
            "model.path=/models/mine data.path=test.jsonl evaluate.temperature=0.6 evaluate.samples=8",
            "run.name=quickstart-001 --dial evaluate.token_budget=12   # the whole curve, and the point for a budget",
            "--multirun run.name=quickstart-001,quickstart-002",
        ),
        (*CONFIGURATION, DIAL),
    ),
    "chat": Command(
        "ask a trained model on the terminal: mode, dial, tokens, seconds",
        ("[<run> | <model folder>] [--mode M] [--dial B] [--budget N]", "--url http://host:8000/v1 [--mode M] ..."),
        "Serves a run's final model (the newest run's by default) and asks it, a line at a time; answers come as they\n"
        "are sampled, reasoning apart. /mode and /dial change who chooses the mode meanwhile, /budget how long it may\n"
        "think. Lines may come through a pipe.",
        ("quickstart-001", "quickstart-001 --dial -2", "--url http://127.0.0.1:8000/v1 --mode short < questions.txt"),
        CHATTING,
    ),
    "export": Command(
        "store a chosen dial with a trained model, so that it is served with it",
        ("run=<run> dial=<bias> [out=<folder>]", "model=<folder> dial=<bias> [out=<folder>]"),
        "Stores a bias on the think token's logit with a model: chat, evaluate and the printed vllm serve then apply\n"
        "it where the mode is chosen, and nowhere else. Which bias gives what says thinkless evaluate --dial.\n"
        "Training ignores it. dial=0 takes it away.",
        ("run=quickstart-001 dial=-1.5", "model=/models/mine dial=2 out=/models/mine-thoughtful"),
        KEYS,
        {
            "run": "the run's name or folder, whose final model is meant; left out: the newest under run.root",
            "model": "a model's folder, instead of a run",
            "dial": "the bias, from -100 to 100: above 0 it thinks more, below 0 less",
            "out": "a folder for a copy of the model; left out: the model itself gets the dial",
            "run.root": "the folder of runs (runs)",
        },
    ),
    "compare": Command(
        "several models on the same problems, from the folders of thinkless evaluate",
        ("[--json] <folder> <folder> ...",),
        "Accuracy, tokens and think rate of each model, and its differences from the first one, with intervals (95 %)\n"
        "by a paired bootstrap over problems. The folders are those that thinkless evaluate wrote.",
        ("runs/quickstart-001/evaluate-arithmetic-0f1e2d3c runs/quickstart-002/evaluate-arithmetic-4b5a6978",),
        ((("folders",), {"nargs": "*", "default": []}, argparse.SUPPRESS), JSON),
    ),
    "report": Command(
        "write report.html of a run; run.name=<run>, the newest by default; sweep=<sweep>",
        ("[run.name=<run> | sweep=<sweep>] [run.root=<folder>]",),
        "Writes report.html into the run's folder; of a sweep, finished or not, sweep.html and sweep.json.",
        ("", "run.name=quickstart-001", "run.root=/data/runs", "sweep=alpha"),
        KEYS,
        {
            "run.name": "the run's name or folder; left out: the newest under run.root",
            "sweep": "a sweep's name or folder",
            "run.root": "the folder of runs (runs)",
        },
    ),
    "watch": Command(
        "a live page of runs: curves, who waits, timeline, answers",
        ("[run ...] [run.root=<folder>] [options]",),
        "Serves a page for this machine's browser from the folders of runs: those that are named, or all of run.root.\n"
        "It works while a run is under way and after a crash, changes nothing, and needs no network.",
        ("", "quickstart-001 quickstart-002", "--terminal run.root=/data/runs"),
        WATCHING,
        {
            "run": "a run's name or folder, or a folder of runs, such as a sweep's",
            "run.root": "the folder of runs (runs)",
        },
    ),
    "verify": Command(
        "grade answers: JSON lines with a response and its gold in, verdicts out",
        ("[options] [file ...]",),
        r"""
Grades answers. Reads JSON objects from the files, or from standard input, one per line:

  {"id": "a1", "response": "It is \\boxed{1/2}.", "gold": "0.5"}

  id            string or integer
  response      what the model wrote
  gold          the right answer as a string, or a list of them: any may match
  all_answers   true: the response must give all of the list (optional)
  mode          "think": the answer is what follows </think>; "short": it is the response. Left out: a control token
                (<think>, <short>) at the beginning of the response counts as its mode, and none is needed.

Writes one per line, in the same order, each as soon as it is there:

  {"id": "a1", "outcome": "correct", "correct": true, "extracted": "1/2", "seconds": 2.1e-05}

  outcome       correct, wrong, no_answer, cut_off (thinking never ends), format_error (a think token in the answer,
                with --strict); no verdict: timed_out, crashed or raised
  extracted     the final answer that was found, or null

A line that cannot be read gives {"line": 7, "error": ...} and exit status 1 at the end. Empty lines are left out.
""".strip(),
        ("< cases.jsonl > verdicts.jsonl", "--strict --summary --output verdicts.jsonl cases.jsonl"),
        GRADING,
    ),
    "replay": Command(
        "run a recorded step again, sampling or learning alone; run=<run> step=<number> part=<which>",
        ("run=<run> step=<number> part=sampling|learning [repeat=N] [out=<file>] [key=value ...]",),
        """
Runs a step that was recorded (thinkless train run.record=[12] ...) again and compares it with its record.

With the settings of the record, on a CPU, everything must be equal bit for bit (sampling: with rollout.threads=1), and
exit status 1 says that it was not. With others, differences are told: loss and gradient norm beside a relative
tolerance of 1e-5 (bfloat16: 1e-2), sampled tokens up to the first that differs.
""".strip(),
        (
            "run=quickstart-001 step=12 part=learning",
            "run=quickstart-001 step=12 part=learning learner.max_tokens=4096 out=packed.json",
            "run=quickstart-001 step=12 part=sampling repeat=3 rollout.max_num_seqs=64",
        ),
        KEYS,
        {
            "run": "the run's name or folder; left out: the newest under run.root",
            "step": "a recorded step: the number of its line in metrics.jsonl",
            "part": """\
sampling   rollout workers only: samples the step's prompts with its seeds and the weights that sampled
           it, and compares every token and log-prob
learning   learner ranks only: loads the learner as it was, learns from the recorded groups, and
           compares loss, gradient norm and all other figures""",
            "repeat": """\
how often, for benchmarks (1). Learning begins with the recorded state each time. Sampling finds its prompts
in the prefix cache from the second time on: rollout.prefix_caching=false measures without""",
            "out": "JSON file for the figures; left out: replay_<part>.json in the record's folder",
            ANY_SETTING: "any setting: learner.max_tokens=4096, learner.ranks=2, ...",
        },
    ),
    "dashboards": Command(
        "write dashboards for Grafana, scraping and alerts for Prometheus",
        ("[out=<folder>] [key=value ...]",),
        "Writes three dashboards for Grafana (throughput, learning, health) with their provisioning, and Prometheus's\n"
        "configuration with alerts, their unit tests and what to do about each (alerts.md).",
        ("", "out=/etc/thinkless discovery=http://head:8265/api/prometheus/sd"),
        KEYS,
        {
            "out": "the folder to write to (dashboards)",
            "discovery": "where Ray's head lists its nodes: a file (/tmp/ray/prom_metrics_service_discovery.json) or\n"
            "an address (http://<head>:8265/api/prometheus/sd)",
            "token_file": "with the token of a head that asks for one there",
            "prometheus": "Prometheus's address, as Grafana reaches it (http://localhost:9090)",
            "folder": "of the dashboards, as Grafana sees it (grafana/dashboards in `out`)",
            "ray_folder": "of the dashboards that Ray writes, likewise (in /tmp/ray/session_latest)",
        },
    ),
    "plan": Command(
        "before anything starts: memory, time, tokens and cost of a run, for every placement",
        ("[experiment=<preset>] [gpus=N] [gpu=<kind>] [key=value ...]", "run=<run> [gpus=N] [key=value ...]"),
        "What a run will take, from the model's config.json alone: memory of each GPU by phase, seconds of a step by\n"
        "part, hours, tokens and cost, for every placement of the GPUs, and the one to take; hours of its warm-up\n"
        "and of distilling data for that (distill.*.model=); disk. Nothing is started.",
        (
            "experiment=thinkless_1p5b",
            "experiment=thinkless_1p5b gpus=8 gpu=a100 price=1.5",
            "model.path=/models/mine data.path=problems.jsonl rollout=gpu learner=gpu gpus=2",
            "run=quickstart-001 rollout.prompts_per_step=64   # corrected by what that run measured",
        ),
        (*CONFIGURATION, JSON),
        {
            "gpus": "how many (as many as the configuration takes)",
            "gpu": "h100, h200, b200, a100, a100-40gb, l40s, l4, a10, rtx4090, ... or cpu (h100; of a run: its own)",
            "price": "US dollars an hour for each (docs/plan.md: assumed on-demand prices)",
            "run": "a run whose configuration is planned, and whose metrics correct the assumptions",
            "pairs": "questions of the warm-up (those of its file or preset)",
            "think_rate": "share of answers that think (0.5)",
            "think_tokens": "mean tokens of an answer that thinks (in proportion to rollout.max_response_tokens)",
            "short_tokens": "the same of a short one",
            ANY_SETTING: "any setting of the run that is planned",
        },
    ),
    "model": Command(
        "what will happen with a model: classes, control tokens, prompt, ends, memory",
        ("check <folder or hub id> [key=value ...]",),
        "Says of a model, from its small files alone, whether learner and sampler have its class, what its control\n"
        "tokens become, what a prompt looks like, what ends a response, and the memory it takes. Nothing is started.\n"
        "Exit code 1 when it cannot be trained here.",
        ("check /models/mine", "check /models/mine model.short_token_from='<|fim_pad|>' rollout.max_model_len=26000"),
        (*CONFIGURATION, JSON),
    ),
    "doctor": Command(
        "whether this machine and its cluster can run, and what to do about it",
        ("[run.root=<folder>] [model.path=<folder>] [data.path=<file>] [--address HOST:PORT] [--json]",),
        "Checks this machine in seconds and prints a line for each finding: ok, note (worth knowing) or PROBLEM\n"
        "(prevents a run), with what to do about it. With RAY_ADDRESS or --address, every node of that Ray as well,\n"
        "and the network between them. Exit code 1 when there is a problem.",
        ("", "run.root=/data/runs", "model.path=/models/mine data.path=problems.jsonl --address 10.0.0.1:6379"),
        (
            (("--address",), {"metavar": "HOST:PORT"}, "of the Ray whose nodes are checked (RAY_ADDRESS)"),
            JSON,
            *KEYS,
        ),
        {
            "run.root": "the folder of runs, whose disk is checked (runs)",
            "model.path": "a model that every node must be able to read",
            "data.path": "problems that this host must be able to read",
            "cluster.network_interface": "as a run would be given it: the interface of traffic between hosts",
        },
    ),
    "submit": Command(
        "a command as a job on a Ray cluster",
        ("[--address URL] [--detach] [--install uv|pip] quickstart|train|distill|warmup|evaluate [key=value ...]",),
        "Checks the settings, uploads this folder's files and the code, and starts the command as a Ray job that has\n"
        "the name of its run. Follows the log: Ctrl-C leaves the job running, a second Ctrl-C stops it. The exit code\n"
        "is the job's. What .gitignore, .rayignore and .thinklessignore name stays here, unless settings name it.",
        ("train experiment=quickstart run.root=/data/runs", "--address http://head:8265 --detach train resume=mine"),
        (ADDRESS, DETACH, INSTALL, *CONFIGURATION[5:8], WORDS),
    ),
    "jobs": Command(
        "the jobs of a Ray cluster, with step, think rate and tokens/s",
        ("[--address URL]",),
        "Lists the jobs of a Ray cluster, the newest last, with how far their runs have come.",
        ("", "--address http://head:8265"),
        (ADDRESS,),
    ),
    "logs": Command(
        "follow the log of a job",
        ("[--address URL] [--detach] NAME",),
        "Prints the log of a job and follows it. Ctrl-C leaves the job running, a second Ctrl-C stops it.",
        ("quickstart-001", "--detach quickstart-001"),
        (ADDRESS, DETACH, JOB),
    ),
    "stop": Command(
        "stop a job, which saves its steps first",
        ("[--address URL] NAME",),
        "Asks a job to end (SIGTERM) and waits for it. A run saves its steps first, as after Ctrl-C.",
        ("quickstart-001",),
        (ADDRESS, JOB),
    ),
    "resume": Command(
        "go on with a job's run as a new job",
        ("[--address URL] [--detach] [--install uv|pip] NAME [key=value ...]",),
        "Goes on with a job's run from its last checkpoint, as a new job (submit train resume=<its run>), or with a\n"
        "distillation or a warm-up where it was stopped (the same command again).",
        ("quickstart-001 run.steps=160",),
        (ADDRESS, DETACH, INSTALL, JOB, WORDS),
    ),
}
