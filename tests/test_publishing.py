"""Publishing: MyST as plain Markdown, the first cell, the outputs, and what is refused."""

import ast
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import ipywidgets as widgets
import nbformat
import pytest
from jupyter_cache import get_cache

from publishing import __main__ as command
from publishing import hosted
from publishing.citations import Citations
from publishing.labels import Label, Labels, of_the_book, pages, read, source_of
from publishing.notebooks import Origin, executed, glued_values, install_cell, publish
from publishing.outputs import FIGURE_MIME, LAB_MIME, published
from publishing.plain import Plain, check_plain

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ORIGIN = Origin("https://github.com/someone/book", COMMIT)
BOOK = of_the_book()
NOTEBOOKS = [page for page in pages() if source_of(page).suffix == ".ipynb"]
# Whatever parser one trusts: no mark of MyST is left in the text.
MARKS = re.compile(r"\{[\w:+-]+\}`|^[\s>]*(:::|```\{)|^\(\S+\)=|^%|\{\{|\]\(\)|glue:", re.M)
LABELS = Labels(
    {
        "here": Label("one", "Equation", 3, ""),
        "there": Label("two", "Equation", 4, ""),
        "law": Label("one", "Theorem", 1, "A law"),
        "ex-a": Label("one", "Exercise", 2, "Try *it*"),
        "part": Label("two", "Section", None, "A part"),
        "two#a-part": Label("two", "Section", None, "A part"),
    },
    {"one": "Page one", "two": "Page two", "api/x": "Reference"},
)


class Anything(dict):
    """A value for every name, for notebooks that were not executed."""

    def __contains__(self, name):
        return True

    def __missing__(self, name):
        return "1"


def plain(source: str) -> str:
    values = {"share": "0.256", "n": "1234", "word": "'yes'", "none": "inf"}
    return Plain("one", LABELS, lambda page: f"https://x.org/{page}", values)(source)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{glue:text}`share:.0%` of {glue:text}`n:,` {glue:text}`word`", "26% of 1,234 yes"),
        ("{glue:text}`none:.1f`", "inf"),
        ("{eq}`here`, {eq}`there`", "(3), [(4)](https://x.org/two)"),
        ("{prf:ref}`law` {ref}`ex-a` {ref}`part`",
         "Theorem 1 Exercise 2 [A part](https://x.org/two)"),
        ("{ref}`this <law>` {numref}`Law %s <law>`", "this Law 1"),
        ("{doc}`two` {doc}`see <api/x>`",
         "[Page two](https://x.org/two) [see](https://x.org/api/x)"),
        ("[](two.ipynb) [a `b`](two.md#a-part)",
         "[Page two](https://x.org/two) [a `b`](https://x.org/two)"),
        ("[](#part) [x](https://y.org)", "[A part](https://x.org/two) [x](https://y.org)"),
        ("{cite:p}`benjamin2019` {cite:t}`benjamin2019`",
         "(Benjamin et al., 2019) Benjamin et al. (2019)"),
        ("{func}`~a.b.c` {term}`Stress <stress>` {sub}`2` {math}`x`",
         "`c` Stress <sub>2</sub> $x$"),
        ("A {glue:text}`n`\n{eq}`here` over {ref}`a\nlaw <law>`", "A 1234\n(3) over a law"),
        ("`{eq}` and ``{ref}`law` ``", "`{eq}` and ``{ref}`law` ``"),
        ("$a_{eq}`b$ costs \\$5", "$a_{eq}`b$ costs \\$5"),
        ("(goal)=\n# Title\n\n% a comment\n\n+++\n\ntext", "# Title\n\ntext"),
        ("```{math}\n:label: here\n\\|f\\|\n=1\n```", "$$\n\\|f\\| =1 \\tag{3}\n$$"),
        ("$$\na \\\\ b\n$$", "$$\n\\begin{aligned} a \\\\ b \\end{aligned}\n$$"),
        ("$$\na\n$$ (there)", "$$\na \\tag{4}\n$$"),
        ("\\begin{align}\na &= b\n\\end{align}\n\nc",
         "$$\n\\begin{aligned} a &= b \\end{aligned}\n$$\n\nc"),
        (":::{note}\nOne $a\n+b$\n\ntwo\n:::", "> **Note**\n>\n> One $a +b$\n>\n> two"),
        (":::{admonition} Guess {eq}`here`\n:class: tip\nx\n:::", "> **Guess (3)**\n>\n> x"),
        (":::{dropdown} Why *so*\nx {eq}`here`\n:::",
         "<details>\n<summary>Why so</summary>\n\nx (3)\n\n</details>"),
        (":::{prf:theorem} A law\n:label: law\n1. a\n2. b\n:::",
         "> **Theorem 1** (A law)\n>\n> 1. a\n> 2. b"),
        (":::{prf:proof}\nx\n:::", "> **Proof.**\n>\n> x"),
        (":::{exercise-start} Try *it*\n:label: ex-a\n:::\nx\n:::{exercise-end}\n:::",
         "### Exercise 2: Try *it*\n\nx"),
        (":::{solution-start} ex-a\n:class: dropdown\n:::\nx", "#### Solution to Exercise 2\n\nx"),
        (":::{margin} Aside\nx\n:::", "> **Aside**\n>\n> x"),
        ("::::{tab-set}\n:::{tab-item} A\n{eq}`here`\n:::\n:::{tab-item} B\ny\n:::\n::::",
         "**A**\n\n(3)\n\n**B**\n\ny"),
        ("```{code-block} python\nx = '{eq}`a`'\n```", "```python\nx = '{eq}`a`'\n```"),
        ("```python\n:::{note}\n```", "```python\n:::{note}\n```"),
        ("- a {eq}`here`\n  ```{math}\n  b\n  ```\n- c", "- a (3)\n  $$\n  b\n  $$\n- c"),
        ("> :::{tip}\n> x\n> :::", "> > **Tip**\n> >\n> > x"),
        ("| a | {eq}`here` |\n|---|---|\n| {doc}`two` | b |",
         "| a | (3) |\n|---|---|\n| [Page two](https://x.org/two) | b |"),
        ("![A picture](https://x.org/a.png)", "![A picture](https://x.org/a.png)"),
        ("```{book-figures}\ntwo | fig-a | Which?\n```",
         "1. [Page two](https://x.org/two): Which?"),
    ],
)  # fmt: skip
def test_myst_becomes_plain_markdown(source, expected):
    assert plain(source) == expected


