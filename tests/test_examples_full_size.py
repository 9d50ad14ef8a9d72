"""The examples at the size that a user runs, and what they promise."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command):
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.pretrained
def test_quickstart__full_size__matches_or_beats_the_baseline():
    output = run("examples/quickstart.py")
    accuracy = {
        name: float(number)
        for name, number in re.findall(
            r"^(TF-IDF \+ \w+ \w+|Transformer\w+) +([\d.]+)", output, re.M
        )
    }
    assert len(accuracy) == 2
    ours, baseline = accuracy["TransformerTextClassifier"], accuracy["TF-IDF + logistic regression"]
    # One standard error of an accuracy of 0.75 on 511 texts is 0.019.
    assert ours > baseline - 0.019
    assert "same probabilities: True" in output
    assert "macro avg" in output


@pytest.mark.slow
@pytest.mark.pretrained
def test_quickstart__users_csv__works(tmp_path):
    file = tmp_path / "reviews.csv"
    texts = [(f'"A joy, really, {n}",5', f'"Dull, and endless, {n}",1') for n in range(30)]
    rows = [row for pair in texts for row in pair]
    file.write_text("review,stars\n" + "\n".join(rows), encoding="utf-8")
    output = run(
        "examples/quickstart.py", "--data", str(file), "--text", "review", "--label", "stars",
        "--max-epochs", "2",
    )  # fmt: skip
    assert "60 texts, 2 classes of 30 to 30 texts" in output
