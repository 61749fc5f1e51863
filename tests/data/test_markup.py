"""Manual pages and pod become plain text."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from ondevice.data.markup import pod, roff

PAGE = r"""
.\" a comment
.TH LS 1 "2020"
.SH NAME
ls \- list \fIdirectory\fP contents
.SH "EXIT STATUS"
.TP
.BR \-a ", " \-\-all
do not ignore entries starting with \(aq.\(aq
.PP
Second paragraph goes
over two lines.
"""


def test_macros_become_headings_and_paragraphs() -> None:
    assert roff(PAGE).split("\n\n") == [
        "NAME",
        "ls - list directory contents",
        "EXIT STATUS",
        "-a, --all do not ignore entries starting with '.'",
        "Second paragraph goes over two lines.",
    ]


def test_mdoc_is_read() -> None:
    text = roff(
        ".Dd May\n.Sh NAME\n.Nm cat\n.Nd concatenate files\n.Sh SEE ALSO\n.Nm\n.Op Fl u\n.Xr ls 1 ,\n.Xr sh 1\n"
    )
    assert "cat - concatenate files" in text
    assert "cat [-u] ls(1), sh(1)" in text


def test_words_are_those_that_groff_sets() -> None:
    if not shutil.which("nroff"):
        pytest.skip("nroff is missing; install it with: apt-get install groff")
    done = subprocess.run(
        ["nroff", "-man", "-Tascii", "-c"], input=PAGE, capture_output=True, text=True, check=True
    )
    theirs = re.sub(r".\x08|\x1b\[\d*m", "", done.stdout).split()
    assert [word for word in roff(PAGE).split() if word not in theirs] == []


def test_pod_loses_its_codes() -> None:
    text = pod(
        "=head1 NAME\n\nperl - B<a I<nested> language>, see L<perlrun|perlrun/Options>\n\n=over 4\n\n=item C<-e>\n"
    )
    assert text == "NAME\n\nperl - a nested language, see perlrun/Options\n\n-e"