def test_a_picture_of_the_book_travels_in_the_notebook():
    assert plain(
        "```{figure} assets/favicon.svg\n:alt: A mark\nCaption {eq}`here`\n```"
    ).startswith("![A mark](data:image/svg+xml;base64,")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (":::{carousel}\n:::", "no plain form for the directive {carousel}"),
        ("{sparkle}`x`", "no plain form for the role {sparkle}"),
        ("{glue:text}`nobody`", "'nobody' is quoted, and no cell glued it"),
        ("{eq}`nowhere`", "no page of the book has the label 'nowhere'"),
        ("{cite:p}`nobody2000`", "'nobody2000' is cited and not in references.bib"),
        ("{cite:alp}`benjamin2019`", "no plain form for the role {cite:alp}"),
        ("{doc}`three`", "the book has no page 'three'"),
        ("[x](three.md)", "no plain form for a link to 'three.md'"),
        ("![x](assets/none.png)", "no plain form for the image 'assets/none.png'"),
        ("term\n: definition", "not plain Markdown"),
        ("[x]{.red}", "not plain Markdown"),
        ("{{ substituted }}", "not plain Markdown"),
    ],
)
def test_what_has_no_plain_form_is_refused_and_named(source, message):
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        plain(source)
    assert str(refused.value).startswith("one: ")


@pytest.mark.parametrize(
    "text",
    ["{eq}`a`", "::: a", "x\n\n:::{note}\ny\n:::", "(a)=\n# b", "```{math}\nx\n```", "[a](b.md)"]
)  # fmt: skip
def test_the_last_look_sees_what_is_left(text):
    with pytest.raises(ValueError, match="p: not plain Markdown"):
        check_plain(text, "p")


def test_labels_are_counted_through_the_book_by_kind():
    labels = read(
        [
            ("a", ["# A\n\n```{math}\n:label: e\nx\n```",
         "(s)=\n## S\n\n:::{prf:lemma} L\n:label: l\n:::"]),
            ("b", ["# B\n\n:::{note}\n```{math}\n:label: f\nx\n```\n:::\n\n```{math}\ny\n```",
                   ":::{exercise-start} E\n:label: ex\n:::\n\n$$\nz\n$$ (g)"]),
        ]
    )  # fmt: skip
    assert labels.titles == {"a": "A", "b": "B"}
    assert {k: (v.page, v.name) for k, v in labels.labels.items() if "#" not in k} == {
        "e": ("a", "Equation 1"), "s": ("a", "S"), "l": ("a", "Lemma 1"),
        "f": ("b", "Equation 2"), "g": ("b", "Equation 3"), "ex": ("b", "Exercise 1"),
    }  # fmt: skip


