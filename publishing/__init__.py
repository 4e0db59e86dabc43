"""What ``make publish`` does: the book's pages with launch buttons, the wheel, and Colab notebooks.

A chapter is written in MyST Markdown, which only the book's own build reads. Here it becomes a
notebook that runs in an empty folder on a hosted machine: :mod:`publishing.plain` turns MyST into
plain Markdown, :mod:`publishing.outputs` turns what the page draws into what a notebook shows, and
:mod:`publishing.notebooks` puts them together behind a first cell that installs the library.
"""
