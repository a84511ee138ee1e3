"""Paths and user names are removed from reports."""

import pytest

from robustcls.reporting import render
from robustcls.reporting.scrub import scrub_text
from tests.helpers.report_page import shown_text
from tests.helpers.sample_evaluation import sample_evaluation


def test_paths_and_user_names_are_scrubbed():
    evaluation = sample_evaluation(examples=0)  # base64 may contain any name
    evaluation.data.note = "3 files of '/home/alice/my pictures/cats' were skipped; see ~/notes.txt"
    evaluation.attacks[0].error = "OSError: cannot read /srv/secret/x.bin"
    html = render([evaluation])
    for private in ("alice", "Bob", "/home", "Users", "secret", "my pictures"):
        assert private not in html
    assert "robustcls attack --model ckpt.pt --n 400" in shown_text(html)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("robustcls attack --eps 8/255 --model runs/a/ckpt.pt", "robustcls attack --eps 8/255 --model runs/a/ckpt.pt"),
        ("--model=/home/bob/ckpt.pt", "--model=ckpt.pt"),
        ("--data folder:/mnt/private/cats", "--data folder:cats"),
        ("C:\\Users\\bob\\ckpt.pt", "ckpt.pt"),
        ("cd /home/bob", "cd ~"),
        ("https://user:token@example.org/a/b", "https://example.org/a/b"),
        ("~/runs/x.json and and/or", "x.json and and/or"),
        ("--model '/data/my models/x.pt'", "--model 'x.pt'"),
    ],
)
def test_scrub_text(text, left):
    assert scrub_text(text) == left
