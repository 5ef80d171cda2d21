"""Every command that a document tells to type is there: its task, its options, its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents.blocks import ROOT, Block, all_blocks, blocks, commands, documents, rows_outside_tables
from tests.documents.judging import FRESH, Wrong, judge

LISTED = ROOT / "build" / "readme-blocks.txt"


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_of_a_document_can_be_typed(document: Path) -> None:
    wrong = []
    for block in all_blocks([document]):
        try:
            judge(block)
        except Wrong as error:
            wrong.append(f"{block.where}: {error}")
    assert not wrong, "\n".join(wrong)


def test_the_blocks_are_listed_with_how_each_was_judged() -> None:
    rows = []
    for block in all_blocks(documents()):
        try:
            followed = ", followed" if FRESH in block.how else ""
            rows += [(block.where, " ".join(line.split()), how + followed) for line, how in judge(block)]
        except Wrong as error:
            rows.append((block.where, f"{error}", "WRONG"))
    LISTED.parent.mkdir(exist_ok=True)
    LISTED.write_text("".join(f"{where:30}{how:36} {line}\n" for where, line, how in rows), encoding="utf-8")
    print(f"\n{LISTED.read_text(encoding='utf-8')}")
    assert len(rows) > 100
    assert {row[0].partition(":")[0] for row in rows} >= {"README.md", "README.zh.md", "CONTRIBUTING.md"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("invoke pach", "pach"),
        (".venv/bin/invoke patch --pinn v0.11.0", "--pinn"),
        ("invoke patch --pin v9", "has no pin 'v9'"),
        ("YRPD_FLAVOUR=gpu invoke build", "no flavour 'gpu'"),
        ("invoke patch build --flavour cpu && invoke lab.down --pin v0.11.0", "lab.down takes no --pin"),
        ("bash scripts/tset.sh", "no file scripts/tset.sh"),
        ("bash scripts/test.sh unti", "no mode 'unti'"),
        ("python3 dist/some/deploy.pyz status --save x", "status takes no --save"),
        ("python3 dist/some/deploy.pyz status --pin v0.11.0", "--pin"),
        (".venv/bin/python scripts/bench_connector.py --no-such-option", "--no-such-option"),
        ("$EDITOR connector_src/yuanrong/gone.py", "no file"),
        (".venv/bin/pip install --require-hashes -r requirements.lock", "--no-deps"),
        ("for host in a; do ssh $host true; done", "'ssh'"),
        ("bash -c '. scripts/setup.sh; make_vemv'", "no function 'make_vemv'"),
        ("bash -c '. scripts/setap.sh; make_venv'", "no file scripts/setap.sh"),
        ('curl http://10.77.0.1:9001/v1/completions -d \'{"model": "qwen2_5_vl"}\'', "not the endpoint"),
        ('curl http://10.77.0.1:9000/v1/completions -d \'{"model": "qwen3"}\'', "not qwen3"),
        ("if true; then", "no shell reads it"),
    ],
)
def test_a_wrong_line_is_found(line: str, why: str) -> None:
    (block,) = blocks("page.md", f"text\n\n```bash\n{line}\n```\n")
    with pytest.raises(Wrong) as caught:
        judge(block)
    assert why in str(caught.value)


def test_a_block_that_needs_hardware_is_judged_as_far_as_its_tasks_go() -> None:
    (block,) = blocks("page.md", "<!-- run: hardware -->\n\n```bash\nssh h npu-smi info; invoke deploy.status\n```\n")
    assert judge(block) == [("ssh h npu-smi info; invoke deploy.status", "hardware + tasks and options")]
    (block,) = blocks("page.md", "<!-- run: hardware -->\n\n```bash\nssh h npu-smi info; invoke deploy.statos\n```\n")
    with pytest.raises(Wrong, match="statos"):
        judge(block)


def test_a_marker_counts_for_the_block_right_after_it_alone() -> None:
    first, second = blocks("page.md", "<!-- run: hardware -->\n\n```bash\na\n```\n\ntext\n\n```bash\nb\n```\n")
    assert (first.how, second.how) == (("hardware",), ())


def test_an_unknown_marker_is_refused() -> None:
    (block,) = blocks("page.md", "<!-- run: never -->\n\n```bash\ncp a b\n```\n")
    with pytest.raises(Wrong, match="no marker 'never'"):
        judge(block)


def test_commands_in_sentences_and_tables_are_found_where_they_are() -> None:
    text = "# T\n\nUse `invoke patch`\nor `YRPD_PIN=TAG invoke image`, not `code`.\n\n"
    text += "| a |\n| -- |\n| `invoke lab.up [--hosts FILE]` |\n"
    found = list(blocks("page.md", text))
    assert [(block.line, block.text, block.inline) for block in found] == [
        (3, "invoke patch", True),
        (4, "YRPD_PIN=TAG invoke image", True),
        (8, "invoke lab.up [--hosts FILE]", True),
    ]
    for block in found:
        judge(block)


def test_commands_in_a_block_without_a_language_are_refused() -> None:
    (block,) = blocks("page.md", "```\ninvoke patch\n```\n")
    with pytest.raises(Wrong, match="names-its-language"):
        judge(block)


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_row_of_a_table_is_left_outside_of_it(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert rows_outside_tables(text) == []


def test_a_row_after_a_blank_line_is_found() -> None:
    assert rows_outside_tables("| a | b |\n| -- | -- |\n| 1 | 2 |\n\n| 3 | 4 |\n") == [5]


def test_a_command_may_go_on_in_the_next_line() -> None:
    text = "a --b \\\n  --c\nd '{\n}' e\n# only a comment\nf  # don't\ng\n"
    assert commands(text) == ["a --b \\\n  --c", "d '{\n}' e", "f  # don't", "g"]


def test_what_a_session_prints_is_no_command() -> None:
    (block,) = blocks("page.md", "```console\n$ invoke patch\nv0.10.0rc1: kept\n```\n")
    assert judge(Block(block.file, block.line, block.text)) == [("invoke patch", "tasks and options")]
