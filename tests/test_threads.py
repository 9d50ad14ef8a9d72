"""Threads that use one estimator at once get the answers that they would get one after another."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from conftest import toy_texts

from sklearn_transformers import clear_cache
from sklearn_transformers._tokenization import encode

N_THREADS, N_CALLS = 8, 5
METHODS = ("predict_proba", "transform", "decision_function")
TEXTS, _ = toy_texts(60, seed=4)


def together(*jobs):
    """Run each job in a thread of its own, all from the same moment on; raise what one raised."""
    start = threading.Barrier(len(jobs))
    errors = []

    def run(job):
        start.wait()
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def answers(clf):
    return {method: getattr(clf, method)(TEXTS) for method in METHODS}


def asking(clf, expected):
    """A job: ask many times, each time for the very bits that are expected."""

    def job():
        for _ in range(N_CALLS):
            for method in METHODS:
                np.testing.assert_array_equal(getattr(clf, method)(TEXTS), expected[method])

    return job


@pytest.fixture(params=["full", "head"])
def trained(request, make, three_classes):
    """Fitted with the backbone, or with a frozen one whose vectors are remembered."""
    return make(tuning=request.param, max_epochs=1, early_stopping=False).fit(*three_classes)


def test_threads__predicting__get_the_bits_of_one_thread(trained):
    expected = answers(trained)
    together(*[asking(trained, expected)] * N_THREADS)


def test_threads__predicting_right_after_unpickling__get_the_bits_of_one_thread(trained):
    expected = answers(trained)
    content = pickle.dumps(trained)
    for _ in range(3):
        clear_cache()
        together(*[asking(pickle.loads(content), expected)] * N_THREADS)


def test_threads__cache_cleared_meanwhile__get_the_bits_of_one_thread(trained):
    expected = answers(trained)

    def clear():
        for _ in range(200):
            clear_cache()

    together(*[asking(trained, expected)] * N_THREADS, clear)


def test_threads__pickled_meanwhile__get_the_bits_of_one_thread(trained):
    expected = answers(trained)

    def dump():
        for _ in range(N_CALLS):
            again = pickle.loads(pickle.dumps(trained))
            np.testing.assert_array_equal(again.transform(TEXTS), expected["transform"])

    together(*[asking(trained, expected)] * 3, dump, dump)


def test_threads__others_fitted_meanwhile__answers_and_fits_are_as_ever(
    make, trained, three_classes
):
    expected = answers(trained)
    fitted_alone = make(max_epochs=1, early_stopping=False).fit(*three_classes).predict_proba(TEXTS)

    def fit():
        clf = make(max_epochs=1, early_stopping=False).fit(*three_classes)
        np.testing.assert_array_equal(clf.predict_proba(TEXTS), fitted_alone)

    together(*[asking(trained, expected)] * 4, fit, fit)


def test_threads__training_goes_on_meanwhile__answers_are_those_before(trained, three_classes):
    expected = answers(trained)
    twin = copy.copy(trained)  # shares model and tokenizer, as training that goes on does
    twin.set_params(max_length=4)

    def train():
        for _ in range(N_CALLS):
            twin.partial_fit(*three_classes)

    together(*[asking(trained, expected)] * 4, train)


def test_threads__one_tokenizer_and_two_max_lengths__each_gets_its_own(fitted):
    tokenizer = pickle.loads(pickle.dumps(fitted)).tokenizer_
    texts, _ = toy_texts(300, seed=5)
    expected = {
        length: encode(tokenizer, texts, length, "middle").contents() for length in (4, 256)
    }

    def read(length):
        def job():
            for _ in range(10):
                clear_cache()
                assert encode(tokenizer, texts, length, "middle").contents() == expected[length]

        return job

    together(*[read(4), read(256)] * 4)


def test_threads__some_inside_autocast__get_the_bits_of_one_thread(trained):
    expected = answers(trained)

    def in_a_block_of_its_own():
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            asking(trained, expected)()

    together(*[asking(trained, expected), in_a_block_of_its_own] * 3)
