"""What a request to `serve.py` may hold, how long it is worked on, and what it is told else."""

import asyncio
from dataclasses import dataclass, fields

from fastapi import HTTPException
from fastapi.responses import JSONResponse


@dataclass(frozen=True)
class Limits:
    """How much is taken at once."""

    texts: int = 64  # in a request
    characters: int = 20_000  # in a text
    body: int = 2**20  # bytes of a request
    waiting: int = 256  # requests; further ones are told to come back
    batch: int = 32  # texts; a call of the model that has as many takes no further request
    delay: float = 0.002  # seconds that an idle model waits for further requests

    def __post_init__(self):
        for limit in fields(self):
            value, least = getattr(self, limit.name), 0 if limit.name == "delay" else 1
            if value < least:
                raise ValueError(f"{limit.name} must be {least} or more. Got {value} instead.")


def limit_body(app, n_bytes):
    """Middleware that counts what arrives, because a body may come without a length."""

    async def limited(scope, receive, send):
        arrived = 0

        async def counted():
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > n_bytes:
                raise HTTPException(413, f"The body has more than {n_bytes} bytes.")
            return message

        await app(scope, counted, send)

    return limited


async def while_there(request, work):
    """What the work gives; it is given up when the client hangs up."""
    work, gone = asyncio.ensure_future(work), asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise HTTPException(499, "The client has hung up.")  # which nobody will read
        return work.result()
    finally:
        work.cancel()
        gone.cancel()


async def _hang_up(request):
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def explain(request, error):
    """Say what is wrong with a request without sending its texts back, as FastAPI would."""
    details = [f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors()]
    return JSONResponse({"detail": details}, 422)
