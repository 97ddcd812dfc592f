"""The checks of the built pages find what they are for, and formulas become MathML."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest
from mkdocs.exceptions import PluginError

from .run_documentation import ROOT


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_pages, formulas = load("check_pages"), load("formulas")


@pytest.fixture
def site(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "sub" / "index.html").write_text('<h1 id="here">x</h1>')
    return tmp_path


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="sub/#here">x</a> <a href="https://x.org">y</a> <img src="a.png" alt="a"> <math></math>', None),
        ('<a href="nowhere.html">x</a>', "links to nowhere.html, which is not there"),
        ('<a href="sub/#there">x</a>', "where there is no such anchor"),
        ('<a href="#there">x</a>', "where there is no such anchor"),
        ('<img src="b.png" alt="b">', "loads b.png, which is not there"),
        ('<img src="a.png">', "the image a.png has no text"),
        ('<script src="https://cdn.org/mathjax.js"></script>', "from another host"),
        ('<link rel="stylesheet" href="//fonts.org/x.css">', "from another host"),
        (r'<span class="arithmatex">\(x\)</span>', "1 formulas are left in TeX"),
    ],
)
def test_files(site, body, problem):
    (site / "index.html").write_text(body)
    found = check_pages.check_files(site)
    assert len(found) == (problem is not None), found
    assert problem is None or problem in found[0]


def test_a_site_without_pages_is_a_problem(tmp_path):
    assert "no pages" in check_pages.check_files(tmp_path)[0]


@pytest.mark.parametrize("report", [[], ["/index.html at 400 pixels: too wide"], None])
def test_a_browser_reports(site, tmp_path, report):
    """A stand-in that does what a browser does: it gets the page, and the pages in it, and posts what it saw."""
    (site / "index.html").write_text("<html><head></head>x</html>")
    browser = tmp_path / "browser"
    browser.write_text(
        f"""#!{sys.executable}
import json, sys, urllib.request
url = sys.argv[-1]
text = urllib.request.urlopen(url).read().decode()
assert "/index.html" in text and "400, 1300" in text.replace("[", "").replace("]", ""), text
assert b"__errors" in urllib.request.urlopen(url.replace("__check__", "index")).read()
report = {report!r}
if report is not None:
    urllib.request.urlopen(url.replace("__check__.html", "__report__"), json.dumps(report).encode())
    import time; time.sleep(60)
print("no display")
"""
    )
    browser.chmod(0o755)
    found = check_pages.check_in_browser(site, str(browser))
    if report is None:
        assert "gave no report" in found[0]
        assert "no display" in found[0]
    else:
        assert found == report


def test_without_a_browser_it_says_what_was_not_checked(site, capsys, monkeypatch):
    (site / "index.html").write_text("x")
    monkeypatch.setattr("sys.argv", ["check_pages.py", str(site)])
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert check_pages.main() == 0
    assert "search were NOT checked" in capsys.readouterr().out


def test_formulas_become_mathml():
    page = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))
    content = r"""<p><span class="arithmatex">\(a &lt; b^2\)</span></p><div class="arithmatex">\[
    \frac{1}{x}\]</div><p><span class="arithmatex">\(\arg\min_x f\)</span></p>"""
    out = formulas.on_page_content(content, page)
    assert out.count("<math ") == 3
    assert out.count("arithmatex") == 0
    for part in ("<msup>", "<mfrac>", 'alttext="a &lt; b^2"', 'display="block"', "<mo>arg</mo>"):
        assert part in out
    for wrong in (r"\nosuchcommand x", r"\left("):
        with pytest.raises(PluginError, match=r"page\.md: .*formula"):
            formulas.on_page_content(rf'<span class="arithmatex">\({wrong}\)</span>', page)
    with pytest.raises(PluginError, match="does not know"):
        formulas.on_page_content('<span class="arithmatex">x</span>', page)
