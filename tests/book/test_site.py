"""The built book: links, alt texts, what a figure shows, nothing from another host, no sideways scroll on a phone."""

import functools
import http.server
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
import urllib.parse

import pytest
from bs4 import BeautifulSoup
from building import ROOT, chain, environment

# the chain runs sixteen chapters, a kernel each, for all the tests here: three minutes;
# `make test` runs the same chapters in one process, and builds a book of two
pytestmark = pytest.mark.slow
PHONE = 390  # pixels
BROWSER = (
    shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome")
)


@pytest.fixture(scope="module")
def site():
    """Folder of the HTML that `make book SCALE=smoke` leaves."""
    done = chain("book", "--scale", "smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "runs" / "smoke" / "book" / "_build" / "html"


@pytest.fixture(scope="module")
def pages(site):
    """{path: parsed page}, without the theme's own templates and what only forwards."""
    files = [file for file in site.rglob("*.html") if "_static" not in file.parts]
    parsed = {
        str(file.relative_to(site)): BeautifulSoup(file.read_bytes(), "html.parser")
        for file in files
    }
    return {path: page for path, page in parsed.items() if not forwards(page)}


def forwards(page):
    """Whether a page only leads to a new address."""
    return page.find("meta", attrs={"http-equiv": "refresh"}) is not None


def article(page):
    return page.find("article") or page


def run_here(pages):
    """{name: page} of the notebooks that were run: one that cannot, as 13 without data, shows the published run."""
    found = {
        name: page
        for name, page in pages.items()
        if name.startswith("notebooks/")
        and "Nothing was run." not in article(page).get_text()
    }
    assert "notebooks/01-information.html" in found
    return found


def test_every_page_of_the_contents_is_there(pages):
    notebooks = {file.stem for file in (ROOT / "notebooks").glob("*.ipynb")}
    assert {f"notebooks/{name}.html" for name in notebooks} <= set(pages)
    assert {
        "book/index.html",
        "book/claims.html",
        "book/notation.html",
        "book/status.html",
    } <= set(pages)


def test_no_link_is_broken(site, pages):
    broken = []
    anchors = {
        name: {node["id"] for node in page.find_all(id=True)}
        for name, page in pages.items()
    }
    for name, page in pages.items():
        for tag, attribute in (
            ("a", "href"),
            ("link", "href"),
            ("img", "src"),
            ("script", "src"),
        ):
            for node in page.find_all(tag, **{attribute: True}):
                target = urllib.parse.urlsplit(node[attribute])
                if target.scheme or target.netloc or node[attribute] in ("#", ""):
                    continue
                file = (
                    (site / name).parent / urllib.parse.unquote(target.path)
                    if target.path
                    else site / name
                )
                if not file.exists():
                    broken.append(f"{name}: {node[attribute]}")
                elif target.fragment and file.suffix == ".html":
                    there = anchors.get(str(file.resolve().relative_to(site.resolve())))
                    anchor = urllib.parse.unquote(target.fragment)
                    if there is not None and anchor not in there:
                        broken.append(f"{name}: {node[attribute]}")
    assert not broken


def test_nothing_is_loaded_from_another_host(site, pages):
    """Links may lead away; scripts, styles, fonts and images may not."""
    away = [
        f"{name}: {node}"
        for name, page in pages.items()
        for node in page.find_all(
            ["script", "link", "img", "iframe", "source", "video"]
        )
        if re.match(r"(https?:)?//", node.get("src") or node.get("href") or "")
    ]
    away += [
        f"{name}: {node.string[:200]}"
        for name, page in pages.items()
        for node in page.find_all("script")
        if node.string
        and re.search(r"https?://[^\"'\s]+\.js|unpkg|jsdelivr|cdnjs", node.string)
    ]
    fetched = r"url\(\s*[\"']?(?:https?:)?//[^)]*\)|@import[^;]*//[^;]*"
    away += [
        f"{file.name}: {found}"
        for file in site.rglob("*.css")
        for found in re.findall(fetched, file.read_text(errors="ignore"))
    ]
    assert not away


def test_mathematics_comes_with_the_book(site, pages):
    sources = {
        script["src"].split("/")[-1]
        for page in pages.values()
        for script in page.find_all("script", src=True)
        if "mathjax" in script["src"]
    }
    assert sources and all(
        (site / "_static" / "mathjax" / name).exists() for name in sources
    )


def test_no_page_shows_a_warning_stderr_or_a_path_of_this_machine(pages):
    wrong, roots = [], f"home|root|tmp|Users|usr|var|mnt|opt|{re.escape(ROOT.parts[1])}"
    for name, page in pages.items():
        wrong += [
            f"{name}: {found}"
            for found in re.findall(
                rf"\w*Warning:.*|Traceback.*|(?<![\w.:/])/(?:{roots})/\S+|site-packages\S*",
                article(page).get_text(" "),
            )
        ]
        wrong += [f"{name}: stderr" for _ in page.select(".output.stderr")]
        wrong += [f"{name}: {str(ROOT)}"] * (str(ROOT) in str(page))
    assert not wrong


def test_no_placeholder_is_left(pages):
    left = [
        f"{name}: {found}"
        for name, page in pages.items()
        for found in re.findall(
            r"\{\{.*?\}\}|\{\.\w+\}|\bTODO\b|\bFIXME\b", article(page).get_text(" ")
        )
    ]
    assert not left


def test_every_image_has_an_alt_text_that_says_something(pages):
    wrong = []
    ours = {name: page for name, page in pages.items() if "/" in name}
    for name, page in ours.items():  # the others are the theme's: search, index
        for image in article(page).find_all("img"):
            alt = (image.get("alt") or "").strip()
            if len(alt.split()) < 3 or re.search(
                r"[0-9a-f]{16}|\.(svg|png)\b|_images/", alt
            ):
                wrong.append(f"{name}: {image.get('src')}: {alt!r}")
    assert not wrong


def test_every_figure_is_followed_by_what_it_shows(pages):
    """The next thing after a notebook's figure is text with a number in it."""
    wrong = []
    for name, page in run_here(pages).items():
        for image in article(page).find_all("img"):
            if image.find_parent(class_="tag_hide-cell"):
                continue  # an exercise's folded solution
            block = image.find_parent("p") or image
            after = block.find_next(["p", "pre", "img", "h2", "h3"])
            if (
                after is None
                or after.name != "p"
                or not re.search(r"\d", after.get_text())
            ):
                wrong.append(f"{name}: {image.get('alt')[:60]}")
    assert not wrong


def test_every_notebook_page_says_where_its_numbers_come_from(pages):
    line = (
        r"This run: scale smoke, commit \w+.*?, 20\d\d-\d\d-\d\d \d\d:\d\d UTC, "
        r"[\d.]+ minutes on .+, \d+ cores"
    )
    texts = {
        name: article(page).get_text(" ")
        for name, page in pages.items()
        if name.startswith("notebooks/")
    }
    assert [
        name for name, text in texts.items() if not re.search(line, text, re.S)
    ] == []


def test_every_page_says_which_run_it_was_built_from(pages):
    for name, page in pages.items():
        if "/" in name:  # the others are the theme's: search, index
            assert re.search(
                r"Built from a run at scale smoke: commit \w+", page.get_text(" ")
            ), name


def test_no_smoke_page_gives_a_claim_a_status(pages):
    for name, page in run_here(pages).items():
        assert "Status: " not in article(page).get_text(" "), name


# ---- what make says of it ----


def test_it_has_nothing_left_to_do(site):
    again = chain("book", "--scale", "smoke")
    assert again.returncode == 0 and "Nothing to do" in again.stdout


def test_dry_run_and_compare(site):
    for command, said in (
        ("make book SCALE=smoke DRY=1", "would run"),
        ("make compare SCALE=smoke", "Smoke runs"),
    ):
        # this Python as it is; -o: nothing is installed
        here = ["-o", ".venv/.book", f"RUN={sys.executable} -m"]
        done = subprocess.run(
            [*shlex.split(command), *here],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 and said in done.stdout, (
            command + done.stdout + done.stderr
        )


def test_chapter_15_ran_nothing_without_a_model(site):
    file = ROOT / "runs" / "smoke" / "results" / "15-gpu-models.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["skipped"] == "No model was given."
    assert not found["numbers"] and not found["claims"]


# ---- a phone ----

PROBE = """<!doctype html><title>probe</title><pre id="out"></pre><script>
(async () => {
  const out = {};
  for (const page of PAGES) {
    const frame = document.createElement("iframe");
    frame.style = "width:390px;height:800px;border:0"; frame.src = "/" + page;
    document.body.append(frame);
    await new Promise(done => { frame.onload = done; });
    await new Promise(done => setTimeout(done, 1500));
    out[page] = frame.contentDocument.documentElement.scrollWidth;
    frame.remove();
  }
  document.getElementById("out").textContent = JSON.stringify(out);
})();</script>"""


def serve(site, probe):
    """A server on this machine, of the site and of the page that measures it."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/probe":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(probe.encode())

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(site))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.skipif(not BROWSER, reason="no chromium on this machine")
def test_no_page_scrolls_sideways_on_a_phone(site, pages, tmp_path):
    server = serve(
        site, PROBE.replace("PAGES", json.dumps(sorted(set(pages) - {"index.html"})))
    )
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path}",
        "--virtual-time-budget=300000",
        "--window-size=800,900",
        "--dump-dom",
        f"http://127.0.0.1:{server.server_port}/probe",
    ]
    try:
        dom = subprocess.run(
            command, capture_output=True, text=True, timeout=240, check=True
        ).stdout
    finally:
        server.shutdown()
    widths = json.loads(re.search(r'<pre id="out">(.*?)</pre>', dom, re.S).group(1))
    assert set(widths) == set(pages) - {"index.html"}
    assert {page: width for page, width in widths.items() if width > PHONE} == {}
