"""What OpenAI's official client does with files and batches; run by the gateway's own Python.

`python batch_client.py BASE_URL KEY FILE`: prints what it saw, as JSON.
"""

import json
import sys
from typing import Any

import openai


def main(url: str, key: str, file: str) -> None:
    """Upload, submit, look, list, cancel, take the content, delete; and slip once."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
    with open(file, "rb") as content:  # noqa: PTH123 - as the client's own documentation does
        uploaded = client.files.create(file=content, purpose="batch")
    batch = client.batches.create(
        input_file_id=uploaded.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"run": "7"},
    )
    seen: dict[str, Any] = {
        "file": uploaded.model_dump(),
        "batch": batch.model_dump(),
        "again": client.batches.retrieve(batch.id).model_dump(),
        "listed": [each.id for each in client.batches.list(limit=1)],
        "files": [each.id for each in client.files.list()],
        "content": client.files.content(uploaded.id).text,
        "cancelled": client.batches.cancel(batch.id).status,
    }
    try:
        client.files.delete(uploaded.id)
    except openai.ConflictError as error:
        seen["in_use"] = error.code
    try:
        client.batches.retrieve("batch-of-nobody")
    except openai.NotFoundError as error:
        seen["missing"] = error.code
    other = client.files.create(file=("o.jsonl", b"nope\n"), purpose="batch")
    try:
        client.batches.create(
            input_file_id=other.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
    except openai.BadRequestError as error:
        seen["wrong"] = error.message
    seen["deleted"] = client.files.delete(other.id).deleted
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:4])
