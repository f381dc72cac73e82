"""How fast clients are accepted."""

import socket

import pytest
import trio
import trio.testing

from mcr.control.door import LONGEST_REST, Door


@pytest.mark.parametrize(("let_in", "rest"), [(True, 0.00032), (False, 0.00288)])
async def test_whoever_is_refused_gets_a_tenth_of_the_time(
    let_in: bool, rest: float, autojump_clock: trio.testing.MockClock
) -> None:
    """Between two turns of 32 clients there is a rest, longer if one of them was refused, but never a long one."""
    assert rest < LONGEST_REST
    accepted: list[float] = []

    def welcome(connection: socket.socket) -> bool:
        connection.close()
        accepted.append(trio.current_time())
        autojump_clock.jump(0.00001)
        return let_in or len(accepted) % 32 != 7

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")
        listener.listen(128)
        listener.setblocking(False)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(64)]
        for client in clients:
            client.connect(listener.getsockname())
            client.close()
        with trio.move_on_after(1):
            await Door().accept(listener, welcome)
    assert len(accepted) == 64
    assert accepted[32] - accepted[31] == pytest.approx(rest + 0.00001)
