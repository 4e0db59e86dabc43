"""The policy that the build writes into each page: what it allows, and what it keeps out."""

import base64
import hashlib
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location(
    "content_policy", ROOT / "book" / "_ext" / "content_policy.py"
)
policy = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(policy)

THEME = 'document.documentElement.dataset.mode = localStorage.getItem("mode") || "auto";'
PAGE = (
    '<!DOCTYPE html><html><head>\n<meta charset="utf-8" />\n'
    f'<script data-cfasync="false">\n    {THEME}\n  </script></head>'
    "<body><main>{body}</main><script>DOCUMENTATION_OPTIONS.pagename = 'index';</script>"
    '<script src="_static/book.js"></script></body></html>'
)


def page(body: str = "") -> str:
    return PAGE.replace("{body}", body)


def directives(text: str) -> dict[str, list[str]]:
    (content,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    return {name: values for name, *values in (part.split() for part in content.split(";"))}


def sha256(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def test_a_page_may_load_from_its_own_folder_alone_and_evaluate_nothing():
    found = directives(policy.protect(page()))
    assert found["default-src"] == found["base-uri"] == ["'none'"]
    sources = {source for values in found.values() for source in values}
    allowed = {"'none'", "'self'", "file:", "data:", "'unsafe-inline'"}
    assert {s for s in sources if not s.startswith("'sha256-")} == allowed
    assert [name for name, values in found.items() if "'unsafe-inline'" in values] == ["style-src"]
    assert "data:" not in found["script-src"]


def test_the_themes_scripts_are_allowed_by_the_hash_of_their_text():
    found = directives(policy.protect(page()))["script-src"]
    expected = {sha256(f"\n    {THEME}\n  "), sha256("DOCUMENTATION_OPTIONS.pagename = 'index';")}
    assert {value for value in found if value.startswith("'sha256-")} == expected


@pytest.mark.parametrize(
    "script",
    [
        "alert(1)",
        THEME + "alert(1)",
        "DOCUMENTATION_OPTIONS.pagename = ''; alert(1);",
        "DOCUMENTATION_OPTIONS.pagename = 'a' + alert(1);",
        'window.MathJax = {"a": alert(1)}',
        "let toggleHintShow = '\\'+alert(1)';",
    ],
)
def test_a_script_that_came_with_the_text_has_no_hash(script):
    guarded = policy.protect(page(f"<SCRIPT>{script}</SCRIPT>"))
    assert sha256(script) not in directives(guarded)["script-src"]
    assert [s for s in policy.inline_scripts(guarded) if not policy.known(s)] == [script]


def test_a_policy_in_the_text_does_not_replace_ours():
    loose = '<meta http-equiv="Content-Security-Policy" content="script-src *">'
    guarded = policy.protect(page(loose))
    assert "*" not in guarded
    assert guarded == policy.protect(page())


def test_the_encoding_comes_first_and_a_second_build_changes_nothing():
    once = policy.protect(page())
    assert policy.protect(once) == once
    assert once.index("charset") < once.index("Content-Security-Policy") < once.index("<script")


def test_the_icons_script_is_dropped_and_no_other():
    icons = '<script defer src="../_static/scripts/fontawesome.js?digest=5"></script>'
    guarded = policy.protect(page(icons))
    assert guarded == policy.protect(page())
    assert 'src="_static/book.js"' in guarded


def test_json_is_no_script_and_a_hosted_kernels_settings_are_dropped():
    kernel = (
        '<script type="text/x-thebe-config">\n{ repo: "somewhere" }\n</script>'
        "\n<script>kernelName = 'python3'</script>"
    )
    island = '<script type="application/json">{"a": 1}</script>'
    guarded = policy.protect(page(island + kernel))
    assert island in guarded
    assert "somewhere" not in guarded
    assert "kernelName" not in guarded
    assert guarded == policy.protect(page(island))
