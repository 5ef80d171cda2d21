"""Patches as data."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from yrpd.git import mail

PATCH = b"""From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: =?UTF-8?q?=C3=84?= <a@x.invalid>
Date: Mon, 5 Jan 2026 00:00:00 +0100
Subject: =?UTF-8?q?Add=20=C3=A4?=
 and more

Body.

Why: because it
 is needed
Upstream: no
Removal: later

diff --git a/new.py b/new.py
new file mode 100644
index 0000000000000000000000000000000000000000..1111111111111111111111111111111111111111
--- /dev/null
+++ b/new.py
@@ -0,0 +1,2 @@
+diff --git a/fake b/fake
+index 2222222222222222222222222222222222222222..3333333333333333333333333333333333333333
diff --git "a/\\303\\274.py" "b/\\303\\274.py"
index 4444444444444444444444444444444444444444..5555555555555555555555555555555555555555 100644
--- "a/\\303\\274.py"
+++ "b/\\303\\274.py"
@@ -1 +1 @@
--- a/x
+++ b/y
"""


def test_a_message_is_read_with_its_trailers() -> None:
    message = mail.parse_message(PATCH)
    assert message.subject == "Add ä and more"
    assert message.trailers == {"Why": "because it is needed", "Upstream": "no", "Removal": "later"}
    assert PATCH.split(b"\n")[message.body_line - 1] == b"Body."


def test_declared_ids_are_read_and_hunks_never_taken_for_declarations() -> None:
    assert [(change.path, change.new[0]) for change in mail.parse_changes(PATCH)] == [
        ("new.py", "1"),
        ("ü.py", "5"),
    ]


def test_a_declaration_knows_its_line() -> None:
    for change in mail.parse_changes(PATCH):
        declared = PATCH.split(b"\n")[change.line - 1]
        assert declared.startswith(b"index ")
        assert f"..{change.new}".encode() in declared


def test_a_paragraph_that_is_not_all_trailers_is_none() -> None:
    assert mail.parse_trailers("Subject-like: yes\nand prose\n") == {}
    assert mail.parse_trailers("") == {}
    assert mail.parse_trailers("Why: x\n\nprose") == {}


def test_lines_at_which_git_am_cuts_a_message_are_known() -> None:
    body = "fine\n---\nlost\n--- a/x\ndiff -u a b\nIndex: x\n-- \n----\n  ---\n"
    assert [number for number, _ in mail.message_cuts(body)] == [1, 3, 4, 5]


def test_trailers_after_a_cut_do_not_count() -> None:
    assert mail.parse_message(PATCH.replace(b"Body.\n", b"Body.\n---\n")).trailers == {}


def test_mails_are_counted_by_their_first_lines() -> None:
    assert mail.count_mails(PATCH) == 1
    assert mail.count_mails(PATCH + PATCH) == 2
    assert mail.count_mails(b"diff --git a/x b/x\n") == 0


def test_a_file_name_follows_from_the_subject_and_is_safe() -> None:
    assert mail.file_name("[Core] Fix a/b: ünïcode & more...") == "core-fix-a-b-n-code-more.patch"
    assert mail.file_name("äöü") == "patch.patch"
    assert mail.file_name("../../etc/passwd") == "etc-passwd.patch"


@given(st.text())
def test_a_file_name_is_always_one_plain_path_component(subject: str) -> None:
    name = mail.file_name(subject)
    assert name == name.lower()
    assert "/" not in name
    assert not name.startswith((".", "-"))
    assert name.endswith(".patch")
    assert len(name) <= 78


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_the_first_difference_is_zero_exactly_for_equal_texts(left: bytes, right: bytes) -> None:
    line = mail.first_difference(left, right)
    assert (line == 0) == (left == right)
    if line > 1:
        assert left.split(b"\n")[: line - 1] == right.split(b"\n")[: line - 1]


@given(st.binary())
def test_no_bytes_make_the_parsers_fail(content: bytes) -> None:
    mail.parse_changes(content)
    mail.parse_message(content)
    mail.count_mails(content)
