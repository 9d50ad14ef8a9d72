"""Serve a classifier over HTTP: requests that come together are answered together.

    pip install -c constraints.txt -e ".[offline,serve]"
    python examples/serve.py folder
    curl localhost:8000/predict --json '{"texts": ["The discrete Fourier transform"]}'

The folder is what `classifier.save("folder")` wrote; without one a small classifier of docstrings
is trained first. What is taken at once is set by options such as `--batch 64`, one for each field
of `Limits`. To reuse it, copy `micro_batching.py` and `request_limits.py` too.
"""

import argparse
from dataclasses import fields
from typing import Annotated

import uvicorn
from docstring_topics import load_docstring_topics
from fastapi import Body, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from micro_batching import MicroBatcher, RefusedError
from pydantic import Field
from request_limits import Limits, explain, limit_body, while_there

from sklearn_transformers import TransformerTextClassifier
from sklearn_transformers.exceptions import InvalidTextError

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", nargs="?", help="saved classifier")
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=8000)
parser.add_argument(
    "--check", action="store_true", help="answer one request and end (needs httpx2)"
)
for limit in fields(Limits):
    parser.add_argument(f"--{limit.name}", type=limit.type, default=limit.default)


def make_app(classifier, limits):
    batcher = MicroBatcher(classifier.predict_proba, limits.waiting, limits.batch, limits.delay)
    app = FastAPI(title="Text classifier", lifespan=lambda app: batcher.running())
    app.add_middleware(limit_body, n_bytes=limits.body)
    app.add_exception_handler(RequestValidationError, explain)

    Text = Annotated[str, Field(max_length=limits.characters)]
    Texts = Annotated[list[Text], Body(embed=True, min_length=1, max_length=limits.texts)]

    @app.post("/predict")
    async def predict(request: Request, texts: Texts):
        try:
            probabilities = await while_there(request, batcher.ask(texts))
        except InvalidTextError as error:
            raise HTTPException(422, str(error)) from error
        except RefusedError as error:
            raise HTTPException(503, str(error), {"Retry-After": "1"}) from error
        labels = classifier.classes_[probabilities.argmax(axis=1)]
        return {"labels": labels.tolist(), "probabilities": probabilities.tolist()}

    @app.get("/health")
    async def health():
        return {
            "model": str(classifier.model),
            "classes": classifier.classes_.tolist(),
            "ready": batcher.ready,
            "waiting": batcher.queue.qsize(),
            "texts": batcher.n_items,  # answered so far ...
            "calls": batcher.n_calls,  # ... by so many calls of the model
        }

    return app


def load(folder):
    if folder is not None:
        return TransformerTextClassifier.load(folder)
    classifier = TransformerTextClassifier(tuning="head", random_state=0)
    return classifier.fit(*load_docstring_topics(max_per_topic=20))


def main(folder, host, port, check, **limits):
    app = make_app(load(folder), Limits(**limits))
    if check:
        from fastapi.testclient import TestClient

        with TestClient(app) as client:
            reply = client.post("/predict", json={"texts": ["The discrete Fourier transform"]})
            print(reply.raise_for_status().json()["labels"], client.get("/health").json())
    else:
        # Requests that are open when it is told to end get half a minute to be answered.
        uvicorn.run(app, host=host, port=port, timeout_graceful_shutdown=30)


if __name__ == "__main__":
    main(**vars(parser.parse_args()))
