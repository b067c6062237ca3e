"""What a client asks of an engine, checked as vLLM checks it; every refusal is OpenAI's error."""

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

BYTES_PER_TOKEN: Final = 4
"""Of UTF-8; English text in the tokenizers of Llama 3 and GPT-4 has between 4 and 5."""
MESSAGE_TOKENS: Final = 4
"""What a chat template adds to each message: role, and the marks around it."""


class Refused(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        kind: vLLM's name of the error.
        message: for whoever asked.
        parameter: of the request that is wrong, where it is one.
    """

    def __init__(
        self, status: HTTPStatus, kind: str, message: str, parameter: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {
            "error": {
                "message": message,
                "type": kind,
                "param": parameter,
                "code": int(status),
            }
        }


def bad_request(message: str, parameter: str | None = None) -> Refused:
    """400, as vLLM says it."""
    return Refused(HTTPStatus.BAD_REQUEST, "BadRequestError", message, parameter)


@dataclass(frozen=True)
class Asked:
    """One request that may be answered."""

    is_chat: bool
    prompt: str
    prompt_tokens: int
    max_tokens: int
    """Longest answer: what the client asked for, or what the context leaves."""
    least_tokens: int
    """Shortest answer."""
    streams: bool
    with_usage: bool
    """Whether a stream ends with the usage."""


def asked_of(body: bytes, *, is_chat: bool, model: str, context_tokens: int) -> Asked:
    """Read a request.

    Args:
        body: as it came.
        is_chat: of chat completions, or of completions.
        model: the only one that is served.
        context_tokens: longest prompt and answer together.

    Raises:
        Refused: it cannot be answered.
    """
    fields = _fields(body)
    if fields.get("model", model) != model:
        raise Refused(
            HTTPStatus.NOT_FOUND,
            "NotFoundError",
            f"The model `{str(fields['model'])[:100]}` does not exist.",
            "model",
        )
    prompt, tokens = _chat(fields) if is_chat else _completion(fields)
    given = _count(fields, "max_completion_tokens") if is_chat else None
    given = _count(fields, "max_tokens") if given is None else given
    room = context_tokens - tokens
    if room < 1:
        raise bad_request(
            f"This model's maximum context length is {context_tokens} tokens. However, your "
            f"request has {tokens} input tokens. Please reduce the length of the input messages.",
            "messages" if is_chat else "prompt",
        )
    if given is not None and given > room:
        raise bad_request(
            f"'max_tokens' or 'max_completion_tokens' is too large: {given}. This model's maximum "
            f"context length is {context_tokens} tokens and your request has {tokens} input tokens "
            f"({given} > {context_tokens} - {tokens}).",
            "max_tokens",
        )
    if fields.get("n") not in {None, 1}:
        raise bad_request("the simulated engine gives one answer to each request: n = 1", "n")
    most = room if given is None else given
    least = most if fields.get("ignore_eos") is True else _count(fields, "min_tokens") or 1
    if least > most:
        raise bad_request("min_tokens must be at most max_tokens", "min_tokens")
    options = fields.get("stream_options")
    return Asked(
        is_chat=is_chat,
        prompt=prompt,
        prompt_tokens=tokens,
        max_tokens=most,
        least_tokens=least,
        streams=fields.get("stream") is True,
        with_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def tokens_of(text: str) -> int:
    """About how many tokens a text has, at least one; as cheap as it can be."""
    return -(-max(1, len(text.encode("utf-8", "surrogatepass"))) // BYTES_PER_TOKEN)


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body is not JSON: {str(error)[:100]}") from None
    if not isinstance(fields, dict):
        raise bad_request("the body is not a JSON object")
    return fields


def _chat(fields: dict[str, Any]) -> tuple[str, int]:
    """All messages as one text, and their tokens."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_request("messages has to be a list of at least one message", "messages")
    texts = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise bad_request("each message has to have a role", "messages")
        texts.append(f"{message['role']}: {_content(message.get('content'))}")
    tokens = sum(tokens_of(text) for text in texts) + MESSAGE_TOKENS * len(texts)
    return "\n".join(texts), tokens


def _content(content: object) -> str:
    """A message's text; of what is not text its JSON."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad_request("a message's content has to be a text or a list of parts", "messages")
    return "\n".join(
        str(part.get("text") or json.dumps(part)) if isinstance(part, dict) else str(part)
        for part in content
    )


def _completion(fields: dict[str, Any]) -> tuple[str, int]:
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt, tokens_of(prompt)
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
        return json.dumps(prompt), len(prompt)
    raise bad_request("prompt has to be one text, or a list of tokens", "prompt")


def _count(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise bad_request(f"{name} must be at least 1, got {str(value)[:40]}", name)
    return value
