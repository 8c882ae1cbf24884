"""Reports as files: each format says the same, and text from models stays text in all of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import numpy as np
import onnx
import pytest
from markdown_it import MarkdownIt

import bnfold
from bnfold.pipeline.batch import worst_exit_code
from bnfold.reporting import content
from bnfold.reporting.content import Cause, ModelReport, Report, SiteReport
from bnfold.reporting.files import render
from bnfold.reporting.formats import html
from bnfold.reporting.schema import schema
from bnfold.text.escape import code, markdown, shown, uri, workflow_message, workflow_property
from bnfold.text.json_encoding import dumps, jsonable
from tests.folding.test_options import two
from tests.support import bn, invoke, numbers, parse

ROOT = Path(__file__).parents[2]
FORMATS = ("json", "md", "html", "junit.xml", "sarif")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = (
    "</title></table><script>document.title='owned'</script><img src=x onerror=alert(1)>"
    "&lt; \x1b[31mred \x07\u202e | `code` **bold** [a](http://evil.example) <!-- ]]> @all "
    "www.evil.example https://evil.example ${{ github.token }} {{ 7*7 }} {% raw %} \\ \n::error::x"
)


@pytest.fixture(autouse=True)
def folder(cwd: Path) -> None:
    """One model that folds in part, one with hostile names, one that is none."""
    model = two()
    model.graph.output.append(onnx.helper.make_tensor_value_info("c", 1, [2, 4, 6, 6]))
    onnx.save(model, "part.onnx")
    for number, node in enumerate(model.graph.node):
        node.name = f"{number}{HOSTILE}"
    model.graph.node[0].name = f"::error::{HOSTILE}"
    onnx.save(model, "hostile.onnx")
    Path("garbage.onnx").write_text("no model")


def reports(command: str, *words: str) -> dict[str, str]:
    """What a command reports, by format."""
    wanted = [word for name in FORMATS for word in ("--report", f"out.{name}")]
    invoke(command, *words, *wanted)
    return {name: Path(f"out.{name}").read_text() for name in FORMATS}


def strict(part: Any) -> Any:
    """The schema with nothing allowed that it does not name."""
    if isinstance(part, dict):
        closed = {"additionalProperties": False} if "properties" in part else {}
        return {key: strict(value) for key, value in part.items()} | closed
    return [strict(value) for value in part] if isinstance(part, list) else part


@pytest.mark.parametrize(
    "words",
    [
        ("optimize", "part.onnx"),
        ("optimize", "part.onnx", "--verify", "none"),
        ("optimize", "garbage.onnx"),
        ("optimize", "part.onnx", "garbage.onnx", "--out-dir", "out"),
        ("optimize", "hostile.onnx"),
        ("inspect", "part.onnx"),
        ("inspect", "garbage.onnx"),
        ("check", "part.onnx", "garbage.onnx"),
        ("verify", "part.onnx", "part.onnx"),
        ("verify", "part.onnx", "hostile.onnx", "--level", "frame"),
    ],
)
def test_every_report_follows_the_schema(words: tuple[str, ...]) -> None:
    found = json.loads(reports(*words)["json"])
    jsonschema.Draft202012Validator(strict(schema())).validate(found)
    assert found["command"] == words[0]
    code = invoke(*words).exit_code
    assert found["exit_code"] == code
    assert worst_exit_code(model["exit_code"] for model in found["models"]) == code


def test_the_schema_in_the_package_is_that_of_the_code() -> None:
    stored = ROOT / "bnfold" / "reporting" / "schema.json"
    assert json.loads(stored.read_text()) == schema(), "run python -m bnfold.reporting.schema"
    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_json_report_says_what_the_library_says() -> None:
    (model,) = json.loads(reports("optimize", "part.onnx", "-o", "out.onnx")["json"])["models"]
    result = bnfold.optimize("part.onnx", "again.onnx")
    assert model["status"] == "passed"
    assert [site["name"] for site in model["sites"]] == [v.site for v in result.verdicts]
    assert [site["folded"] for site in model["sites"]] == [v.folded for v in result.verdicts]
    assert model["after"]["bytes"] == Path("out.onnx").stat().st_size
    assert model["comparison"]["equal"] is True
    kept = model["sites"][0]
    assert kept["reason"]["code"] == "graph-output"
    drawn = [node["label"] for node in kept["layer"]["around"]["nodes"]]
    assert drawn[0] == "norm1"
    assert {"conv1", "act", "x"} <= set(drawn)


def test_layers_have_the_maps_and_the_weights_before_and_after() -> None:
    text = "g (float[1,3,4,4] x) => (float[1,3,4,4] y) {"
    text += (
        " [conv] c = Conv (x, w) [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v) }"
    )
    parameters = bn(3) | {
        "s": np.array([2, 4, 6], np.float32),
        "v": np.array([4, 4, 4], np.float32),
    }
    onnx.save(
        parse(text, w=np.array([-1, 2, 3] * 3, np.float32).reshape(3, 3, 1, 1), **parameters),
        "m.onnx",
    )
    (layer,) = bnfold.optimize("m.onnx", details=True).layers
    assert layer.scale is not None
    assert (layer.scale.low, layer.scale.median, layer.scale.high) == (1, 2, 3)
    assert (layer.weights[0].before, layer.weights[0].after) == ((-1, 3), (-3, 9))
    assert layer.around is None
    assert bnfold.optimize("m.onnx").layers == ()


def test_a_fold_in_place_is_drawn_from_what_was_there_before() -> None:
    found = bnfold.optimize("part.onnx", in_place=True, details=True)
    weights = found.layers[1].weights[0]
    assert weights.before != weights.after


@pytest.mark.parametrize("name", FORMATS)
def test_names_from_models_stay_names(name: str) -> None:
    text = reports("optimize", "hostile.onnx")[name]
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\x07" not in text
    assert not any(line.lstrip().startswith("::") for line in text.splitlines())


class Elements(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_names_add_nothing_to_the_page() -> None:
    hostile = Elements(reports("optimize", "hostile.onnx")["html"])
    usual = Elements(reports("optimize", "part.onnx")["html"])
    assert hostile.tags == usual.tags
    assert hostile.attributes == usual.attributes
    assert "<script>document.title='owned'</script>" in hostile.text


def test_hostile_names_add_nothing_to_the_markdown() -> None:
    hostile = reports("optimize", "hostile.onnx")["md"]
    usual = reports("optimize", "part.onnx")["md"]
    parser = MarkdownIt("gfm-like", {"linkify": False}).enable("table")

    def kinds(text: str) -> set[str]:
        return {
            token.type + (token.content if "html" in token.type else "")
            for block in parser.parse(text)
            for token in (block, *(block.children or ()))
        }

    assert kinds(hostile) == kinds(usual)


def test_hostile_names_come_through_xml_whole() -> None:
    root = ElementTree.fromstring(reports("optimize", "hostile.onnx")["junit.xml"])
    names = [case.get("name", "") for case in root.iter("testcase")]
    assert any("<script>document.title='owned'</script>" in name for name in names)


@pytest.mark.parametrize(("command", "word"), [("inspect", "would fold"), ("optimize", "folded")])
def test_what_only_would_fold_is_not_called_folded(command: str, word: str) -> None:
    told = reports(command, "part.onnx")
    assert f"<summary>1 {word}</summary>" in told["md"]
    assert f"{word} into conv2" in told["html"]


def test_junit_counts_what_it_holds() -> None:
    root = ElementTree.fromstring(reports("check", "part.onnx", "garbage.onnx")["junit.xml"])
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("3", "1", "1")
    root = ElementTree.fromstring(reports("optimize", "part.onnx")["junit.xml"])
    skipped = [
        case.get("name") for case in root.iter("testcase") if case.find("skipped") is not None
    ]
    assert skipped == ["norm1"]
    assert root.get("failures") == "0"


def test_sarif_names_file_node_and_rule() -> None:
    (run,) = json.loads(reports("check", "part.onnx", "garbage.onnx")["sarif"])["runs"]
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert {result["ruleId"] for result in run["results"]} == rules == {"fault", "error"}
    fault = next(r for r in run["results"] if r["ruleId"] == "fault")
    place = fault["locations"][0]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "part.onnx"
    assert place["logicalLocations"][0]["fullyQualifiedName"] == "norm2"
    assert run["invocations"][0] == {"executionSuccessful": True, "exitCode": 1}


def test_a_failed_comparison_is_told_in_every_format() -> None:
    spoiled = onnx.load("part.onnx")
    spoiled.graph.node[0].attribute.append(onnx.helper.make_attribute("group", 1))
    weight = next(t for t in spoiled.graph.initializer if t.name == "w")
    weight.CopyFrom(onnx.numpy_helper.from_array(numbers(4, 3, 1, 1) * 2, "w"))
    onnx.save(spoiled, "other.onnx")
    told = reports("verify", "part.onnx", "other.onnx")
    assert json.loads(told["json"])["models"][0]["comparison"]["equal"] is False
    assert "**Not equal**" in told["md"]
    assert "Not equal" in told["html"]
    assert "<failure" in told["junit.xml"]
    assert json.loads(told["sarif"])["runs"][0]["results"][0]["ruleId"] == "not-equal"


def large(models: int, sites: int, name: str) -> Report:
    """A report of many models with many long names."""
    cause = Cause("another-reader", name, f"{name} is read by {name}", "nothing is wrong")
    own = tuple(
        SiteReport(f"{n}{name}", "", "Mul", f"{n}", bool(n % 2), (name,) * 5 if n % 2 else (), 0,
                   None if n % 2 else cause, None if n % 2 else cause, None)
        for n in range(sites)
    )  # fmt: skip
    one = ModelReport(name, "passed", 0, name, sites=own)
    return Report("optimize", 0, (one,) * models)


@pytest.mark.parametrize(
    ("models", "sites", "name"),
    [(1, 20_000, "layer"), (3000, 3, "a"), (50, 50, "&<" * 500), (1, 1, "&" * 3_000_000)],
)
def test_no_page_is_larger_than_it_may_be(models: int, sites: int, name: str) -> None:
    page = render(large(models, sites, name), ".html")
    assert len(page.encode()) <= html.LARGEST
    assert "</html>" in page


def test_what_does_not_fit_is_counted() -> None:
    page = render(large(1, 20_000, "layer"), ".html")
    shown_rows = page.count('<tr class="site')
    assert f"… and {20_000 - shown_rows} more" in page


def test_a_page_needs_nothing_from_elsewhere() -> None:
    page = reports("optimize", "part.onnx")["html"]
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=", page)
    assert re.findall(r"https?://[^\"' ]*", page.replace("http://www.w3.org/2000/svg", "")) == []


def dom(page: str) -> str:
    """What a browser makes of a page."""
    Path("page.html").write_text(page)
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    flags += "--disable-background-networking --disable-component-update --user-data-dir=profile"
    command = [
        CHROMIUM or "",
        *flags.split(),
        "--dump-dom",
        f"file://{Path('page.html').resolve()}",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_in_a_browser_hostile_names_do_nothing_and_scripts_never_run() -> None:
    page = reports("optimize", "hostile.onnx")["html"]
    shown_page = dom(page.replace("</body>", "<script>document.title = 'ran'</script></body>"))
    assert "<title>bnfold optimize</title>" in shown_page
    assert "onerror=" not in re.sub(r">[^<]*<", "><", shown_page)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_in_a_browser_the_filters_show_what_they_say() -> None:
    page = reports("optimize", "part.onnx")["html"]
    page = re.sub("<meta http-equiv.*?>", "", page)  # which forbids this script
    script = """<script>
      const found = {};
      for (const input of document.querySelectorAll('.filters input')) {
        input.parentElement.click();
        found[input.id] = [...document.querySelectorAll('tr.site')].filter(
          row => getComputedStyle(row).display !== 'none').length;
      }
      document.title = JSON.stringify(found);
    </script></body>"""
    title = re.search("<title>(.*?)</title>", dom(page.replace("</body>", script)))
    assert title is not None
    assert json.loads(title[1]) == {
        "show-all": 2, "show-folded": 1, "show-kept": 1, "show-graph-output": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("file", "said"),
    [("out.txt", "no format"), ("missing/out.html", "there is no folder"), ("out", "no format")],
)
def test_a_report_that_cannot_be_written_is_said_before_anything_is_done(
    file: str, said: str
) -> None:
    done = invoke("optimize", "part.onnx", "-o", "out.onnx", "--report", file)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not Path("out.onnx").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "m.json", "--report", "m.json"),
        ("optimize", "part.onnx", "-o", "f.onnx", "--report", "link.json"),
        ("optimize", "part.onnx", "-o", "f.json", "--report", "f.json"),
        (
            "optimize",
            "part.onnx",
            "-o",
            "f.onnx",
            "--external-data",
            "w.json",
            "--report",
            "w.json",
        ),
        ("optimize", "data.onnx", "-o", "f.onnx", "--report", "held.json"),
        ("check", "part.onnx", "--baseline", "b.json", "--report", "b.json"),
        ("verify", "part.onnx", "part.onnx", "--certificate", "c.json", "--report", "c.json"),
        ("verify", "part.onnx", "m.json", "--report", "m.json"),
    ],
)
def test_no_report_overwrites_what_is_worked_on(words: tuple[str, ...]) -> None:
    shutil.copy("part.onnx", "m.json")
    Path("link.json").symlink_to("part.onnx")
    Path("b.json").write_text('{"accepted": {}}')
    onnx.save(two(), "data.onnx", save_as_external_data=True, location="held.json",
              size_threshold=0)  # fmt: skip
    before = {path.name: path.read_bytes() for path in Path.cwd().iterdir()}
    done = invoke(*words)
    assert done.exit_code == 2
    assert "would overwrite what is worked on" in done.stderr
    assert {path.name: path.read_bytes() for path in Path.cwd().iterdir()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("check", "part.onnx"), 1, "norm2: would fold into conv2"),
        (("check", "done.onnx"), 2, "all as they should be"),
        (("verify", "part.onnx", "other.onnx"), 1, "not equal"),
        (("verify", "part.onnx", "part.onnx"), 2, "equal"),
        (("optimize", "part.onnx", "-o", "f.onnx"), 2, "folded and verified"),
        (("inspect", "part.onnx"), 2, "would be folded"),
        (("optimize", "garbage.onnx"), 3, ""),
    ],
)
def test_a_report_that_fails_hides_no_verdict(words: tuple[str, ...], code: int, said: str) -> None:
    Path("full.json").symlink_to("/dev/full")
    bnfold.optimize("part.onnx", "done.onnx")
    spoiled = onnx.load("part.onnx")
    spoiled.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(numbers(4, 3, 1, 1) * 2, "w")
    )
    onnx.save(spoiled, "other.onnx")
    done = invoke(*words, "--report", "full.json")
    assert done.exit_code == code
    assert said in done.stdout
    assert "cannot write full.json: No space left on device" in done.stderr


def test_names_that_are_no_utf8_are_an_invalid_model_and_stop_nothing() -> None:
    data = Path("part.onnx").read_bytes()
    Path("bad.onnx").write_bytes(data.replace(b"norm1", b"no\xff\xfe1"))
    told = reports("optimize", "bad.onnx", "part.onnx", "--out-dir", "out")
    codes = [model["exit_code"] for model in json.loads(told["json"])["models"]]
    assert codes == [3, 0]
    assert invoke("inspect", "bad.onnx").exit_code == 3
    assert invoke("check", "bad.onnx", "part.onnx").exit_code == 1


def test_files_whose_names_are_no_utf8_are_told_in_every_format() -> None:
    name = os.fsdecode(b"n\xff.onnx")
    shutil.copy("part.onnx", name)
    told = reports("check", name)
    assert json.loads(told["json"])["models"][0]["path"] == "n\\udcff.onnx"
    done = invoke("check", name, "--baseline", "b.json", "--write-baseline")
    assert done.exit_code == 0
    assert invoke("check", name, "--baseline", "b.json").exit_code == 0


def test_text_for_each_format() -> None:
    assert markdown("a_b <c> | #1 @me") == r"a\_b \<c\> \| \#1 \@me"
    assert markdown("- 1.5e-06 of layer1.0: x") == r"\- 1.5e-06 of layer1.0: x"
    assert markdown("see https://a www.b") == r"see https\://a www\.b"
    assert code("a`b``c") == "```a`b``c```"
    assert code("`a|", in_table=True) == r"`` `a\| ``"
    assert workflow_message("100%\n::x") == r"100%25\n::x"
    assert workflow_property("a:b,c") == "a%3Ab%2Cc"
    assert uri("a b/ü#.onnx") == "a%20b/%C3%BC%23.onnx"
    assert uri("/tmp/x.onnx") == "file:///tmp/x.onnx"
    assert shown("a\x1b[0m") == r"a\x1b[0m"
    assert shown("a" * 5000 + "z" * 5000) == "a" * 149 + "…" + "z" * 149


def test_json_has_no_numbers_that_json_does_not_have() -> None:
    assert jsonable({"a": (float("nan"), float("-inf"), 1.5)}) == {"a": ["NaN", "-Infinity", 1.5]}
    assert json.loads(dumps({"a": "##[error]"})) == {"a": "##[error]"}
    assert "##[" not in dumps({"a": "##[error]"})


def test_the_environment_is_told() -> None:
    assert content.environment()["onnx"] == onnx.__version__
