import logging
import threading

import huggingface_hub.utils as hub
import pytest
import torch
from transformers.utils import logging as hf_logging

from sklearn_transformers._process import preserved_rng_state, quiet, seeded


def test_seeded__block__is_reproducible_and_restores():
    before = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with seeded(5, "cpu"):
            draws.append(torch.rand(3))
    assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded__error__restores():
    before = torch.get_rng_state()
    with pytest.raises(TypeError), seeded(5, "cpu"):
        torch.rand("one")
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded__two_threads__take_turns_and_restore():
    before = torch.get_rng_state()
    draws = {}

    def draw(name):
        with seeded(5, "cpu"):
            draws[name] = torch.cat([torch.rand(1) for _ in range(2000)])

    threads = [threading.Thread(target=draw, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(draws[0], other) for other in draws.values())
    assert torch.equal(torch.get_rng_state(), before)


def test_preserved_rng_state__fit_in_another_thread__is_waited_for():
    inside, over, done = threading.Event(), threading.Event(), threading.Event()

    def fit():
        with seeded(5, "cpu"):
            inside.set()
            over.wait()

    def draw():
        with preserved_rng_state():
            torch.rand(3)
        done.set()

    before = torch.get_rng_state()
    threads = [threading.Thread(target=target, daemon=True) for target in (fit, draw)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    assert not done.wait(0.2)
    over.set()
    for thread in threads:
        thread.join()
    assert done.is_set()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def bars():
    """Bars on again after the test."""
    yield
    hf_logging.enable_progress_bar()


@pytest.mark.usefixtures("bars")
@pytest.mark.parametrize("downloads", [False, True])
@pytest.mark.parametrize("hub_on", [False, True])
@pytest.mark.parametrize("loading_on", [False, True])
def test_quiet__settings_of_the_user__come_back(loading_on, hub_on, downloads):
    (hf_logging.enable_progress_bar if loading_on else hf_logging.disable_progress_bar)()
    (hub.enable_progress_bars if hub_on else hub.disable_progress_bars)()
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    with quiet(downloads=downloads):
        assert not hf_logging.is_progress_bar_enabled()
        assert hub.are_progress_bars_disabled() is not (downloads and hub_on)
        assert not logger.isEnabledFor(logging.WARNING)
    assert hf_logging.is_progress_bar_enabled() is loading_on
    assert hub.are_progress_bars_disabled() is not hub_on
    assert logger.level == level


@pytest.mark.usefixtures("bars")
def test_quiet__bars_of_one_group_switched_off__stay_off():
    hub.disable_progress_bars("a.group")
    with quiet():
        pass
    assert hub.are_progress_bars_disabled("a.group")
    assert not hub.are_progress_bars_disabled("another")
    hub.enable_progress_bars("a.group")


def test_quiet__logger_without_a_level__stays_without():
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.NOTSET)
    try:
        with quiet():
            assert not logger.isEnabledFor(logging.WARNING)
        assert logger.level == logging.NOTSET
    finally:
        logger.setLevel(level)
