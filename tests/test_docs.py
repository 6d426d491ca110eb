"""README and docs: their tables are those of results/published, their examples run, their links lead somewhere.

python tests/test_docs.py        # copies the published tables into docs/results.md
"""

import re
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[1]
PUBLISHED = HOME / "results" / "published"
PAGES = [HOME / "README.md", HOME / "CONTRIBUTING.md", *sorted((HOME / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- (\w+\.md) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def with_tables(text):
    """Return text with the published table in each of its blocks."""
    return BLOCK.sub(lambda block: block[1] + (PUBLISHED / block[2]).read_text(encoding="utf-8") + block[4], text)


def numbers(text):
    """The numbers with a decimal point in text; a sign counts only before +-intervals."""
    return set(re.findall(r"\d+\.\d+", text))


def test_results_page_shows_the_published_tables():
    text = (HOME / "docs" / "results.md").read_text(encoding="utf-8")
    assert len(BLOCK.findall(text)) >= 15
    assert text == with_tables(text), "run python tests/test_docs.py"


def test_numbers_of_the_readme_table_are_published():
    readme = (HOME / "README.md").read_text(encoding="utf-8")
    table = readme.split("<!-- results/published: ex3_gain.md, ex3.md -->")[1].split("\n\n")[0]
    published = (PUBLISHED / "ex3_gain.md").read_text(encoding="utf-8") + (PUBLISHED / "ex3.md").read_text(encoding="utf-8")
    assert len(numbers(table)) > 15
    assert numbers(table) <= numbers(published)


def test_first_sentence_of_the_readme_rounds_the_published_gains():
    readme = (HOME / "README.md").read_text(encoding="utf-8")
    found = re.search(r"What BN brings on CIFAR-10:\*\*(.*?)from 5 seeds", readme, re.DOTALL)[1]
    gains = re.findall(r"\| ([+-][\d.]+) \[(.*?), (.*?)\]", (PUBLISHED / "ex3_gain.md").read_text(encoding="utf-8"))
    rounded = [[f"{float(x):.1f}" for x in gain] for gain in gains]
    assert re.findall(r"-?\d+\.\d", found) == [*rounded[2], *rounded[1], *rounded[0][1:]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_lead_to_a_file_and_a_heading(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http", "mailto")):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), target
            if anchor:
                heads = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, target


def test_examples_of_the_readme_print_what_they_say(capsys):
    readme = (HOME / "README.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL):
        exec(block, {})  # each by itself
    lines = capsys.readouterr().out.splitlines()
    assert [f"{float(line.split()[-1]):.2f}" for line in lines if "accuracy" in line] == ["0.97", "0.97"]
    [shown] = re.findall(r"```text\n(.*?)```", readme, re.DOTALL)
    printed = "".join(f"{line}\n" for line in lines if "accuracy" not in line)
    rounding = re.compile(r"\d\.\de-(0[7-9]|1\d)")  # it depends on the machine
    assert rounding.sub("rounding", printed) == rounding.sub("rounding", shown)


if __name__ == "__main__":
    page = HOME / "docs" / "results.md"
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
