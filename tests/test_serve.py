"""The server of `examples/serve.py`: whose answer is whose, what is refused, how it ends."""

import asyncio
import importlib
import signal
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from sklearn_transformers.exceptions import InvalidTextError

JSON = {"Content-Type": "application/json"}
EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def serve():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("serve")


@pytest.fixture
def limits(serve):
    return serve.Limits(delay=0)


class Recorded:
    """A classifier that records the texts of each call, and answers while the gate is open."""

    def __init__(self, classifier):
        self.classifier, self.model, self.classes_ = classifier, "tiny", classifier.classes_
        self.calls = []
        self.gate = threading.Event()
        self.gate.set()

    def predict_proba(self, texts):
        self.calls.append(texts)
        self.gate.wait()
        if "bad text" in texts:
            raise InvalidTextError("X[0] is a bad text.")
        if "bug" in texts:
            raise ZeroDivisionError("of the model")
        return self.classifier.predict_proba(texts)


@pytest.fixture
def recorded(fitted):
    return Recorded(fitted)


@asynccontextmanager
async def serving(app):
    """A client of an application that runs in the same event loop."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://server") as client,
    ):
        yield client


def ask(client, texts):
    return asyncio.create_task(client.post("/predict", json={"texts": texts}))


async def until(client, **wanted):
    """Wait for what the server says of its health, which it must say while the model works."""
    while True:
        health = (await client.get("/health")).json()
        if wanted.items() <= health.items():
            return
        await asyncio.sleep(0)


@asynccontextmanager
async def held(client, recorded):
    """Keep the model busy with one request until the block ends; what comes after it waits."""
    recorded.gate.clear()
    try:
        first = ask(client, ["the film"])
        while not recorded.calls:
            await asyncio.sleep(0)
        yield first
    finally:
        recorded.gate.set()


# --- answers ---------------------------------------------------------------------------------


def test_predict__one_request__is_answered_as_by_the_classifier(serve, limits, fitted):
    texts = ["a good film", "we saw a dreadful, dull film", "", "it was"]
    with TestClient(serve.make_app(fitted, limits)) as client:
        reply = client.post("/predict", json={"texts": texts})
    assert reply.status_code == 200
    assert reply.json() == {
        "labels": fitted.predict(texts).tolist(),
        "probabilities": fitted.predict_proba(texts).tolist(),
    }


def test_predict__numeric_labels__stay_numbers(serve, limits, fitted):
    recorded = Recorded(fitted)
    recorded.classes_ = np.array([3, 5, 8])
    with TestClient(serve.make_app(recorded, limits)) as client:
        labels = client.post("/predict", json={"texts": ["a good film"]}).json()["labels"]
        assert client.get("/health").json()["classes"] == [3, 5, 8]
    assert labels == [recorded.classes_[fitted.predict_proba(["a good film"]).argmax()]]
    assert type(labels[0]) is int


def test_predict__requests_while_the_model_works__share_a_call_and_keep_their_order(
    serve, limits, fitted, recorded
):
    requests = [[f"{word} film"] * n for n, word in enumerate(["good", "sad", "fine", "was"], 1)]

    async def talk():
        async with serving(serve.make_app(recorded, limits)) as client:
            async with held(client, recorded) as first:
                others = []
                for number, texts in enumerate(requests, 1):
                    others.append(ask(client, texts))
                    await until(client, waiting=number)
            replies = await asyncio.gather(first, *others)
            await until(client, texts=11, calls=2)
            return replies

    _, *replies = asyncio.run(talk())
    assert recorded.calls == [["the film"], [text for texts in requests for text in texts]]
    for texts, reply in zip(requests, replies, strict=True):
        expected = fitted.predict_proba(texts)
        np.testing.assert_allclose(reply.json()["probabilities"], expected, rtol=0, atol=1e-6)
        assert reply.json()["labels"] == fitted.predict(texts).tolist()


def test_predict__idle_model__waits_a_moment_for_further_requests(serve, limits, recorded):
    async def talk():
        async with serving(serve.make_app(recorded, replace(limits, delay=0.5))) as client:
            await asyncio.gather(*(ask(client, [text]) for text in ("good", "sad", "fine")))

    asyncio.run(talk())
    assert recorded.calls == [["good", "sad", "fine"]]


def test_predict__full_batch__takes_no_further_request(serve, limits, recorded):
    async def talk():
        async with serving(serve.make_app(recorded, replace(limits, batch=3))) as client:
            async with held(client, recorded) as first:
                others = []
                for number, texts in enumerate((["good", "sad"], ["fine", "was"], ["dull"]), 1):
                    others.append(ask(client, texts))
                    await until(client, waiting=number)
            await asyncio.gather(first, *others)

    asyncio.run(talk())
    assert recorded.calls == [["the film"], ["good", "sad", "fine", "was"], ["dull"]]


def test_predict__batches_of_one_text__are_not_shared(serve, limits, recorded):
    async def talk():
        async with serving(serve.make_app(recorded, replace(limits, batch=1))) as client:
            await asyncio.gather(*(ask(client, [text]) for text in ("good", "sad", "fine")))

    asyncio.run(talk())
    assert recorded.calls == [["good"], ["sad"], ["fine"]]


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "detail"),
    [
        (["good"] * 4, "texts: List should have at most 3 items after validation, not 4"),
        (["good", "g" * 11], "texts.1: String should have at most 10 characters"),
        ([], "texts: List should have at least 1 item after validation, not 0"),
        (["good", None], "texts.1: Input should be a valid string"),
        ("good", "texts: Input should be a valid list"),
    ],
)
def test_predict__beyond_a_limit__is_422_with_its_name(serve, limits, fitted, texts, detail):
    with TestClient(serve.make_app(fitted, replace(limits, texts=3, characters=10))) as client:
        reply = client.post("/predict", json={"texts": texts})
        assert (reply.status_code, reply.json()) == (422, {"detail": [detail]})
        assert client.post("/predict", json={"texts": ["g" * 10] * 3}).status_code == 200


@pytest.mark.parametrize("pieces", [1, 3], ids=["with a length", "in pieces without a length"])
def test_predict__body_beyond_the_limit__is_413_with_the_limit(serve, limits, fitted, pieces):
    body = b'{"texts": ["good"]}'
    with TestClient(serve.make_app(fitted, replace(limits, body=len(body)))) as client:

        def post(body):
            size = -(-len(body) // pieces)
            parts = (body[start : start + size] for start in range(0, len(body), size))
            content = body if pieces == 1 else parts
            return client.post("/predict", content=content, headers=JSON)

        assert post(body).status_code == 200
        reply = post(body + b" ")
    assert reply.status_code == 413
    assert reply.json() == {"detail": "The body has more than 19 bytes."}


def test_predict__text_that_is_no_unicode__is_422(serve, limits, fitted):
    with TestClient(serve.make_app(fitted, limits)) as client:
        body = b'{"texts": ["good", "\\ud800"]}'
        reply = client.post("/predict", content=body, headers=JSON)
    assert reply.status_code == 422
    assert "texts.1" in reply.text


def test_predict__full_queue__is_503_until_there_is_room(serve, limits, recorded):
    async def talk():
        async with serving(serve.make_app(recorded, replace(limits, waiting=2))) as client:
            async with held(client, recorded) as first:
                others = [ask(client, ["good"]), ask(client, ["good"])]
                await until(client, waiting=2)
                refused = await ask(client, ["sad"])
            replies = await asyncio.gather(first, *others)
            return refused, [reply.status_code for reply in replies], await ask(client, ["sad"])

    refused, inside, later = asyncio.run(talk())
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json() == {"detail": "2 requests are waiting already."}
    assert inside == [200, 200, 200]
    assert later.status_code == 200


@pytest.mark.parametrize(
    ("text", "status", "reply"),
    [
        ("bad text", 422, '{"detail":"X[0] is a bad text."}'),
        ("bug", 500, "Internal Server Error"),
    ],
)
def test_predict__error_of_the_model__strikes_only_who_caused_it(
    serve, limits, fitted, recorded, text, status, reply
):
    texts = ["good", "sad", text, "fine", "was"]

    async def talk():
        async with serving(serve.make_app(recorded, limits)) as client:
            async with held(client, recorded) as first:
                others = [ask(client, [text]) for text in texts]
                await until(client, waiting=5)
            await first
            return await asyncio.gather(*others)

    replies = dict(zip(texts, asyncio.run(talk()), strict=True))
    assert recorded.calls[1] == texts
    bad = replies.pop(text)
    assert (bad.status_code, bad.text) == (status, reply)
    for other, answer in replies.items():
        expected = fitted.predict_proba([other])
        np.testing.assert_allclose(answer.json()["probabilities"], expected, rtol=0, atol=1e-6)


def test_predict__caller_who_left__is_not_read_and_harms_nobody(serve, limits, recorded):
    async def talk():
        async with serving(serve.make_app(recorded, limits)) as client:
            async with held(client, recorded) as first:
                left, stayed = ask(client, ["sad"]), ask(client, ["good"])
                await until(client, waiting=2)
                first.cancel()
                left.cancel()
            return (await stayed).status_code

    assert asyncio.run(talk()) == 200
    assert recorded.calls == [["the film"], ["good"]]


def test_predict__connection_that_is_closed__is_not_read(serve, limits, recorded):
    """As uvicorn tells it: the request goes on, and a message says that nobody waits for it."""

    async def talk():
        app, closed = serve.make_app(recorded, limits), asyncio.Event()
        body = [{"type": "http.request", "body": b'{"texts": ["sad"]}'}]
        sent = []

        async def receive():
            if body:
                return body.pop()
            await closed.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b""}
        scope |= {"headers": [(b"content-type", b"application/json")], "http_version": "1.1"}
        async with serving(app) as client:
            async with held(client, recorded):
                left = asyncio.create_task(app(scope, receive, send))
                stayed = ask(client, ["good"])
                await until(client, waiting=2)
                closed.set()
                await left
            assert (await stayed).status_code == 200
        return sent[0]["status"]

    assert asyncio.run(talk()) == 499
    assert recorded.calls == [["the film"], ["good"]]


# --- its life --------------------------------------------------------------------------------


def test_health__fresh_server__names_model_and_classes(serve, limits, fitted):
    with TestClient(serve.make_app(fitted, limits)) as client:
        reply = client.get("/health")
    assert reply.status_code == 200
    assert reply.json() == {
        "model": fitted.model,
        "classes": ["bad", "good", "plain"],
        "ready": True,
        "waiting": 0,
        "texts": 0,
        "calls": 0,
    }


def test_predict__before_the_start__is_503(serve, limits, fitted):
    client = TestClient(serve.make_app(fitted, limits))
    assert client.get("/health").json()["ready"] is False
    reply = client.post("/predict", json={"texts": ["good"]})
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    assert reply.json() == {"detail": "The model is starting or shutting down."}


def test_shutdown__requests_that_wait__are_answered_and_no_others(serve, limits, recorded):
    async def talk():
        app = serve.make_app(recorded, limits)
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
            lifespan = app.router.lifespan_context(app)
            await lifespan.__aenter__()
            async with held(client, recorded) as first:
                others = [ask(client, ["good"]), ask(client, ["sad"])]
                await until(client, waiting=2)
                end = asyncio.create_task(lifespan.__aexit__(None, None, None))
                await until(client, ready=False)
                late = await ask(client, ["fine"])
                assert not end.done()
            replies = await asyncio.gather(first, *others)
            await end
            return late.status_code, [reply.status_code for reply in replies]

    assert asyncio.run(talk()) == (503, [200, 200, 200])
    assert recorded.calls == [["the film"], ["good", "sad"]]


def test_main__check_of_a_folder__answers_one_request(serve, fitted, tmp_path, capsys):
    folder = tmp_path / "classifier"
    fitted.save(folder)
    serve.main(**vars(serve.parser.parse_args([str(folder), "--check"])))
    (label,) = fitted.predict(["The discrete Fourier transform"])
    assert capsys.readouterr().out.startswith(f"['{label}'] {{'model': '{fitted.model}'")


def test_options__any_limit__can_be_set(serve):
    options = vars(serve.parser.parse_args(["--batch", "64", "--delay", "0.01"]))
    limits = serve.Limits(**{name: options[name] for name in vars(serve.Limits())})
    assert limits == serve.Limits(batch=64, delay=0.01)


@pytest.mark.parametrize(("name", "value"), [("waiting", 0), ("batch", -1), ("delay", -0.1)])
def test_options__limit_that_is_none__is_refused(serve, name, value):
    with pytest.raises(ValueError, match=f"{name} must be . or more. Got {value} instead"):
        serve.Limits(**{name: value})


@pytest.mark.slow
def test_server__told_to_end__ends_in_order(fitted, tmp_path):
    folder = tmp_path / "classifier"
    fitted.save(folder)
    command = [sys.executable, EXAMPLES / "serve.py", folder, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            address = next(line for line in server.stderr if "running on" in line).split()[4]
            reply = httpx2.post(f"{address}/predict", json={"texts": ["a good film"]})
            assert reply.json()["labels"] == fitted.predict(["a good film"]).tolist()
            server.send_signal(signal.SIGTERM)
            assert "Application shutdown complete" in server.stderr.read()
        finally:
            server.kill()
