"""Divides a served answer into reasoning and content: a plugin of vLLM's server.

    vllm serve MODEL --reasoning-parser-plugin rollout/reasoning_parser.py --reasoning-parser thinkless

In: an answer as text and ids, the request. Out: `reasoning` (what stands between the control token of a mode that
thinks and </think>) and `content`. Must not know: training, Ray.

The mode is the first token: sampled, or given by the chat template (`mode` or `enable_thinking` in
chat_template_kwargs). A short answer is all content, and so is one without a control token. The control tokens
themselves are left out of both; `reasoning` is there if and only if the model thought.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from typing import Any

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.reasoning import ReasoningParser, ReasoningParserManager

MODES, END = {"think": "<think>", "short": "<short>"}, "</think>"
NAMED = re.compile(r"set tokens_of_modes = (\{.*?\}) %\}\{% set end_of_thinking = (.*?) %\}")  # in an export's template


class ThinklessParser(ReasoningParser):
    def __init__(self, tokenizer: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(tokenizer, *args, **kwargs)
        modes, self.end = _names(getattr(tokenizer, "chat_template", None))
        self.think, self.short = modes["think"], modes["short"]
        names = (*modes.values(), self.end)
        self.ids = {name: self.vocab[name] for name in names if name in self.vocab}
        if missing := [name for name in names if name not in self.ids]:
            raise RuntimeError(f"the tokenizer has no {', '.join(missing)}: is this a model that thinkless trained?")
        self.openers = {self.ids[name]: name for mode, name in modes.items() if mode != "short"}  # of modes that think
        self.given: str | None = None  # the control token at the end of the prompt; None: the model samples it
        asked = kwargs.get("chat_template_kwargs") or {}
        if (mode := asked.get("mode")) is not None:
            self.given = modes.get(mode)
        elif (enabled := asked.get("enable_thinking")) is not None:
            self.given = self.think if enabled else self.short

    @property
    def reasoning_start_str(self) -> str:
        return self.think

    @property
    def reasoning_end_str(self) -> str:
        return self.end

    def adjust_request(self, request: Any) -> Any:
        """Control tokens have to be in the text, even where a tokenizer calls them special."""
        request.skip_special_tokens = False
        return request

    # ---------------------------------------------------------------- a whole answer

    def extract_reasoning(self, model_output: str, request: Any) -> tuple[str | None, str | None]:
        thinks, rest = self._mode(model_output)
        if not thinks:
            return None, rest
        reasoning, _, content = rest.partition(self.end)
        return reasoning, content or None

    def _mode(self, text: str) -> tuple[bool, str]:
        """Whether it thinks, and what follows the control token."""
        for token, thinks in (*((token, True) for token in self.openers.values()), (self.short, False)):
            if self.given == token:
                return thinks, text
            if self.given is None and text.startswith(token):
                return thinks, text[len(token) :]
        return False, text

    def count_reasoning_tokens(self, token_ids: Sequence[int]) -> int:
        ids = list(token_ids)
        thinks = self.given in self.openers.values()
        if self.given is None and ids and ids[0] in self.openers:
            thinks, ids = True, ids[1:]
        end = self.ids[self.end]
        return 0 if not thinks else ids.index(end) if end in ids else len(ids)

    # ---------------------------------------------------------------- streaming

    def adjust_initial_state_from_prompt(self, prompt_token_ids: Sequence[int]) -> None:
        if prompt_token_ids and prompt_token_ids[-1] in self.openers:
            self.given = self.openers[prompt_token_ids[-1]]

    def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
        """Of a prompt: a short answer follows. Of an answer: there is nothing more to think."""
        return bool(input_ids) and (input_ids[-1] == self.ids[self.short] or self.ids[self.end] in input_ids[-1:])

    def is_reasoning_end_streaming(self, input_ids: Sequence[int], delta_ids: Iterable[int]) -> bool:
        thinks = self.given in self.openers.values() or (bool(input_ids) and input_ids[0] in self.openers)
        return self.ids[self.end] in delta_ids if thinks else bool(input_ids)

    def extract_content_ids(self, input_ids: list[int]) -> list[int]:
        """What of a delta with the end of reasoning in it, or of the first one of a short answer, is content."""
        for name in (self.end, self.short):
            if self.ids[name] in input_ids:
                return input_ids[input_ids.index(self.ids[name]) + 1 :]
        return input_ids

    def extract_reasoning_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
    ) -> DeltaMessage | None:
        """Called until reasoning has ended (`is_reasoning_end_streaming`)."""
        thinks, rest = self._mode(current_text)
        begun = len(current_text) - len(rest)  # of the control token
        new = current_text[max(begun, len(previous_text)) :]
        if not thinks:
            return DeltaMessage(content=new) if new else None
        reasoning, found, content = new.partition(self.end)
        if not reasoning and not content:
            return None
        return DeltaMessage(reasoning=reasoning or None, content=(content or None) if found else None)


def _names(template: Any) -> tuple[dict[str, str], str]:
    """(control token of each mode, end of thinking), as the export's template names them
    (`rollout.data.chat_template`)."""
    found = NAMED.search(template) if isinstance(template, str) else None
    if found is None:
        return MODES, END
    tokens = ast.literal_eval(found[1])
    return {mode: token for mode, token in tokens.items() if token}, ast.literal_eval(found[2])


ReasoningParserManager.register_module("thinkless", module=ThinklessParser)