def test_references_are_listed_once_by_author_and_year():
    citations = Citations()
    assert citations.references() == ""
    citations.cite("cite:p", "kirkpatrick2017, benjamin2019", "a")
    citations.cite("cite:t", "benjamin2019", "a")
    first, second = citations.references().removeprefix("## References\n\n").splitlines()
    assert first.startswith("- **Benjamin et al., 2019.** Ari S")
    assert "Körding" in first
    assert second.startswith("- **Kirkpatrick et al., 2017.** ")


@pytest.fixture(scope="module", params=NOTEBOOKS)
def one(request):
    """A page as it is stored, and as it would be published."""
    stored = nbformat.read(source_of(request.param), as_version=4)
    return stored, publish(stored.copy(), request.param, BOOK, ORIGIN, 70.0, Anything())


def test_no_myst_is_left(one):
    _, made = one
    for cell in made.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"(?s)^```\w*\n.*?^```$|`[^`\n]*`|data:\S+", "", cell.source, flags=re.M)
            assert not MARKS.search(cell.source if "{" in prose else prose), cell.source


def test_every_cell_of_code_is_kept_as_it_is(one):
    stored, made = one
    code = [c.source for c in made.cells if c.cell_type == "code"]
    assert code[1:] == [c.source for c in stored.cells if c.cell_type == "code"]
    assert "google.colab" not in "".join(code)


def test_the_first_cell_installs_this_repository_at_this_commit_and_nothing_else(one):
    _, made = one
    *comments, install = made.cells[0].source.splitlines()
    assert install == (
        f'%pip install --quiet "hilbertlib-book[book] @ git+https://github.com/someone/book@{COMMIT}"'
    )
    assert all(line.startswith("# ") for line in comments)
    everything = "".join(c.source for c in made.cells[1:])
    assert "pip install" not in re.sub(r"(?s)```.*?```", "", everything)


def test_every_citation_is_in_the_list_at_the_end(one):
    stored, made = one
    keys = {
        key.strip()
        for cell in stored.cells
        for cited in re.findall(r"\{cite:?\w*\}`([^`]*)`", cell.source)
        for key in cited.split(",")
    }
    listed = made.cells[-1].source.count("\n- **") if made.cells[-1].id == "references" else 0
    assert listed == len(keys)


def test_hidden_code_is_folded_and_every_id_is_there_once(one):
    stored, made = one
    for cell in made.cells:
        assert set(cell.metadata) <= {"id", "cellView", "jupyter", "tags"}
    folded = {c.id for c in made.cells if c.metadata.get("cellView") == "form"}
    hide = {"hide-input", "remove-input", "remove-cell", "hide-cell"}
    assert folded == {c.id for c in stored.cells if hide & set(c.metadata.get("tags", []))}
    ids = [c.id for c in made.cells]
    assert len(set(ids)) == len(ids)
    assert set(made.metadata.colab.collapsed_sections) <= set(ids)
    assert "widgets" not in made.metadata


def test_a_chapter_runs_in_an_empty_folder_without_myst(tmp_path):
    """The scorecard, which judges records and trains nothing."""
    stored = nbformat.read(source_of("10-does-the-paper-hold-up"), as_version=4)
    made = publish(stored, "10-does-the-paper-hold-up", BOOK, ORIGIN, None, Anything())
    code = [c.source for c in made.cells if c.cell_type == "code"][1:]
    program = (
        "import sys\n"
        "class Nowhere:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.split('.')[0] in ('myst_nb', 'sphinx', 'jupyter_book', 'publishing'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Nowhere())\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        f"for source in {code!r}:\n"
        "    shell.run_cell(source).raise_error()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("origin", "page", "address"),
    [
        (ORIGIN, "laboratory", "https://colab.research.google.com/github/someone/book/blob/colab/laboratory.ipynb"),
        (ORIGIN, "notation", f"https://github.com/someone/book/blob/{COMMIT}/book/notation.md"),
        (Origin("https://github.com/a/b", COMMIT, "https://a.org/b/"), "notation", "https://a.org/b/notation.html"),
        (Origin("https://git.invalid/a", COMMIT), "laboratory", "laboratory.ipynb"),
        (Origin("https://git.invalid/a", COMMIT), "notation", "https://git.invalid/a"),
    ],
)  # fmt: skip
def test_links_name_the_repository_or_the_site_that_was_given(origin, page, address):
    assert origin.link(page) == address


