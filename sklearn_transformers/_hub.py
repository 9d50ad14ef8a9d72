"""The Hugging Face Hub, where it keeps silent."""

import os
from collections.abc import Iterator

from huggingface_hub import constants, model_info

__all__ = ["ask_hub", "explain_time_out"]


def ask_hub(name: str) -> None:
    """Ask for a model, because transformers itself would wait for the answer for ever.

    A folder is not asked for. Any answer will do, and so will none for want of a network:
    transformers, which asks again, says in its own words what is wrong.

    Raises
    ------
    TimeoutError
        When there is no answer in time.
    """
    if os.path.isdir(name):
        return
    try:
        model_info(name, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:
        if _is_time_out(error):
            raise TimeoutError(str(error)) from error


def explain_time_out(error: BaseException) -> str | None:
    """Say in words that the Hub's silence is behind an error; None if it is not."""
    if not any(map(_is_time_out, _chain(error))):
        return None
    return (
        f"The Hub ({constants.ENDPOINT}) did not answer within {constants.HF_HUB_ETAG_TIMEOUT} s, "
        f"or paused for {constants.HF_HUB_DOWNLOAD_TIMEOUT} s in a download. The environment "
        "variables HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT, set before Python starts, "
        "change these times; HF_HUB_OFFLINE=1 asks the local cache only"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_time_out(error: BaseException) -> bool:
    # The Hub's client is httpx or its successor, by version: the name is what they share.
    return any(kind.__name__ == "TimeoutException" for kind in type(error).__mro__)
