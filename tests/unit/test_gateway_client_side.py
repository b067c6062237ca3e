"""The client's side of a request, where it does not read."""

import asyncio

import pytest

from gpufleet_gateway.answers import Client, ClientGone, Message


def test_a_client_that_does_not_read_is_cut_off() -> None:
    aborted = []

    async def never(_: Message) -> None:
        await asyncio.get_running_loop().create_future()

    client = Client(never, "r", abort=lambda: aborted.append(True), send_within_s=0.01)
    with pytest.raises(ClientGone):
        asyncio.run(client.stream(b"data: x\n\n"))
    assert (aborted, client.gone, client.sending) == ([True], True, False)