def test_a_changed_tree_is_marked_and_time_is_told():
    assert "NOT REPRODUCIBLE" in install_cell(Origin("https://x.org/a", COMMIT, dirty=True), None)
    said = install_cell(ORIGIN, 130.0)
    assert "NOT REPRODUCIBLE" not in said
    assert "about 2 min on two cores" in said
    assert "less than a minute" in install_cell(ORIGIN, 20.0)


def test_the_address_comes_from_the_command_or_from_github(monkeypatch):
    for name in ("GITHUB_REPOSITORY", "GITHUB_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    assert command.address("") == ""
    assert command.address("https://x.org/a/b.git/") == "https://x.org/a/b"
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/book")
    assert command.address("") == "https://github.com/someone/book"
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://git.x.org")
    assert command.address("") == "https://git.x.org/someone/book"
    assert command.address("https://x.org/a") == "https://x.org/a"
    for wrong in ("someone/book", 'https://x.org/a" evil', "git@x.org:a/b"):
        with pytest.raises(SystemExit, match="expected REPOSITORY=https://HOST/OWNER/NAME, got"):
            command.address(wrong)


def test_only_what_is_committed_and_checked_out_is_published(monkeypatch):
    state = {"rev-parse HEAD": COMMIT, "status --porcelain": ""}
    monkeypatch.setattr(command, "git", lambda *words: state.get(" ".join(words), COMMIT))
    address = "https://x.org/a"
    assert command.origin(address, "", "", allow_dirty=False) == Origin(address, COMMIT)
    state["status --porcelain"] = " M file.py"
    with pytest.raises(
        SystemExit, match=r"(?s)has changes that 0123456789ab lacks.*file\.py.*DIRTY=1"
    ):
        command.origin(address, "", "", allow_dirty=False)
    assert command.origin(address, "", "", allow_dirty=True).dirty
    state["rev-parse HEAD"] = "f" * 40
    with pytest.raises(SystemExit, match="v1 is 0123456789ab and ffffffffffff is checked out"):
        command.origin(address, "v1", "", allow_dirty=False)


class Scripts(HTMLParser):
    """Counts elements, and collects what stands inside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)


def display(data: dict, **metadata) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("display_data", data, metadata=metadata)


def test_figures_and_laboratories_are_shown_and_glued_values_are_not():
    figure = {
        "figure": {"data": [{"type": "scatter", "y": [1, 2]}], "layout": {}},
        "controls": [{"label": "λ < 1"}], "caption": "A caption", "provenance": "made up",
        "alt": "A line that rises",
    }  # fmt: skip
    outputs = [
        display({FIGURE_MIME: figure, "text/plain": "Figure: A caption"}),
        display({LAB_MIME: {"settings": {"tab": "learn"}}}),
        display({"application/papermill.record/text/plain": "1"}, scrapbook={"name": "x"}),
        nbformat.v4.new_output("execute_result", {"text/plain": "3"}, execution_count=7),
    ]
    drawn, lab, last = published(outputs, "cell")
    assert set(drawn.data) == {"text/html", "text/plain"}
    for part in (
        'id="cell-0"',
        'aria-label="A line that rises"',
        "A caption",
        "made up",
        "λ &lt; 1",
        "Plotly.newPlot",
    ):
        assert part in drawn.data["text/html"]
    assert "hilbert-lab" in lab.data["text/html"]
    assert "HilbertLab" in lab.data["text/html"]
    assert last.execution_count is None


def test_no_text_of_a_figure_becomes_script():
    attack = "</script>'><script>alert(1)</script>\"><img src=x onerror=alert(1)>"
    figure = {
        "figure": {
            "data": [{"type": "scatter", "name": attack, "y": [1]}],
            "layout": {"title": {"text": attack}},
        },
        "controls": [{"label": attack}], "caption": attack, "provenance": attack, "alt": attack,
    }  # fmt: skip
    calm = json.loads(json.dumps(figure).replace(json.dumps(attack)[1:-1], "calm"))
    (bad,) = published([display({FIGURE_MIME: figure})], "a")
    (good,) = published([display({FIGURE_MIME: calm})], "a")
    assert Scripts(bad.data["text/html"]).tags == Scripts(good.data["text/html"]).tags
    (lab,) = published([display({LAB_MIME: {"settings": {"tab": attack}}})], "a")
    assert Scripts(lab.data["text/html"]).tags == ["style", "div", "script"]


def test_outputs_come_from_what_the_build_has_executed(tmp_path, monkeypatch):
    """Matched by the code: prose may change without another run."""
    name = "application/papermill.record/text/plain"
    glued = display({name: "0.5"}, scrapbook={"name": "share"})
    hidden = {"tags": ["remove-cell"]}
    ran = nbformat.v4.new_code_cell("glue('share', 0.5)", metadata=hidden, outputs=[glued])
    stored = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("It is {glue:text}`share:.0%`."),
            nbformat.v4.new_code_cell("glue('share', 0.5)", metadata=hidden),
        ]
    )
    path = tmp_path / "p.ipynb"
    monkeypatch.setattr("publishing.notebooks.source_of", lambda page: path)
    nbformat.write(nbformat.v4.new_notebook(cells=[ran]), path)
    cache = get_cache(tmp_path / "cache")
    cache.cache_notebook_file(path, check_validity=False)
    nbformat.write(stored, path)
    found = executed("p", tmp_path / "cache")
    assert glued_values(found) == {"share": "0.5"}
    _, prose, code = publish(found, "p", LABELS, ORIGIN).cells
    assert prose.source == "It is 50%."
    assert (code.outputs, code.metadata["cellView"]) == ([], "form")
    stored.cells[1].source += "  # changed"
    nbformat.write(stored, path)
    with pytest.raises(ValueError, match="p: not executed as it is now"):
        executed("p", tmp_path / "cache")


@pytest.fixture
def driven(monkeypatch):
    """Moves every control that is made, as a hosted machine's test does; returns what was moved."""
    monkeypatch.setattr(widgets.Output, "__exit__", widgets.Output.__exit__)
    monkeypatch.setattr(widgets.widgets.widget, "_instances", {})
    return lambda: exec(hosted.DRIVE, {})


def test_every_control_is_moved_over_its_whole_range_and_put_back(driven, capsys):
    seen: dict[str, list] = {}
    made = [
        widgets.IntSlider(1, 0, 3, description="whole"),
        widgets.FloatSlider(0.5, min=0.0, max=1.0, step=0.25, description="real"),
        widgets.SelectionSlider(options=[("a", 10), ("b", 20)], description="choice"),
        widgets.Checkbox(True, description="box"),
    ]
    for control in made:
        values = seen.setdefault(control.description, [])
        control.observe(lambda change, values=values: values.append(change["new"]), "value")
    pressed = []
    button = widgets.Button()
    button.on_click(pressed.append)
    driven()
    assert seen["whole"] == [0, 1, 2, 3, 1]
    assert seen["real"] == [0.0, 0.25, 0.5, 0.75, 1.0, 0.5]
    assert seen["choice"] == [20, 10]
    assert seen["box"] == [False, True]
    assert pressed == [button]
    told = json.loads(capsys.readouterr().out.removeprefix("DROVE"))
    assert sorted(told["moved"].values()) == [2, 2, 4, 5]
    assert told["processor"] > 0


def test_what_a_callback_raises_inside_of_an_output_is_raised(driven):
    out, pick = widgets.Output(), widgets.IntSlider(min=0, max=3)

    def move(change):
        with out:
            1 / (change["new"] - 2)

    pick.observe(move, "value")
    with pytest.raises(ZeroDivisionError):
        driven()


def test_the_hosted_machine_reads_the_address_of_the_first_cell():
    cell = nbformat.v4.new_code_cell(install_cell(ORIGIN, None))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assert hosted.address_of(notebook) == ORIGIN.repository
    notebook.cells[0].source = "import torch"
    with pytest.raises(ValueError, match="the first cell installs nothing: 'import torch'"):
        hosted.address_of(notebook)


def test_the_code_of_the_publisher_names_no_other_distribution():
    """hilbertlib on PyPI is another project: nothing here may install it."""
    for file in sorted((command.ROOT / "publishing").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.search(r"install[^\n]*\bhilbertlib\b(?!-book)", node.value)
